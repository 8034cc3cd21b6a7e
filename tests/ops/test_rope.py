from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops import reference

SHAPES = [(1, 1, 2), (1, 14, 64), (63, 2, 128), (128, 3, 6), (500, 2, 20)]


def inputs(tokens: int, heads: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.random.default_rng(tokens + dim).standard_normal((tokens, heads, dim)).astype(np.float32)
    inv_freq = 10000.0 ** (-np.arange(0, dim, 2) / dim)
    return x, *reference.rope_table(np.arange(7, 7 + tokens), inv_freq)


def test_table_is_float64_rounded_once(ctx):
    positions = np.array([0, 1, 4095, 131071, 1 << 24], np.int64)
    inv_freq = 500000.0 ** (-np.arange(0, 128, 2) / 128)
    cos, sin = ops.rope_table(ctx, positions, inv_freq)
    angles = positions[:, None] * inv_freq
    # Two libraries may differ in the last bit of a float64, hence at most in the last bit of the float32.
    np.testing.assert_array_max_ulp(cos, np.cos(angles).astype(np.float32), maxulp=1)
    np.testing.assert_array_max_ulp(sin, np.sin(angles).astype(np.float32), maxulp=1)
    assert (cos[0] == 1).all() and (sin[0] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference(ctx, shape, assert_close):
    x, cos, sin = inputs(*shape)
    assert_close(ops.rope(ctx, x, cos, sin), reference.rope(x, cos, sin), "elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_or_rows(native_contexts, shape, same_bits):
    x, cos, sin = inputs(*shape)
    wanted = ops.rope(native_contexts[0], x, cos, sin)
    for ctx in native_contexts:
        same_bits(ops.rope(ctx, x, cos, sin), wanted)
        same_bits(ops.rope(ctx, x[-1:], cos[-1:], sin[-1:]), wanted[-1:])


def test_position_zero_changes_nothing(ctx, same_bits):
    x = inputs(1, 2, 8)[0]
    same_bits(ops.rope(ctx, x, np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32)), x)


@pytest.mark.parametrize(
    ("x_shape", "cos_shape", "sin_shape", "message"),
    [
        ((2, 3, 8), (3, 4), (3, 4), r"\[rope\] cos .*\(3, 4\)"),
        ((2, 3, 8), (2, 4), (2, 3), r"\[rope\] sin .*\(2, 3\)"),
        ((2, 3, 8), (2, 3), (2, 3), r"\[rope\] x must"),
        ((2, 24), (2, 4), (2, 4), r"\[rope\] x .*\(2, 24\)"),
        ((2, 3, 0), (2, 0), (2, 0), r"\[rope\] .*, got"),
    ],
)
def test_bad_arguments_are_named(ctx, x_shape, cos_shape, sin_shape, message):
    with pytest.raises(ValueError, match=message):
        ops.rope(ctx, *(np.zeros(shape, np.float32) for shape in (x_shape, cos_shape, sin_shape)))


def test_bad_table_arguments_are_named(ctx):
    with pytest.raises(ValueError, match=r"\[rope_table\] positions must be int64, got int32"):
        ops.rope_table(ctx, np.zeros(2, np.int32), np.ones(2))
    with pytest.raises(ValueError, match=r"\[rope_table\] inv_freq must be float64, got float32"):
        ops.rope_table(ctx, np.zeros(2, np.int64), np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"\[rope_table\] the length of inv_freq must be at least 1, got 0"):
        ops.rope_table(ctx, np.zeros(2, np.int64), np.ones(0))
