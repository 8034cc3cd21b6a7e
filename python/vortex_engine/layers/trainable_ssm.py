"""The layer of `layers/ssm.py` with its own parameters, for training: the same function, with gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vortex_engine.layers.differentiable import convolve, normalise, scan

if TYPE_CHECKING:
    from vortex_engine.layers.ssm import SSMShape

__all__ = ["TrainableSSM"]


class TrainableSSM(nn.Module):
    """[B, L, hidden] -> [B, L, hidden], as `SSMLayer` computes it for each sequence.

    Parameters have the names and shapes of a Mamba-2 mixer of transformers, so that a trained layer can be packed.
    Rates begin between -1 and -16 and steps between `min_step` and `max_step`, as in arXiv:2405.21060's code.
    """

    def __init__(
        self,
        hidden_size: int,
        shape: SSMShape,
        *,
        norm_eps: float = 1e-5,
        min_step: float = 1e-3,
        max_step: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 < min_step <= max_step:
            raise ValueError(f"min_step must be above 0 and at most max_step, got {min_step} and {max_step}")
        self.shape = shape
        self.norm_eps = norm_eps
        self.in_proj = nn.Linear(hidden_size, shape.in_features, bias=False)
        self.conv1d = nn.Conv1d(
            shape.conv_channels, shape.conv_channels, shape.conv_width, groups=shape.conv_channels, bias=True
        )
        self.out_proj = nn.Linear(shape.channels, hidden_size, bias=False)
        self.A_log = nn.Parameter(torch.empty(shape.n_heads).uniform_(1.0, 16.0).log())
        self.D = nn.Parameter(torch.ones(shape.n_heads))
        steps = torch.empty(shape.n_heads).uniform_(math.log(min_step), math.log(max_step)).exp()
        self.dt_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # softplus gives the step back
        self.norm = nn.RMSNorm(shape.channels)  # its weight; the norm itself is of each group

    def forward(self, x: Tensor) -> Tensor:
        """The layer on whole sequences, each from an empty state."""
        shape = self.shape
        widths = [shape.channels, shape.conv_channels, shape.n_heads]
        projected: Tensor = self.in_proj(x)
        gate, columns, steps = torch.split(projected, widths, dim=-1)
        mixed = convolve(columns.mT, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        u, b, c = torch.split(mixed, [shape.channels, shape.readout, shape.readout], dim=1)
        if shape.n_groups > 1:
            grouped = (len(x), shape.n_groups, shape.n_state, -1)
            b, c = b.reshape(grouped), c.reshape(grouped)
        y = scan(u, steps.mT, -self.A_log.exp(), b, c, self.D, gate.mT, self.dt_bias)
        rows = y.mT
        if shape.n_groups == 1:
            return self.out_proj(normalise(rows, self.norm.weight, self.norm_eps))
        parts = rows.reshape(*x.shape[:2], shape.n_groups, -1)
        normed = normalise(parts, parts.new_ones(parts.shape[-1]), self.norm_eps).flatten(2)
        return self.out_proj(normed * self.norm.weight)
