"""Keys with the structure that makes an index worth having: clusters of unlike sizes, each of few dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyStream", "nearest", "recall"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

_RANK = 16  # dimensions in which the keys of a cluster differ
_SPREAD = 0.6  # their distance from its centre, over the centre's length
_QUERY_NOISE = 0.15  # of a query from the key it is near to


@dataclass
class KeyStream:
    """Unit keys of `dim` dimensions around `n_clusters` centres, which move with `drift` from 0 to 1."""

    dim: int
    n_clusters: int
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self._ends = rng.standard_normal((2, self.n_clusters, self.dim), np.float32)
        self._axes = rng.standard_normal((2 * _RANK, self.dim), np.float32)
        weights = 1.0 / np.arange(1, self.n_clusters + 1) ** 0.5
        self._weights = weights / weights.sum()
        self._rng = rng

    def draw(self, n: int, drift: float = 0.0) -> F32:
        """[n, dim] float32 of length 1."""
        clusters = self._rng.choice(self.n_clusters, n, p=self._weights)
        centres = np.float32(1 - drift) * self._ends[0] + np.float32(drift) * self._ends[1]
        first = (clusters % _RANK)[:, None] + np.arange(_RANK)
        keys = centres[clusters]
        amounts = self._rng.standard_normal((n, _RANK), np.float32) * np.float32(_SPREAD / _RANK**0.5)
        for r in range(_RANK):
            keys += amounts[:, r, None] * self._axes[first[:, r]]
        return _unit(np.asarray(keys, np.float32))

    def near(self, keys: F32) -> F32:
        """Queries, each near to one of the keys."""
        noise = self._rng.standard_normal(keys.shape, np.float32) * np.float32(_QUERY_NOISE / self.dim**0.5)
        return _unit(np.asarray(keys + noise, np.float32))


def nearest(keys: F32, queries: F32, k: int) -> I64:
    """[Q, k]: the rows of `keys` with the largest inner products, by looking at all of them."""
    found = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), 64):
        scores = queries[start : start + 64] @ keys.T
        top = np.argpartition(scores, -k, axis=1)[:, -k:]
        found[start : start + 64] = top
    return found


def recall(found: I64, wanted: I64) -> float:
    """The share of `wanted` [Q, k] that is in `found`, row by row."""
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, wanted, strict=True)]
    return float(np.mean(hits) / wanted.shape[1])


def _unit(rows: F32) -> F32:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
