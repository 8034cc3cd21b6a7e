"""What one run of the harness measures with: folders, threads, peers, and the files it makes once and keeps."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.c3.gguf_convert import convert
from benchmarks.c3.report import MissingPeerError
from benchmarks.make_model import make_model
from vortex_engine import _native
from vortex_engine.c3.layout import CODEC_IDS
from vortex_engine.c3.pack import pack

# Codecs for redundant bytes say nothing on weights that have none.
_NOT_FOR_WEIGHTS = {"lz4"}


@dataclass(frozen=True)
class Setting:
    """One run. `work` keeps models between runs; `machine` is measured at its start."""

    work: Path
    results: Path
    threads: int
    quick: bool
    llama_bin: Path | None
    weights: tuple[Path, ...]
    machine: dict[str, Any]

    @property
    def shape(self) -> str:
        """Shape of the random model."""
        return "small" if self.quick else "qwen2-0.5b"

    def rounds(self, normal: int) -> int:
        """How often contenders take turns."""
        return 1 if self.quick else normal

    def source(self) -> Path:
        """The random bf16 checkpoint, made once."""
        folder = self.work / self.shape
        if not (folder / "tokenizer.json").is_file():  # written last
            shutil.rmtree(folder, ignore_errors=True)
            make_model(folder, self.shape)
        return folder

    def bf16_bytes(self) -> int:
        """Size of the checkpoint's weights file."""
        return (self.source() / "model.safetensors").stat().st_size

    def packed(self, codec: str) -> Path:
        """The checkpoint packed with `codec` by the native module that is installed now."""
        return self.pack_once(self.source(), self.shape, codec)

    def pack_once(self, source: Path, name: str, codec: str) -> Path:
        """`source` packed with `codec`; made again whenever the native module changes."""
        stamp = hashlib.sha256(Path(str(_native.__file__)).read_bytes()).hexdigest()[:8]
        target = self.work / f"{name}-{codec}-{stamp}.c3"
        if not target.is_dir():
            for old in self.work.glob(f"{name}-{codec}-????????.c3*"):
                shutil.rmtree(old)
            pack(source, target, codec=codec)
        return target

    def llama(self, program: str) -> Path:
        """A program of llama.cpp.

        Raises:
            MissingPeerError: it is neither in --llama-bin nor on PATH.
        """
        found = shutil.which(program, path=None if self.llama_bin is None else str(self.llama_bin))
        if found is None:
            where = "on PATH (give --llama-bin DIR)" if self.llama_bin is None else f"in {self.llama_bin}"
            raise MissingPeerError(f"llama.cpp: no {program} {where}")
        return Path(found)

    def gguf(self, kind: str) -> Path:
        """The checkpoint as GGUF of `kind` (BF16, F16, Q8_0, Q4_0 …), made once."""
        target = self.work / f"{self.shape}-{kind}.gguf"
        if not target.is_file():
            if kind == "BF16":
                convert(self.source(), target)
            else:
                self.quantize(self.gguf("BF16"), target, kind)
        return target

    def quantize(self, source: Path, target: Path, *options: str) -> None:
        """llama-quantize, into a file that appears complete or not at all."""
        partial = target.with_suffix(".partial")
        flags = [option for option in options if option.startswith("-")]
        kind = [option for option in options if not option.startswith("-")]
        command = [str(self.llama("llama-quantize")), *flags, str(source), str(partial), *kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MissingPeerError(f"llama.cpp: llama-quantize {options} failed: {done.stderr.strip()[-300:]}")
        partial.rename(target)


def codecs() -> Iterator[str]:
    """The codecs this package packs weights with, `exact` first."""
    names = sorted(CODEC_IDS, key=lambda name: (name != "exact", CODEC_IDS[name]))
    return (name for name in names if name not in _NOT_FOR_WEIGHTS)
