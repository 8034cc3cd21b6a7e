"""Constraints: which ids may follow, by a state that is a value; and the one that keeps the output valid UTF-8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Constraint", "Utf8Constraint"]

# States of UTF-8 (RFC 3629, section 4): at a border; 1, 2 or 3 continuation bytes to come; the second byte of E0, ED,
# F0 and F4 has a smaller range, against overlong forms, surrogates and what is above U+10FFFF; not UTF-8.
_BORDER, _ONE, _TWO, _THREE, _AFTER_E0, _AFTER_ED, _AFTER_F0, _AFTER_F4, _INVALID = range(9)
_LONGEST_UNFINISHED = 3  # bytes


class Constraint(Protocol):
    """An automaton over ids. States are values that nobody changes, so a draft's states cost nothing to leave."""

    @property
    def name(self) -> str:
        """As errors call it."""
        ...

    def start(self, prompt_ids: Sequence[int]) -> Any:
        """The state after a prompt, which need not obey."""
        ...

    def after(self, state: Any, token_id: int) -> Any:
        """The state after one more id; it may be one that was not allowed."""
        ...

    def allowed(self, state: Any) -> NDArray[np.bool_] | None:
        """Which ids may follow, bool [V]; None for all."""
        ...


class Utf8Constraint:
    """`escape_restrict`: the bytes of the output are valid UTF-8, and the text ends only where a character does.

    An id whose bytes would make them invalid is not allowed, nor is one after which no id could finish the character.
    Inside a character ids without bytes, such as EOS, are not allowed either. A character that the prompt left
    unfinished is finished first.

    Args:
        token_bytes: of a tokenizer.
        vocab_size: V; ids without a token have no bytes.
    """

    name = "escape_restrict"

    def __init__(self, token_bytes: Callable[[int], bytes], vocab_size: int) -> None:
        self._token_bytes = token_bytes
        self._table = _byte_table()
        tokens = [token_bytes(token_id) for token_id in range(vocab_size)]
        self._next = _after_tokens(self._table, tokens)
        has_bytes = np.array([bool(token) for token in tokens])
        alive = {_BORDER}
        while grown := {s for s in range(_INVALID) if has_bytes[np.isin(self._next[s], list(alive))].any()} - alive:
            alive |= grown
        self._alive = alive
        self._masks: list[NDArray[np.bool_] | None] = []
        for state in range(_INVALID + 1):
            mask = np.isin(self._next[state], list(alive))
            if state != _BORDER:
                mask &= has_bytes
            self._masks.append(None if mask.all() else mask)

    def start(self, prompt_ids: Sequence[int]) -> int:
        tail = b""
        for token_id in reversed(prompt_ids):
            if len(tail) >= _LONGEST_UNFINISHED:
                break
            tail = self._token_bytes(token_id) + tail
        for n_bytes in range(1, _LONGEST_UNFINISHED + 1):
            state = _BORDER
            for byte in tail[-n_bytes:]:
                state = int(self._table[state, byte])
            if state in self._alive - {_BORDER}:
                return state
        return _BORDER

    def after(self, state: int, token_id: int) -> int:
        return int(self._next[state, token_id])

    def allowed(self, state: int) -> NDArray[np.bool_] | None:
        return self._masks[state]


def _byte_table() -> NDArray[np.uint8]:
    """The state after each byte in each state, [9, 256]."""
    table = np.full((_INVALID + 1, 256), _INVALID, np.uint8)
    for first, last, state in (
        (0x00, 0x7F, _BORDER),
        (0xC2, 0xDF, _ONE),
        (0xE0, 0xE0, _AFTER_E0),
        (0xE1, 0xEC, _TWO),
        (0xED, 0xED, _AFTER_ED),
        (0xEE, 0xEF, _TWO),
        (0xF0, 0xF0, _AFTER_F0),
        (0xF1, 0xF3, _THREE),
        (0xF4, 0xF4, _AFTER_F4),
    ):
        table[_BORDER, first : last + 1] = state
    for state, first, last, following in (
        (_ONE, 0x80, 0xBF, _BORDER),
        (_TWO, 0x80, 0xBF, _ONE),
        (_THREE, 0x80, 0xBF, _TWO),
        (_AFTER_E0, 0xA0, 0xBF, _ONE),
        (_AFTER_ED, 0x80, 0x9F, _ONE),
        (_AFTER_F0, 0x90, 0xBF, _TWO),
        (_AFTER_F4, 0x80, 0x8F, _TWO),
    ):
        table[state, first : last + 1] = following
    return table


def _after_tokens(table: NDArray[np.uint8], tokens: Sequence[bytes]) -> NDArray[np.uint8]:
    """The state after each token in each state, [9, V]."""
    lengths = np.array([len(token) for token in tokens], np.int64)
    starts = np.cumsum(lengths) - lengths
    joined = np.frombuffer(b"".join(tokens), np.uint8)
    states = np.repeat(np.arange(_INVALID + 1, dtype=np.uint8)[:, None], len(tokens), axis=1)
    going_on = np.flatnonzero(lengths)
    place = 0
    while going_on.size:
        states[:, going_on] = table[states[:, going_on], joined[starts[going_on] + place]]
        place += 1
        going_on = going_on[lengths[going_on] > place]
    return states
