"""One query at a time over 2^20 slots of 128 dimensions, the 32 nearest, as a LAVA layer asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.lava.keys import KeyStream, nearest, recall
from benchmarks.lava.peers import faiss_over, module
from benchmarks.machine import print_table
from vortex_engine import ops
from vortex_engine.state import LavaBank

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Search = Callable[[F32], I64]

_RECALL = 0.95
_TARGETS = {"fp16": 2.0, "int8": 4.0}
_PEER = "faiss IndexIVFFlat"


def measure(setting: Setting) -> Figure:
    """Time ours and faiss on the same lists, for the fewest lists that reach the recall."""
    figure = Figure()
    n, dim, n_lists, k, n_queries = (1 << 13, 32, 64, 8, 32) if setting.quick else (1 << 20, 128, 4096, 32, 256)
    stream = KeyStream(dim, n_lists // 4)
    keys = stream.draw(n)
    queries = stream.near(keys[np.random.default_rng(1).choice(n, n_queries, replace=False)])
    wanted = nearest(keys, queries, k)
    figure.facts = {"slots": n, "dim": dim, "nlist": n_lists, "k": k, "queries": n_queries, "threads": setting.threads}
    for contents, target in _TARGETS.items():
        contexts = {threads: ops.make_context(threads) for threads in sorted({1, setting.threads})}
        bank = filled(contexts[setting.threads], keys, n_lists, contents)
        n_probe = fewest_lists(bank, queries, wanted)
        entries: list[dict[str, Any]] = [
            {"engine": "vortex", "contents": contents, "threads": threads} for threads in contexts
        ]
        searches = [_ours(bank, ctx, n_probe, k) for ctx in contexts.values()]
        try:
            index = _faiss_of(bank, keys)
            index.nprobe = n_probe
            for threads in contexts:
                entries.append({"engine": _PEER, "contents": "fp32", "threads": threads})
                searches.append(_faiss(index, threads, k))
        except MissingPeerError as error:
            figure.skip(error)
        times = taken(searches, queries, setting.rounds(5))
        for entry, search, microseconds in zip(entries, searches, times, strict=True):
            found = np.concatenate([search(query[None]) for query in queries])
            entry |= {"nprobe": n_probe, "microseconds": microseconds, "recall": recall(found, wanted)}
        figure.entries += entries
        print_table(tuple(entries[0]), [list(entry.values()) for entry in entries])
        ours = {entry["threads"]: entry for entry in entries if entry["engine"] == "vortex"}
        peers = {entry["threads"]: entry for entry in entries if entry["engine"] == _PEER}
        for threads, peer in peers.items():
            us, theirs = ours[threads]["microseconds"], peer["microseconds"]
            figure.claim(
                f"one query over {n} slots, {contents}, {threads} threads: times as fast",
                theirs / us,
                ">=",
                target,
                peer=f"{_PEER}, same centroids, lists and nprobe = {n_probe}",
                detail=f"{us:.0f} and {theirs:.0f} µs; recall {ours[threads]['recall']:.3f} and {peer['recall']:.3f}",
            )
    return figure


def filled(ctx: ops.OpContext, keys: F32, n_lists: int, contents: str, capacity: int = 0) -> LavaBank:
    """A bank that was given the keys in their order, 64 at a time, with values that nobody reads."""
    bank = LavaBank(ctx, keys.shape[1], 1, capacity=max(capacity, len(keys)), nlist=n_lists, contents=contents)
    values, positions = np.zeros((64, 1), np.float32), np.arange(len(keys))
    for start in range(0, len(keys), 64):
        rows = keys[start : start + 64]
        bank.insert(rows, values[: len(rows)], positions[start : start + 64])
    return bank


def fewest_lists(bank: LavaBank, queries: F32, wanted: I64) -> int:
    """The smallest nprobe, of steps of a fifth, whose recall is high enough."""
    n_probe = 1
    while n_probe < bank.nlist and recall(bank.search(queries, n_probe, wanted.shape[1])[0], wanted) < _RECALL:
        n_probe = min(bank.nlist, max(n_probe + 1, n_probe * 6 // 5))
    return n_probe


def taken(searches: list[Search], queries: F32, rounds: int) -> list[float]:
    """Median microseconds of a query for each, in turns over all queries."""
    times: list[list[float]] = [[] for _ in searches]
    for _ in range(rounds):
        for search, found in zip(searches, times, strict=True):
            search(queries[:1])
            for i in range(len(queries)):
                start = time.perf_counter()
                search(queries[i : i + 1])
                found.append(time.perf_counter() - start)
    return [float(np.median(found)) * 1e6 for found in times]


def _ours(bank: LavaBank, ctx: ops.OpContext, n_probe: int, k: int) -> Search:
    return lambda query: ops.lava_search(ctx, bank, query, n_probe, k)[0]


def _faiss_of(bank: LavaBank, keys: F32) -> Any:
    found = bank.export()
    alive = np.flatnonzero(found["is_alive"])
    number = np.zeros(len(found["is_alive"]), np.int64)
    number[alive] = np.arange(len(alive))
    return faiss_over(np.ascontiguousarray(found["centroids"][alive]), keys, number[found["lists"]])


def _faiss(index: Any, threads: int, k: int) -> Search:
    faiss = module("faiss", "faiss-cpu")

    def run(query: F32) -> I64:
        faiss.omp_set_num_threads(threads)
        index.parallel_mode = 1 if threads > 1 else 0  # over the lists of a query
        return index.search(query, k)[1]

    return run
