"""What one run of the harness measures with: folders, threads, peers, and the files it makes once and keeps."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.c3.gguf_convert import convert
from benchmarks.c3.report import MissingPeerError
from benchmarks.make_model import make_model
from vortex_engine import _native, ops
from vortex_engine.c3.layout import CODEC_IDS
from vortex_engine.c3.pack import pack

# What the figures measure, `exact` first, where this package has it; `lz4` says nothing on weights without redundancy.
LOSSLESS = ("exact", "exact12", "raw", "dense")
LOSSY = ("int8", "int4")
_LLAMA_BIN = "VORTEX_LLAMA_BIN"


@dataclass(frozen=True)
class Setting:
    """One run. `work` keeps models between runs; `machine` is measured at its start."""

    work: Path
    results: Path
    threads: int
    quick: bool
    max_rounds: int | None
    llama_bin: Path | None
    weights: tuple[Path, ...]
    machine: dict[str, Any]

    @property
    def shape(self) -> str:
        """Shape of the random model."""
        return "small" if self.quick else "qwen2-0.5b"

    def rounds(self, normal: int) -> int:
        """How often contenders take turns."""
        return normal if self.max_rounds is None else min(normal, self.max_rounds)

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
            MissingPeerError: it is neither in --llama-bin, nor in the folder that VORTEX_LLAMA_BIN names, nor on PATH.
        """
        folder = os.environ.get(_LLAMA_BIN) if self.llama_bin is None else str(self.llama_bin)
        found = shutil.which(program, path=folder)
        if found is None:
            where = f"on PATH (give --llama-bin DIR or set {_LLAMA_BIN})" if folder is None else f"in {folder}"
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


def present(names: Iterable[str]) -> list[str]:
    """Those of the codecs that this package packs with."""
    return [name for name in names if name in CODEC_IDS]


@dataclass(frozen=True)
class Variant:
    """A codec and the way that its tiles are multiplied: `activations` None is the package's default."""

    codec: str
    activations: str | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.codec if self.activations is None else f"{self.codec}, {self.activations} activations"

    @property
    def options(self) -> dict[str, str]:
        """Keyword arguments of `vx.load` and `ops.paged_linear`."""
        return {} if self.activations is None else {"activations": self.activations}


def variants(names: Iterable[str]) -> list[Variant]:
    """Every codec that is present, and the lossy ones with 8-bit activations too where this package has them."""
    with_int8 = "activations" in inspect.signature(ops.paged_linear).parameters
    return [
        Variant(name, activations)
        for name in present(names)
        for activations in ((None, "int8") if name in LOSSY and with_int8 else (None,))
    ]
