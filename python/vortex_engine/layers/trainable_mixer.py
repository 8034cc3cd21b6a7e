"""The local mixer of `layers/mixer.py` with its own parameters, for training: the same function in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from vortex_engine.layers.differentiable import convolve

if TYPE_CHECKING:
    from vortex_engine.layers.shapes import AttentionShape

__all__ = ["TrainableMixer"]


class TrainableMixer(nn.Module):
    """[B, L, hidden] -> [B, L, hidden]: y = conv(x), and with attention y + attention(x + y); it begins as zero.

    Args:
        conv_width: columns of the convolution; None for none.
        attention: its sizes; None for none.
        theta: base of the rotary positions.
    """

    def __init__(
        self, hidden_size: int, conv_width: int | None, attention: AttentionShape | None, theta: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.conv1d = None
        if conv_width is not None:
            self.conv1d = nn.Conv1d(hidden_size, hidden_size, conv_width, groups=hidden_size)
            nn.init.zeros_(self.conv1d.weight)
            assert self.conv1d.bias is not None
            nn.init.zeros_(self.conv1d.bias)
        if attention is not None:
            heads = attention.n_heads * attention.head_dim
            kv = attention.n_kv_heads * attention.head_dim
            self.q_proj = nn.Linear(hidden_size, heads, bias=False)
            self.k_proj = nn.Linear(hidden_size, kv, bias=False)
            self.v_proj = nn.Linear(hidden_size, kv, bias=False)
            self.o_proj = nn.Linear(heads, hidden_size, bias=False)
            exponents = torch.arange(0, attention.head_dim, 2, dtype=torch.float64) / attention.head_dim
            self.register_buffer("inv_freq", theta**-exponents, persistent=False)
            self.inv_freq: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The mixer on whole sequences, each from its beginning."""
        if self.conv1d is None:
            return self._attend(x)
        y = convolve(x.mT, self.conv1d.weight[:, 0], self.conv1d.bias, None).mT
        return y if self.attention is None else y + self._attend(x + y)

    def _attend(self, x: Tensor) -> Tensor:
        shape, length = self.attention, x.shape[1]
        assert shape is not None
        q, k, v = (
            proj(x).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        angles = torch.outer(torch.arange(length, dtype=torch.float64, device=x.device), self.inv_freq)
        q, k = _rotated(q, angles), _rotated(k, angles)
        groups = shape.n_heads // shape.n_kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        if length <= shape.window:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = _attend_window(q, k, v, shape.window)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def _attend_window(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention of each row [B, H, L, D] to the last `window` rows: a block of so many sees itself and one more."""
    shape, length = q.shape, q.shape[2]
    n_blocks = -(-length // window)
    padding = n_blocks * window - length
    blocks = functional.pad(q, (0, 0, 0, padding)).reshape(-1, n_blocks, window, shape[3])

    def with_before(rows: Tensor) -> Tensor:
        padded = functional.pad(rows, (0, 0, window, padding)).reshape(-1, n_blocks + 1, window, shape[3])
        return torch.cat((padded[:, :-1], padded[:, 1:]), dim=2)

    columns = torch.arange(2 * window, device=q.device)
    behind = torch.arange(window, 2 * window, device=q.device)[:, None] - columns
    seen = ((behind >= 0) & (behind < window)).repeat(n_blocks, 1, 1)
    seen[0, :, :window] = False  # before the first row there is none
    mixed = functional.scaled_dot_product_attention(blocks, with_before(k), with_before(v), seen)
    return mixed.reshape(*shape[:2], -1, shape[3])[:, :, :length]


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """x [B, H, L, D] rotated by the angles [L, D / 2]; source: arXiv:2104.09864, equation 34, by halves."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
