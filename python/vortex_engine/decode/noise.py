"""Counter-based Gumbel noise: a function of (seed, position, token id), and the argmax under it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["gumbel_argmax", "uniforms"]

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_BLOCK = 8192


def uniforms(ids: NDArray[np.int64], seed: int, position: int) -> NDArray[np.float64]:
    """One uniform in (0, 1) for each id: SplitMix64 (doi 10.1145/2714064.2660195) at a counter.

    The stream's start is the hash of seed and position; the id counts along the stream.
    """
    start = _mix((_mix((seed + _GAMMA) & _MASK) + (position + 1) * _GAMMA) & _MASK)
    bits = ids.astype(np.uint64)
    bits += np.uint64(1)
    bits *= np.uint64(_GAMMA)
    bits += np.uint64(start)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(_MIX_1)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(_MIX_2)
    bits ^= bits >> np.uint64(31)
    bits >>= np.uint64(12)
    result = bits.astype(np.float64)
    # The middle of one of 2^52 equal cells: never 0 or 1, and exact in float64.
    result += 0.5
    result *= 2.0**-52
    return result


def gumbel_argmax(
    ids: NDArray[np.int64], logits: NDArray[np.float32], top: float, temperature: float, seed: int, position: int
) -> int:
    """The id with the largest `score - log(-log(u))`, a draw from softmax(score), score = (logit - top) / temperature.

    Args:
        ids: distinct, ascending.
        logits: theirs, in the same order; `top` is the largest.
    """
    # -log(u) >= 1 - u, so (1 - u) / weight bounds the exponential race from below: whoever's bound is above a time
    # that was really run cannot win, and only the few others need logarithms. float32 suffices for the bound with a
    # margin wider than its relative rounding. Blocks keep the temporaries in the cache.
    limit = np.inf
    alive: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []
    for start in range(0, ids.size, _BLOCK):
        block_ids = ids[start : start + _BLOCK]
        noise = uniforms(block_ids, seed, position)
        bound = (1.0 - noise).astype(np.float32)
        with np.errstate(divide="ignore", over="ignore"):
            scores = (logits[start : start + _BLOCK].astype(np.float64) - top) / temperature
            bound /= np.exp(scores.astype(np.float32))
        first = int(np.argmin(bound))
        if bound[first] == np.inf:
            continue  # weights below what float32 holds lose against the top in every case
        limit = min(limit, float(-np.log(noise[first]) * np.exp(-scores[first])))
        kept = np.flatnonzero(bound <= np.float32(limit * 1.0001))
        alive.append((block_ids[kept], scores[kept], noise[kept]))
    block_ids, scores, noise = (np.concatenate(part) for part in zip(*alive, strict=True))
    return int(block_ids[np.argmax(scores - np.log(-np.log(noise)))])


def _mix(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _MASK
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _MASK
    return bits ^ (bits >> 31)
