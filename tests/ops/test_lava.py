"""lava_search and lava_read: every implementation against float64, equal bits however the work is cut, exact limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops.reference_lava import exact_attention
from vortex_engine.state import LavaBank

F32 = np.float32
CASES = [(1, 1, 1), (7, 3, 63), (16, 16, 64), (67, 5, 500), (32, 48, 1500)]  # dim, value_dim, slots


def rows(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    """Unit vectors around a few directions, as normalised keys are."""
    centres = rng.standard_normal((9, width))
    x = centres[rng.integers(0, 9, n)] + 0.4 * rng.standard_normal((n, width))
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)).astype(F32)


def filled(
    ctx: ops.OpContext, dim: int, value_dim: int, n: int, nlist: int = 16, seed: int = 0, contents: str = "fp16"
) -> LavaBank:
    rng = np.random.default_rng(seed)
    bank = LavaBank(ctx, dim, value_dim, capacity=max(n, 1) + 40, nlist=nlist, contents=contents)
    keys, values = rows(rng, n + 20, dim), rng.standard_normal((n + 20, value_dim)).astype(F32)
    ids = bank.insert(keys, values, np.arange(n + 20), rng.random(n + 20).astype(F32))
    bank.remove(ids[rng.permutation(n + 20)[:20]])
    return bank


def recent(rng: np.random.Generator, n: int, bank: LavaBank, n_rows: int = 70) -> dict[str, np.ndarray]:
    begin = rng.integers(0, n_rows, n)
    return {
        "recent_keys": rows(rng, n_rows, bank.dim),
        "recent_values": rng.standard_normal((n_rows, bank.value_dim)).astype(F32),
        "recent_range": np.stack([begin, rng.integers(begin, n_rows + 1)], axis=1),
    }


def native(ctx: ops.OpContext) -> ops.OpContext:
    return ops.make_context(threads=1, backend="cpu") if ctx.backend == "reference" else ctx


@pytest.mark.parametrize(("dim", "value_dim", "n"), CASES)
def test_search_finds_what_float64_finds(ctx: ops.OpContext, dim: int, value_dim: int, n: int):
    bank = filled(native(ctx), dim, value_dim, n)
    q = rows(np.random.default_rng(1), 9, dim)
    ids, scores = ops.lava_search(ctx, bank, q, bank.nlist, 5)
    arrays = bank.export()
    exact = q.astype(np.float64) @ arrays["keys"].astype(np.float64).T
    best = -np.sort(-exact, axis=1)[:, :5]
    np.testing.assert_allclose(scores[:, : best.shape[1]], best, rtol=1e-5, atol=1e-6)
    for row, found in enumerate(ids):
        places = np.searchsorted(arrays["ids"], found[found >= 0])
        np.testing.assert_array_equal(arrays["ids"][places], found[found >= 0])
        np.testing.assert_allclose(exact[row, places], scores[row, : len(places)], rtol=1e-5, atol=1e-6)
    assert all(len(set(found.tolist()) - {-1}) == min(5, n) for found in ids)


def test_probes_are_the_lists_with_the_best_centroids(ctx: ops.OpContext):
    bank = filled(native(ctx), 24, 4, 1500, nlist=32)
    arrays = bank.export()
    assert len(np.unique(arrays["lists"])) > 8
    q = rows(np.random.default_rng(2), 20, 24)
    for nprobe in (1, 3, 7):
        ids, scores = ops.lava_search(ctx, bank, q, nprobe, 4)
        reference_ids, reference_scores = ops.select("lava_search", "reference").bind(None)(bank, q, nprobe, 4)
        np.testing.assert_array_equal(ids, reference_ids)
        np.testing.assert_allclose(scores, reference_scores, rtol=1e-5, atol=1e-6)


def test_ties_go_to_lower_ids(ctx: ops.OpContext):
    bank = LavaBank(native(ctx), 4, 1, capacity=300, nlist=4)
    key = np.array([[0.5, -0.25, 1.0, 0.0]], F32)
    ids = bank.insert(key.repeat(200, axis=0), np.zeros((200, 1), F32), np.arange(200))
    bank.remove(ids[:3])
    found, scores = ops.lava_search(ctx, bank, key, 4, 10)
    np.testing.assert_array_equal(found[0], np.arange(3, 13))
    assert (scores == scores[0, 0]).all()


def test_what_is_not_there_is_minus_one(ctx: ops.OpContext):
    bank = LavaBank(native(ctx), 3, 2, capacity=10, nlist=2)
    q = np.ones((2, 3), F32)
    ids, scores = ops.lava_search(ctx, bank, q, 2, 4)
    assert (ids == -1).all() and np.isneginf(scores).all()
    np.testing.assert_array_equal(ops.lava_read(ctx, bank, q, 1.0, 2), np.zeros((2, 2), F32))
    bank.insert(np.ones((1, 3), F32), np.full((1, 2), 2.0, F32), [7])
    ids, scores = ops.lava_search(ctx, bank, q, 2, 4)
    np.testing.assert_array_equal(ids, [[0, -1, -1, -1]] * 2)
    np.testing.assert_array_equal(scores[:, 0], [3.0, 3.0])
    np.testing.assert_array_equal(ops.lava_read(ctx, bank, q, 1.0, 2, k=9), np.full((2, 2), 2.0, F32))


@pytest.mark.parametrize(("dim", "value_dim", "n"), CASES)
def test_reading_all_lists_is_exact_attention(ctx: ops.OpContext, dim: int, value_dim: int, n: int, assert_close: Any):
    bank = filled(native(ctx), dim, value_dim, n)
    rng = np.random.default_rng(3)
    q, scale = rows(rng, 9, dim), (8 * rng.random(9)).astype(F32)
    for extra in ({}, recent(rng, 9, bank)):
        got, bound = ops.lava_read(ctx, bank, q, scale, bank.nlist, **extra, return_bound=True)
        no_rows = {"recent_keys": np.zeros((0, dim), F32), "recent_values": np.zeros((0, value_dim), F32)}
        no_rows["recent_range"] = np.zeros((9, 2), np.int64)
        wanted = exact_attention(bank.export(), q, scale, **(extra or no_rows))
        assert_close(got, wanted, "reduction")
        assert (bound < 1e-3).all()


@pytest.mark.parametrize(("k", "tail"), [(None, True), (None, False), (8, True), (8, False), (2000, True)])
def test_read_is_the_reference(ctx: ops.OpContext, k: int | None, tail: bool, assert_close: Any):
    bank = filled(native(ctx), 24, 17, 1500, nlist=32)
    rng = np.random.default_rng(4)
    q, scale = rows(rng, 12, 24), (8 * rng.random(12)).astype(F32)
    reference = ops.select("lava_read", "reference").bind(None)
    for extra in (recent(rng, 12, bank, 130), {}):
        got = ops.lava_read(ctx, bank, q, scale, 5, k, tail, **extra)
        shaped = extra or {
            "recent_keys": np.zeros((0, 24), F32),
            "recent_values": np.zeros((0, 17), F32),
            "recent_range": np.zeros((12, 2), np.int64),
        }
        assert_close(got, reference(bank, q, scale, 5, k, tail, *shaped.values(), False)[0], "reduction")


@pytest.mark.parametrize("contents", ["fp16", "int8", "2bit"])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 10.0, 300.0])
def test_the_bound_holds(ctx: ops.OpContext, sharpness: float, contents: str):
    bank = filled(native(ctx), 24, 9, 800, nlist=32, contents=contents)
    rng = np.random.default_rng(5)
    q, scale = rows(rng, 12, 24), np.full(12, sharpness, F32)
    extra = recent(rng, 12, bank)
    wanted = exact_attention(bank.export(), q, scale, **extra)
    for nprobe, k, tail in ((1, 1, True), (4, 8, True), (4, 8, False), (8, None, True), (32, 16, True)):
        got, bound = ops.lava_read(ctx, bank, q, scale, nprobe, k, tail, **extra, return_bound=True)
        distance = np.linalg.norm(got - wanted, axis=1)
        assert (distance <= bound + 2e-6).all(), (distance / bound).max()


def test_the_tail_brings_a_read_closer(ctx: ops.OpContext):
    bank = filled(native(ctx), 24, 9, 1500, nlist=32)
    q = rows(np.random.default_rng(6), 40, 24)
    scale = np.full(40, 2.0, F32)
    nothing = np.zeros((0, 24), F32), np.zeros((0, 9), F32), np.zeros((40, 2), np.int64)
    wanted = exact_attention(bank.export(), q, scale, *nothing)
    error = {
        tail: np.linalg.norm(ops.lava_read(ctx, bank, q, scale, 4, 8, tail) - wanted, axis=1).mean()
        for tail in (True, False)
    }
    assert error[True] < 0.25 * error[False]


@pytest.mark.parametrize("contents", ["fp16", "int8", "2bit"])
def test_bits_are_the_same_for_every_thread_count_level_and_cut(
    native_contexts: list[ops.OpContext], contents: str, same_bits: Any
):
    rng = np.random.default_rng(7)
    q, scale = rows(rng, 10, 67), (8 * rng.random(10)).astype(F32)
    first: tuple[Any, ...] | None = None
    for ctx in native_contexts:
        bank = filled(ctx, 67, 19, 2500, nlist=24, contents=contents)
        extra = recent(np.random.default_rng(8), 10, bank)
        ids, scores = ops.lava_search(ctx, bank, q, 20, 40)
        out, bound = ops.lava_read(ctx, bank, q, scale, 20, 40, **extra, return_bound=True)
        everything = ops.lava_read(ctx, bank, q, scale, 20, **extra)
        if first is None:
            first = ids, scores, out, bound, everything
        np.testing.assert_array_equal(ids, first[0])
        for got, wanted in zip((scores, out, bound, everything), first[1:], strict=True):
            same_bits(got, wanted)
        cuts = [0, 1, 2, 5, 10]
        for begin, end in pairwise(cuts):
            part = {**extra, "recent_range": extra["recent_range"][begin:end]}
            same_bits(ops.lava_search(ctx, bank, q[begin:end], 20, 40)[1], scores[begin:end])
            same_bits(ops.lava_read(ctx, bank, q[begin:end], scale[begin:end], 20, 40, **part), out[begin:end])


def test_recent_rows_may_lie_anywhere_in_the_array(native_contexts: list[ops.OpContext], same_bits: Any):
    """A row reads the same rows whether the arrays begin at them or long before."""
    ctx = native_contexts[-1]
    bank = filled(ctx, 16, 8, 300)
    rng = np.random.default_rng(9)
    keys, values = rows(rng, 200, 16), rng.standard_normal((200, 8)).astype(F32)
    q = rows(rng, 1, 16)
    wanted = ops.lava_read(ctx, bank, q, 4.0, 2, 8, True, keys, values, np.array([[37, 150]]))
    same_bits(ops.lava_read(ctx, bank, q, 4.0, 2, 8, True, keys[37:150], values[37:150]), wanted)
    keys[:37] = keys[150:] = 65504.0
    same_bits(ops.lava_read(ctx, bank, q, 4.0, 2, 8, True, keys, values, np.array([[37, 150]])), wanted)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 65504.0])
def test_extreme_scores_do_not_overflow(ctx: ops.OpContext, scale: float):
    bank = LavaBank(native(ctx), 4, 2, capacity=400, nlist=8)
    rng = np.random.default_rng(10)
    keys = (60000 * rng.uniform(-1, 1, (300, 4))).astype(F32)
    bank.insert(keys, rng.standard_normal((300, 2)).astype(F32), np.arange(300))
    q = np.array([[65504.0, -65504.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]], F32)
    out, bound = ops.lava_read(ctx, bank, q, scale, 2, 4, return_bound=True)
    assert np.isfinite(out).all() and np.isfinite(bound).all() and (np.abs(out) < 10).all()


BAD = [
    (lambda a: a.update(nprobe=0), "nprobe must be from 1 to nlist 4, got 0"),
    (lambda a: a.update(nprobe=5), "nprobe must be from 1 to nlist 4, got 5"),
    (lambda a: a.update(k=0), "k must be from 1 to"),
    (lambda a: a["q"].__setitem__((1, 2), np.nan), r"q must be finite.*got nan at \[1, 2\]"),
    (lambda a: a["q"].__setitem__((0, 1), np.inf), r"q must be finite.*got inf at \[0, 1\]"),
    (lambda a: a.update(q=np.zeros((2, 4), F32)), "q must"),
    (lambda a: a.update(q=np.zeros((2, 3))), "q must"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_arguments_are_named(ctx: ops.OpContext, spoil: Any, message: str):
    bank = LavaBank(native(ctx), 3, 2, capacity=10, nlist=4)
    arguments: dict[str, Any] = {"q": np.ones((2, 3), F32), "nprobe": 2, "k": 3}
    spoil(arguments)
    with pytest.raises(ValueError, match=rf"\[lava_search\] {message}"):
        ops.lava_search(ctx, bank, **arguments)
    with pytest.raises(ValueError, match=rf"\[lava_read\] {message}"):
        ops.lava_read(ctx, bank, scale=1.0, **arguments)


def test_bad_arguments_of_a_read_are_named(ctx: ops.OpContext):
    bank = LavaBank(native(ctx), 3, 2, capacity=10, nlist=4)
    q, keys, values = np.ones((1, 3), F32), np.ones((5, 3), F32), np.ones((5, 2), F32)
    for bad in ([2, 1], [-1, 3], [0, 6]):
        with pytest.raises(ValueError, match=r"\[lava_read\] recent_range must be .* within the 5 recent rows"):
            ops.lava_read(ctx, bank, q, 1.0, 1, 1, True, keys, values, np.array([bad]))
    with pytest.raises(ValueError, match="scale must not be negative"):
        ops.lava_read(ctx, bank, q, -1.0, 1, 1)
    with pytest.raises(ValueError, match="scale must be finite"):
        ops.lava_read(ctx, bank, q, float("inf"), 1, 1)
    with pytest.raises(ValueError, match="given together"):
        ops.lava_read(ctx, bank, q, 1.0, 1, 1, True, keys)
    keys[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"recent_keys must be finite.* at \[3, 1\]"):
        ops.lava_read(ctx, bank, q, 1.0, 1, 1, True, keys, values)
