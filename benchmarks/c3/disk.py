"""Reads of a packed model without its engine: what the disk gives for the same bytes when nobody computes."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vortex_engine.c3.directory import C3Directory
from vortex_engine.machine import o_direct_problem

Range = tuple[int, int]  # offset, bytes; both multiples of 4096
_MAX_READ = 1 << 20
_N_THREADS = (4, 8, 16)


def missing_ranges(directory: C3Directory, n_bytes: float) -> tuple[Path, list[Range]]:
    """Ranges of `n_bytes` in all, in sweep order and spread evenly over the tiles, 1 MiB a request."""
    shard = next(iter(directory.matrices.values())).shard
    pieces: list[Range] = []
    for matrix in directory.matrices.values():
        if matrix.shard != shard:
            raise SystemExit(f"{directory.path}: more than one shard; pack with larger shards to measure the disk")
        for start in range(0, matrix.n_bytes, _MAX_READ):
            pieces.append((matrix.base_offset + start, min(_MAX_READ, matrix.n_bytes - start)))
    share = min(1.0, n_bytes / sum(size for _, size in pieces))
    ranges: list[Range] = []
    owed = 0.0
    for offset, size in pieces:
        owed += size * share
        if owed >= size or (offset, size) == pieces[-1]:
            owed -= size
            ranges.append((offset, size))
    return shard, ranges


def read_seconds_per_byte(path: Path, ranges: Sequence[Range]) -> float:
    """Time to read the ranges in order past the page cache, over their bytes: the best of several queue depths.

    A file system without O_DIRECT is read through the page cache after its pages were dropped.
    """
    flags = os.O_RDONLY | (0 if o_direct_problem(path) else os.O_DIRECT)
    descriptor = os.open(path, flags)
    try:
        return min(_read_once(descriptor, ranges, n_threads) for n_threads in _N_THREADS)
    finally:
        os.close(descriptor)


def _read_once(descriptor: int, ranges: Sequence[Range], n_threads: int) -> float:
    if not hasattr(os, "O_DIRECT"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    waiting = iter(ranges)

    def work() -> int:
        n_read = 0
        with mmap.mmap(-1, max(size for _, size in ranges)) as buffer, memoryview(buffer) as view:
            for offset, size in waiting:  # a list's iterator hands every range to one thread
                n_read += os.preadv(descriptor, [view[:size]], offset)
        return n_read

    start = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as threads:
        jobs = [threads.submit(work) for _ in range(n_threads)]
        n_bytes = sum(job.result() for job in jobs)
    return (time.perf_counter() - start) / n_bytes
