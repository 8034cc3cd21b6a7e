"""Gradients of the recurrent ops against float64, and the same bits at every SIMD level and thread count."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vortex_engine import _native, ops

REFERENCE = ops.make_context(threads=1, backend="reference")
CONTEXTS = [ops.make_context(threads=n, simd=simd) for simd in _native.simd_levels() for n in (1, 3)]


def floats(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def scan_arguments(batch, channels, length, n_state, heads, groups, *, optional, by_time):
    """grad_y … initial_state, with all optional arguments or none; [batch, time, channel] in memory if `by_time`."""
    rng = np.random.default_rng(length)

    def signal(n):
        return floats(rng, batch, length, n).swapaxes(1, 2) if by_time else floats(rng, batch, n, length)

    def readout():
        if groups == 1 and by_time:
            return signal(n_state)
        return floats(rng, batch, groups, n_state, length)

    rates, skip = -np.exp(floats(rng, heads)), floats(rng, heads if by_time else channels)
    more = (skip, signal(channels), floats(rng, heads) - 1, True, floats(rng, batch, channels, n_state))
    last = floats(rng, batch, channels, n_state) if optional else None
    given = more if optional else (None, None, None, False, None)
    delta = signal(heads) if optional else np.abs(signal(heads))
    return signal(channels), last, signal(channels), delta, rates, readout(), readout(), *given


def assert_close(found, wanted):
    for value, exact in zip(found, wanted, strict=True):
        assert (value is None) == (exact is None)
        if value is not None:
            assert value.shape == exact.shape and value.dtype == np.float32 and value.flags.c_contiguous
            np.testing.assert_allclose(value, exact, rtol=2e-5, atol=2e-6 * max(1.0, np.abs(exact).max(initial=0)))


def assert_same_bits(function, arguments):
    first, *others = [function(ctx, *arguments) for ctx in CONTEXTS]
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a is b is None or a.tobytes() == b.tobytes()
    return first


SCANS = {
    "one step": (2, 32, 1, 16, 2, 1),
    "chunks and a rest": (2, 64, 77, 16, 1, 1),
    "odd sizes, groups": (3, 30, 45, 7, 6, 3),
    "many states": (1, 128, 40, 48, 2, 2),
    "no steps": (2, 16, 0, 4, 1, 1),
}


@pytest.mark.parametrize("optional", [True, False], ids=["all", "plain"])
@pytest.mark.parametrize("by_time", [True, False], ids=["by time", "by channel"])
@pytest.mark.parametrize("sizes", SCANS.values(), ids=SCANS)
def test_scan_gradients_are_those_of_float64(sizes, by_time, optional):
    arguments = scan_arguments(*sizes, optional=optional, by_time=by_time)
    found = assert_same_bits(ops.ssm_scan_gradient, arguments)
    assert_close(found, ops.ssm_scan_gradient(REFERENCE, *arguments))


@pytest.mark.parametrize("name", [*SCANS][:3])
def test_scan_gradients_are_slopes(name):
    arguments = scan_arguments(*SCANS[name], optional=True, by_time=False)
    grad_y, grad_last, *inputs = arguments
    grads = list(ops.ssm_scan_gradient(REFERENCE, *arguments))
    u, delta, rates, b, c, skip, gate, bias, softplus, start = inputs
    for i in (0, 1, 6):
        grads[i] = grads[i].swapaxes(1, 2)
    for i in (3, 4):
        grads[i] = grads[i].transpose(0, 2, 3, 1).reshape(b.shape)
    values = [u, delta, rates, b, c, skip, gate, bias, start]

    def loss(changed):
        *tensors, initial = changed
        y, last = ops.ssm_scan(
            REFERENCE, *tensors, softplus, True, initial_state=initial, last_state=np.zeros_like(initial)
        )
        return float((y.astype(np.float64) * grad_y).sum() + (last.astype(np.float64) * grad_last).sum())

    rng, size = np.random.default_rng(1), 1e-2
    for i, grad in enumerate(grads):
        direction = floats(rng, *values[i].shape)
        direction /= np.linalg.norm(direction)
        ends = [[*values[:i], values[i] + side * size * direction, *values[i + 1 :]] for side in (1, -1)]
        slope = (loss(ends[0]) - loss(ends[1])) / (2 * size)
        assert slope == pytest.approx(float((grad * direction).sum()), rel=2e-2, abs=2e-2)


CONVS = list(itertools.product([(2, 32, 40), (1, 21, 9), (3, 16, 1), (2, 5, 0)], [1, 2, 4], [None, "silu"]))


@pytest.mark.parametrize("by_time", [True, False], ids=["by time", "by channel"])
@pytest.mark.parametrize(("sizes", "width", "activation"), CONVS)
def test_convolution_gradients_are_those_of_float64(sizes, width, activation, by_time):
    batch, channels, length = sizes
    rng = np.random.default_rng(width)
    shape = (batch, length, channels) if by_time else (batch, channels, length)
    grad_y, x = (floats(rng, *shape).swapaxes(1, 2) if by_time else floats(rng, *shape) for _ in range(2))
    weight, bias = floats(rng, channels, width), floats(rng, channels) if by_time else None
    last, start = (floats(rng, batch, channels, width - 1) if by_time else None for _ in range(2))
    arguments = (grad_y, last, x, weight, bias, activation, start)
    found = assert_same_bits(ops.causal_conv1d_gradient, arguments)
    assert_close(found, ops.causal_conv1d_gradient(REFERENCE, *arguments))


def test_wrong_arguments_are_named():
    arguments = scan_arguments(2, 32, 5, 4, 32, 1, optional=True, by_time=True)
    wrong = {
        0: (arguments[0][:, :3], r"grad_y must have shape \(2, 32, 5\)"),
        1: (arguments[1][..., :3], r"grad_last must have shape \(2, 32, 4\)"),
        4: (-np.ones((32, 4), np.float32), "A must have one rate for each head"),
        11: (np.zeros((2, 4, 32), np.float32).swapaxes(1, 2), "initial_state must be contiguous"),
    }
    for i, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            ops.ssm_scan_gradient(CONTEXTS[0], *arguments[:i], value, *arguments[i + 1 :])
    x, weight = np.zeros((1, 4, 3), np.float32), np.zeros((4, 2), np.float32)
    for changed, message in (
        ((x[..., :2], None, x, weight), r"grad_y must have shape \(1, 4, 3\)"),
        ((x, x, x, weight), r"grad_last must have shape \(1, 4, 1\)"),
        ((x, None, x, weight[:, ::-1]), "weight must be contiguous"),
        ((x, None, x, weight, None, "relu"), "activation must be None, 'silu' or 'swish', got 'relu'"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.causal_conv1d_gradient(CONTEXTS[0], *changed)
