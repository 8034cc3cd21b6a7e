"""How often drafts of a given confidence turn out right."""

from __future__ import annotations

__all__ = ["Acceptance"]

_N_BINS = 8
_PRIOR = 4.0  # observations that a drafter's own estimate counts for
_MEMORY = 0.98  # what an observation still counts for after the next one of its bin


class Acceptance:
    """One drafter's calibration: confidence -> probability of acceptance, learned from what was judged."""

    def __init__(self) -> None:
        self._hits = [0.0] * _N_BINS
        self._judged = [0.0] * _N_BINS
        self._mean_hits, self._mean_judged = 0.8 * _PRIOR, _PRIOR

    def observe(self, confidence: float, accepted: bool) -> None:
        """A draft whose predecessors were all accepted was judged."""
        i = _bin(confidence)
        self._hits[i] = self._hits[i] * _MEMORY + accepted
        self._judged[i] = self._judged[i] * _MEMORY + 1
        self._mean_hits = self._mean_hits * _MEMORY + accepted
        self._mean_judged = self._mean_judged * _MEMORY + 1

    def probability(self, confidence: float) -> float:
        """That a draft of this confidence is accepted if those before it were."""
        i = _bin(confidence)
        return (self._hits[i] + _PRIOR * confidence) / (self._judged[i] + _PRIOR)

    @property
    def mean(self) -> float:
        """Over drafts of every confidence, lately."""
        return self._mean_hits / self._mean_judged


def _bin(confidence: float) -> int:
    return min(int(confidence * _N_BINS), _N_BINS - 1)
