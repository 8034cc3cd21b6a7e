"""Matrices whose tiles all lie in device memory: what `paged_linear` takes for a pager on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vortex_engine.kernels.paged_linear import paged_linear
from vortex_engine.kernels.tiles import DeviceMatrix, device

from vortex_engine.errors import BackendUnavailableError

__all__ = ["ResidentMatrices", "paged_linear_arrays"]


class ResidentMatrices:
    """Handles of matrices in device memory; `shape` and the handles are those of a pager."""

    def __init__(self) -> None:
        self._matrices: list[DeviceMatrix] = []

    def add_matrix(self, matrix: DeviceMatrix) -> int:
        self._matrices.append(matrix)
        return len(self._matrices) - 1

    def matrix(self, handle: int) -> DeviceMatrix:
        """The matrix of a handle.

        Raises:
            ValueError: there is no such handle.
        """
        if not 0 <= handle < len(self._matrices):
            raise ValueError(f"[paged_linear] handle must be from 0 to {len(self._matrices) - 1}, got {handle}")
        return self._matrices[handle]

    def shape(self, handle: int) -> tuple[int, int]:
        matrix = self.matrix(handle)
        return matrix.rows, matrix.cols


def paged_linear_arrays(
    pager: Any,
    handles: Sequence[int],
    x: NDArray[np.float32],
    biases: Sequence[NDArray[np.float32] | None],
    activations: str = "float",
    planes: str = "all",
) -> list[NDArray[np.float32]]:
    """The op's own contract: numpy arrays in and out, weights from `pager`, a ResidentMatrices.

    Raises:
        ValueError: a pager of another backend, a wrong handle, shape or dtype.
        BackendUnavailableError: activations other than "float", planes other than "all".
    """
    if activations != "float":
        raise BackendUnavailableError(
            f"the triton backend multiplies float activations only, got activations={activations!r}; use backend cpu"
        )
    if planes != "all":
        raise BackendUnavailableError(
            f"the triton backend reads whole tiles, which device memory holds, got planes={planes!r}; use backend cpu"
        )
    if not isinstance(pager, ResidentMatrices):
        rule = "pager must be a ResidentMatrices, whose tiles lie in device memory"
        raise ValueError(f"[paged_linear] {rule}, got {type(pager).__name__}")
    if len(biases) != len(handles):
        raise ValueError(f"[paged_linear] biases must have one entry a handle, got {len(biases)}")
    on_device = _upload("x", x)
    outs: list[NDArray[np.float32]] = []
    for handle, bias in zip(handles, biases, strict=True):
        bias_on_device = None if bias is None else _upload("bias", bias)
        outs.append(paged_linear(pager.matrix(handle), on_device, bias_on_device).cpu().numpy())
    return outs


def _upload(name: str, array: NDArray[np.float32]) -> Tensor:
    if array.dtype != np.float32:
        raise ValueError(f"[paged_linear] {name} must be float32, got {array.dtype}")
    return torch.tensor(array, device=device())
