"""A trained VORTEX model as a Hugging Face directory, and back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its path is untyped
from tokenizers import Tokenizer

from vortex_engine.models.vortex_config import config_json, parse_config
from vortex_engine.train.files import save_tensors_atomically, write_text_atomically
from vortex_engine.train.vortex_model import TrainableVortex

__all__ = ["load_vortex", "save_vortex"]


def save_vortex(
    model: TrainableVortex,
    directory: Path,
    tokenizer: Tokenizer | None = None,
    *,
    eos_token_id: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write config.json, tokenizer.json and model.safetensors, which `vortex pack` takes.

    The weight file is replaced last, so a reader that waits for it finds the rest in place.

    Args:
        tokenizer: None for a directory without one, which can be packed but not loaded.
        eos_token_id: the id that ends a text.
        dtype: that weights are rounded to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = str(dtype).removeprefix("torch.")
    document = config_json(model.config) | {"eos_token_id": eos_token_id, "torch_dtype": name}
    write_text_atomically(directory / "config.json", json.dumps(document, indent=2) + "\n")
    if tokenizer is not None:
        write_text_atomically(directory / "tokenizer.json", tokenizer.to_str())
    rounded = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_tensors_atomically(directory / "model.safetensors", rounded, metadata={"format": "pt"})


def load_vortex(directory: Path) -> TrainableVortex:
    """A directory written by `save_vortex`, for float32 arithmetic on its rounded weights, in evaluation mode.

    Raises:
        ModelConfigError: its config.json is not one of a VORTEX model.
    """
    model = TrainableVortex(parse_config(json.loads((directory / "config.json").read_text(encoding="utf-8"))))
    tensors = load_file(directory / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()
