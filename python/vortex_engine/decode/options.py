"""The arguments of a generation, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import cast

import numpy as np

from vortex_engine.errors import PromptError
from vortex_engine.tok import Tokenizer

__all__ = ["GenerationOptions", "positive_integer", "prompt_token_ids"]


@dataclass(frozen=True)
class GenerationOptions:
    """When a generation ends and how it is run; sampling has its own parameters."""

    max_new_tokens: int = 128
    stop: str | Sequence[str] | None = None
    speculate: str = "auto"
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        positive_integer("max_new_tokens", self.max_new_tokens)
        if self.speculate not in ("off", "auto"):
            raise ValueError(f"speculate must be 'off' or 'auto', got {self.speculate!r}")
        _check_flag("ignore_eos", self.ignore_eos)
        _check_stops(self.stop)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def prompt_token_ids(
    prompt: str | Sequence[int], tokenizer: Tokenizer, vocab_size: int, context_length: int
) -> list[int]:
    """The ids of a prompt that fits the model.

    Raises:
        PromptError: it is empty, no text or ids, not in the vocabulary, or longer than the context.
    """
    if isinstance(prompt, str):
        if not prompt:
            raise PromptError("the prompt is empty; give some text or at least one token id")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise PromptError(f"the prompt is not valid Unicode text: {error}") from error
        ids = tokenizer.encode(prompt)
    else:
        ids = _checked_ids(prompt)
    if not ids:
        raise PromptError("the prompt has no tokens; give some text or at least one token id")
    outside = next((i for i in ids if not 0 <= i < vocab_size), None)
    if outside is not None:
        raise PromptError(f"token id {outside} of the prompt is not in the vocabulary of {vocab_size} ids")
    if len(ids) > context_length:
        raise PromptError(f"the prompt has {len(ids)} tokens, the model's context holds {context_length}")
    return ids


def positive_integer(name: str, value: object) -> int:
    """`value` as an int of at least 1; ValueError names the argument."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def _check_stops(stop: object) -> None:
    listed: list[object] = list(cast("Sequence[object]", stop)) if isinstance(stop, (list, tuple)) else [stop]
    if stop is not None and not all(isinstance(text, str) and text for text in listed):
        raise ValueError(f"stop must be a non-empty string or a list of them, got {stop!r}")


def _checked_ids(prompt: object) -> list[int]:
    rule = "a prompt must be a str or a sequence of token ids"
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, (Sequence, np.ndarray)):
        raise PromptError(f"{rule}, got {type(prompt).__name__}")
    ids: list[int] = []
    for item in cast("Sequence[object]", prompt):
        if isinstance(item, bool) or not isinstance(item, Integral):
            raise PromptError(f"{rule}, got an item {item!r}")
        ids.append(int(item))
    return ids
