"""What one run of these benchmarks measures with, besides what `benchmarks.c3` has: models that say something."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bad.prompts import read_prompts
from benchmarks.bad.widen import Growth, widen
from benchmarks.c3.gguf_convert import convert
from benchmarks.c3.report import MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.make_model import make_model
from vortex_engine.decode.load import model_path
from vortex_engine.decode.options import DRAFTER_NAMES
from vortex_engine.tok import load_tokenizer


@dataclass(frozen=True)
class SpeculationSetting(Setting):
    """One run; `data` is the folder of prompts and checkpoints."""

    data: Path

    @property
    def wide_name(self) -> str:
        """Name of the grown model, which its files carry."""
        return "wide-small" if self.quick else "wide"

    def wide_source(self) -> Path:
        """`nano` grown to 1.05 GB of bf16 (to 105 MB where it shall be quick), made once."""
        folder = self.work / self.wide_name
        if not (folder / "config.json").is_file():  # written last
            shutil.rmtree(folder, ignore_errors=True)
            growth = Growth(n_layers=6, intermediate_size=1024) if self.quick else Growth()
            print(
                f"{folder}: {100 * widen(model_path('nano'), folder, growth).zero_share:.2f} % of the weights are zero"
            )
        return folder

    def wide_bytes(self) -> int:
        """Bytes of the grown checkpoint's weights file."""
        return (self.wide_source() / "model.safetensors").stat().st_size

    def wide_packed(self) -> Path:
        """The grown model packed with `exact`."""
        return self.pack_once(self.wide_source(), self.wide_name, "exact")

    def wide_gguf(self) -> Path:
        """The grown model as bf16 GGUF, made once."""
        target = self.work / f"{self.wide_name}-BF16.gguf"
        if not target.is_file():
            convert(self.wide_source(), target)
        return target

    def random_packed(self, shape: str) -> Path:
        """A random model of a shape of `make_model`, packed with `exact`."""
        folder = self.work / shape
        if not (folder / "tokenizer.json").is_file():  # written last
            shutil.rmtree(folder, ignore_errors=True)
            make_model(folder, shape)
        return self.pack_once(folder, shape, "exact")

    def trained(self) -> dict[str, Path]:
        """Packed trained models that text can be asked of: nano, and stories260K where its checkpoint is.

        Raises:
            MissingPeerError: no stories260K.
        """
        source = self.data / "weights" / "stories260K" / "hf"
        if not source.is_dir():
            raise MissingPeerError(f"stories260K: no checkpoint in {source}; give the folder of the data with --data")
        return {"nano": model_path("nano"), "stories260K": self.pack_once(source, "stories260K", "exact")}

    def prompt_ids(self, model: Path, n: int, *kinds: str, max_tokens: int | None = None) -> list[list[int]]:
        """Ids of `n` prompts of these kinds, cut to `max_tokens` from the left."""
        tokenizer = load_tokenizer(model)
        ids = [tokenizer.encode(prompt.text) for prompt in read_prompts(n, kinds, self.data)]
        return ids if max_tokens is None else [prompt[-max_tokens:] for prompt in ids]


def is_available(speculate: str) -> bool:
    """Whether this package has the drafters that `speculate` names."""
    return speculate in ("off", "auto") or set(speculate.split("+")) <= set(DRAFTER_NAMES)


def kv_bytes(model: Path, n_positions: int) -> int:
    """Bytes of a float32 KV state of so many positions."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * 4 * layers * heads * head_dim * n_positions
