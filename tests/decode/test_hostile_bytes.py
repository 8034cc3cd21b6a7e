"""Invariant 4 as a user meets it: whatever byte of a packed model changes, it is an error or the same text."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import vortex_engine as vx
from vortex_engine.errors import TileFileError

_PROMPT = "def fib(n):"
_FLIPS_PER_FILE = 40


def _outcome(path: Path) -> tuple[tuple[int, ...], str, bytes]:
    with vx.load(path, threads=1) as model:
        result = model.generate(_PROMPT, max_new_tokens=6, ignore_eos=True)
        return result.token_ids, result.text, np.ascontiguousarray(model.logits(_PROMPT)).tobytes()


def _files(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


@pytest.fixture(scope="module")
def expected(tiny_c3_dir: Path) -> tuple[tuple[int, ...], str, bytes]:
    return _outcome(tiny_c3_dir)


def test_every_flipped_byte_is_an_error_or_changes_nothing(tiny_c3_dir, expected, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_c3_dir, copy)
    rng = random.Random(11)
    refused: dict[str, int] = {}
    for name in _files(copy):
        file = copy / name
        size = file.stat().st_size
        refused[name] = 0
        for _ in range(_FLIPS_PER_FILE):
            offset, mask = rng.randrange(size), 1 << rng.randrange(8)
            with file.open("r+b") as f:
                byte = os.pread(f.fileno(), 1, offset)
                os.pwrite(f.fileno(), bytes([byte[0] ^ mask]), offset)
                try:
                    assert _outcome(copy) == expected, f"{name}, offset {offset}: other text or logits, no error"
                except TileFileError as error:
                    refused[name] += 1
                    assert name in str(error) or name in (error.file or ""), f"{name}, offset {offset}: {error}"
                finally:
                    os.pwrite(f.fileno(), byte, offset)
    assert _outcome(copy) == expected
    # Flips in padding change nothing; anywhere else they must be seen.
    assert all(count > 0 for count in refused.values()), refused


def test_every_truncated_file_is_an_error(tiny_c3_dir, tmp_path):
    for name in _files(tiny_c3_dir):
        copy = tmp_path / name.replace(".", "_")
        shutil.copytree(tiny_c3_dir, copy)
        os.truncate(copy / name, (copy / name).stat().st_size // 2)
        with pytest.raises(TileFileError, match=r"\S"):
            _outcome(copy)


def test_every_missing_file_is_an_error(tiny_c3_dir, tmp_path):
    for name in _files(tiny_c3_dir):
        copy = tmp_path / name.replace(".", "_")
        shutil.copytree(tiny_c3_dir, copy)
        (copy / name).unlink()
        with pytest.raises(vx.VortexError, match=r"\S"):
            _outcome(copy)
