"""The one place that launches a kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vortex_engine.kernels.support import interpreted

__all__ = ["check_device", "launch"]

_MAX_GRID = (2**31 - 1, 65535, 65535)


def check_device(op: str, name: str, tensor: Tensor) -> None:
    """Refuses a tensor where kernels cannot reach it.

    Raises:
        ValueError: the tensor is not on a CUDA device; under the interpreter, not on the CPU.
    """
    wanted = "cpu" if interpreted() else "cuda"
    if tensor.device.type != wanted:
        raise ValueError(f"[{op}] {name} must be on a {wanted} device, got {tensor.device}")


def launch(op: str, kernel: Any, grid: tuple[int, int, int], arena: Tensor, *arguments: Any, **options: Any) -> None:
    """Runs kernel[grid](arena, *arguments) on the arena's device and its current stream.

    Multiplications and additions are never contracted: a fused multiply-add is one only where the kernel says so.
    Triton raises where the driver refuses the launch; what fails on the device surfaces at the next synchronisation.

    Raises:
        ValueError: the grid is larger than a CUDA grid may be.
    """
    if not all(1 <= size <= limit for size, limit in zip(grid, _MAX_GRID, strict=True)):
        raise ValueError(f"[{op}] a grid must be from 1 to {_MAX_GRID} programs, got {grid}")
    if arena.device.type == "cuda":
        with torch.cuda.device(arena.device):
            kernel[grid](arena, *arguments, enable_fp_fusion=False, **options)
    else:
        kernel[grid](arena, *arguments, **options)
