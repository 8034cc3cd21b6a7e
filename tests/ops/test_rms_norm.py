from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops import reference

SHAPES = [(1, 1), (1, 63), (3, 128), (63, 500), (500, 63), (2, 896)]


def inputs(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows * 1000 + dim)
    x = rng.standard_normal((rows, dim)).astype(np.float32)
    return x, rng.standard_normal(dim).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference(ctx, shape, assert_close):
    x, weight = inputs(*shape)
    assert_close(ops.rms_norm(ctx, x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6), "reduction")


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_or_rows(native_contexts, shape, same_bits):
    x, weight = inputs(*shape)
    wanted = ops.rms_norm(native_contexts[0], x, weight, 1e-5)
    for ctx in native_contexts:
        same_bits(ops.rms_norm(ctx, x, weight, 1e-5), wanted)
        same_bits(ops.rms_norm(ctx, x[-1:], weight, 1e-5), wanted[-1:])


def test_eps_keeps_a_row_of_zeros_finite(ctx):
    assert (ops.rms_norm(ctx, np.zeros((2, 5), np.float32), np.ones(5, np.float32), 1e-6) == 0).all()


def test_no_rows_give_no_rows(ctx):
    assert ops.rms_norm(ctx, np.zeros((0, 5), np.float32), np.ones(5, np.float32), 1e-6).shape == (0, 5)


@pytest.mark.parametrize(
    ("x", "weight", "eps", "message"),
    [
        (np.zeros((2, 4), np.float64), np.ones(4, np.float32), 1e-6, r"\[rms_norm\] x .*float32.*float64"),
        (np.zeros((4, 2), np.float32).T, np.ones(4, np.float32), 1e-6, r"\[rms_norm\] x .*ontiguous.*\(2, 4\)"),
        (np.zeros(4, np.float32), np.ones(4, np.float32), 1e-6, r"\[rms_norm\] x .*\(4,\)"),
        (np.zeros((2, 4), np.float32), np.ones(3, np.float32), 1e-6, r"\[rms_norm\] weight .*\(4\).*\(3,\)"),
        (np.zeros((2, 0), np.float32), np.ones(0, np.float32), 1e-6, r"\[rms_norm\] .*at least 1, got 0"),
        (np.zeros((2, 4), np.float32), np.ones(4, np.float32), -1.0, r"\[rms_norm\] eps .*-1"),
        (np.zeros((2, 4), np.float32), np.ones(4, np.float32), np.nan, r"\[rms_norm\] eps .*nan"),
    ],
)
def test_bad_arguments_are_named(ctx, x, weight, eps, message):
    with pytest.raises(ValueError, match=message):
        ops.rms_norm(ctx, x, weight, eps)


def test_what_is_no_array_is_named(ctx):
    with pytest.raises(ValueError, match=r"\[rms_norm\] x must be a numpy array or a torch tensor, got list"):
        ops.rms_norm(ctx, [[1.0]], np.ones(1, np.float32), 1e-6)
