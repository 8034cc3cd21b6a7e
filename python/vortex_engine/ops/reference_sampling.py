"""The specification of `bad_verify`: what token stands at a position, and how far a draft agrees with that."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import VortexError
from vortex_engine.ops.sampling_law import SamplingLaw

__all__ = ["bad_verify", "kept_ids", "sample_row", "uniforms"]

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
# Weights are integers in units of 2^-40 of the largest, so that sums of them do not depend on an order.
_WEIGHT_ONE = 2.0**40
_MAX_VOCAB = 2**22
# 1 / temperature at most: a distance of two float32 times this is finite, and beyond any noise unless it is zero.
_MAX_INVERSE = 1e260


def bad_verify(
    draft_ids: NDArray[np.int64], target_logits: NDArray[np.float32], law: SamplingLaw, seed: int, position: int
) -> tuple[int, int]:
    for name, array, dtype, ndim in (
        ("draft_ids", draft_ids, np.int64, 1),
        ("target_logits", target_logits, np.float32, 2),
    ):
        if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
            raise ValueError(
                f"[bad_verify] {name} must be a C-contiguous {np.dtype(dtype)} array of {ndim} dimensions, "
                f"got {array.dtype} of shape {array.shape}"
            )
    n_rows, vocab = target_logits.shape
    _require("target_logits must have one row more than draft_ids", n_rows == len(draft_ids) + 1, n_rows)
    _require(f"the vocabulary must have from 1 to {_MAX_VOCAB} ids", 1 <= vocab <= _MAX_VOCAB, vocab)
    for n_accepted, row in enumerate(target_logits):
        token_id = sample_row(row, law, seed, position + n_accepted)
        if n_accepted == len(draft_ids) or token_id != draft_ids[n_accepted]:
            return n_accepted, token_id
    raise AssertionError("the last row ends the loop")


def sample_row(logits: NDArray[np.float32], law: SamplingLaw, seed: int, position: int) -> int:
    """The token of one row [V]: a draw from softmax(logits / temperature) over what the filters keep.

    Gumbel-max: the largest logit / temperature - log(-log(u)) with u of (seed, position, id); the lowest id on ties.

    Raises:
        VortexError: the row holds NaN or no finite maximum.
    """
    best = int(np.argmax(logits))  # the lowest id on ties; a NaN wins and shows
    top = float(logits[best])
    if not math.isfinite(top):
        raise VortexError(
            f"the logits at position {position} are not finite ({top} for id {best}): the weights or this context "
            "overflow float32; check the checkpoint, it may hold NaN or infinite weights"
        )
    if law.temperature == 0.0:
        return best
    ids = kept_ids(logits, law)
    noise = -np.log(-np.log(uniforms(ids, seed, position)))
    return int(ids[np.argmax(_scores(logits[ids], top, law) + noise)])


def kept_ids(logits: NDArray[np.float32], law: SamplingLaw) -> NDArray[np.int64]:
    """Ids that pass top-k, top-p and min-p, ascending.

    Every filter keeps the ids whose logit is at least some threshold, so ties are kept or dropped together.
    """
    threshold = np.float32(-np.inf)
    if law.top_k is not None and law.top_k < logits.size:
        threshold = np.sort(logits)[-law.top_k]
    top = float(logits.max())
    if law.top_p is not None and law.top_p < 1.0:
        falling = np.sort(logits[logits >= threshold])[::-1]
        weights = np.rint(np.exp(_scores(falling, top, law)) * _WEIGHT_ONE).astype(np.uint64)
        mass = np.cumsum(weights)
        wanted = min(math.ceil(float(law.top_p) * float(mass[-1])), int(mass[-1]))
        threshold = falling[np.searchsorted(mass, np.uint64(wanted))]
    keep = logits >= threshold
    if law.min_p:
        keep &= _scores(logits, top, law) >= math.log(law.min_p)
    return np.flatnonzero(keep)


def uniforms(ids: NDArray[np.int64], seed: int, position: int) -> NDArray[np.float64]:
    """One uniform in (0, 1) for each id: SplitMix64 (doi 10.1145/2714064.2660195) at a counter.

    The stream's start is the hash of seed and position; the id counts along the stream.
    """
    start = _mix((_mix((seed + _GAMMA) & _MASK) + (position + 1) * _GAMMA) & _MASK)
    bits = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA) + np.uint64(start)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX_1)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX_2)
    bits ^= bits >> np.uint64(31)
    # The middle of one of 2^52 equal cells: never 0 or 1, and exact in float64.
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _scores(logits: NDArray[np.float32], top: float, law: SamplingLaw) -> NDArray[np.float64]:
    inverse = min(1.0 / float(law.temperature), _MAX_INVERSE)
    return (logits.astype(np.float64) - top) * inverse


def _mix(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _MASK
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _MASK
    return bits ^ (bits >> 31)


def _require(rule: str, good: bool, value: object) -> None:
    if not good:
        raise ValueError(f"[bad_verify] {rule}, got {value}")
