"""A pass key somewhere in text that repeats itself, and the question for it at the end.

Source: arXiv:2305.16300, appendix A (the sentences are those of that test, written for any number of tokens).
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.vortex.recall_task import NO_LABEL

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["DIGITS", "PasskeyTask"]

I64 = NDArray[np.int64]

DIGITS = 5
_QUESTIONS, _LABELLED = 8, 0.125
_INTRODUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about "
    "the important information there."
)
_FILLER = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_BEFORE, _BETWEEN, _AFTER = " The pass key is ", ". Remember it. ", " is the pass key."
_QUESTION = " What is the pass key? The pass key is "


class PasskeyTask:
    """Documents in the tokens of the embedded model's tokenizer; every digit is a token."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer

        path = files("vortex_engine.models.nano") / "nano.c3" / "tokenizer.json"
        self.tokenizer: Tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        self.vocab: int = self.tokenizer.get_vocab_size()
        self._digits = np.concatenate([self._ids(str(digit)) for digit in range(10)])
        if len(self._digits) != 10:
            raise ValueError("[PasskeyTask] every digit must be one token")
        self._introduction, self._filler = self._ids(_INTRODUCTION), self._ids(_FILLER)
        self._before, self._between, self._after = (self._ids(text) for text in (_BEFORE, _BETWEEN, _AFTER))
        self._question = self._ids(_QUESTION)

    def document(self, rng: np.random.Generator, length: int, depth: float) -> tuple[I64, I64]:
        """Ids [length], which end with the question, and the key's ids [DIGITS].

        Args:
            depth: where the key stands, from 0 (after the introduction) to 1 (before the question).

        Raises:
            ValueError: the length has no room for key and question.
        """
        key, told = self._key(rng)
        start, n_fillers = self._start(length - len(told) - len(self._question))
        before = round(depth * n_fillers)
        fillers = [np.tile(self._filler, n) for n in (before, n_fillers - before)]
        return np.concatenate((start, fillers[0], told, fillers[1], self._question)), key

    def batch(self, rng: np.random.Generator, rows: int, length: int) -> tuple[I64, I64]:
        """For training: ids and the ids that follow them as labels [rows, length].

        So that there is something to learn from soon, the key is asked for and answered up to `_QUESTIONS` times at any
        places behind it, and of what is no digit a part is labelled.
        """
        whole = np.stack([self._answered(rng, length + 1) for _ in range(rows)])
        labels = whole[:, 1:].copy()
        labels[~np.isin(labels, self._digits) & (rng.random(labels.shape) > _LABELLED)] = NO_LABEL
        return whole[:, :-1], labels

    def _answered(self, rng: np.random.Generator, length: int) -> I64:
        key, told = self._key(rng)
        answered = np.concatenate((self._question, key))
        n_questions = int(rng.integers(1, min(_QUESTIONS, (length - len(told)) // len(answered)) + 1))
        start, n_fillers = self._start(length - len(told) - n_questions * len(answered))
        first = int(rng.integers(0, n_fillers + 1))
        places = rng.integers(first, n_fillers + 1, n_questions).tolist()
        parts = [start]
        for i in range(n_fillers + 1):
            parts += [told] * (i == first) + [answered] * places.count(i) + [self._filler] * (i < n_fillers)
        return np.concatenate(parts)

    def _key(self, rng: np.random.Generator) -> tuple[I64, I64]:
        """A key, and the text that tells it."""
        key = self._digits[rng.integers(0, 10, DIGITS)]
        return key, np.concatenate((self._before, key, self._between, key, self._after))

    def _start(self, n_tokens: int) -> tuple[I64, int]:
        """What a document begins with, and the fillers to add for `n_tokens` in all.

        The introduction, or what there is room for of it, and of the filler's end what whole fillers leave over.
        """
        left = n_tokens - len(self._introduction)
        if n_tokens < 0:
            raise ValueError(f"[PasskeyTask] the document must have {-n_tokens} tokens more")
        if left < 0:
            return self._introduction[:n_tokens], 0
        n_fillers, n_odd = divmod(left, len(self._filler))
        return np.concatenate((self._introduction, self._filler[len(self._filler) - n_odd :])), n_fillers

    def _ids(self, text: str) -> I64:
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
