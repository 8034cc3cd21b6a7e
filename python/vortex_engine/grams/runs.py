"""Exact counts of any number of keys in bounded memory: sorted runs on disk, merged (external merge sort).

Source: Knuth, The Art of Computer Programming 3, section 5.4.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vortex_engine.grams.keys import Keys
from vortex_engine.grams.spill import Spill

__all__ = ["KeyCounter"]

# Runs of one level that are merged into one of the next: few files are open at a time, each byte is copied few times.
_FAN_IN = 16
_KEY_BYTES = 8


class KeyCounter:
    """Counts keys of `n_words` 64-bit words with about `memory_bytes` of memory.

    Use as a context manager: what was spilled is gone at its end.

    Args:
        folder: where sorted runs are spilled.
    """

    def __init__(self, n_words: int, *, memory_bytes: int, folder: Path) -> None:
        self._n_words = n_words
        self._memory_bytes = memory_bytes
        self._folder = folder
        # While a full buffer is sorted there are also its order, a sorted copy, the places of new keys and the run.
        n_rows = memory_bytes // (3 * _KEY_BYTES * n_words + 64)
        if n_rows < 1:
            raise ValueError(f"[grams] memory_bytes holds no key, got {memory_bytes}")
        self._buffer = np.empty((n_rows, n_words), np.uint64)
        self._n_buffered = 0
        self._levels: list[list[Spill]] = []
        self.n_runs = 0

    def __enter__(self) -> KeyCounter:
        return self

    def __exit__(self, *_: object) -> None:
        for run in (run for level in self._levels for run in level):
            run.close()
        self._levels = []

    def add(self, keys: Keys) -> None:
        """Count keys, [M, n_words]."""
        while len(keys):
            taken = keys[: len(self._buffer) - self._n_buffered]
            self._buffer[self._n_buffered : self._n_buffered + len(taken)] = taken
            self._n_buffered += len(taken)
            keys = keys[len(taken) :]
            if self._n_buffered == len(self._buffer):
                self._spill()

    def rows(self) -> Iterator[Keys]:
        """Blocks of rows (key words, count), sorted, each key once over all blocks; nothing is added after."""
        if not self.n_runs:
            yield self._sorted_buffer()
            return
        if self._n_buffered:
            self._spill()
        self._buffer = self._buffer[:0].copy()
        yield from self._merge([run for level in self._levels for run in level])

    def _sorted_buffer(self) -> Keys:
        keys = self._buffer[: self._n_buffered]
        if self._n_words == 1:
            keys[:, 0].sort()
            return _unique_rows(keys, None)
        return _unique_rows(keys[_order(keys)], None)

    def _spill(self) -> None:
        run = self._new_run()
        run.append(self._sorted_buffer())
        self._n_buffered = 0
        self._keep(run, level=0)

    def _keep(self, run: Spill, level: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        runs.append(run)
        if len(runs) < _FAN_IN:
            return
        merged = self._new_run()
        # Registered first, so that an interrupt closes it too.
        self._levels.append([merged])
        for rows in self._merge(runs):
            merged.append(rows)
        self._levels.pop()
        for done in runs:
            done.close()
        runs.clear()
        self._keep(merged, level + 1)

    def _new_run(self) -> Spill:
        self.n_runs += 1
        return Spill(self._folder, np.uint64, (self._n_words + 1,))

    def _merge(self, runs: Sequence[Spill]) -> Iterator[Keys]:
        # The buffer takes a third of the memory and stays; blocks, their join, its order and the result take the rest.
        block_rows = max(1, self._memory_bytes // 2 // (len(runs) * (self._n_words + 1) * _KEY_BYTES * 4))
        for run in runs:
            run.rewind()
        blocks = [(run, run.read(block_rows)) for run in runs]
        while blocks := [(run, block if len(block) else run.read(block_rows)) for run, block in blocks]:
            blocks = [(run, block) for run, block in blocks if len(block)]
            if not blocks:
                return
            # Beyond the smallest last key a run may have keys that are not read yet.
            bound = min(self._key(block, -1) for _, block in blocks)
            cuts = [bisect_right(range(len(b)), bound, key=lambda i, b=b: self._key(b, i)) for _, b in blocks]
            joined = np.concatenate([block[:cut] for (_, block), cut in zip(blocks, cuts, strict=True)])
            blocks = [(run, block[cut:]) for (run, block), cut in zip(blocks, cuts, strict=True)]
            joined = joined[_order(joined[:, :-1])]
            yield _unique_rows(joined[:, :-1], joined[:, -1])

    def _key(self, rows: Keys, i: int) -> tuple[int, ...]:
        return tuple(rows[i, : self._n_words].tolist())


def _order(keys: Keys) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.lexsort(keys.T[::-1])


def _unique_rows(keys: Keys, counts: Keys | None) -> Keys:
    """Rows (key, count) of sorted keys; without counts every key counts once."""
    is_new = np.ones(len(keys), np.bool_)
    np.any(keys[1:] != keys[:-1], axis=1, out=is_new[1:])
    starts = np.flatnonzero(is_new)
    rows = np.empty((len(starts), keys.shape[1] + 1), np.uint64)
    rows[:, :-1] = keys[starts]
    if len(starts):
        rows[:, -1] = np.diff(starts, append=len(keys)) if counts is None else np.add.reduceat(counts, starts)
    return rows
