"""Sizes of the parts of a VORTEX layer, for those that run packed and those that are trained."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AttentionShape", "LavaShape"]


@dataclass(frozen=True)
class AttentionShape:
    """Sliding-window attention: grouped queries over the last `window` positions, the row's own included."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int


@dataclass(frozen=True)
class LavaShape:
    """The memory of one layer: `n_heads` queries a row, one key and one value a position.

    Attributes:
        n_lists, n_probe: lists of the bank at most, and those a read goes through; k: slots it reads of them.
        capacity: slots; contents: how they are stored, "fp16", "int8" or "2bit".
        tail: whether a read estimates the slots it leaves out from their lists' means.
        half_life: positions by which a slot may be older for each nat of its importance.
        read_every, write_every: positions that are multiples of it read, or are written; 0 writes none for its place.
        write_on_surprise: nats of -log p above which a position is written wherever it is; 0 for off.
    """

    n_heads: int
    key_dim: int
    value_dim: int
    n_lists: int
    n_probe: int
    k: int
    capacity: int = 1 << 20
    contents: str = "fp16"
    tail: bool = True
    half_life: float = 65536.0
    read_every: int = 1
    write_every: int = 1
    write_on_surprise: float = 0.0
