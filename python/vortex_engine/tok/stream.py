"""Streaming detokenisers whose cost per token does not grow with the text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from itertools import zip_longest

__all__ = ["ByteTextStream", "WindowTextStream"]

_LONGEST_CHARACTER = 4  # bytes of UTF-8
_REPLACEMENT = "\ufffd"


class ByteTextStream:
    """For byte-level tokenizers: every id is some bytes, the text is those bytes as UTF-8."""

    def __init__(self, token_bytes: Callable[[int], bytes], prompt_ids: Sequence[int] = ()) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        tail = b""
        for token_id in reversed(prompt_ids):
            if len(tail) >= _LONGEST_CHARACTER:
                break
            tail = token_bytes(token_id) + tail
        self._decoder.decode(tail)

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._token_bytes(token_id))

    def held(self) -> str:
        return self._decoder.getstate()[0].decode("utf-8", errors="replace")

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowTextStream:
    """For any other decoder: decodes a window that starts at the last token whose text was certain.

    That anchor gives the ids after it the context that decoders look at (a leading space is stripped only at the very
    start). Text is certain after a token that is no byte-fallback token, because a run of those reads differently
    once it grows, and while it does not end in U+FFFD.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        has_text: Callable[[int], bool],
        is_byte: Callable[[int], bool],
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self._has_text = has_text
        self._is_byte = is_byte
        self._window = _from_last_anchor([t for t in prompt_ids if has_text(t)], is_byte)
        self._emitted = decode(self._window)

    def push(self, token_id: int) -> str:
        if not self._has_text(token_id):
            return ""
        self._window.append(token_id)
        if self._is_byte(token_id):
            return ""
        text = self._decode(self._window)
        if text.endswith(_REPLACEMENT):
            return ""
        piece = self._after_emitted(text)
        self._window = [token_id]
        self._emitted = self._decode(self._window)
        return piece

    def held(self) -> str:
        return self._after_emitted(self._decode(self._window))

    def finish(self) -> str:
        text = self._decode(self._window)
        piece = self._after_emitted(text)
        self._emitted = text
        return piece

    def _after_emitted(self, text: str) -> str:
        # More bytes can turn the prompt's dangling ones into a character: then the common part is what was shown.
        if text.startswith(self._emitted):
            return text[len(self._emitted) :]
        n_common = next(i for i, (a, b) in enumerate(zip_longest(self._emitted, text)) if a != b)
        return text[n_common:]


def _from_last_anchor(token_ids: list[int], is_byte: Callable[[int], bool]) -> list[int]:
    for start in range(len(token_ids) - 1, -1, -1):
        if not is_byte(token_ids[start]):
            return token_ids[start:]
    return token_ids
