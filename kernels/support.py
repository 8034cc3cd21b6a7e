"""Whether Triton kernels can run here, in words."""

from __future__ import annotations

import ctypes
import os
from importlib.metadata import version
from importlib.util import find_spec

__all__ = ["MIN_SM", "interpreted", "reason_against"]

MIN_SM = 80  # Triton itself needs it
MIN_TRITON = (3, 5)  # older compilers refuse a matrix product of 8 rows
MIN_INTERPRETER = (3, 9)  # older interpreters were seen to fail with numpy 2.4


def interpreted() -> bool:
    """Whether TRITON_INTERPRET asks for the interpreter, which runs kernels on CPU tensors for tests."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def reason_against() -> str | None:
    """None, or the reason why the kernels cannot run here. Imports torch only where an NVIDIA driver is installed."""
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f"{package} is not installed: pip install 'vortex-engine[gpu]'"
    least = MIN_INTERPRETER if interpreted() else MIN_TRITON
    found = version("triton")
    if tuple(int(part) for part in found.split(".")[:2]) < least:
        what = "its interpreter" if interpreted() else "these kernels"
        return f"triton {found} is too old for {what}: pip install 'triton>={least[0]}.{least[1]}'"
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
