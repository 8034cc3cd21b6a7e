"""Bases in which a LAVA bank stores vectors: the directions that samples vary in, and rotations that spread a vector.

Two bits a dimension say most where all dimensions of a vector have about the same magnitude, which a random rotation
sees to (arXiv:2405.12497).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_basis", "stored_basis"]

F32 = NDArray[np.float32]


def fit_basis(samples: F32, rank: int) -> F32:
    """[rank, dim] orthonormal rows: the best `rank` directions to store vectors like `samples` in.

    Args:
        samples: [n, dim] float32, n at least `rank`.

    Raises:
        ValueError: a rank that is not from 1 to the smaller side of `samples`.

    Source: the truncated singular value decomposition (Eckart-Young).
    """
    if samples.ndim != 2 or not 1 <= rank <= min(samples.shape):
        raise ValueError(f"[fit_basis] rank must be from 1 to the sides of samples {samples.shape}, got {rank}")
    _, _, directions = np.linalg.svd(samples.astype(np.float64), full_matrices=False)
    return np.ascontiguousarray(directions[:rank], np.float32)


def stored_basis(basis: F32 | None, dim: int, contents: str) -> F32:
    """What a bank of these contents is made with; no rows for the space itself."""
    if contents != "2bit":
        return np.zeros((0, max(dim, 0)), np.float32) if basis is None else basis
    rotation = _rotation(dim if basis is None else len(basis))
    return rotation if basis is None else np.ascontiguousarray(rotation @ basis)


def _rotation(dim: int) -> F32:
    """[dim, dim], the same for every dim: random signs, then Hadamard matrices of powers of two that make up dim."""
    rows = np.zeros((dim, dim))
    begin = 0
    for size in (1 << bit for bit in reversed(range(dim.bit_length())) if dim >> bit & 1):
        block = np.ones((1, 1))
        while len(block) < size:
            block = np.block([[block, block], [block, -block]])
        rows[begin : begin + size, begin : begin + size] = block / np.sqrt(size)
        begin += size
    signs = np.random.default_rng(dim).choice([-1.0, 1.0], dim)
    return np.ascontiguousarray(rows * signs, np.float32)
