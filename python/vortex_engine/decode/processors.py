"""Processors of logits: each changes one row in place, by what the history says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vortex_engine.decode.history import History
from vortex_engine.decode.sampling import SamplingParams

__all__ = ["FrequencyPenalty", "NoRepeatNgram", "PresencePenalty", "Processor", "RepetitionPenalty", "make_processors"]


class Processor(Protocol):
    """A function of a row and a history, without a state of its own."""

    def apply(self, row: NDArray[np.float32], history: History) -> None:
        """Change `row`, float32 [V]."""
        ...


@dataclass(frozen=True)
class RepetitionPenalty:
    """Logits of ids in the window move towards minus infinity, once each (arXiv 1909.05858, section 4.1)."""

    penalty: float

    def apply(self, row: NDArray[np.float32], history: History) -> None:
        ids = np.flatnonzero(history.sequence_counts)
        values, factor = row[ids], np.float32(self.penalty)
        row[ids] = np.where(values < 0, values * factor, values / factor)


@dataclass(frozen=True)
class PresencePenalty:
    """Subtracted from the logits of ids in the output part of the window."""

    penalty: float

    def apply(self, row: NDArray[np.float32], history: History) -> None:
        row[np.flatnonzero(history.output_counts)] -= np.float32(self.penalty)


@dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracted for every time an id is in the output part of the window."""

    penalty: float

    def apply(self, row: NDArray[np.float32], history: History) -> None:
        ids = np.flatnonzero(history.output_counts)
        row[ids] -= np.float32(self.penalty) * history.output_counts[ids].astype(np.float32)


@dataclass(frozen=True)
class NoRepeatNgram:
    """Forbids (-inf) the ids that would complete an n-gram of the sequence; n is the history's."""

    def apply(self, row: NDArray[np.float32], history: History) -> None:
        row[history.followers()] = -np.inf


def make_processors(params: SamplingParams) -> list[Processor]:
    """Those that are on, in the order they run."""
    processors: list[Processor] = []
    if params.repetition_penalty is not None and params.repetition_penalty != 1.0:
        processors.append(RepetitionPenalty(float(params.repetition_penalty)))
    if params.presence_penalty:
        processors.append(PresencePenalty(float(params.presence_penalty)))
    if params.frequency_penalty:
        processors.append(FrequencyPenalty(float(params.frequency_penalty)))
    if params.no_repeat_ngram is not None:
        processors.append(NoRepeatNgram())
    return processors
