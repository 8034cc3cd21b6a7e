"""Inverse frequencies of rotary position embeddings, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RopeConfig", "inverse_frequencies"]


@dataclass(frozen=True)
class RopeConfig:
    """Checked rope parameters; all fields but the first matter only to the kinds that name them."""

    theta: float
    kind: str = "default"  # default, linear, llama3 or yarn
    factor: float = 1.0  # all but default
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    original_max_position_embeddings: int = 8192  # llama3, yarn
    beta_fast: float = 32.0  # yarn, and below
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0  # of cos and sin: queries and keys both grow by it


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> NDArray[np.float64]:
    """The angle per position of each of the `head_dim / 2` rotated pairs.

    default: theta^(-2i/d). linear: divided by `factor` (arXiv 2306.15595). llama3: wavelengths above
    original/low_freq_factor are divided by `factor`, those below original/high_freq_factor stay, between them the two
    are blended linearly in original/wavelength (Llama 3.1 release). yarn: pairs that turn more than `beta_fast` times
    in the original context stay, those that turn less than `beta_slow` times are divided by `factor`, between them
    the two are blended linearly in i (arXiv 2309.00071, section 3.2; bounds as transformers 5 rounds and clips them).
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    inv_freq = 1.0 / rope.theta**exponent
    if rope.kind == "linear":
        return inv_freq / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_max_position_embeddings * inv_freq / (2.0 * math.pi)
        kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    elif rope.kind == "yarn":
        low, high = _yarn_range(rope, head_dim)
        kept = 1.0 - (np.arange(head_dim // 2) - low) / (high - low)
    else:
        return inv_freq
    kept = np.clip(kept, 0.0, 1.0)
    return (1.0 - kept) * inv_freq / rope.factor + kept * inv_freq


def _yarn_range(rope: RopeConfig, head_dim: int) -> tuple[float, float]:
    """Where, in numbers of pairs, the blend starts and ends."""

    def pair_that_turns(times: float) -> float:
        turns_of_pair_0 = rope.original_max_position_embeddings / (2.0 * math.pi)
        return head_dim * math.log(turns_of_pair_0 / times) / (2.0 * math.log(rope.theta))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high
