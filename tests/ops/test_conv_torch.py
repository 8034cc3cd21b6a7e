"""The causal convolution on torch tensors: bits, gradients and torch's own checks of an op."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")

import torch

import vortex_engine.ops.schema_recurrent  # noqa: F401 - declares the ops
from vortex_engine import ops
from vortex_engine.ops.schema import id_of
from vortex_engine.ops.shifted_conv import causal_conv1d_shifted

VORTEX: Any = torch.ops.vortex
NATIVE = ops.make_context(threads=1, backend="cpu")


def conv_inputs(batch: int = 2, channels: int = 5, length: int = 7, width: int = 4, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((batch, channels, length)),
        "weight": rng.standard_normal((channels, width)),
        "bias": rng.standard_normal(channels),
        "activation": "silu",
        "initial_state": rng.standard_normal((batch, channels, width - 1)),
    }


def cast(values: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Arrays of a numpy dtype, or tensors of a torch dtype."""
    if isinstance(dtype, torch.dtype):
        return {k: torch.from_numpy(v).to(dtype) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    return {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in values.items()}


def conv_arguments(values: dict[str, Any], cu_seqlens: Any = None) -> tuple[Any, ...]:
    names = ("x", "weight", "bias", "initial_state")
    return (*(values.get(name) for name in names), cu_seqlens, values.get("activation"), id_of(NATIVE))


def requiring_grad(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in values.items()}


@pytest.mark.parametrize("width", [1, 4])
def test_gradients_of_the_convolution_are_the_slopes(width):
    whole = conv_inputs(channels=3, length=4, width=width)
    if width == 1:
        del whole["initial_state"]  # it has no columns, which the check refuses
    values = requiring_grad(cast(whole, torch.float64))
    assert torch.autograd.gradcheck(VORTEX.causal_conv1d, conv_arguments(values), fast_mode=True)
    packed = conv_inputs(batch=1, channels=3, length=4, width=width)
    packed["initial_state"] = np.random.default_rng(1).standard_normal((2, 3, 3))
    if width == 1:
        del packed["initial_state"]
    arguments = conv_arguments(requiring_grad(cast(packed, torch.float64)), torch.tensor([0, 1, 4]))
    assert torch.autograd.gradcheck(VORTEX.causal_conv1d, arguments, fast_mode=True)


@pytest.mark.parametrize("width", [1, 4])
def test_tensors_get_the_bits_of_arrays_from_the_convolution(ctx, width):
    arrays = cast(conv_inputs(width=width), np.float32)
    tensors = cast(arrays, torch.float32)
    kept, last = np.zeros((2, 5, width - 1), np.float32), torch.zeros((2, 5, width - 1))
    wanted = ops.causal_conv1d(ctx, **arrays, last_state=kept)
    got = ops.causal_conv1d(ctx, **tensors, last_state=last)
    np.testing.assert_array_equal(got.numpy(), wanted)
    np.testing.assert_array_equal(last.numpy(), kept)
    y, columns = causal_conv1d_shifted(**cast(arrays, torch.float64))
    np.testing.assert_allclose(y.numpy(), wanted, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(columns.numpy(), kept)


def test_pools_of_packed_columns_are_written_in_place(ctx):
    arrays = cast(conv_inputs(batch=1), np.float32)
    pool = np.random.default_rng(5).standard_normal((4, 5, 3)).astype(np.float32)
    cu_seqlens, slots = np.array([0, 2, 2, 7]), np.array([3, 1, -1])
    pools = [pool.copy(), torch.from_numpy(pool.copy())]
    y = ops.causal_conv1d(
        ctx, **arrays | {"initial_state": pools[0]}, last_state=pools[0], cu_seqlens=cu_seqlens, state_indices=slots
    )
    tensors = cast(arrays, torch.float32) | {"initial_state": pools[1]}
    indices = {"cu_seqlens": torch.from_numpy(cu_seqlens), "state_indices": torch.from_numpy(slots)}
    got = ops.causal_conv1d(ctx, **tensors, last_state=pools[1], **indices)
    np.testing.assert_array_equal(got.numpy(), y)
    np.testing.assert_array_equal(pools[1].numpy(), pools[0])
    np.testing.assert_array_equal(pools[0][[0, 1, 2]], pool[[0, 1, 2]])


def test_packed_columns_of_float64_are_those_of_float32():
    values = conv_inputs(batch=1) | {"initial_state": np.random.default_rng(1).standard_normal((3, 5, 3))}
    cu_seqlens, arrays, last = np.array([0, 1, 1, 7]), cast(values, np.float32), np.zeros((3, 5, 3), np.float32)
    wanted = ops.causal_conv1d(NATIVE, **arrays, last_state=last, cu_seqlens=cu_seqlens)
    tensors = cast(cast(arrays, np.float64), torch.float64)
    y, columns = VORTEX.causal_conv1d(*conv_arguments(tensors, torch.from_numpy(cu_seqlens)))
    np.testing.assert_allclose(y.numpy(), wanted, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(columns.numpy(), last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bad_arguments_of_the_convolution_are_named(ctx, dtype):
    values = cast(conv_inputs(), dtype)
    for name, value, message in (
        ("weight", torch.zeros(4, 4), r"\[causal_conv1d\] weight must have shape \(5, any\)"),
        ("bias", torch.zeros(4), r"\[causal_conv1d\] bias must have shape \(5"),
        ("activation", "gelu", r"\[causal_conv1d\] activation must be None, 'silu' or 'swish', got 'gelu'"),
        ("initial_state", torch.zeros(2, 5, 4), r"\[causal_conv1d\] initial_state must have shape \(2, 5, 3\)"),
        ("last_state", torch.zeros(3, 5, 3), r"\[causal_conv1d\] last_state must have shape \(2, 5, 3\)"),
    ):
        bad = value.to(dtype) if isinstance(value, torch.Tensor) else value
        with pytest.raises(ValueError, match=message):
            ops.causal_conv1d(ctx, **values | {name: bad})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 4])
def test_opcheck_of_the_convolution(width, dtype):
    values = requiring_grad(cast(conv_inputs(width=width), dtype))
    torch.library.opcheck(VORTEX.causal_conv1d.default, conv_arguments(values))
    bare = {"x": values["x"].detach()[:1].mT.contiguous().mT, "weight": values["weight"].detach()}
    torch.library.opcheck(VORTEX.causal_conv1d.default, conv_arguments(bare, torch.tensor([0, 2, 7])))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as above
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_compiler_sees_one_graph():
    values = cast(conv_inputs(), torch.float32)

    def layer(x):
        return torch.tanh(VORTEX.causal_conv1d(*conv_arguments(values | {"x": x}))[0])

    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    np.testing.assert_array_equal(compiled(values["x"]).numpy(), layer(values["x"]).numpy())
