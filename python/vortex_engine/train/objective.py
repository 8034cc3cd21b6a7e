"""What is minimised: the nats of the next token and of those that multi-token heads read further on."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Objective", "loss_weights"]


class Objective(nn.Module):
    """rows [B, T + 1] int64 -> nats [1 + k] float32: mean cross-entropy of the next token, then of every head.

    In evaluation mode of the next token alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        predictions = self.model(rows[:, :-1])
        heads = (
            (predictions,) if isinstance(predictions, torch.Tensor) else cast("tuple[torch.Tensor, ...]", predictions)
        )
        nats: list[torch.Tensor] = []
        for ahead, logits in enumerate(heads, start=1):
            # The last positions have no token so far on.
            targets = rows[:, ahead:].flatten()
            scored = logits[:, : rows.shape[1] - ahead].flatten(0, 1)
            nats.append(F.cross_entropy(scored.float(), targets))
        return torch.stack(nats)


def loss_weights(n_heads: int, mtp_weight: float) -> list[float]:
    """Weight of each of the nats: 1 for the next token, `mtp_weight` shared evenly by the heads.

    Source: arXiv 2412.19437 (DeepSeek-V3), equation 25.
    """
    return [1.0, *(mtp_weight / n_heads for _ in range(n_heads))]
