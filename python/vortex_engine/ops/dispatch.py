"""Where an op goes that is not given numpy arrays."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["tensor_ops"]


def tensor_ops(op: str, name: str, value: object) -> Any:
    """The functions for torch tensors, without importing torch for anyone who has none.

    Raises:
        ValueError: the argument `name` is neither an array nor a tensor.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        raise ValueError(f"[{op}] {name} must be a numpy array or a torch tensor, got {type(value).__name__}")
    from vortex_engine.ops import torch_ops as functions

    return functions
