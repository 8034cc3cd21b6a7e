"""How a token is chosen: the parameters of a generation's sampling, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vortex_engine.ops import SamplingLaw
from vortex_engine.ops.sampling_law import MAX_SEED, check_integer, check_number

__all__ = ["SamplingParams"]

_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True)
class SamplingParams(SamplingLaw):
    """How a token is chosen: a law, and what depends on the sequence. None is off.

    Order, as in transformers: repetition, presence and frequency penalty, no-repeat n-grams, a constraint, then the
    law: temperature, top-k, top-p, min-p, one draw.

    Attributes:
        repetition_penalty: divides positive and multiplies negative logits of ids in the sequence, prompt included
            (arXiv 1909.05858, section 4.1); 1 is off.
        seed: randomness of a token depends only on it and the token's position.
        presence_penalty: is subtracted from the logits of ids in the output.
        frequency_penalty: is subtracted once for every time an id is in the output.
        penalty_window: the penalties look only at the last so many ids of the sequence.
        no_repeat_ngram: an id that would complete an n-gram of this length that the sequence has already is not chosen.

    Raises:
        ValueError: a number outside of its range.
    """

    repetition_penalty: float | None = None
    seed: int = 0
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_window: int | None = None
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repetition_penalty is not None:
            check_number("repetition_penalty", self.repetition_penalty, 0.0, math.inf)
        check_integer("seed", self.seed, 0, MAX_SEED)
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), -math.inf, math.inf)
        for name in ("penalty_window", "no_repeat_ngram"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1, _MAX_COUNT)
