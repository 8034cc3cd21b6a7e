"""Atomic file replacement: a reader sees the old file or the new one, never half of either."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save

# What the kernel says when there is no room for more.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def replace_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it and rename it over `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    if os.name == "posix":
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by UTF-8 `text` atomically."""
    replace_atomically(path, lambda temporary: _write_text(temporary, text))


def save_tensors_atomically(path: Path, tensors: Mapping[str, torch.Tensor], *, metadata: dict[str, str]) -> None:
    """Replace `path` by a safetensors file of contiguous `tensors` atomically."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # As bytes, because safetensors' own file writing gives the file a mode that ignores the umask.
    data = save(contiguous, metadata=metadata)
    replace_atomically(path, lambda temporary: _write_bytes(temporary, data))


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
