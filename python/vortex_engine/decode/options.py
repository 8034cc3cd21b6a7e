"""The arguments of a generation, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, TypedDict, cast

import numpy as np

from vortex_engine.decode.sampling import SamplingParams
from vortex_engine.errors import PromptError
from vortex_engine.tok import Tokenizer

__all__ = ["GenerateArguments", "GenerationOptions", "positive_integer", "prompt_token_ids", "split_arguments"]

MAX_BLOCK_SIZE = 64
DRAFTER_NAMES = ("prefix", "ngram", "early_exit", "mtp", "model")


class GenerateArguments(TypedDict, total=False):
    """Keyword arguments of `Model.generate` and `Model.stream`, described there."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    penalty_window: int | None
    no_repeat_ngram: int | None
    seed: int
    stop: str | Sequence[str] | None
    ignore_eos: bool
    escape_restrict: bool
    speculate: str
    block_size: int | None
    min_confidence: float
    entropy_top_k: int
    exact_copy_mode: bool
    memory: str | os.PathLike[str] | None


@dataclass(frozen=True)
class GenerationOptions:
    """When a generation ends and how it is run; sampling has its own parameters."""

    max_new_tokens: int = 128
    stop: str | Sequence[str] | None = None
    ignore_eos: bool = False
    escape_restrict: bool = False
    speculate: str = "auto"
    block_size: int | None = None
    min_confidence: float = 0.0
    entropy_top_k: int = 64
    exact_copy_mode: bool = False
    memory: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        positive_integer("max_new_tokens", self.max_new_tokens)
        for name in ("ignore_eos", "escape_restrict", "exact_copy_mode"):
            _check_flag(name, getattr(self, name))
        _check_stops(self.stop)
        _check_drafters(self.speculate)
        if self.block_size is not None and positive_integer("block_size", self.block_size) > MAX_BLOCK_SIZE:
            raise ValueError(f"block_size must be at most {MAX_BLOCK_SIZE}, got {self.block_size}")
        if self.memory is not None and not isinstance(self.memory, (str, os.PathLike)):
            raise ValueError(f"memory must be the path of a file of `Model.memorize`, got {self.memory!r}")
        positive_integer("entropy_top_k", self.entropy_top_k)
        confidence = self.min_confidence
        if isinstance(confidence, bool) or not isinstance(confidence, Real) or not 0 <= confidence <= 1:
            raise ValueError(f"min_confidence must be a number from 0 to 1, got {confidence!r}")

    @property
    def drafters(self) -> tuple[str, ...]:
        """Those that `speculate` names."""
        return () if self.speculate in ("auto", "off") else tuple(self.speculate.split("+"))

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def split_arguments(arguments: GenerateArguments) -> tuple[SamplingParams, GenerationOptions]:
    """The arguments of a generation as the law of its tokens and the rest, both checked.

    Raises:
        ValueError: an argument has a wrong value.
        TypeError: there is no such argument.
    """
    of_sampling = {item.name for item in fields(SamplingParams)}
    of_options = {item.name for item in fields(GenerationOptions)}
    given = cast("dict[str, Any]", arguments)
    unknown = next((name for name in given if name not in of_sampling | of_options), None)
    if unknown is not None:
        raise TypeError(f"generate has no argument {unknown!r}; it has {', '.join(sorted(of_sampling | of_options))}")
    params = SamplingParams(**{name: value for name, value in given.items() if name in of_sampling})
    return params, GenerationOptions(**{name: value for name, value in given.items() if name in of_options})


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


def _check_drafters(speculate: object) -> None:
    names = speculate.split("+") if isinstance(speculate, str) else []
    if speculate not in ("auto", "off") and (
        not names or len(set(names)) < len(names) or not set(names) <= set(DRAFTER_NAMES)
    ):
        raise ValueError(
            f"speculate must be 'auto', 'off', or different drafters of {', '.join(DRAFTER_NAMES)} joined by '+', "
            f"got {speculate!r}"
        )


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
