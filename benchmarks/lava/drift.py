"""A stream of keys that drifts while it grows tenfold: what a bank that follows it still finds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.lava.keys import KeyStream, nearest, recall
from benchmarks.lava.peers import faiss_trained, list_lengths
from benchmarks.machine import print_table
from vortex_engine import ops
from vortex_engine.state import LavaBank

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_TARGET = 0.97
_GROWTH = 10
_K = 10
_PROBES = (1, 2, 4, 8, 16)
_CLAIMED_PROBES = 8


def measure(setting: Setting) -> Figure:
    """Recall of all of them where each looks at the same number of slots."""
    figure = Figure()
    first, dim, n_lists, n_queries = (512, 32, 32, 64) if setting.quick else (1 << 14, 128, 512, 512)
    figure.facts = {"first": first, "growth": _GROWTH, "dim": dim, "nlist": n_lists, "k": _K, "queries": n_queries}
    ctx = ops.make_context(setting.threads)
    # As many clusters as lists; lists that must each hold some; clusters that must each be cut.
    for n_clusters in (n_lists, 4 * n_lists, n_lists // 4):
        entries = _stream(figure, ctx, KeyStream(dim, n_clusters), first, n_lists, n_queries)
        figure.entries += entries
        print_table(tuple(entries[0]), [list(entry.values()) for entry in entries])
        found = [entry for entry in entries if entry["nprobe"] == _CLAIMED_PROBES]
        if n_clusters != n_lists or "faiss retrained" not in found[0]:
            continue
        ours, best, stale = (found[0][name] for name in ("vortex", "faiss retrained", "faiss as trained"))
        figure.claim(
            f"recall@{_K} after a drifting stream grew {_GROWTH}-fold, over that of a retrained index",
            ours / best,
            ">=",
            _TARGET,
            peer="faiss IndexIVFFlat trained anew on all keys, as many slots looked at",
            detail=f"{ours:.3f} and {best:.3f}; {stale:.3f} without training anew",
        )
    return figure


def _stream(
    figure: Figure, ctx: ops.OpContext, stream: KeyStream, first: int, n_lists: int, n_queries: int
) -> list[dict[str, float]]:
    phases = [stream.draw(first, drift=phase / (_GROWTH - 1)) for phase in range(_GROWTH)]
    bank = LavaBank(ctx, stream.dim, 1, capacity=first * _GROWTH, nlist=n_lists)
    keys = np.concatenate(phases)
    values = np.zeros((64, 1), np.float32)
    for start in range(0, len(keys), 64):
        rows = keys[start : start + 64]
        bank.insert(rows, values[: len(rows)], np.arange(start, start + len(rows)))
    picked = np.random.default_rng(1).choice(len(keys), n_queries, replace=False)
    queries = stream.near(keys[picked])
    wanted = nearest(keys, queries, _K)
    figure.facts[f"stats_{stream.n_clusters}"] = bank.stats()

    lengths, centroids = _lists(bank)
    ours = _slots_looked_at(_probed(centroids, lengths, queries))
    entries: list[dict[str, float]] = []
    try:
        retrained = faiss_trained(keys, n_lists, keys)
        as_trained = faiss_trained(keys, n_lists, phases[0])
    except MissingPeerError as error:
        figure.skip(error)
        for n_probe in _PROBES:
            recalled = recall(bank.search(queries, n_probe, _K)[0], wanted)
            slots = float(ours[n_probe - 1])
            entries.append({"clusters": stream.n_clusters, "nprobe": n_probe, "slots": slots, "vortex": recalled})
        return entries
    theirs = _slots_looked_at(_faiss_probed(retrained, queries))
    others = _slots_looked_at(_faiss_probed(as_trained, queries))
    for n_probe in _PROBES:
        budget = theirs[n_probe - 1]
        # The most lists of the others whose slots are no more than these.
        fewer, other = _lists_within(ours, budget), _lists_within(others, budget)
        entries.append(
            {
                "clusters": stream.n_clusters,
                "nprobe": n_probe,
                "slots": float(budget),
                "vortex": recall(bank.search(queries, fewer, _K)[0], wanted),
                "vortex_slots": float(ours[fewer - 1]),
                "faiss retrained": _faiss_recall(retrained, queries, n_probe, wanted),
                "faiss as trained": _faiss_recall(as_trained, queries, other, wanted),
                "faiss as trained_slots": float(others[other - 1]),
            }
        )
    return entries


def _lists(bank: LavaBank) -> tuple[I64, F32]:
    """Slots and centroid of every list that has some."""
    found = bank.export()
    lengths = np.bincount(found["lists"], minlength=len(found["is_alive"]))
    used = np.flatnonzero(lengths)
    return lengths[used], found["centroids"][used]


def _probed(centroids: F32, lengths: I64, queries: F32) -> I64:
    """[Q, lists]: slots of the lists of each query, the first to be looked at first."""
    order = np.argsort(-(queries @ centroids.T), axis=1)
    return lengths[order]


def _slots_looked_at(probed: I64) -> NDArray[np.float64]:
    """Mean slots of a query's first lists: [lists]."""
    return np.cumsum(probed, axis=1).mean(0)


def _lists_within(slots: NDArray[np.float64], budget: float) -> int:
    return max(1, int((slots <= budget).sum()))


def _faiss_probed(index: Any, queries: F32) -> I64:
    return list_lengths(index)[index.quantizer.search(queries, index.nlist)[1]]


def _faiss_recall(index: Any, queries: F32, n_probe: int, wanted: I64) -> float:
    index.nprobe = n_probe
    return recall(index.search(queries, _K)[1], wanted)
