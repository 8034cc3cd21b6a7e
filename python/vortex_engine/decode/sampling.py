"""The next token from one row of logits: `sample_token(logits, params, seen, position)`, a pure function.

Order, as in transformers: repetition penalty, temperature, top-k, top-p, min-p, then one draw. The draw is Gumbel-max
over what the filters kept, with noise that depends on (seed, position, token id) alone: every decoding path that
reaches the same logits at the same position takes the same token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from vortex_engine.decode.noise import gumbel_argmax
from vortex_engine.errors import VortexError

__all__ = ["SamplingParams", "sample_token"]

_BLOCK = 64  # ids a block maximum stands for in the top-k search
_BINS_PER_NAT, _N_BINS = 64, 4096  # of log-probability in the top-p search; the last bin is open
_MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen; `temperature=0` is greedy and takes the lowest id on ties."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, math.inf, low_allowed=True)
        if self.top_k is not None:
            _check_integer("top_k", self.top_k, 1, 2**31 - 1)
        if self.top_p is not None:
            _check_number("top_p", self.top_p, 0.0, 1.0, high_allowed=True)
        if self.min_p is not None:
            _check_number("min_p", self.min_p, 0.0, 1.0, low_allowed=True, high_allowed=True)
        if self.repetition_penalty is not None:
            _check_number("repetition_penalty", self.repetition_penalty, 0.0, math.inf)
        _check_integer("seed", self.seed, 0, _MAX_SEED)


def sample_token(logits: NDArray[np.float32], params: SamplingParams, seen: NDArray[np.bool_], position: int) -> int:
    """Choose the token that stands at `position` of the sequence.

    Args:
        logits: float32 [vocab]; not changed.
        params: the law to draw from.
        seen: bool [vocab], the ids of prompt and output so far; only a repetition penalty looks at it.
        position: absolute, counted from the first token of the prompt.

    Raises:
        VortexError: the logits hold NaN or no finite maximum.
    """
    penalty = params.repetition_penalty
    if penalty is not None and penalty != 1.0:
        logits = _penalised(logits, seen, float(penalty))
    best = int(np.argmax(logits))  # the lowest id on ties; a NaN wins and shows
    top = float(logits[best])
    if not math.isfinite(top):
        raise VortexError(
            f"the logits at position {position} are not finite ({top} for id {best}): the weights or this context "
            "overflow float32; check the checkpoint, it may hold NaN or infinite weights"
        )
    if params.temperature == 0.0:
        return best
    ids, values = _candidates(logits, top, params)
    return gumbel_argmax(ids, values, top, float(params.temperature), int(params.seed), position)


def _penalised(logits: NDArray[np.float32], seen: NDArray[np.bool_], penalty: float) -> NDArray[np.float32]:
    """Scores of seen ids move towards minus infinity, once each (arXiv 1909.05858, section 4.1)."""
    result = logits.copy()
    ids = np.flatnonzero(seen)
    values = result[ids]
    factor = np.float32(penalty)
    result[ids] = np.where(values < 0, values * factor, values / factor)
    return result


def _candidates(
    logits: NDArray[np.float32], top: float, params: SamplingParams
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids that pass the filters, ascending, and their logits."""
    keep_above = -math.inf
    if params.top_k is not None and params.top_k < logits.size:
        keep_above = _kth_largest(logits, params.top_k)
    # All filters keep the ids whose logit is at least some threshold, so ties are kept or dropped together.
    if params.top_p is not None and params.top_p < 1.0:
        keep_above = max(keep_above, _nucleus_edge(logits, keep_above, top, params.top_p, params.temperature))
    if params.min_p:
        ratio_edge = top + math.log(params.min_p) * params.temperature
        keep_above = max(keep_above, min(ratio_edge, top))
    if keep_above == -math.inf:
        return np.arange(logits.size, dtype=np.int64), logits
    ids = np.flatnonzero(logits >= keep_above)
    return ids, logits[ids]


def _kth_largest(logits: NDArray[np.float32], k: int) -> float:
    """The k-th largest value; partitions only the few values that can be it."""
    n_blocks = logits.size // _BLOCK
    pool = logits
    if k < n_blocks:
        maxima = logits[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).max(axis=1)
        pool = logits[logits >= np.partition(maxima, n_blocks - k)[n_blocks - k]]
    return float(np.partition(pool, pool.size - k)[pool.size - k])


def _nucleus_edge(
    logits: NDArray[np.float32], keep_above: float, top: float, top_p: float, temperature: float
) -> float:
    """The smallest logit of the smallest set of most likely ids that holds at least `top_p` of the probability."""
    values = logits if keep_above == -math.inf else logits[logits >= keep_above]
    scale = np.float32(min(1.0 / temperature, 1e30))
    with np.errstate(over="ignore"):  # an infinite distance is what a tiny temperature asks for
        distances = (np.float32(top) - values) * scale
    # Narrow bins of falling probability: only the bin that holds the edge has to be sorted.
    bins = np.minimum(distances * np.float32(_BINS_PER_NAT), np.float32(_N_BINS - 1)).astype(np.intp)
    mass = np.cumsum(np.bincount(bins, weights=np.exp(-distances)))
    wanted = top_p * float(mass[-1])
    edge_bin = int(np.searchsorted(mass, wanted))
    inside = bins == edge_bin
    order = np.argsort(distances[inside], kind="stable")
    weights = np.exp(-distances[inside][order])
    before = float(mass[edge_bin - 1]) if edge_bin else 0.0
    n_kept = int(np.searchsorted(before + np.cumsum(weights, dtype=np.float64), wanted)) + 1
    return float(values[inside][order[min(n_kept, order.size) - 1]])


def _check_number(
    name: str, value: object, low: float, high: float, *, low_allowed: bool = False, high_allowed: bool = False
) -> None:
    rule = f"{name} must be a number {'from' if low_allowed else 'above'} {low:g}"
    if high < math.inf:
        rule += f" {'up to' if high_allowed else 'and below'} {high:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{rule}, got {value!r}")
    number = float(value)
    inside = (low < number or (low_allowed and number == low)) and (number < high or (high_allowed and number == high))
    if not inside:
        raise ValueError(f"{rule}, got {value!r}")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
