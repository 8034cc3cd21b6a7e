"""Finding stop strings in streamed text, across the borders of pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopSearch"]


class StopSearch:
    """Passes text on up to the first stop string; holds back an end that could be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take a piece; return what may be shown. After `found`, nothing more is."""
        if self.found or not self._stops:
            return "" if self.found else text
        text = self._held + text
        at = self._first(text)
        if at >= 0:
            self.found, self._held = True, ""
            return text[:at]
        n_held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def would_find(self, text: str) -> bool:
        """Whether pushing this text would complete a stop string."""
        return bool(self._stops) and not self.found and self._first(self._held + text) >= 0

    def finish(self) -> str:
        """No more text: what was held back was no stop string."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> int:
        places = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        return min(places, default=-1)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
