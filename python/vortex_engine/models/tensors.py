"""Taking the tensors of a packed directory by name, with the shape a model expects of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import ModelConfigError

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory

__all__ = ["TensorTable"]

# Rotary tables that old checkpoints carry; they are recomputed from the configuration.
_RECOMPUTED = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
# Names under which a tensor would take part in the forward pass of a decoder.
_FORWARD = re.compile(r"(model|backbone|lm_head)\..*")


class TensorTable:
    """Hands out every tensor a model needs and says at the end what nobody asked for."""

    def __init__(self, directory: C3Directory, handles: dict[str, int]) -> None:
        self._directory = directory
        self._handles = handles
        self._taken: set[str] = set()

    def matrix(self, name: str, shape: tuple[int, int]) -> int:
        """The pager's handle of a packed matrix."""
        matrix = self._directory.matrices.get(name)
        if matrix is None:
            found = self._directory.tensors.get(name)
            raise self._missing(name, shape, None if found is None else found.shape)
        if (matrix.rows, matrix.cols) != shape:
            raise self._missing(name, shape, (matrix.rows, matrix.cols))
        self._taken.add(name)
        return self._handles[name]

    def vector(self, name: str, length: int) -> NDArray[np.float32]:
        """A norm weight or bias, float32 [length]."""
        return self._array(name, (length,))

    def finite(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A tensor of that shape, float32.

        Raises:
            ModelConfigError: it is not there, has another shape or holds a value that is not finite.
        """
        values = self._array(name, shape)
        if not np.isfinite(values).all():
            at = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
            raise ModelConfigError(
                f"{self._directory.path}: tensor {name!r} must be finite, it has {values[tuple(at)]} at {at}; the "
                "checkpoint is damaged"
            )
        return values

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        tensor = self._directory.tensors.get(name)
        if tensor is None:
            matrix = self._directory.matrices.get(name)
            raise self._missing(name, shape, None if matrix is None else (matrix.rows, matrix.cols))
        if tuple(tensor.shape) != shape:
            raise self._missing(name, shape, tensor.shape)
        self._taken.add(name)
        return self._directory.tensor(name)

    def unused(self, *, tied_head: str | None) -> tuple[str, ...]:
        """Names that nobody took and that cannot change the forward pass.

        Raises:
            ModelConfigError: a name that would, had the configuration told to use it.
        """
        names = {*self._directory.matrices, *self._directory.tensors} - self._taken
        for name in sorted(names):
            if _FORWARD.fullmatch(name) and not _RECOMPUTED.fullmatch(name) and name != tied_head:
                raise ModelConfigError(
                    f"{self._directory.path}: tensor {name!r} has no place in the model that config.json describes; "
                    "the checkpoint and its configuration do not belong together"
                )
        return tuple(sorted(names))

    def _missing(self, name: str, shape: tuple[int, ...], found: tuple[int, ...] | None) -> ModelConfigError:
        state = "is missing" if found is None else f"has shape {list(found)}"
        return ModelConfigError(
            f"{self._directory.path}: tensor {name!r} {state}; config.json asks for shape {list(shape)}"
        )
