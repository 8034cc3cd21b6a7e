"""Which arithmetic a machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

__all__ = ["computes_bf16", "use_bf16"]

# As Linux names them on x86-64 and on 64-bit Arm.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def computes_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether a device multiplies bf16 in hardware; elsewhere autocast would only cost time and precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not cpuinfo.exists():
        return False
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(_CPU_FLAGS & set(flags.partition(":")[2].split()))


def use_bf16(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Whether a run computes under bf16 autocast."""
    return precision == "bf16" or (precision == "auto" and computes_bf16(device))
