from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops import reference

SHAPES = [(1, 1), (1, 63), (128, 128), (3, 500), (63, 4864)]


def inputs(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows + cols)
    return (4 * rng.standard_normal((rows, cols))).astype(np.float32), rng.standard_normal((rows, cols)).astype(
        np.float32
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference(ctx, shape, assert_close):
    gate, up = inputs(*shape)
    assert_close(ops.swiglu(ctx, gate, up), reference.swiglu(gate, up), "elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_or_rows(native_contexts, shape, same_bits):
    gate, up = inputs(*shape)
    wanted = ops.swiglu(native_contexts[0], gate, up)
    for ctx in native_contexts:
        same_bits(ops.swiglu(ctx, gate, up), wanted)
        same_bits(ops.swiglu(ctx, gate[-1:], up[-1:]), wanted[-1:])


def test_extreme_gates(ctx):
    gate = np.array([[-np.inf, -1e30, -200.0, -90.0, 0.0, 90.0, 1e30, np.inf, np.nan]], np.float32)
    out = ops.swiglu(ctx, gate, np.ones_like(gate))[0]
    assert np.isnan(out[0]) and np.isnan(out[8])  # -inf / (1 + inf) is NaN, as IEEE has it
    # e^90 is infinite in float32, so the tail below -88.7 is 0 where float64 has -7e-38.
    np.testing.assert_allclose(out[1:8], [0, 0, 0, 0, 90, 1e30, np.inf], rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize(
    ("gate", "up", "message"),
    [
        (np.zeros((2, 4), np.float32), np.zeros((4, 2), np.float32), r"\[swiglu\] up .*\(2, 4\).*\(4, 2\)"),
        (np.zeros((2, 4), np.float16), np.zeros((2, 4), np.float32), r"\[swiglu\] gate .*float16"),
        (np.zeros(8, np.float32), np.zeros(8, np.float32), r"\[swiglu\] gate .*\(8,\)"),
    ],
)
def test_bad_arguments_are_named(ctx, gate, up, message):
    with pytest.raises(ValueError, match=message):
        ops.swiglu(ctx, gate, up)
