"""What the engine asks of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["TextStream", "Tokenizer"]


class TextStream(Protocol):
    """Text of one growing sequence of ids; the pieces joined are the text of all ids.

    No piece ends inside a UTF-8 character: text that a later id may still change is held back.
    """

    def push(self, token_id: int) -> str:
        """Take one more id; return the text that is now certain."""
        ...

    def held(self) -> str:
        """The text held back, as it reads if nothing follows."""
        ...

    def finish(self) -> str:
        """No more ids: return what was held back."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back; ids without a token decode to nothing."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with the special tokens the tokenizer's post-processor adds, such as BOS."""
        ...

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text alone: the tokenizer's post-processor adds none."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, without special tokens; bytes that are no UTF-8 read as U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to a text that goes on: perhaps a part of a character; nothing for special tokens."""
        ...

    def stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        """The text that follows the prompt's text, id by id."""
        ...
