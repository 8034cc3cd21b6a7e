"""Whether Triton kernels can run here, in words."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec

__all__ = ["MIN_SM", "interpreted", "reason_against"]

MIN_SM = 80  # Triton itself needs it


def interpreted() -> bool:
    """Whether TRITON_INTERPRET asks for the interpreter, which runs kernels on CPU tensors for tests."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def reason_against() -> str | None:
    """None, or the reason why the kernels cannot run here. Imports torch only where an NVIDIA driver is installed."""
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f"{package} is not installed: pip install 'vortex-engine[gpu]'"
    if interpreted():
        return None
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no CUDA device: no NVIDIA driver (libcuda.so.1) is installed"
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA: install a CUDA build of torch"
    if not torch.cuda.is_available():
        return "there is no CUDA device that torch can use"
    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor < MIN_SM:
        return f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, the kernels need 8.0"
    return None
