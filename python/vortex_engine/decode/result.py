"""What a generation returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FinishReason", "GenerationResult", "Piece"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationResult:
    """A finished generation.

    `text` follows the prompt's text; a stop string and what follows it are not in it. `token_ids` are the chosen ids
    without the EOS. `finish_reason` is "stop" after an EOS or a stop string, "length" after `max_new_tokens` or at the
    end of the context. `stats` is described at `Model.generate`.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """One step of a stream: text that is certain (it may be empty) and the ids chosen since the piece before.

    The last piece has `finish_reason` and `stats`, the others have None. The pieces' texts joined are the text.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    stats: Mapping[str, Any] | None = None
