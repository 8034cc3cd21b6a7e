"""Putting a packed model together: directory, pager, context and decoder under one byte budget."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vortex_engine import ops
from vortex_engine.c3.activations import chosen_activations
from vortex_engine.c3.directory import C3Directory, add_matrices, open_directory
from vortex_engine.decode.options import positive_integer
from vortex_engine.errors import BackendUnavailableError, ModelConfigError
from vortex_engine.models import build_model
from vortex_engine.models.protocol import LanguageModel
from vortex_engine.profile import available_ram_bytes, default_ram_budget, parse_bytes

__all__ = ["LoadedParts", "load_parts", "model_path"]

_NANO = Path(__file__).parent.parent / "models" / "nano" / "nano.c3"
_POLICIES = ("stable", "lru")
# What the temporaries of one prefill sweep may take; a longer chunk means fewer sweeps over the weights.
_PREFILL_ACTIVATION_BYTES = 24 << 20
_PREFILL_CHUNK_RANGE = (16, 512)


@dataclass(frozen=True)
class LoadedParts:
    """Everything a model is made of; whoever holds it closes the pager, which `ops.make_pager` made."""

    directory: C3Directory
    pager: Any
    ctx: ops.OpContext
    decoder: LanguageModel
    ram_budget_bytes: int
    prefill_chunk: int
    activations: str


def load_parts(
    path: str | os.PathLike[str],
    *,
    device: str,
    ram_budget: int | str | None,
    vram_budget: int | str | None,
    threads: int | None,
    profile: str | None,
    prefill_chunk: int | None,
    policy: str,
    activations: str | None,
) -> LoadedParts:
    """Check the arguments of `load`, open the directory and start the pager."""
    _check_device(device, vram_budget, profile)
    if policy not in _POLICIES:
        raise ValueError(f"policy must be one of {', '.join(_POLICIES)}, got {policy!r}")
    if threads is not None:
        threads = positive_integer("threads", threads)
    if prefill_chunk is not None:
        prefill_chunk = positive_integer("prefill_chunk", prefill_chunk)
    budget_bytes = None if ram_budget is None else parse_bytes(ram_budget, "ram_budget")

    directory = open_directory(model_path(path))
    if directory.tokenizer_path is None:
        raise ModelConfigError(
            f"{directory.path} has no tokenizer.json, which the engine needs to generate; put it into the checkpoint "
            "(AutoTokenizer.from_pretrained(SRC).save_pretrained(SRC)) and pack that, or run the model with "
            "transformers after: import vortex_engine.hf"
        )
    activations = chosen_activations(directory, activations)
    if budget_bytes is None:
        budget_bytes = default_ram_budget(directory.compressed_bytes, available_ram_bytes())
    ctx = ops.make_context(threads=threads)
    pager = ops.make_pager(ctx, budget_bytes, policy)
    try:
        decoder = build_model(directory, pager, add_matrices(directory, pager), ctx, activations)
        pager.start(list(decoder.sweep), list(decoder.drafted))
    except BaseException:
        pager.close()
        raise
    if prefill_chunk is None:
        low, high = _PREFILL_CHUNK_RANGE
        prefill_chunk = min(max(_PREFILL_ACTIVATION_BYTES // decoder.activation_bytes_per_row(), low), high)
    return LoadedParts(directory, pager, ctx, decoder, budget_bytes, prefill_chunk, activations)


def _check_device(device: str, vram_budget: int | str | None, profile: str | None) -> None:
    if device == "cuda":
        raise BackendUnavailableError(
            "device 'cuda' is not available: this version runs on the CPU; use device='auto' or 'cpu'"
        )
    if device not in ("auto", "cpu"):
        raise ValueError(f"device must be 'auto' or 'cpu', got {device!r}")
    if vram_budget is not None:
        parse_bytes(vram_budget, "vram_budget")
        raise BackendUnavailableError(
            f"vram_budget = {vram_budget!r} cannot be used: this version runs on the CPU; leave it out"
        )
    if profile is not None:
        raise ValueError(f"profile {profile!r} is unknown: this version has no profiles; leave it out")


def model_path(path: str | os.PathLike[str]) -> Path:
    """The directory of a packed model, "nano" resolved.

    Raises:
        ModelConfigError: this installation has no embedded model.
    """
    if path != "nano":
        return Path(path)
    if not _NANO.is_dir():
        raise ModelConfigError(f"the embedded model 'nano' is not in this installation ({_NANO}); reinstall the wheel")
    return _NANO
