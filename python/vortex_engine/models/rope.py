"""Inverse frequencies of rotary position embeddings, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RopeConfig", "inverse_frequencies"]


@dataclass(frozen=True)
class RopeConfig:
    """Checked rope parameters; the last four fields matter only to the kinds that name them."""

    theta: float
    kind: str = "default"  # default, linear or llama3
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> NDArray[np.float64]:
    """The angle per position of each of the `head_dim / 2` rotated pairs.

    default: theta^(-2i/d). linear: divided by `factor` (arXiv 2306.15595). llama3: wavelengths above
    original/low_freq_factor are divided by `factor`, those below original/high_freq_factor stay, between them the two
    are blended linearly in original/wavelength (Llama 3.1 release).
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    inv_freq = 1.0 / rope.theta**exponent
    if rope.kind == "linear":
        return inv_freq / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_max_position_embeddings * inv_freq / (2.0 * math.pi)
        blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        return (1.0 - blend) * inv_freq / rope.factor + blend * inv_freq
    return inv_freq
