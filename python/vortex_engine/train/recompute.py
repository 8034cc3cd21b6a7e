"""Memory for time: the activations of a block are computed again when its gradient is."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType] - partly without types

__all__ = ["recompute_blocks"]


def recompute_blocks(blocks: Iterable[nn.Module]) -> None:
    """Keep only the inputs of each block between forward and backward; the gradients have the same bits."""
    for block in blocks:
        # The method is wrapped, not the module, so the names of the parameters stay.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
