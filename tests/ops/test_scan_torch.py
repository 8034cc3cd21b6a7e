"""The scan on torch tensors: bits, gradients, the chunked form and torch's own checks of an op."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")

import torch

import vortex_engine.ops.schema_recurrent  # noqa: F401 - declares the ops
from vortex_engine import ops
from vortex_engine.errors import VortexError
from vortex_engine.ops.chunked_scan import ssm_scan_chunked
from vortex_engine.ops.reference_recurrent import scan_steps
from vortex_engine.ops.scan_arguments import scan_shape
from vortex_engine.ops.schema import id_of

FORMS = {
    "channels": {"heads": None, "groups": 1},
    "grouped channels": {"heads": None, "groups": 2},
    "constant B": {"heads": None, "groups": 1, "constant": "B"},
    "constant B and C": {"heads": None, "groups": 1, "constant": "BC"},
    "heads": {"heads": 4, "groups": 1},
    "grouped heads": {"heads": 4, "groups": 2},
}
VORTEX: Any = torch.ops.vortex
NATIVE = ops.make_context(threads=2, backend="cpu")


def inputs(
    form: str, batch: int = 2, channels: int = 8, length: int = 13, n_state: int = 3, full: bool = True, seed: int = 0
) -> dict[str, Any]:
    """Arguments of `ssm_scan` by name, float64 arrays; not `full`: the required ones alone."""
    sizes = FORMS[form]
    rng = np.random.default_rng(seed)
    heads, groups, constant = sizes["heads"], sizes["groups"], sizes.get("constant", "")
    rows = heads or channels
    shape = (batch, n_state, length) if groups == 1 else (batch, groups, n_state, length)
    values: dict[str, Any] = {
        "u": rng.standard_normal((batch, channels, length)),
        "delta": 0.5 * rng.random((batch, rows, length)),
        "A": -rng.uniform(0.1, 2.0, heads if heads else (channels, n_state)),
        "B": rng.standard_normal((channels, n_state) if "B" in constant else shape),
        "C": rng.standard_normal((channels, n_state) if "C" in constant else shape),
    }
    if full:
        values |= {
            "D": rng.standard_normal(rows),
            "z": rng.standard_normal((batch, channels, length)),
            "delta_bias": rng.standard_normal(rows) - 1.0,
            "delta_softplus": True,
            "initial_state": rng.standard_normal((batch, channels, n_state)),
        }
    return values


def cast(values: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Arrays of a numpy dtype, or tensors of a torch dtype."""
    if isinstance(dtype, torch.dtype):
        return {k: torch.from_numpy(v).to(dtype) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    return {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in values.items()}


def to_float64(values: dict[str, Any]) -> dict[str, Any]:
    """Arrays of what the tensors hold."""
    return {k: v.detach().double().numpy() if isinstance(v, torch.Tensor) else v for k, v in values.items()}


def turned(values: dict[str, Any]) -> dict[str, Any]:
    """The same tensors with their last two dimensions the other way round in memory."""
    matrices = {k: v.detach() for k, v in values.items() if isinstance(v, torch.Tensor) and v.dim() > 1}
    return values | {k: v.mT.contiguous().mT for k, v in matrices.items()}


def exact_scan(values: dict[str, Any], cu_seqlens: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The reference, its states in float64."""
    n_sequences = values["u"].shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    last = np.zeros((n_sequences, values["u"].shape[1], values["B"].shape[-2 if values["A"].ndim == 1 else -1]))
    if values["A"].ndim == 2:
        last = np.zeros((n_sequences, *values["A"].shape))
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "initial_state")
    given = [values.get(name, False if name == "delta_softplus" else None) for name in names]
    narrow = [value.astype(np.float32) if isinstance(value, np.ndarray) else value for value in given]
    shape = scan_shape(*narrow[:8], {"initial_state": narrow[9]}, cu_seqlens, None)
    return scan_steps(shape, shape.spans(cu_seqlens, None), *given, last), last


def scan_arguments(values: dict[str, Any], cu_seqlens: Any = None) -> tuple[Any, ...]:
    """Arguments of VORTEX.ssm_scan."""
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
    return (*(values.get(name) for name in names), cu_seqlens, values.get("delta_softplus", False), id_of(NATIVE))


def requiring_grad(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in values.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 7, 13, 50, None])
def test_chunks_of_any_size_are_the_reference(form, chunk):
    values = inputs(form)
    y, last = ssm_scan_chunked(**cast(values, torch.float64), chunk=chunk)
    wanted_y, wanted_last = exact_scan(values)
    np.testing.assert_allclose(y.numpy(), wanted_y, rtol=2e-7, atol=1e-7)  # the reference rounds y to float32
    np.testing.assert_allclose(last.numpy(), wanted_last, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", ["channels", "heads", "constant B and C"])
@pytest.mark.parametrize("length", [0, 1, 2, 127, 130])
def test_every_length_is_the_reference(form, length):
    values = inputs(form, length=length)
    y, last = ssm_scan_chunked(**cast(values, torch.float64))
    wanted_y, wanted_last = exact_scan(values)
    np.testing.assert_allclose(y.numpy(), wanted_y, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(last.numpy(), wanted_last, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_packed_sequences_are_those_of_a_batch(form):
    cu_seqlens = np.array([0, 4, 4, 5, 13])
    values = inputs(form, batch=1) | {"initial_state": np.random.default_rng(3).standard_normal((4, 8, 3))}
    y, last = ssm_scan_chunked(**cast(values, torch.float64), cu_seqlens=torch.from_numpy(cu_seqlens), chunk=3)
    wanted_y, wanted_last = exact_scan(values, cu_seqlens)
    np.testing.assert_allclose(y.numpy(), wanted_y, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(last.numpy(), wanted_last, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", ["channels", "heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_decays_stay_exact(form, dtype):
    """A large decay between small ones: sums of logs cancel, quotients of products are 0 / 0."""
    values = inputs(form, length=40)
    values["A"] = np.where(np.arange(values["A"].size) % 2, -1000.0, -1e-3).reshape(values["A"].shape)
    values["delta"][..., ::7] = 50.0
    tensors = requiring_grad(cast(values, dtype))
    y, last = ssm_scan_chunked(**tensors, chunk=9)
    wanted_y, wanted_last = exact_scan(
        cast(cast(values, np.float32 if dtype == torch.float32 else np.float64), np.float64)
    )
    rtol = 1e-5 if dtype == torch.float32 else 1e-7
    np.testing.assert_allclose(y.detach().numpy(), wanted_y, rtol=rtol, atol=2 * rtol * np.abs(wanted_y).max())
    np.testing.assert_allclose(last.detach().numpy(), wanted_last, rtol=rtol, atol=2 * rtol * np.abs(wanted_last).max())
    (y.sum() + last.sum()).backward()
    assert all(v.grad.isfinite().all() for v in tensors.values() if isinstance(v, torch.Tensor))


def test_a_chunk_of_no_steps_is_refused():
    with pytest.raises(ValueError, match=r"\[ssm_scan\] chunk must be at least 1 step, got 0"):
        ssm_scan_chunked(**cast(inputs("heads"), torch.float32), chunk=0)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_scan_are_the_slopes(form):
    values = requiring_grad(cast(inputs(form, batch=1, channels=4, length=5, n_state=2), torch.float64))
    assert torch.autograd.gradcheck(VORTEX.ssm_scan, scan_arguments(values), fast_mode=True)


def test_gradients_of_packed_sequences_are_the_slopes():
    values = inputs("grouped heads", batch=1, channels=4, length=5, n_state=2)
    values["initial_state"] = np.random.default_rng(1).standard_normal((3, 4, 2))
    arguments = scan_arguments(requiring_grad(cast(values, torch.float64)), torch.tensor([0, 2, 2, 5]))
    assert torch.autograd.gradcheck(VORTEX.ssm_scan, arguments, fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_behind_the_native_forward_are_those_of_the_chunked_form(form, dtype):
    tensors = requiring_grad(cast(inputs(form), dtype))
    y, last = ops.ssm_scan(NATIVE, **tensors, return_last_state=True)
    assert y.dtype == dtype and last.dtype == torch.float32
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
    ((y * weights).sum() + last.double().square().sum()).backward()
    again = {k: v.detach().double() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    again = requiring_grad(again)
    y, last = ssm_scan_chunked(**again)
    ((y * weights).sum() + last.square().sum()).backward()
    close = 1e-5 if dtype == torch.float32 else 2e-2
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            wanted = again[name].grad
            assert tensor.grad.dtype == dtype
            assert (tensor.grad - wanted).abs().max() <= close * wanted.abs().max(), name


def test_a_step_in_place_still_has_its_gradient():
    values = cast(inputs("channels", length=1), torch.float32)
    state, x = values["initial_state"].clone(), values["u"][..., 0].clone().requires_grad_()
    rest = [values[name][..., 0] for name in ("B", "C")]
    A = values["A"].clone().requires_grad_()
    y = ops.ssm_step(NATIVE, state, x, values["delta"][..., 0], A, *rest)
    y.sum().backward()
    assert not torch.equal(state, values["initial_state"])
    x64, A64 = x.detach().double().requires_grad_(), A.detach().double().requires_grad_()
    inner = [values[k].double() for k in ("delta", "B", "C", "initial_state")]
    ssm_scan_chunked(x64[..., None], inner[0], A64, *inner[1:3], initial_state=inner[3])[0].sum().backward()
    torch.testing.assert_close(A.grad.double(), A64.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-5, atol=1e-6)


def test_second_derivatives_are_refused():
    values = requiring_grad(cast(inputs("heads"), torch.float32))
    (slope,) = torch.autograd.grad(ops.ssm_scan(NATIVE, **values).sum(), values["u"], create_graph=True)
    with pytest.raises(VortexError, match="second derivatives are not implemented"):
        slope.sum().backward()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("transposed", [False, True])
def test_tensors_get_the_bits_of_arrays(form, transposed):
    tensors = cast(inputs(form), torch.float32)
    tensors = turned(tensors) if transposed else tensors
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    y, last = ops.ssm_scan(NATIVE, **tensors, return_last_state=True)
    wanted_y, wanted_last = ops.ssm_scan(NATIVE, **arrays, return_last_state=True)
    np.testing.assert_array_equal(y.numpy(), wanted_y)
    np.testing.assert_array_equal(last.numpy(), wanted_last)
    assert y.stride() == tensors["u"].stride()


# Of the tests of state-spaces/mamba: relative and absolute tolerance by dtype.
MAMBA = {torch.float32: (6e-4, 2e-3), torch.float16: (3e-3, 5e-3), torch.bfloat16: (3e-2, 5e-2)}


@pytest.mark.parametrize("dtype", MAMBA, ids=str)
@pytest.mark.parametrize(("form", "length"), [("grouped channels", 128), ("grouped channels", 1024), ("heads", 4096)])
def test_within_the_tolerances_of_mamba(form, length, dtype):
    values = inputs(form, channels=4, length=length, n_state=8)
    # Weights and states stay float32 there, what flows through is of the narrow type.
    flowing = cast({k: values[k] for k in ("u", "delta", "B", "C", "z")}, dtype)
    tensors = cast(values, torch.float32) | flowing
    wanted, wanted_last = exact_scan(
        {k: v.double().numpy() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    )
    rtol, atol = MAMBA[dtype]
    tight = 50 if dtype == torch.float32 else 1
    for y, last in (ops.ssm_scan(NATIVE, **tensors, return_last_state=True), ssm_scan_chunked(**tensors)):
        assert y.dtype == dtype
        np.testing.assert_allclose(y.double().numpy(), wanted, rtol=rtol / tight, atol=atol / tight)
        np.testing.assert_allclose(last.numpy(), wanted_last, rtol=6e-4 / 50, atol=2e-3 / 50)


@pytest.mark.parametrize("form", ["channels", "heads"])
def test_pools_are_written_in_place(ctx, form):
    arrays = cast(inputs(form, batch=3), np.float32)
    pool = np.random.default_rng(5).standard_normal((5, 8, 3)).astype(np.float32)
    tensors, slots = cast(arrays, torch.float32), np.array([4, -1, 0])
    pools = [pool.copy(), torch.from_numpy(pool.copy())]
    y = ops.ssm_scan(ctx, **arrays | {"initial_state": pools[0]}, last_state=pools[0], state_indices=slots)
    tensors["initial_state"] = pools[1]
    got, last = ops.ssm_scan(
        ctx, **tensors, last_state=pools[1], state_indices=torch.from_numpy(slots), return_last_state=True
    )
    assert last is pools[1]
    np.testing.assert_array_equal(got.numpy(), y)
    np.testing.assert_array_equal(pools[1].numpy(), pools[0])
    np.testing.assert_array_equal(pools[0][1:4], pool[1:4])
    assert not np.array_equal(pools[0][[0, 4]], pool[[0, 4]])


def test_steps_on_a_pool_of_tensors_are_the_scan():
    arrays = cast(inputs("grouped heads"), np.float32)
    tensors = cast(arrays, torch.float32)
    wanted, wanted_last = ops.ssm_scan(NATIVE, **arrays, return_last_state=True)
    pool, slots = torch.full((3, 8, 3), torch.nan), torch.tensor([2, 0])
    pool[slots] = tensors["initial_state"]
    rest = (tensors["D"], tensors["delta_bias"])
    for t in range(tensors["u"].shape[2]):
        x, dt, B, C, z = (tensors[name][..., t] for name in ("u", "delta", "B", "C", "z"))
        y = ops.ssm_step(NATIVE, pool, x, dt, tensors["A"], B, C, rest[0], z, rest[1], True, slots)
        np.testing.assert_array_equal(y.numpy(), wanted[..., t])
    np.testing.assert_array_equal(pool[slots].numpy(), wanted_last)


BAD_SCAN = {
    "A": (torch.zeros(1, 3, 16), r"\[ssm_scan\] A may be blocked where it is an array, got shape \(1, 3, 16\)"),
    "delta": (torch.zeros(2, 7, 13), r"\[ssm_scan\] delta must have shape \(2, 8, 13\)"),
    "B": (torch.zeros(2, 4, 13), r"\[ssm_scan\] B must have shape \(2, 3, 13\)"),
    "C": (torch.zeros(2, 3, 12), r"\[ssm_scan\] C must have shape \(2, 3, 13\)"),
    "D": (torch.zeros(3), r"\[ssm_scan\] D must have shape \[8\]"),
    "z": (torch.zeros(2, 8), r"\[ssm_scan\] z must have shape \(2, 8, 13\)"),
    "delta_bias": (torch.zeros(2, 8), r"\[ssm_scan\] delta_bias must have shape \(8"),
    "initial_state": (torch.zeros(1, 8, 3), r"\[ssm_scan\] initial_state must have shape \(2, 8, 3\)"),
    "last_state": (torch.zeros(2, 8, 4), r"\[ssm_scan\] last_state must have shape \(2, 8, 3\)"),
    "cu_seqlens": (
        torch.tensor([0, 13]),
        r"\[ssm_scan\] cu_seqlens must ascend from 0 to the length 13",
    ),
    "state_indices": (torch.tensor([1, 1]), r"\[ssm_scan\] state_indices must be -1 or different slots below 2"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("name", BAD_SCAN)
def test_bad_arguments_of_the_scan_are_named(ctx, name, dtype):
    value, message = BAD_SCAN[name]
    values = cast(inputs("channels"), dtype) | {name: value.to(dtype) if value.is_floating_point() else value}
    with pytest.raises(ValueError, match=message):
        ops.ssm_scan(ctx, **values)


def test_a_number_that_is_not_finite_is_named(ctx):
    values = cast(inputs("heads"), torch.float16)
    values["z"][1, 2, 3] = torch.nan
    with pytest.raises(VortexError, match=r"\[ssm_scan\] z must be finite"):
        ops.ssm_scan(ctx, **values)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("form", "full", "packed", "dtype"),
    [
        ("grouped channels", True, False, torch.float32),
        ("constant B", False, False, torch.bfloat16),
        ("heads", False, True, torch.float64),
        ("heads", True, False, torch.float32),
    ],
)
def test_opcheck_of_the_scan(form, full, packed, dtype):
    values = requiring_grad(cast(inputs(form, batch=1 if packed else 2, full=full), dtype))
    cu_seqlens = torch.tensor([0, 5, 13]) if packed else None
    torch.library.opcheck(VORTEX.ssm_scan.default, scan_arguments(values, cu_seqlens))
    torch.library.opcheck(VORTEX.ssm_scan.default, scan_arguments(turned(values), cu_seqlens))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_compiler_sees_one_graph():
    values = cast(inputs("heads"), torch.float32)

    def layer(u):
        return torch.tanh(VORTEX.ssm_scan(*scan_arguments(values | {"u": u}))[0])

    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    np.testing.assert_array_equal(compiled(values["u"]).numpy(), layer(values["u"]).numpy())
