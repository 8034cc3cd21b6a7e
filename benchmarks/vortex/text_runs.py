"""Runs of `vortex train` on half code, half prose, kept once they are done, and bits per byte of held-out text."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bad.prompts import DATA
from benchmarks.c3.report import MissingPeerError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BATCH_TOKENS",
    "KINDS",
    "LENGTH",
    "VOCAB",
    "Texts",
    "held_out_bits",
    "kept",
    "load_weights",
    "prepare",
    "run_folder",
]

VOCAB, LENGTH, BATCH_TOKENS = 1024, 512, 4096
KINDS = ("code", "prose")
_WINDOWS = 64  # of held-out text, of each kind
_PROSE = ("markdown", "rst")
_TRAIN_BYTES = 4_000_000  # of each kind


@dataclass(frozen=True)
class Texts:
    """What models are trained on and measured with: held-out text by kind."""

    train: list[Path]
    held_out: dict[str, Path]
    tokenizer: Path


def prepare(folder: Path) -> Texts:
    """Text by kind and a tokenizer, made once."""
    from vortex_engine.train.tokenizer import train_tokenizer

    texts = Texts(
        [folder / f"train_{kind}.jsonl" for kind in KINDS],
        {kind: folder / f"valid_{kind}.jsonl" for kind in KINDS},
        folder / "tokenizer.json",
    )
    if texts.tokenizer.is_file():
        return texts
    folder.mkdir(parents=True, exist_ok=True)
    try:
        train = sorted(_rows(DATA / "corpus" / "code_train_2a.jsonl.gz"), key=_shuffled)
        valid = list(_rows(DATA / "corpus" / "code_valid.jsonl.gz"))
    except FileNotFoundError as error:
        raise MissingPeerError(f"no text to train on: {error}") from error
    chosen: list[str] = []
    for kind, path in zip(KINDS, texts.train, strict=True):
        rows: list[dict[str, str]] = []
        n_bytes = 0
        for row in train:
            if _kind(row) == kind and n_bytes < _TRAIN_BYTES:
                n_bytes += len(row["text"].encode())
                rows.append(row)
        chosen += [row["text"] for row in rows]
        _write(path, rows)
        _write(texts.held_out[kind], [row for row in valid if _kind(row) == kind])
    texts.tokenizer.write_text(train_tokenizer(chosen, vocab_size=VOCAB).to_str(), encoding="utf-8")
    return texts


def kept(
    folder: Path,
    texts: Texts,
    name: str,
    section: Mapping[str, Any],
    rate: float,
    seed: int,
    steps: int,
    threads: int,
) -> dict[str, Any]:
    """The run, trained unless it was before."""
    out = run_folder(folder, name, rate, seed, steps)
    result = out.parent / f"{out.name}.json"
    if not result.is_file():
        found = {"arm": name, "rate": rate, "seed": seed} | _trained(out, texts, section, rate, seed, steps, threads)
        print(json.dumps(found), flush=True)
        result.write_text(json.dumps(found))
    return json.loads(result.read_bytes())


def run_folder(folder: Path, name: str, rate: float, seed: int, steps: int) -> Path:
    """Where a run is."""
    return folder / f"{name.replace(' ', '_')}-{rate:g}-{seed}-{steps}"


def _trained(
    out: Path, texts: Texts, section: Mapping[str, Any], rate: float, seed: int, steps: int, threads: int
) -> dict[str, Any]:
    if find_spec("torch") is None:
        raise MissingPeerError("torch is not installed: pip install 'vortex-engine[train]'")
    from vortex_engine.train.config import TrainConfig
    from vortex_engine.train.launch import train
    from vortex_engine.train.registry import build_trainable

    cache = out.parent / "tokens"
    config = TrainConfig.model_validate(
        {
            "out": out,
            "seed": seed,
            "model": dict(section),
            "data": {"train": texts.train, "tokenizer": str(texts.tokenizer), "seq_len": LENGTH, "cache": cache},
            "optim": {"lr": rate},
            "schedule": {"warmup_steps": steps // 10, "min_scale": 0.02},
            "loop": {
                "steps": steps,
                "batch_tokens": BATCH_TOKENS,
                "threads": threads,
                "precision": "fp32",
                "device": "cpu",
                "plot": False,
            },
        }
    )
    report = train(config, resume=True, quiet=True)
    model = build_trainable(config.model, VOCAB).module
    load_weights(model, out)
    found: dict[str, Any] = {"parameters": report.n_parameters, "loss": report.loss, "tokens": report.n_tokens}
    return found | held_out_bits(model, texts, cache)


def load_weights(model: nn.Module, out: Path) -> None:
    """Those of the last checkpoint of a run."""
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its path is untyped

    from vortex_engine.train.checkpoint import LAST, MODEL

    tensors = load_file(out / LAST / MODEL / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def held_out_bits(model: nn.Module, texts: Texts, cache: Path) -> dict[str, float]:
    """Bits per byte of each kind of held-out text; the model is then in evaluation mode."""
    import torch

    from vortex_engine.train.bits import spread_windows, window_bits_per_byte
    from vortex_engine.train.codec import open_codec
    from vortex_engine.train.config import DataSection
    from vortex_engine.train.corpus import tokenise
    from vortex_engine.train.objective import Objective
    from vortex_engine.train.parallel import World

    objective = Objective(model).eval()
    codec = open_codec(str(texts.tokenizer), DataSection.model_fields["end_of_text"].default)
    found: dict[str, float] = {}
    with torch.no_grad():
        for kind, path in texts.held_out.items():
            windows = spread_windows(tokenise([path], codec, cache).ids, n_windows=_WINDOWS, length=LENGTH)
            found[kind] = window_bits_per_byte(
                lambda rows: objective(rows)[0], windows, codec.byte_lengths(), rows_at_once=8, world=World()
            )
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _kind(row: Mapping[str, str]) -> str:
    return "prose" if row["lang"] in _PROSE else "code"


def _shuffled(row: Mapping[str, str]) -> bytes:
    return hashlib.blake2b(f"{row['repo']}\0{row['path']}".encode(), digest_size=8).digest()


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows), encoding="utf-8")
