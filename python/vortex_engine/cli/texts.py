"""Texts that commands read."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

__all__ = ["file_text", "stdin_text"]


def stdin_text(argument: str) -> str:
    """Standard input as UTF-8; `argument` is what may be given instead."""
    if sys.stdin.isatty():
        raise typer.BadParameter(f"give {argument}, or pipe a text into standard input")
    return _decoded(sys.stdin.buffer.read(), "standard input")


def file_text(path: Path) -> str:
    """A file as UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error
    return _decoded(data, str(path))


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        value = error.object[error.start]
        raise typer.BadParameter(f"{where} is not UTF-8 text: byte {error.start} is 0x{value:02x}") from error
