"""Data on stdout, messages and progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["emit_json", "emit_table", "kept_on_interrupt", "note", "progress_bar"]

# A table that is piped into a file must not be cut at the 80 columns rich assumes there.
_PIPED_WIDTH = 160


def emit_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def note(message: str) -> None:
    """Print one line for the person on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def emit_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; a column whose cells all start with a digit is aligned right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        numeric = all(row[i][:1].isdigit() for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    console.print(table)


@contextmanager
def progress_bar(
    description: str, *, unit_bytes: bool = False, hidden: bool = False
) -> Generator[Callable[..., None] | None]:
    """A bar on stderr, moved by calling the yielded function with (done, total) and, if known, what is being done.

    Yields None, and shows nothing, where stderr is no terminal or the caller asks for it.
    """
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = [TextColumn("{task.description}"), BarColumn()]
    columns += (
        [DownloadColumn(), TransferSpeedColumn()] if unit_bytes else [TextColumn("{task.completed}/{task.total}")]
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None)

        def move(done: int, total: int, what: str = "") -> None:
            # Tensor names are long and change many times a second: beside bytes they would break the line.
            shown = description if unit_bytes else f"{description} {what}".rstrip()
            progress.update(task, completed=done, total=total, description=shown)

        yield move


@contextmanager
def kept_on_interrupt(kept: str) -> Generator[None]:
    """Let Ctrl-C say what is kept of the work."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(kept) from error
