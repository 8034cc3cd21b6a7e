"""A second, smaller model with the same tokenizer drafts (arXiv 2211.17192, without its residual resampling)."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from vortex_engine.decode.drafters.choices import Choices
from vortex_engine.decode.drafters.followed import FollowedModel
from vortex_engine.decode.sampler import Sampler
from vortex_engine.decode.second_model import SecondModel

__all__ = ["ModelDrafter"]


class ModelDrafter:
    """Its ids are drafts as they are, chosen with the sampler's own processors and noise."""

    name = "model"
    is_eager = False

    def __init__(self, model: SecondModel, sampler: Sampler, vocab_size: int) -> None:
        self._followed = FollowedModel(model)
        self._choices = Choices(sampler)
        self._vocab_size = vocab_size
        self._ids: list[int] = []

    def draft(self) -> Generator[tuple[int, float]]:
        if not self._followed.has_room(len(self._ids)):
            return
        self._followed.settle(self._ids[:-1])
        next_id = self._ids[-1]
        self._choices.clear()
        with self._followed.branch() as branch:
            while branch.room:
                logits = _fitted(branch.step((next_id,)), self._vocab_size)
                next_id, confidence = self._choices.draft(logits)
                yield next_id, confidence

    def others(self, depth: int, n: int) -> Sequence[tuple[int, float]]:
        return self._choices.others(depth, n)

    def accept(self, token_ids: Sequence[int]) -> None:
        self._ids.extend(token_ids)


def _fitted(logits: NDArray[np.float32], vocab_size: int) -> NDArray[np.float32]:
    """Vocabularies of one tokenizer are padded differently; an id that only one model has is never drafted."""
    if logits.size >= vocab_size:
        return logits[:vocab_size]
    return np.concatenate((logits, np.full(vocab_size - logits.size, -np.inf, np.float32)))
