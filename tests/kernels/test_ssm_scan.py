"""Triton's scan and convolution against the reference in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from vortex_engine.kernels import support

from vortex_engine import ops
from vortex_engine.errors import VortexError
from vortex_engine.ops import reference

if reason := support.reason_against():
    pytest.skip(reason, allow_module_level=True)

import torch
from vortex_engine.kernels import causal_conv1d as conv_kernels
from vortex_engine.kernels import ssm_scan as scan_kernels
from vortex_engine.kernels.tiles import device

from vortex_engine.ops.scan_arguments import conv_shape, scan_shape

SCAN = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "initial_state", "last_state")
CONV = ("x", "weight", "bias", "activation", "initial_state", "last_state")
INDICES = ("cu_seqlens", "state_indices")
KERNELS = {op: ops.select(op, "triton").bind(None) for op in ("ssm_scan", "causal_conv1d")}
CHANNELS, N_STATE, LENGTH = 6, 3, 5
# Every form of A, B and C, and what may be left out.
FORMS = {
    "channels": {},
    "bare": {"full": False},
    "grouped channels": {"groups": 2},
    "constant B": {"constant": "B"},
    "constant B and C": {"constant": "BC"},
    "heads": {"heads": 2},
    "grouped heads": {"heads": 6, "groups": 3},
}


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def scan_values(
    batch: int = 2, heads: int | None = None, groups: int = 1, constant: str = "", full: bool = True, states: int = 0
) -> dict[str, Any]:
    rows = heads or CHANNELS
    shape = (batch, N_STATE, LENGTH) if groups == 1 else (batch, groups, N_STATE, LENGTH)
    values: dict[str, Any] = dict.fromkeys(SCAN) | {
        "u": array(batch, CHANNELS, LENGTH),
        "delta": 0.3 * np.abs(array(batch, rows, LENGTH, seed=1)),
        "A": -np.abs(array(*([heads] if heads else [CHANNELS, N_STATE]))),
        "B": array(*((CHANNELS, N_STATE) if "B" in constant else shape), seed=2),
        "C": array(*((CHANNELS, N_STATE) if "C" in constant else shape), seed=3),
        "delta_softplus": full,
    }
    if full:
        values |= {"D": array(rows), "z": 3 * array(batch, CHANNELS, LENGTH, seed=4), "delta_bias": 4 * array(rows) - 3}
        values["initial_state"] = array(states or batch, CHANNELS, N_STATE, seed=5)
    return values


def conv_values(batch: int = 2, width: int = 4, states: int = 0) -> dict[str, Any]:
    return dict.fromkeys(CONV) | {
        "x": array(batch, CHANNELS, LENGTH),
        "weight": array(CHANNELS, width),
        "bias": array(CHANNELS),
        "activation": "silu",
        "initial_state": array(states or batch, CHANNELS, width - 1) if width > 1 else None,
    }


def run(backend: str, values: dict[str, Any], **indices: Any) -> Any:
    op = "ssm_scan" if "u" in values else "causal_conv1d"
    call = KERNELS[op] if backend == "triton" else getattr(reference, op)
    return call(*values.values(), *(indices.get(name) for name in INDICES))


def compare(values: dict[str, Any], states: tuple[int, ...], **indices: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both backends on their own copies of `last_state`, which is full of NaN where nothing is written."""
    lasts = [np.full(states, np.nan, np.float32) for _ in range(2)]
    got, wanted = (
        run(backend, values | {"last_state": last}, **indices)
        for backend, last in zip(("triton", "reference"), lasts, strict=True)
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(lasts[0], lasts[1], rtol=1e-5, atol=2e-6)
    return got, lasts[0]


@pytest.fixture(autouse=True)
def small_blocks_and_poison(monkeypatch):
    """Channels and columns go to several programs and rounds; an output that a kernel forgets to write is NaN."""
    monkeypatch.setattr(scan_kernels, "MAX_CHANNELS", 4)
    monkeypatch.setattr(conv_kernels, "MAX_CHANNELS", 4)
    monkeypatch.setattr(conv_kernels, "MAX_COLUMNS", 4)
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, torch.nan))


@pytest.mark.parametrize("form", FORMS)
def test_the_scan_is_the_reference(form):
    compare(scan_values(**FORMS[form]), (2, CHANNELS, N_STATE))


@pytest.mark.parametrize("form", ["grouped heads", "constant B"])
def test_packed_sequences_of_a_pool(form):
    cu_seqlens, slots = np.array([0, 2, 2, 4, 5]), np.array([4, 1, -1, 0])
    values = scan_values(batch=1, states=5, **FORMS[form])
    _, last = compare(values, (5, CHANNELS, N_STATE), cu_seqlens=cu_seqlens, state_indices=slots)
    assert np.isnan(last[[2, 3]]).all()
    np.testing.assert_array_equal(last[1], values["initial_state"][1])  # a sequence of no steps


@pytest.mark.parametrize("width", [1, 4])
def test_the_convolution_is_the_reference(width):
    values = conv_values(width=width)
    compare(values, (2, CHANNELS, width - 1)) if width > 1 else compare_without_states(values)
    compare_without_states(values | {"bias": None, "activation": None, "initial_state": None})


def compare_without_states(values: dict[str, Any]) -> None:
    np.testing.assert_allclose(run("triton", values), run("reference", values), rtol=1e-5, atol=2e-6)


def test_packed_columns_of_a_pool():
    cu_seqlens, slots = np.array([0, 2, 2, 4, 5]), np.array([4, 1, -1, 0])
    values = conv_values(batch=1, states=5)
    _, last = compare(values, (5, CHANNELS, 3), cu_seqlens=cu_seqlens, state_indices=slots)
    assert np.isnan(last[[2, 3]]).all()


@pytest.mark.parametrize("make", [lambda: scan_values(heads=2), lambda: scan_values(constant="C"), conv_values])
def test_whole_in_pieces_and_step_by_step(make):
    values = make()
    whole = run("triton", values | {"last_state": (kept := values["initial_state"].copy())})
    for cuts in ([0, 3, 5], [0, 1, 2, 3, 4, 5]):
        state, pieces = values["initial_state"].copy(), []
        for begin, end in pairwise(cuts):
            part = {k: v[..., begin:end] if np.ndim(v) == 3 and "state" not in k else v for k, v in values.items()}
            pieces.append(run("triton", part | {"initial_state": state, "last_state": state}))
        np.testing.assert_array_equal(np.concatenate(pieces, axis=2), whole)
        np.testing.assert_array_equal(state, kept)


@pytest.mark.parametrize(("make", "first"), [(lambda: scan_values(heads=2), "u"), (conv_values, "x")])
def test_outputs_lie_as_the_inputs_do(make, first):
    values = make()
    turned = {k: v.swapaxes(-1, -2).copy().swapaxes(-1, -2) if np.ndim(v) > 1 else v for k, v in values.items()}
    y = run("triton", turned)
    np.testing.assert_array_equal(y, run("triton", values))
    assert y.strides == turned[first].strides != values[first].strides
    backwards = {k: v[..., ::-1].copy()[..., ::-1] if np.ndim(v) > 1 else v for k, v in values.items()}
    np.testing.assert_array_equal(run("triton", backwards), run("triton", values))


def on_device(values: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Tensors of a dtype on the device, with their last dimensions the other way round in memory."""
    tensors = {k: torch.from_numpy(v).to(device(), dtype) for k, v in values.items() if isinstance(v, np.ndarray)}
    return values | {k: v.mT.contiguous().mT if v.dim() > 1 else v for k, v in tensors.items()}


def exact(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.float().cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in values.items()}


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_tensors_of_every_dtype_and_order_with_their_states_in_place(dtype, close):
    values = on_device(scan_values(heads=2, groups=2), dtype)
    shape = scan_shape(*(exact(values)[name] for name in SCAN[:8]), {}, None, None)
    state = values["initial_state"].float()
    wanted_last = np.zeros((2, CHANNELS, N_STATE), np.float32)
    wanted = run("reference", exact(values) | {"last_state": wanted_last})
    y = scan_kernels.ssm_scan(shape, **values | {"initial_state": state, "last_state": state})
    assert y.dtype == dtype and y.stride() == values["u"].stride()
    np.testing.assert_allclose(y.double().cpu().numpy(), wanted, rtol=close, atol=close)
    np.testing.assert_allclose(state.cpu().numpy(), wanted_last, rtol=1e-5, atol=1e-5)

    values = on_device(conv_values(), dtype)
    shape = conv_shape(*(exact(values)[name] for name in CONV[:3]), "silu", {}, None, None)
    state = values["initial_state"].float()
    wanted_last = np.zeros((2, CHANNELS, 3), np.float32)
    wanted = run("reference", exact(values) | {"last_state": wanted_last})
    y = conv_kernels.causal_conv1d(shape, **values | {"initial_state": state, "last_state": state})
    assert y.dtype == dtype and y.stride() == values["x"].stride()
    np.testing.assert_allclose(y.double().cpu().numpy(), wanted, rtol=close, atol=close)
    np.testing.assert_array_equal(state.cpu().numpy(), wanted_last)


def test_blocked_arrays_are_plain_ones():
    values = scan_values()
    plain, last = compare(values, (2, CHANNELS, N_STATE))
    blocked_last = np.full((2, 1, N_STATE, 16), np.nan, np.float32)
    blocked = {"A": ops.scan_blocks(values["A"]), "initial_state": ops.scan_blocks(values["initial_state"])}
    got = run("triton", values | blocked | {"last_state": blocked_last})
    np.testing.assert_array_equal(got, plain)
    np.testing.assert_array_equal(blocked_last[..., :CHANNELS], ops.scan_blocks(last)[..., :CHANNELS])


@pytest.mark.parametrize("steps", [40.0, -3.0, -14.0])
def test_softplus_keeps_small_steps(steps):
    values = scan_values()
    values["delta_bias"] = np.full(CHANNELS, steps, np.float32)
    values |= {"D": None, "initial_state": None, "A": values["A"] * np.float32(1e-3)}
    got, wanted = run("triton", values), run("reference", values)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


def test_large_decays_stay_finite():
    values = scan_values(heads=2)
    values["A"], values["delta"] = np.array([-1000.0, -1e-3], np.float32), values["delta"] + np.float32(50)
    compare(values, (2, CHANNELS, N_STATE))


def test_nothing_to_do():
    values = scan_values()
    none = {k: v[..., :0] if np.ndim(v) == 3 and "state" not in k else v for k, v in values.items()}
    y, last = compare(none, (2, CHANNELS, N_STATE))
    assert y.shape == (2, CHANNELS, 0)
    np.testing.assert_array_equal(last, values["initial_state"])


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"\[ssm_scan\] delta must have shape \(2, 6, 5\)"):
        run("triton", scan_values() | {"delta": array(2, 5, 5)})
    with pytest.raises(ValueError, match=r"\[causal_conv1d\] bias must have shape \(6"):
        run("triton", conv_values() | {"bias": array(5)})
    values = scan_values()
    values["B"][1, 2, 3] = np.inf
    with pytest.raises(VortexError, match=r"\[ssm_scan\] B must be finite, got inf at \[1, 2, 3\]"):
        run("triton", values)
    values = scan_values(states=3)
    values["initial_state"][0] = np.nan  # of no sequence
    run("triton", values, state_indices=np.array([2, 1]))
    values["initial_state"][1, 2, 0] = np.nan
    with pytest.raises(VortexError, match=r"\[ssm_scan\] initial_state must be finite, got .* not in slot 1"):
        run("triton", values, state_indices=np.array([2, 1]))
