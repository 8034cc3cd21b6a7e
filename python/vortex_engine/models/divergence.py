"""How far two runs of a model are apart in what they expect next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vortex_engine.c3.report import Divergence

__all__ = ["DivergenceSum"]

_ROWS_AT_ONCE = 16


@dataclass
class DivergenceSum:
    """A mean over tokens that grows window by window; arithmetic in float64."""

    nats: float = 0.0
    n_agreed: int = 0
    n_tokens: int = 0

    def add(self, reference: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        """Count the logits [T, vocab] of one window, of the reference and of the run that is judged."""
        for start in range(0, len(reference), _ROWS_AT_ONCE):
            log_p, log_q = (_log_softmax(logits[start : start + _ROWS_AT_ONCE]) for logits in (reference, other))
            self.nats += float((np.exp(log_p) * (log_p - log_q)).sum())
            self.n_agreed += int((log_p.argmax(axis=1) == log_q.argmax(axis=1)).sum())
            self.n_tokens += len(log_p)

    def mean(self) -> Divergence:
        """The divergence over all tokens so far, of which there must be one."""
        # A sum of rounded terms can end a hair below zero, a divergence cannot.
        return Divergence(max(self.nats / self.n_tokens, 0.0), self.n_agreed / self.n_tokens, self.n_tokens)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
