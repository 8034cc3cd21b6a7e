from __future__ import annotations

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops import reference

SHAPES = [(1, 1), (1, 15), (2, 64), (5, 1024), (3, 1025), (7, 4099), (2, 50280)]


def inputs(rows: int, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows + vocab)
    logits = (5 * rng.standard_normal((rows, vocab))).astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = -np.inf  # as a constraint leaves them
    ids = rng.integers(0, vocab, rows)
    logits[np.arange(rows), ids] = rng.standard_normal(rows)
    return logits, ids


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference(ctx, shape, assert_close):
    logits, ids = inputs(*shape)
    assert_close(ops.token_surprises(ctx, logits, ids), reference.token_surprises(logits, ids), "reduction")
    assert_close(ops.entropies(ctx, logits), reference.entropies(logits), "reduction")


def test_distributions_whose_values_are_known(ctx):
    even, certain = np.zeros((1, 1000), np.float32), np.full((1, 1000), -np.inf, np.float32)
    certain[0, 7] = -3e38
    halves = np.full((1, 1000), -1e4, np.float32)
    halves[0, [3, 900]] = 88.0
    np.testing.assert_allclose(ops.entropies(ctx, even), np.log(1000), rtol=1e-6)
    np.testing.assert_allclose(ops.entropies(ctx, halves), np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(ops.entropies(ctx, certain), 0.0)
    np.testing.assert_array_equal(ops.token_surprises(ctx, certain, np.array([7])), 0.0)
    np.testing.assert_array_equal(ops.token_surprises(ctx, certain, np.array([8])), np.inf)
    np.testing.assert_allclose(ops.token_surprises(ctx, halves, np.array([5])), 10088 + np.log(2), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_or_rows(native_contexts, shape, same_bits):
    logits, ids = inputs(*shape)
    nats = ops.token_surprises(native_contexts[0], logits, ids)
    wanted = ops.entropies(native_contexts[0], logits)
    for ctx in native_contexts:
        same_bits(ops.token_surprises(ctx, logits, ids), nats)
        same_bits(ops.token_surprises(ctx, logits[-1:], ids[-1:]), nats[-1:])
        same_bits(ops.entropies(ctx, logits), wanted)
        same_bits(ops.entropies(ctx, logits[-1:]), wanted[-1:])


@pytest.mark.parametrize("row", [[0.0, np.nan, 1.0], [np.inf, 0.0, 1.0], [-np.inf] * 3])
def test_a_row_without_a_distribution_is_nan(ctx, row):
    logits = np.array([[0.0, 0.0, 0.0], row], np.float32)
    for found in (ops.token_surprises(ctx, logits, np.array([2, 2])), ops.entropies(ctx, logits)):
        assert np.isfinite(found[0]) and np.isnan(found[1])


def test_no_rows(ctx):
    logits = np.zeros((0, 5), np.float32)
    assert ops.token_surprises(ctx, logits, np.zeros(0, np.int64)).shape == ops.entropies(ctx, logits).shape == (0,)


LOGITS = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("logits", "ids", "message"),
    [
        (LOGITS, np.array([0, 4]), r"\[token_surprises\] ids must be from 0 to 3, got 4"),
        (LOGITS, np.array([-1, 0]), r"\[token_surprises\] ids must be from 0 to 3, got -1"),
        (LOGITS, np.array([0]), r"\[token_surprises\] ids .*\(2.*\(1,\)"),
        (LOGITS, np.array([0, 1], np.int32), r"\[token_surprises\] ids .*int32"),
        (LOGITS.astype(np.float64), np.array([0, 1]), r"\[token_surprises\] logits .*float64"),
        (LOGITS[:0, :0], np.zeros(0, np.int64), r"\[token_surprises\] the last dimension of logits .*got 0"),
    ],
)
def test_bad_arguments_are_named(ctx, logits, ids, message):
    with pytest.raises(ValueError, match=message):
        ops.token_surprises(ctx, logits, ids)


@pytest.mark.parametrize("logits", [LOGITS[0], LOGITS.astype(np.float16), LOGITS[:, :0]])
def test_bad_logits_of_entropies_are_named(ctx, logits):
    with pytest.raises(ValueError, match=r"\[entropies\] .*logits"):
        ops.entropies(ctx, logits)
