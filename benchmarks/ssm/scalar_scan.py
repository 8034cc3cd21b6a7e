"""scalar_scan.c, compiled on the spot by the machine's own compiler and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.c3.report import MissingPeerError
from benchmarks.ssm.problem import F32, Contender, Layer

__all__ = ["scalar_scan"]

_SOURCE = Path(__file__).with_name("scalar_scan.c")


def scalar_scan(layer: Layer, n_threads: int, flags: Sequence[str]) -> Contender:
    """The loop on a batch of 1, compiled with these flags.

    Raises:
        MissingPeerError: there is no C compiler, or it refuses.
    """
    function = _compile(flags)
    _, channels, length = layer.u.shape
    n_state = layer.A.shape[1]
    arguments = layer.arguments()
    for name in ("B", "C"):  # states of a time side by side: what the loop would ask for
        arguments[name] = arguments[name].transpose(0, 2, 1)
    order = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    arrays = [np.ascontiguousarray(arguments[name]) for name in order]
    state = np.empty((channels, n_state), np.float32)

    def run() -> F32:
        y = np.empty(layer.u.shape, np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*arrays, state, y)]
        sizes = [ctypes.c_int64(size) for size in (channels, length, n_state)]
        error = function(*sizes, *pointers, ctypes.c_int(n_threads))
        if error:
            raise OSError(error, "scalar_scan could not start its threads")
        return y

    return run


def _compile(flags: Sequence[str]) -> Callable[..., int]:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise MissingPeerError("scalar C: no C compiler (cc) on PATH")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "scalar_scan.so"
        command = [compiler, *flags, "-shared", "-fPIC", "-pthread", "-o", str(library), str(_SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MissingPeerError(f"scalar C: {' '.join(command[:3])} failed: {done.stderr.strip()[-300:]}")
        return ctypes.CDLL(str(library)).scalar_scan
