"""bad_verify: every implementation gives the ids of the reference, which follow the law that is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.errors import VortexError
from vortex_engine.ops import SamplingLaw, reference

NO_DRAFT = np.empty(0, np.int64)
TEMPERATURES = [0.0, 1e-310, 1e-30, 0.01, 0.3, 0.8, 1.0, 1.5, 10.0, 1e9, 1e308]
TOP_K = [None, None, None, 1, 2, 5, 40, 1000, 10**6]
TOP_P = [None, None, 1e-9, 0.3, 0.5, 0.9, 0.95, 1 - 1e-9, 1 - 2**-53, 1.0]
MIN_P = [None, None, None, 0.0, 5e-324, 1e-12, 0.01, 0.1, 1.0]
SPREADS = [0.0, 0.1, 1.0, 3.0, 10.0, 60.0]
SMALL = [1, 2, 3, 5, 17, 63, 64, 65, 127, 500, 1000, 4096]
LARGE = [32768, 33001, 151936]


def random_law(rng: np.random.Generator) -> SamplingLaw:
    temperature, top_k, top_p, min_p = (
        list_[rng.integers(len(list_))] for list_ in (TEMPERATURES, TOP_K, TOP_P, MIN_P)
    )
    return SamplingLaw(temperature, top_k, top_p, min_p)


def random_row(rng: np.random.Generator, vocab: int) -> np.ndarray:
    """Logits with a finite maximum: Gaussian, tied, masked, with one finite entry, signed zeros, huge or tiny."""
    row = (rng.standard_normal(vocab) * SPREADS[rng.integers(len(SPREADS))]).astype(np.float32)
    kind = rng.integers(7)
    if kind == 1:
        row = np.round(row)
    elif kind in (2, 3):
        row[rng.random(vocab) < (0.5 if kind == 2 else 1.0)] = -np.inf
        row[rng.integers(vocab)] = rng.standard_normal()
    elif kind == 4:
        row = np.where(rng.random(vocab) < 0.5, np.float32(0.0), np.float32(-0.0))
    elif kind == 5:
        row = np.clip(row, -30, 30) * np.float32(1e37)
    elif kind == 6:
        row = row * np.float32(1e-40)
    return row


def tokens_of(rows: np.ndarray, law: SamplingLaw, seed: int, position: int) -> np.ndarray:
    """The reference's tokens, row by row."""
    return np.array(
        [reference.bad_verify(NO_DRAFT, row[None], law, seed, position + i)[1] for i, row in enumerate(rows)], np.int64
    )


@pytest.mark.parametrize("part", range(4))
def test_ids_of_random_rows_are_those_of_the_reference(native_contexts, part):
    rng = np.random.default_rng(part)
    for n_block in range(120):
        vocab = int(LARGE[n_block % 3] if n_block % 30 == 0 else SMALL[rng.integers(len(SMALL))])
        n_rows = 3 if vocab > 10_000 else 40
        rows = np.stack([random_row(rng, vocab) for _ in range(n_rows)])
        law, seed, position = random_law(rng), int(rng.integers(2**64, dtype=np.uint64)), int(rng.integers(2**40))
        tokens = tokens_of(rows, law, seed, position)
        for ctx in native_contexts:
            found = ops.bad_verify(ctx, tokens[:-1], rows, law, seed, position)
            assert found == (n_rows - 1, tokens[-1]), (ctx, vocab, law)


def test_a_nucleus_that_ends_between_equal_probabilities_is_the_reference(native_contexts):
    for vocab in (4, 10, 100, 4096, 40_000):
        rows = np.zeros((8, vocab), np.float32)
        rows[:, : vocab // 2] = np.float32(math.log(2))
        for top_p in (0.25, 0.5, 2 / 3, 0.75, 0.9):
            law = SamplingLaw(1.0, top_p=top_p)
            tokens = tokens_of(rows, law, 3, 5)
            for ctx in native_contexts:
                assert ops.bad_verify(ctx, tokens[:-1], rows, law, 3, 5) == (7, tokens[-1])


def test_row_i_judges_draft_i_plus_1(ctx):
    """The classic mistake is off by one: logits made after a draft would judge that draft."""
    rows = np.zeros((4, 9), np.float32)
    best = np.array([3, 5, 1, 8])
    rows[np.arange(4), best] = 1.0
    greedy = SamplingLaw()
    assert ops.bad_verify(ctx, best[:3].copy(), rows, greedy, 0, 0) == (3, 8)
    assert ops.bad_verify(ctx, best[1:].copy(), rows, greedy, 0, 0) == (0, 3)
    assert ops.bad_verify(ctx, np.array([3, 5, 8]), rows, greedy, 0, 0) == (2, 1)
    assert ops.bad_verify(ctx, np.array([3, -1, 1]), rows, greedy, 0, 0) == (1, 5)
    assert ops.bad_verify(ctx, NO_DRAFT, rows[:1].copy(), greedy, 0, 0) == (0, 3)


def test_drafted_tokens_are_those_of_plain_decoding(ctx):
    rng = np.random.default_rng(8)
    law = SamplingLaw(1.0, top_p=0.9)
    rows = rng.standard_normal((17, 50)).astype(np.float32)
    plain = [ops.bad_verify(ctx, NO_DRAFT, rows[i : i + 1], law, 6, 100 + i)[1] for i in range(17)]
    assert len(set(plain)) > 5
    for n_right in range(17):
        draft = np.array(plain[:n_right] + [49 - token for token in plain[n_right:16]])
        assert ops.bad_verify(ctx, draft, rows, law, 6, 100) == (n_right, plain[n_right])


def test_a_row_that_is_not_finite_matters_only_when_it_is_reached(ctx):
    for bad in (np.nan, -np.nan, np.inf):
        for law in (SamplingLaw(), SamplingLaw(1.0)):
            rows = np.zeros((3, 70), np.float32)
            rows[:, 4] = 200.0
            rows[1, 66] = bad
            with pytest.raises(VortexError, match=r"at position 8 are not finite \((nan|inf) for id 66\)"):
                ops.bad_verify(ctx, np.array([4, 4]), rows, law, 0, 7)
            assert ops.bad_verify(ctx, np.array([5, 4]), rows, law, 0, 7) == (0, 4)
    with pytest.raises(VortexError, match=r"at position 7 are not finite \(-inf for id 0\)"):
        ops.bad_verify(ctx, NO_DRAFT, np.full((1, 5), -np.inf, np.float32), SamplingLaw(), 0, 7)


def chi_square_limit(freedom: int) -> float:
    """The 99.99 % point, by Wilson and Hilferty (doi 10.1073/pnas.17.12.684)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize(
    ("vocab", "law", "n_draws"),
    [
        (2, SamplingLaw(1.0), 200_000),
        (3, SamplingLaw(0.7), 100_000),
        (8, SamplingLaw(1.0), 200_000),
        (8, SamplingLaw(1.3, top_p=0.8), 100_000),
        (17, SamplingLaw(0.8, top_k=5), 100_000),
        (33, SamplingLaw(1.0, min_p=0.1), 100_000),
        (64, SamplingLaw(1.0), 150_000),
        (64, SamplingLaw(2.0, 40, 0.9, 0.01), 50_000),
    ],
)
def test_a_million_draws_follow_the_law(vocab, law, n_draws):
    ctx = ops.make_context(threads=1, backend="cpu")
    logits = np.random.default_rng(vocab).normal(0, 1.2, vocab).astype(np.float32)
    probabilities = np.exp(logits / law.temperature - (logits / law.temperature).max())
    order = np.argsort(-probabilities)
    keep = np.ones(vocab, bool)
    keep[order[law.top_k or vocab :]] = False
    mass = np.where(keep, probabilities, 0.0)
    if law.top_p is not None:
        keep[order[np.searchsorted(np.cumsum(mass[order]), law.top_p * mass.sum()) + 1 :]] = False
    keep &= probabilities >= (law.min_p or 0.0)
    wanted = np.where(keep, probabilities, 0.0) / probabilities[keep].sum() * n_draws

    draw = ctx.table["bad_verify"]
    draws = np.array([draw(NO_DRAFT, logits[None], law, 5, position)[1] for position in range(n_draws)])
    counts = np.bincount(draws, minlength=vocab)
    assert not counts[~keep].any()
    assert ((counts[keep] - wanted[keep]) ** 2 / wanted[keep]).sum() < chi_square_limit(int(keep.sum()) - 1)


def test_wrong_arguments_are_named(ctx):
    rows = np.zeros((2, 4), np.float32)
    draft = np.zeros(1, np.int64)
    cases = [
        (draft, rows[:1].copy(), 0, 0, "target_logits must"),
        (draft, rows.astype(np.float64), 0, 0, "target_logits must"),
        (draft, np.zeros((4, 2), np.float32).T, 0, 0, "target_logits must"),
        (draft.astype(np.int32), rows, 0, 0, "draft_ids must"),
        (draft, np.zeros((2, 0), np.float32), 0, 0, "the vocabulary must have from 1 to 4194304 ids, got 0"),
        (draft, rows, -1, 0, "seed must be from 0"),
        (draft, rows, 2**64, 0, "seed must be from 0"),
        (draft, rows, 0, -1, "seed must be from 0 to 2\\^64 - 1 and position from 0 to 2\\^62, got 0 and -1"),
    ]
    for drafted, logits, seed, position, message in cases:
        with pytest.raises(ValueError, match=rf"\[bad_verify\] {message}"):
            ops.bad_verify(ctx, drafted, logits, SamplingLaw(), seed, position)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", math.nan), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.1), ("min_p", 2)],
)
def test_a_wrong_law_is_named(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value!r}"):
        SamplingLaw(**{name: value})
