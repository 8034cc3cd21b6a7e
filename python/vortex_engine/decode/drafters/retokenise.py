"""A second model with another tokenizer drafts: the text so far in its ids, and what it adds in the first model's.

Byte exact: what the drafted ids spell is what the second model wrote. Ids are drafted once more text cannot change
them as far as the first model's tokenizer goes; a guess that is cut differently is merely not accepted.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from vortex_engine.decode.drafters.followed import FollowedModel
from vortex_engine.decode.second_model import SecondModel
from vortex_engine.tok import Tokenizer

__all__ = ["RetokenisingDrafter"]

_UNSETTLED = 8  # of the second model's ids: more text may still cut the last ones differently
_CONTEXT_IDS = 4  # of the first model's ids that new text is cut together with


class RetokenisingDrafter:
    """Takes the second model's likeliest tokens; noise by id means nothing in another vocabulary."""

    name = "model"
    is_eager = False

    def __init__(self, model: SecondModel, tokenizer: Tokenizer, first_tokenizer: Tokenizer) -> None:
        self._followed = FollowedModel(model)
        self._theirs = tokenizer
        self._ours = first_tokenizer
        self._ids: list[int] = []

    def draft(self) -> Generator[tuple[int, float]]:
        theirs = self._theirs.encode(self._ours.decode(self._ids))
        if not theirs or not self._followed.has_room(len(theirs)):
            return
        self._followed.settle(theirs[:-_UNSETTLED])
        n_yielded, confidence, drafted = 0, 1.0, list[int]()
        given: list[int] = []
        step = theirs[-_UNSETTLED:]
        with self._followed.branch() as branch:
            while branch.room > len(step):
                logits = branch.step(step)
                best = int(np.argmax(logits))
                if not np.isfinite(logits[best]):
                    return
                drafted.append(best)
                step = [best]
                confidence *= float(1 / np.exp(np.minimum(logits - logits[best], 0.0)).sum())
                ours = self._in_our_ids(theirs, drafted)
                if ours[:n_yielded] != given:
                    return
                # The last one may become longer with what follows.
                for token_id in ours[n_yielded:-1]:
                    given.append(token_id)
                    n_yielded += 1
                    yield token_id, max(confidence, 1e-6)
                    confidence = 1.0

    def accept(self, token_ids: Sequence[int]) -> None:
        self._ids.extend(token_ids)

    def _in_our_ids(self, theirs: Sequence[int], drafted: Sequence[int]) -> list[int]:
        before = theirs[-_UNSETTLED:]
        added = self._theirs.decode([*before, *drafted])[len(self._theirs.decode(before)) :]
        tail = self._ids[-_CONTEXT_IDS:]
        together = self._ours.encode_ordinary(self._ours.decode(tail) + added)
        if together[: len(tail)] == tail:
            return together[len(tail) :]
        return self._ours.encode_ordinary(added)
