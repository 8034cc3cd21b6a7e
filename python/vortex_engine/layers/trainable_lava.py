"""The layer of `layers/lava.py` with its own parameters, for training: attention over all it would have written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from vortex_engine.layers.differentiable import normalise
from vortex_engine.state import LavaState

if TYPE_CHECKING:
    from vortex_engine.layers.shapes import LavaShape

__all__ = ["TrainableLava"]

_EPS = 1e-6


class TrainableLava(nn.Module):
    """[B, L, hidden] -> [B, L, hidden], as `LavaLayer` computes it for each sequence with a bank that is read whole.

    Reading k slots of some lists is an approximation of this that needs no training of its own. The output begins at
    zero.

    Args:
        scale: what scores, which are between it and its negative, begin with; None for sqrt(key_dim). A smaller one
            learns sooner; a larger one tells one position from more others.
    """

    def __init__(self, hidden_size: int, shape: LavaShape, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and scale <= 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.shape = shape
        self.q_proj = nn.Linear(hidden_size, shape.n_heads * shape.key_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, shape.key_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, shape.value_dim, bias=False)
        self.o_proj = nn.Linear(shape.n_heads * shape.value_dim, hidden_size, bias=False)
        self.log_scale = nn.Parameter(torch.full((shape.n_heads,), math.log(scale or shape.key_dim**0.5 / 4)))

    def forward(self, x: Tensor, written: Tensor | None = None) -> Tensor:
        """The layer on whole sequences, each from an empty memory.

        Args:
            written: which positions are written, [B, L] or [L] bool; None for all.
        """
        shape, (batch, length, _) = self.shape, x.shape
        reading = x[:, :: shape.read_every]
        q = self._unit(self.q_proj(reading)).view(batch, -1, shape.n_heads, shape.key_dim).transpose(1, 2)
        positions = torch.arange(0, length, shape.read_every, dtype=torch.float64, device=x.device)
        factors = (1.0 + torch.log(positions + 1.0)).to(q.dtype)  # `length_factors` of the layer
        q = q * (self.log_scale.exp().to(q.dtype)[:, None] * factors)[..., None]
        k = self._unit(self.k_proj(x))[:, None].expand(-1, shape.n_heads, -1, -1)
        v = self.v_proj(x)[:, None].expand(-1, shape.n_heads, -1, -1)
        if written is None and shape.read_every == 1:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        else:
            seen = visible(length, written, x.device)[..., :: shape.read_every, :]
            mixed = functional.scaled_dot_product_attention(q, k, v, seen[:, None], scale=1.0)
        read = self.o_proj(mixed.transpose(1, 2).flatten(2))
        if shape.read_every == 1:
            return read
        out = read.new_zeros(batch, length, read.shape[-1])
        out[:, :: shape.read_every] = read
        return out

    def _unit(self, rows: Tensor) -> Tensor:
        """Each key's or query's share of the columns, divided by its root mean square and sqrt(key_dim)."""
        dim = self.shape.key_dim
        heads = rows.view(*rows.shape[:2], -1, dim)
        return normalise(heads, heads.new_full((dim,), dim**-0.5), _EPS).flatten(-2)


def visible(length: int, written: Tensor | None, device: torch.device) -> Tensor:
    """Which positions [..., L (reads), L (is read)] a row sees: those of its own and the last window up to itself, and
    of windows before that the written ones; [1, L, L] or [B, L, L] bool."""
    positions = torch.arange(length, device=device)
    windows = positions // LavaState.WINDOW
    past = positions[:, None] >= positions
    if written is None:
        return past[None]
    recent = windows[:, None] - windows <= 1
    return past & (recent | written.reshape(-1, 1, length))
