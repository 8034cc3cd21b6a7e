"""Training state in one safetensors file: weights, optimizer state and the few numbers that place them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from vortex_engine.train.files import save_tensors_atomically
from vortex_engine.train.optim import MuonAdamW


@dataclass(frozen=True)
class Position:
    """Where a run stands; `decayed` says that the learning rate has begun to fall."""

    step: int = 0
    n_tokens: int = 0
    elapsed_s: float = 0.0
    decayed: bool = False


def save_checkpoint(path: Path, model: nn.Module, optimizer: MuonAdamW, position: Position) -> None:
    """Replace `path` atomically by the whole training state."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optim.{name}": tensor for name, tensor in optimizer.state().items()}
    # repr of a float is exact, so a resumed schedule continues from the same number.
    metadata = {name: repr(value) for name, value in asdict(position).items()}
    save_tensors_atomically(path, tensors, metadata=metadata)


def read_position(path: Path) -> Position:
    """Where the run of checkpoint `path` stood."""
    with _open(path) as file:
        metadata = file.metadata()
    return Position(
        step=int(metadata["step"]),
        n_tokens=int(metadata["n_tokens"]),
        elapsed_s=float(metadata["elapsed_s"]),
        decayed=metadata["decayed"] == "True",
    )


def load_checkpoint(path: Path, model: nn.Module, optimizer: MuonAdamW) -> Position:
    """Copy the state of checkpoint `path` into `model` and `optimizer`."""
    with _open(path) as file:
        tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    model.load_state_dict(_with_prefix(tensors, "model."))
    optimizer.load_state(_with_prefix(tensors, "optim."))
    return read_position(path)


def _open(path: Path) -> Any:  # safetensors leaves its types open
    return safe_open(path, framework="pt")


def _with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
