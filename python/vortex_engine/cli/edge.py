"""Where the program meets the shell: exit codes, one line per error, interrupts and closed pipes."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TextIO

import typer
import typer.main

from vortex_engine.cli.app import app
from vortex_engine.cli.show import emit_json, note
from vortex_engine.errors import (
    BackendUnavailableError,
    BudgetError,
    DivergedError,
    MachineError,
    ModelConfigError,
    PromptError,
    StateFileError,
    TargetExistsError,
    TileFileError,
)

__all__ = ["exit_code", "main"]

INTERRUPTED = 130

# Some versions of typer carry their own copy of click: the base classes are reached through the one both export.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

# The first match counts, so a class stands before its bases.
_EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (_USAGE_ERROR, 2),
    (DivergedError, 1),
    (PromptError, 2),
    (TargetExistsError, 2),
    (BackendUnavailableError, 2),
    (TileFileError, 3),
    (ModelConfigError, 3),
    (StateFileError, 3),
    (BudgetError, 4),
    (MachineError, 5),
    (FileExistsError, 2),
    (FileNotFoundError, 3),
    (NotADirectoryError, 3),
    (IsADirectoryError, 3),
    (PermissionError, 3),
    (OSError, 5),
    (MemoryError, 5),
    (ValueError, 2),
)


def exit_code(error: BaseException) -> int | None:
    """The documented exit code of an error, None for a fault of this program (which keeps its traceback)."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    Args:
        argv: Arguments after the program's name; None takes them from the shell.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    command = typer.main.get_command(app)
    stdout: TextIO = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        # Text that a model writes holds any character, whatever the locale says.
        stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        with _quiet_broken_pipe():
            with command.make_context("vortex", arguments) as context:
                command.invoke(context)
            sys.stdout.flush()
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort) as error:
        kept = str(error)
        return _report("KeyboardInterrupt", f"interrupted; {kept}" if kept else "interrupted", INTERRUPTED, as_json)
    except tuple(kind for kind, _ in _EXIT_CODES) as error:
        if os.environ.get("VORTEX_DEBUG"):
            traceback.print_exc()
        code = exit_code(error)
        assert code is not None
        return _report(type(error).__name__, _one_line(error), code, as_json)
    return 0


def _one_line(error: BaseException) -> str:
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        return f"{format_message()} (see `vortex --help` or `vortex COMMAND --help`)"
    if isinstance(error, MemoryError) and not str(error):
        return "out of memory; give a smaller --ram-budget"
    return " ".join(str(error).split()) or type(error).__name__


def _report(kind: str, message: str, code: int, as_json: bool) -> int:
    with _quiet_broken_pipe():
        if as_json:
            emit_json({"error": {"type": kind, "message": message, "exit_code": code}})
            sys.stdout.flush()
        note(f"vortex: {message}")
    return code


@contextmanager
def _quiet_broken_pipe() -> Generator[None]:
    """A reader that has seen enough (`vortex … | head`) ends the program without a word."""
    try:
        yield
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; that must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
