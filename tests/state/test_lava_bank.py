"""A LAVA bank as a store: what it holds after inserts, removals and evictions, how its lists grow, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.ops.reference_lava import exact_attention
from vortex_engine.state import LavaBank, fit_basis

F32 = np.float32


@pytest.fixture(scope="module")
def ctx() -> ops.OpContext:
    return ops.make_context(threads=2, backend="cpu")


def clustered(rng: np.random.Generator, n: int, dim: int, n_clusters: int = 40) -> np.ndarray:
    centres = np.random.default_rng(99).standard_normal((n_clusters, dim))
    x = centres[rng.integers(0, n_clusters, n)] + 0.3 * rng.standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(F32)


def held(bank: LavaBank) -> dict[int, int]:
    """Position of every slot in use."""
    arrays = bank.export()
    return dict(zip(arrays["ids"].tolist(), arrays["positions"].tolist(), strict=True))


def check_lists(bank: LavaBank) -> None:
    """Every slot is in a list that exists, and is found through it."""
    arrays = bank.export()
    assert arrays["is_alive"][arrays["lists"]].all()
    ids, _ = bank.search(arrays["keys"][:200], bank.nlist, len(arrays["ids"]))
    np.testing.assert_array_equal(np.sort(ids, axis=1), np.tile(arrays["ids"], (len(ids), 1)))


def test_what_is_inserted_is_stored_to_half_precision(ctx: ops.OpContext):
    bank = LavaBank(ctx, 5, 3, capacity=100, nlist=4)
    rng = np.random.default_rng(0)
    keys, values = rng.standard_normal((50, 5)).astype(F32), rng.standard_normal((50, 3)).astype(F32)
    keys[0] = [0.0, -0.0, 1e-7, 65504.0, -6.1e-5]
    ids = bank.insert(keys, values, np.arange(100, 150), np.arange(50))
    np.testing.assert_array_equal(ids, np.arange(50))
    arrays = bank.export()
    np.testing.assert_array_equal(arrays["keys"], keys.astype(np.float16).astype(F32))
    np.testing.assert_array_equal(arrays["values"], values.astype(np.float16).astype(F32))
    np.testing.assert_array_equal(arrays["positions"], np.arange(100, 150))
    np.testing.assert_array_equal(arrays["importance"], np.arange(50))


def test_int8_contents_are_within_half_a_step(ctx: ops.OpContext):
    bank = LavaBank(ctx, 7, 3, capacity=100, nlist=4, contents="int8")
    rng = np.random.default_rng(0)
    keys, values = rng.standard_normal((50, 7)).astype(F32), rng.standard_normal((50, 3)).astype(F32)
    keys[0] = 0.0
    bank.insert(keys, values, np.arange(50))
    arrays = bank.export()
    for name, exact in (("keys", keys), ("values", values)):
        step = np.abs(exact).max(axis=1, keepdims=True) / 127
        assert (np.abs(arrays[name] - exact) <= 0.5001 * step).all()


def test_2bit_codes_have_the_best_angle_and_scales_that_fit_their_use(ctx: ops.OpContext):
    """Against the best of every choice of levels: keys score themselves exactly, values are as near as codes can be."""
    dim = 8
    bank = LavaBank(ctx, dim, dim, capacity=100, nlist=1, contents="2bit")
    x = np.random.default_rng(0).standard_normal((30, dim)).astype(F32)
    bank.insert(x, x, np.arange(30))
    arrays = bank.export()
    np.testing.assert_allclose((arrays["keys"] * x).sum(axis=1), (x * x).sum(axis=1), rtol=1e-5)
    levels = np.array(np.meshgrid(*[[1.0, 3.0]] * dim)).reshape(dim, -1).T
    rotated = np.abs(x.astype(np.float64) @ _rotation_of(bank))
    scores = rotated @ levels.T
    least = (x.astype(np.float64) ** 2).sum(axis=1) - (scores**2 / (levels**2).sum(axis=1)).max(axis=1)
    np.testing.assert_allclose(((arrays["values"] - x) ** 2).sum(axis=1), least, rtol=1e-3, atol=1e-6)
    cosines = (arrays["keys"] * arrays["values"]).sum(axis=1) / (
        np.linalg.norm(arrays["keys"], axis=1) * np.linalg.norm(arrays["values"], axis=1)
    )
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-5)


def _rotation_of(bank: LavaBank) -> np.ndarray:
    return bank.native.state()["key_basis"].reshape(bank.dim, bank.dim).T.astype(np.float64)


def test_a_low_rank_bank_stores_what_the_basis_spans(ctx: ops.OpContext):
    rng = np.random.default_rng(1)
    spanned = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 24))
    keys = (spanned / np.linalg.norm(spanned, axis=1, keepdims=True)).astype(F32)
    values = (rng.standard_normal((400, 4)) @ rng.standard_normal((4, 10))).astype(F32)
    low = LavaBank(ctx, 24, 10, capacity=400, nlist=8, key_basis=fit_basis(keys, 6), value_basis=fit_basis(values, 4))
    full = LavaBank(ctx, 24, 10, capacity=400, nlist=8)
    for bank in (low, full):
        bank.insert(keys, values, np.arange(400))
    np.testing.assert_allclose(low.export()["keys"], keys, atol=1e-3)
    np.testing.assert_allclose(low.export()["values"], values, atol=1e-2)
    assert sum(low.native.state()[name].nbytes for name in ("keys", "values")) == 400 * 2 * 10
    # Recent rows are read as they are, in the basis or not.
    recent = rng.standard_normal((9, 24)).astype(F32), rng.standard_normal((9, 10)).astype(F32)
    q, span = rng.standard_normal((5, 24)).astype(F32), np.tile([0, 9], (5, 1))
    out, bound = low.read(q, 0.5, 8, None, True, *recent, return_bound=True)
    wanted = exact_attention(low.export(), q, np.full(5, 0.5, F32), *recent, span)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out, full.read(q, 0.5, 8, None, True, *recent), atol=1e-2)
    out, bound = low.read(q, 0.5, 2, 4, True, *recent, return_bound=True)
    assert (np.linalg.norm(out - wanted, axis=1) <= bound).all()


def test_bases_that_are_none_are_refused(ctx: ops.OpContext):
    skew = np.eye(4, dtype=F32)[:2] + F32(0.1)
    for basis, message in (
        (skew, "key_basis must have orthonormal rows"),
        (np.full((1, 4), np.nan, F32), "key_basis must have orthonormal rows"),
        (np.ascontiguousarray(np.eye(5, dtype=F32)[:, :4]), "key_basis must have from 1 to 4 rows"),
        (np.eye(3, dtype=F32), "key_basis must"),
    ):
        with pytest.raises(ValueError, match=rf"\[lava_bank\] {message}"):
            LavaBank(ctx, 4, 2, capacity=10, nlist=2, key_basis=basis)
    for rank in (0, 5):
        with pytest.raises(ValueError, match=rf"\[fit_basis\] rank must be from 1 .*, got {rank}"):
            fit_basis(np.ones((9, 4), F32), rank)


@pytest.mark.parametrize("contents", ["fp16", "int8", "2bit"])
def test_lists_split_while_the_bank_grows(ctx: ops.OpContext, contents: str):
    bank = LavaBank(ctx, 16, 4, capacity=4096, nlist=64, contents=contents)
    rng = np.random.default_rng(1)
    n_lists = []
    for start in range(0, 4096, 64):
        bank.insert(clustered(rng, 64, 16), np.zeros((64, 4), F32), np.arange(start, start + 64))
        n_lists.append(bank.stats()["lists"])
    check_lists(bank)
    lengths = np.bincount(bank.export()["lists"])
    assert len(bank) == 4096 and 32 <= n_lists[-1] <= 64 and n_lists[0] == 1
    assert lengths.max() <= 4 * 4096 / 64
    stats = bank.stats()
    assert stats["splits"] >= 31 and stats["moves"] > 0 and stats["longest_pause_s"] > 0.0


def test_most_slots_are_in_the_list_of_the_nearest_centroid(ctx: ops.OpContext):
    bank = LavaBank(ctx, 16, 4, capacity=8192, nlist=64)
    rng = np.random.default_rng(2)
    bank.insert(clustered(rng, 8192, 16), np.zeros((8192, 4), F32), np.arange(8192))
    arrays = bank.export()
    distances = ((arrays["keys"][:, None] - arrays["centroids"][None]) ** 2).sum(axis=2)
    distances[:, ~arrays["is_alive"]] = np.inf
    assert (distances.argmin(axis=1) == arrays["lists"]).mean() > 0.85


def test_recall_of_a_few_probes(ctx: ops.OpContext):
    bank = LavaBank(ctx, 32, 4, capacity=8192, nlist=64)
    rng = np.random.default_rng(3)
    bank.insert(clustered(rng, 8192, 32), np.zeros((8192, 4), F32), np.arange(8192))
    q = clustered(rng, 100, 32)
    found, exact = bank.search(q, 8, 10)[0], bank.search(q, 64, 10)[0]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert recall > 0.9


def lloyd(keys: np.ndarray, n_lists: int) -> tuple[np.ndarray, np.ndarray]:
    """Centroids and lists of k-means over all keys."""
    centroids = keys[np.random.default_rng(0).permutation(len(keys))[:n_lists]]
    for _ in range(8):
        lists = (keys @ centroids.T - (centroids**2).sum(axis=1) / 2).argmax(axis=1)
        counts = np.bincount(lists, minlength=n_lists)
        sums = np.zeros_like(centroids)
        np.add.at(sums, lists, keys)
        centroids = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
    return centroids, (keys @ centroids.T - (centroids**2).sum(axis=1) / 2).argmax(axis=1)


def test_a_stream_that_moves_keeps_the_recall_of_lists_made_afterwards(ctx: ops.OpContext):
    """Growth from empty with drifting clusters: recall@10 beside k-means over everything, as many slots looked at."""
    rng, dim, n, n_lists = np.random.default_rng(7), 16, 8192, 64
    centres, drift = rng.standard_normal((30, dim)), rng.standard_normal((30, dim))
    t = np.linspace(0.0, 1.5, n)
    which = rng.integers(0, 30, n)
    keys = (centres[which] + t[:, None] * drift[which] + 1.2 * rng.standard_normal((n, dim))).astype(F32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    bank = LavaBank(ctx, dim, 1, capacity=n, nlist=n_lists)
    for begin in range(0, n, 64):
        bank.insert(keys[begin : begin + 64], np.zeros((64, 1), F32), np.arange(begin, begin + 64))
    q = keys[rng.permutation(n)[:150]] + F32(0.05)
    exact = np.argsort(-(q @ keys.T), axis=1)[:, :10]
    lists = bank.export()["lists"]  # slot i holds key i: nothing was evicted
    found = bank.search(q, 6, 10)[0]
    n_looked = np.mean([np.isin(lists, np.unique(lists[row])).sum() for row in found])
    centroids, of_keys = lloyd(keys, n_lists)
    order = np.argsort(-(q @ centroids.T), axis=1)
    recall, wanted, n_compared = 0.0, 0.0, 0.0
    for row, best in enumerate(exact):
        recall += len(np.intersect1d(found[row], best)) / len(q) / 10
        looked = np.isin(of_keys, order[row, :6])
        n_compared += looked.sum() / len(q)
        wanted += looked[best].mean() / len(q)
    assert n_looked <= 1.1 * n_compared
    assert recall >= 0.97 * wanted, (recall, wanted)


def test_centroids_follow_a_stream_that_moves(ctx: ops.OpContext):
    """One list, keys that turn: a centroid that follows is nearer to the newest keys than the mean of all."""
    angle = {}
    for ema in (0.0, 0.1):
        bank = LavaBank(ctx, 2, 1, capacity=400, nlist=1, ema=ema)
        for t in np.linspace(0.0, 1.0, 6):
            keys = np.tile(np.array([np.cos(t), np.sin(t)], F32), (50, 1))
            bank.insert(keys, np.zeros((50, 1), F32), np.arange(50))
        x, y = bank.export()["centroids"][0]
        angle[ema] = float(np.arctan2(y, x))
        assert x * x + y * y == pytest.approx(1.0)
    assert angle[0.0] == pytest.approx(0.5, abs=0.01) and angle[0.1] > 0.98


def test_a_full_bank_gives_up_the_least_important_then_the_oldest(ctx: ops.OpContext):
    bank = LavaBank(ctx, 2, 1, capacity=4, nlist=2, half_life=10.0)
    for position, importance in ((0, 5.0), (10, 0.0), (20, 0.0), (30, 0.0)):
        bank.insert(np.ones((1, 2), F32), np.zeros((1, 1), F32), [position], importance)
    assert held(bank) == {0: 0, 1: 10, 2: 20, 3: 30}
    bank.insert(np.ones((2, 2), F32), np.zeros((2, 1), F32), [40, 41])
    assert sorted(held(bank).values()) == [0, 30, 40, 41]
    bank.set_importance([0], [-9.0])
    bank.insert(np.ones((1, 2), F32), np.zeros((1, 1), F32), [42])
    assert sorted(held(bank).values()) == [30, 40, 41, 42]


def test_eviction_follows_a_model_of_it(ctx: ops.OpContext):
    rng = np.random.default_rng(4)
    bank = LavaBank(ctx, 8, 2, capacity=150, nlist=8, half_life=100.0)
    model: dict[int, tuple[float, int]] = {}  # id -> priority, position
    for step in range(60):
        n = int(rng.integers(1, 20))
        positions = np.arange(20 * step, 20 * step + n)
        importance = rng.choice([0.0, 0.5, 3.0], n).astype(F32)
        ids = bank.insert(clustered(rng, n, 8), np.zeros((n, 2), F32), positions, importance)
        for slot, position, weight in zip(ids.tolist(), positions.tolist(), importance.tolist(), strict=True):
            if len(model) == 150:
                lowest = min(model, key=lambda i: (*model[i], i))
                assert slot == lowest
                del model[lowest]
            assert slot not in model
            model[slot] = weight + position / 100.0, position
        if step % 7 == 3:
            gone = rng.choice(sorted(model), 9, replace=False)
            bank.remove(gone)
            for slot in gone.tolist():
                del model[slot]
        if step % 5 == 2:
            changed = rng.choice(sorted(model), 5, replace=False)
            bank.set_importance(changed, np.full(5, 1.5, F32))
            for slot in changed.tolist():
                model[slot] = 1.5 + model[slot][1] / 100.0, model[slot][1]
        assert held(bank) == {slot: position for slot, (_, position) in model.items()}
    check_lists(bank)


def test_a_bank_may_be_emptied_and_filled_again(ctx: ops.OpContext):
    bank = LavaBank(ctx, 8, 2, capacity=1000, nlist=8)
    rng = np.random.default_rng(5)
    for _ in range(3):
        ids = bank.insert(clustered(rng, 700, 8), np.ones((700, 2), F32), np.arange(700))
        bank.remove(rng.permutation(ids))
        assert len(bank) == 0
        assert (bank.search(np.ones((1, 8), F32), 8, 3)[0] == -1).all()
        np.testing.assert_array_equal(bank.read(np.ones((1, 8), F32), 1.0, 8, 3), np.zeros((1, 2), F32))
    bank.insert(clustered(rng, 100, 8), np.ones((100, 2), F32), np.arange(100))
    check_lists(bank)


def test_a_thinned_bank_merges_its_lists(ctx: ops.OpContext):
    bank = LavaBank(ctx, 16, 2, capacity=4096, nlist=64)
    rng = np.random.default_rng(6)
    ids = bank.insert(clustered(rng, 4000, 16), np.zeros((4000, 2), F32), np.arange(4000))
    lists = bank.export()["lists"]
    kept = np.isin(lists, np.unique(lists)[:6])
    bank.remove(ids[~kept])
    before = bank.stats()["lists"]
    for i in range(40):
        bank.insert(bank.export()["keys"][i : i + 1], np.zeros((1, 2), F32), [5000 + i])
    assert bank.stats()["merges"] > 20 and bank.stats()["lists"] <= before - 20
    check_lists(bank)


def test_equal_keys_make_a_long_list_and_no_harm(ctx: ops.OpContext):
    bank = LavaBank(ctx, 4, 2, capacity=2000, nlist=16)
    bank.insert(np.ones((1000, 4), F32), np.zeros((1000, 2), F32), np.arange(1000))
    assert bank.stats()["lists"] == 1
    bank.insert(-np.ones((1000, 4), F32), np.zeros((1000, 2), F32), np.arange(1000))
    assert bank.stats()["lists"] == 2
    check_lists(bank)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim must be from 1 to 4096, got 0"),
        ({"value_dim": 5000}, "value_dim must be from 1 to 4096, got 5000"),
        ({"capacity": 0}, "capacity must be from 1 to"),
        ({"nlist": 0}, "nlist must be from 1 to"),
        ({"contents": "fp8"}, "contents must be 'fp16'.*got 'fp8'"),
        ({"ema": 1.5}, "ema must be from 0 to 1, got 1.5"),
        ({"ema": float("nan")}, "ema must be from 0 to 1, got nan"),
        ({"half_life": 0.0}, "half_life must be above 0"),
        ({"half_life": float("nan")}, "half_life must be above 0"),
    ],
)
def test_a_bank_that_cannot_be_is_refused(ctx: ops.OpContext, change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=rf"\[lava_bank\] {message}"):
        LavaBank(ctx, **{"dim": 4, "value_dim": 2, "capacity": 10, "nlist": 2, **change})


def test_bad_rows_are_named_and_nothing_is_inserted(ctx: ops.OpContext):
    bank = LavaBank(ctx, 3, 2, capacity=10, nlist=4)

    def refused(message: str, **change: Any) -> None:
        good = {"keys": np.ones((4, 3), F32), "values": np.ones((4, 2), F32), "positions": np.arange(4)}
        with pytest.raises(ValueError, match=rf"\[insert\] {message}"):
            bank.insert(**{**good, **change})
        assert len(bank) == 0

    spoiled = np.ones((4, 3), F32)
    for value in (np.nan, np.inf, -np.inf, 65536.0):
        spoiled[2, 1] = value
        refused(r"keys must be finite and at most 65504 in magnitude, got .* at \[2, 1\]", keys=spoiled)
    refused("values must be finite.*at", values=np.full((4, 2), np.nan, F32))
    refused("importance must be finite", importance=np.full(4, np.inf))
    refused("keys must", keys=np.ones((4, 4), F32))
    refused("values must", values=np.ones((3, 2), F32))
    refused("keys must be float32", keys=np.ones((4, 3)))
    refused("positions must", positions=np.arange(3))
    refused("positions must be from 0", positions=np.array([0, 1, -1, 2]))


def test_unknown_ids_are_refused_and_nothing_is_removed(ctx: ops.OpContext):
    bank = LavaBank(ctx, 3, 2, capacity=10, nlist=4)
    ids = bank.insert(np.ones((4, 3), F32), np.ones((4, 2), F32), np.arange(4))
    bank.remove(ids[1:2])
    for bad in ([0, 1], [0, 4], [-1], [0, 2**40], [2, 0, 2]):
        with pytest.raises(ValueError, match=r"\[remove\] ids must"):
            bank.remove(bad)
    for bad in ([1], [9]):
        with pytest.raises(ValueError, match=r"\[set_importance\] ids must be of slots in use, got"):
            bank.set_importance(bad, [1.0])
    assert sorted(held(bank)) == [0, 2, 3]
