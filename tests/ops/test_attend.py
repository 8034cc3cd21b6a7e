from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops import reference


@dataclass(frozen=True)
class Case:
    tokens: int
    heads: int
    kv_heads: int
    dim: int
    pos: int
    window: int = 0
    spare: int = 0  # positions of the cache after the last token

    @property
    def scale(self) -> float:
        return float(np.float32(self.dim**-0.5))


CASES = [
    Case(1, 1, 1, 1, 0),
    Case(1, 14, 2, 64, 499),
    Case(63, 4, 4, 20, 0, spare=5),
    Case(128, 6, 2, 64, 37, spare=100),
    Case(37, 8, 1, 80, 500, window=33, spare=1),
    Case(70, 3, 3, 128, 0, window=1),
    Case(9, 2, 1, 16, 250, window=64, spare=64),
    Case(130, 2, 2, 32, 0, window=500),
]


def inputs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q and the caches; what no token may see is NaN."""
    rng = np.random.default_rng(case.tokens * 7 + case.dim)
    end, padded = case.pos + case.tokens, -(-case.dim // 16) * 16
    q = rng.standard_normal((case.tokens, case.heads, case.dim)).astype(np.float32)
    caches = np.full((2, case.kv_heads, end + case.spare, padded), np.nan, np.float32)
    first = max(0, case.pos - case.window + 1) if case.window else 0
    caches[:, :, first:end] = 0
    caches[:, :, first:end, : case.dim] = rng.standard_normal((2, case.kv_heads, end - first, case.dim))
    return q, caches[0].copy(), caches[1].copy()


def attend(ctx, case: Case, q, k_cache, v_cache, chunk: int | None = None) -> np.ndarray:
    step = chunk or case.tokens
    parts = [
        ops.attend(ctx, q[at : at + step], k_cache, v_cache, case.pos + at, case.window, case.scale)
        for at in range(0, case.tokens, step)
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(ctx, case, assert_close):
    q, k_cache, v_cache = inputs(case)
    wanted = reference.attend(q, k_cache, v_cache, case.pos, case.window, case.scale)
    assert_close(attend(ctx, case, q, k_cache, v_cache), wanted, "reduction")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_level_or_threads(native_contexts, case, same_bits):
    arrays = inputs(case)
    wanted = attend(native_contexts[0], case, *arrays)
    for ctx in native_contexts[1:]:
        same_bits(attend(ctx, case, *arrays), wanted)


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize("case", [case for case in CASES if case.tokens > 1], ids=str)
def test_bits_do_not_depend_on_chunks(native_contexts, case, chunk, same_bits):
    arrays = inputs(case)
    wanted = attend(native_contexts[0], case, *arrays)
    for ctx in native_contexts[-3:]:
        same_bits(attend(ctx, case, *arrays, chunk=chunk), wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_the_cache_capacity(native_contexts, case, same_bits):
    q, k_cache, v_cache = inputs(case)
    ctx = native_contexts[-1]
    wanted = attend(ctx, case, q, k_cache, v_cache)
    end = case.pos + case.tokens
    for capacity in (end, end + 1, end + 200):
        wide = np.full((2, case.kv_heads, capacity, k_cache.shape[2]), np.nan, np.float32)
        wide[0, :, :end], wide[1, :, :end] = k_cache[:, :end], v_cache[:, :end]
        same_bits(attend(ctx, case, q, wide[0], wide[1]), wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_window_that_reaches_the_start_is_none(ctx, case):
    case = replace(case, window=0)
    arrays = inputs(case)
    wide = replace(case, window=case.pos + case.tokens)
    np.testing.assert_array_equal(attend(ctx, case, *arrays), attend(ctx, wide, *arrays))


def test_one_visible_position_is_its_value(ctx):
    case = Case(5, 4, 2, 24, 3, window=1)
    q, k_cache, v_cache = inputs(case)
    out = attend(ctx, case, q, k_cache, v_cache)
    for token in range(case.tokens):
        np.testing.assert_array_equal(out[token], np.repeat(v_cache[:, case.pos + token, :24], 2, axis=0))


def test_rows_with_nan_scores_are_nan_and_others_are_not(ctx):
    case = Case(4, 2, 2, 32, 60)
    q, k_cache, v_cache = inputs(case)
    clean = attend(ctx, case, q, k_cache, v_cache)
    q[2, 1, 5] = np.nan
    out = attend(ctx, case, q, k_cache, v_cache)
    assert np.isnan(out[2, 1]).all()
    out[2, 1] = clean[2, 1]
    np.testing.assert_array_equal(out, clean)


def test_huge_scores_do_not_overflow(ctx):
    case = Case(2, 2, 1, 16, 40)
    q, k_cache, v_cache = inputs(case)
    out = attend(ctx, case, q * np.float32(1e4), k_cache, v_cache)
    assert np.isfinite(out).all()


def test_append_stores_rows_and_clears_their_padding(ctx):
    rng = np.random.default_rng(3)
    k, v = rng.standard_normal((2, 5, 3, 20)).astype(np.float32)
    k_cache, v_cache = np.full((2, 3, 12, 32), np.nan, np.float32)
    ops.kv_append(ctx, k, v, k_cache, v_cache, 4)
    for values, cache in ((k, k_cache), (v, v_cache)):
        np.testing.assert_array_equal(cache[:, 4:9, :20], values.transpose(1, 0, 2))
        assert (cache[:, 4:9, 20:] == 0).all()
        assert np.isnan(cache[:, :4]).all() and np.isnan(cache[:, 9:]).all()


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("q", "cache", "pos", "window", "scale", "message"),
    [
        (
            zeros(1, 3, 8),
            zeros(2, 4, 16),
            0,
            0,
            1.0,
            r"\[attend\] query heads .*the 2 KV heads, got 3",
        ),
        (zeros(1, 2, 8), zeros(0, 4, 16), 0, 0, 1.0, r"\[attend\] .*KV heads"),
        (zeros(1, 2, 8), zeros(2, 4, 8), 0, 0, 1.0, r"\[attend\] k_cache .*16.*\(2, 4, 8\)"),
        (zeros(2, 2, 8), zeros(2, 4, 16), 3, 0, 1.0, r"\[attend\] pos must be from 0 to capacity - tokens = 2, got 3"),
        (zeros(1, 2, 8), zeros(2, 4, 16), -1, 0, 1.0, r"\[attend\] pos .*got -1"),
        (zeros(5, 2, 8), zeros(2, 4, 16), 0, 0, 1.0, r"\[attend\] pos .*got 0"),
        (zeros(1, 2, 8), zeros(2, 4, 16), 0, -1, 1.0, r"\[attend\] window must be 0 or more, got -1"),
        (zeros(1, 2, 8), zeros(2, 4, 16), 0, 0, 0.0, r"\[attend\] scale must be finite and positive, got 0"),
        (zeros(1, 2, 8).astype(np.float64), zeros(2, 4, 16), 0, 0, 1.0, r"\[attend\] q must be float32, got float64"),
        (zeros(2, 8), zeros(2, 4, 16), 0, 0, 1.0, r"\[attend\] q .*\(2, 8\)"),
    ],
)
def test_bad_arguments_are_named(ctx, q, cache, pos, window, scale, message):
    with pytest.raises(ValueError, match=message):
        ops.attend(ctx, q, cache, cache, pos, window, scale)


@pytest.mark.parametrize(
    ("k", "v", "cache", "pos", "message"),
    [
        (zeros(2, 3, 8), zeros(2, 3, 8), zeros(3, 4, 16), 3, r"\[kv_append\] pos .*= 2, got 3"),
        (zeros(2, 3, 8), zeros(2, 3, 8), zeros(3, 4, 16), -1, r"\[kv_append\] pos .*got -1"),
        (zeros(2, 3, 8), zeros(2, 2, 8), zeros(3, 4, 16), 0, r"\[kv_append\] v .*\(2, 2, 8\)"),
        (zeros(2, 3, 8), zeros(2, 3, 8), zeros(2, 4, 16), 0, r"\[kv_append\] k_cache .*\(2, 4, 16\)"),
        (zeros(2, 3, 8), zeros(2, 3, 8), zeros(3, 4, 8), 0, r"\[kv_append\] k_cache .*\(3, 4, 8\)"),
    ],
)
def test_bad_append_arguments_are_named(ctx, k, v, cache, pos, message):
    with pytest.raises(ValueError, match=message):
        ops.kv_append(ctx, k, v, cache, cache.copy(), pos)


def test_append_refuses_a_read_only_cache(ctx):
    cache = zeros(3, 4, 16)
    cache.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        ops.kv_append(ctx, zeros(2, 3, 8), zeros(2, 3, 8), cache, zeros(3, 4, 16), 0)


def test_move_copies_one_position(ctx):
    rng = np.random.default_rng(8)
    k_cache, v_cache = (rng.standard_normal((3, 9, 32)).astype(np.float32) for _ in range(2))
    for source, target in ((7, 2), (0, 8), (4, 4)):
        wanted = [cache.copy() for cache in (k_cache, v_cache)]
        for cache in wanted:
            cache[:, target] = cache[:, source]
        ops.kv_move(ctx, k_cache, v_cache, source, target)
        np.testing.assert_array_equal(k_cache, wanted[0])
        np.testing.assert_array_equal(v_cache, wanted[1])


@pytest.mark.parametrize(
    ("shape", "source", "target", "message"),
    [
        ((3, 4, 16), 4, 0, r"\[kv_move\] source and target .*= 3, got 4"),
        ((3, 4, 16), 0, -1, r"\[kv_move\] source and target .*= 3, got -1"),
        ((3, 4, 8), 0, 1, r"\[kv_move\] k_cache .*16.*\(3, 4, 8\)"),
    ],
)
def test_bad_moves_are_named(ctx, shape, source, target, message):
    with pytest.raises(ValueError, match=message):
        ops.kv_move(ctx, zeros(*shape), zeros(*shape), source, target)
    with pytest.raises(ValueError, match=r"\[kv_move\] v_cache .*\(3, 5, 16\)"):
        ops.kv_move(ctx, zeros(3, 4, 16), zeros(3, 5, 16), 0, 0)
