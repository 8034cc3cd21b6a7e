"""Gradients of RMSNorm and SwiGLU: against float64, the same bits everywhere, and as torch has them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops import reference

SHAPES = [(1, 5), (3, 17), (64, 32), (129, 72), (200, 640)]


def inputs(rows: int, cols: int, n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(rows + cols)
    return [(3 * rng.standard_normal((rows, cols))).astype(np.float32) for _ in range(n)]


@pytest.mark.parametrize("shape", SHAPES)
def test_match_the_reference(ctx, shape, assert_close):
    grad_y, x, up = inputs(*shape, 3)
    weight = up[0]
    for found, exact in zip(
        (*ops.rms_norm_gradient(ctx, grad_y, x, weight, 1e-5), *ops.swiglu_gradient(ctx, grad_y, x, up)),
        (*reference.rms_norm_gradient(grad_y, x, weight, 1e-5), *reference.swiglu_gradient(grad_y, x, up)),
        strict=True,
    ):
        assert_close(found, exact, "reduction")


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_or_threads(native_contexts, shape, same_bits):
    grad_y, x, up = inputs(*shape, 3)
    for function, arguments in (
        (ops.rms_norm_gradient, (grad_y, x, up[0], 1e-5)),
        (ops.swiglu_gradient, (grad_y, x, up)),
    ):
        wanted = function(native_contexts[0], *arguments)
        for ctx in native_contexts:
            for found, first in zip(function(ctx, *arguments), wanted, strict=True):
                same_bits(found, first)


def test_no_rows(ctx):
    none, weight = np.zeros((0, 8), np.float32), np.ones(8, np.float32)
    of_x, of_weight = ops.rms_norm_gradient(ctx, none, none, weight, 1e-5)
    assert of_x.shape == (0, 8) and not of_weight.any()
    assert [grad.shape for grad in ops.swiglu_gradient(ctx, none, none, none)] == [(0, 8), (0, 8)]


X = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("rms_norm_gradient", (X.T.copy(), X, X[0], 1e-5), r"grad_y .*\(4, 2\)"),
        ("rms_norm_gradient", (X, X, X[0, :3], 1e-5), r"weight .*\(3,\)"),
        ("rms_norm_gradient", (X, X, X[0], -1.0), r"eps .*-1"),
        ("rms_norm_gradient", (X[:, :0], X[:, :0], X[0, :0], 1e-5), r".*"),
        ("swiglu_gradient", (X, X, X.astype(np.float64)), r"up .*float64"),
        ("swiglu_gradient", (X[:1], X, X), r"grad_y .*\(1, 4\)"),
    ],
)
def test_bad_arguments_are_named(ctx, op, arguments, message):
    with pytest.raises(ValueError, match=rf"\[{op}\] {message}"):
        getattr(ops, op)(ctx, *arguments)


def test_autograd_gets_them():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    from vortex_engine.layers.differentiable import gated, normalise

    grad_y, x, up = (torch.from_numpy(array.reshape(2, 5, 24)) for array in inputs(10, 24, 3))
    weight = up[0, 0].clone()
    for leaf in (x, up, weight):
        leaf.requires_grad_()
    found = torch.autograd.grad((normalise(x, weight, 1e-5), gated(x, up)), (x, weight, up), (grad_y, grad_y))
    norm = torch.nn.functional.rms_norm(x, (24,), weight, 1e-5)
    exact = torch.autograd.grad((norm, torch.nn.functional.silu(x) * up), (x, weight, up), (grad_y, grad_y))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    half = x.detach().bfloat16()
    assert normalise(half, weight.detach().bfloat16(), 1e-5).dtype == gated(half, half).dtype == torch.bfloat16


def test_threads_side_by_side():
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    from vortex_engine.layers.differentiable import gated, normalise

    x, up, weight = (
        torch.from_numpy(array).requires_grad_() for array in (*inputs(300, 64, 2), inputs(1, 64, 1)[0][0])
    )

    def gradients(_: int) -> list[bytes]:
        y = gated(normalise(x, weight, 1e-5), up)
        return [grad.numpy().tobytes() for grad in torch.autograd.grad(y.square().sum(), (x, weight, up))]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(gradients, range(8))
    assert all(other == first for other in others)
