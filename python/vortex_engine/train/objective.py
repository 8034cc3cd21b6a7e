"""What is minimised: the nats of the next token and of those that multi-token heads read further on."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LanguageModel", "Objective", "loss_weights"]


class LanguageModel(Protocol):
    """What the objective asks of an `nn.Module`."""

    @property
    def output(self) -> torch.Tensor:
        """The matrix of the logits, [V, D]."""
        ...

    @property
    def mtp(self) -> nn.ModuleList:
        """Multi-token heads, linear layers [D, D]; perhaps none."""
        ...

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Final normalised states [B, T, D] of token ids [B, T] int64, each of the ids up to its own."""
        ...


class Objective(nn.Module):
    """rows [B, T + 1] int64 -> nats [1 + k] float32: mean cross-entropy of the next token, then of every head.

    Head i reads the token i + 2 places on from h + silu(W_i h), as in arXiv 2401.10774 (Medusa), section 2.1.1. In
    evaluation mode only the next token counts.

    Args:
        model: a `LanguageModel`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        model = cast("LanguageModel", cast("Any", self.model))
        h = model.hidden(rows[:, :-1])
        nats = [_nats(h, model.output, rows[:, 1:])]
        for i, head in enumerate(model.mtp if self.training else ()):
            # The last positions have no token so far on.
            state = h[:, : -i - 1]
            nats.append(_nats(state + F.silu(head(state)), model.output, rows[:, i + 2 :]))
        return torch.stack(nats)


def _nats(states: torch.Tensor, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(states, output).flatten(0, 1).float(), targets.flatten())


def loss_weights(n_heads: int, mtp_weight: float) -> list[float]:
    """Weight of each of the nats: 1 for the next token, `mtp_weight` shared evenly by the heads.

    Source: arXiv 2412.19437 (DeepSeek-V3), equation 25.
    """
    return [1.0, *(mtp_weight / n_heads for _ in range(n_heads))]
