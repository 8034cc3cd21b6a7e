"""Writes in order on a thread of its own, so that encoding does not wait for the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

# Two writes: one under way and one waiting, so that neither side idles for the other's hiccups.
_MAX_PENDING = 2


class WriteBehind:
    """Runs what it is given one after the other; after a failure it runs nothing more and says so to the next caller.

    Left by an exception it drops what has not started; left otherwise it waits for everything.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "vortex-write")
        self._pending: deque[Future[None]] = deque()

    def run(self, write: Callable[[], None]) -> None:
        """Run `write` after all before it; raises what an earlier one raised."""
        while len(self._pending) >= _MAX_PENDING:
            self._pending.popleft().result()
        before = self._pending[-1] if self._pending else None
        self._pending.append(self._executor.submit(_run_after, before, write))

    def drain(self) -> None:
        """Wait until everything has run; raises what one of them raised."""
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.drain()
        finally:
            self._executor.shutdown(cancel_futures=True)


def _run_after(before: Future[None] | None, write: Callable[[], None]) -> None:
    if before is not None:
        before.result()
    write()
