"""The training of small models on made-up tasks, the same for every arm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.vortex.recall_task import NO_LABEL

if TYPE_CHECKING:
    from torch import Tensor

    from vortex_engine.train.vortex_model import TrainableVortex

__all__ = ["Batch", "accuracy", "fit"]

I64 = NDArray[np.int64]
Batch = tuple[I64, I64]  # ids and labels [rows, length]; what is not asked for is labelled `NO_LABEL`

_WEIGHT_DECAY, _WARM_UP = 0.1, 0.1


def fit(model: TrainableVortex, batches: Iterator[Batch], steps: int, rate: float) -> list[float]:
    """AdamW with a tenth of the steps as warm-up and a cosine to zero; the loss of every step.

    The caller seeds torch; `batches` are drawn as they are needed.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=_WEIGHT_DECAY)
    losses: list[float] = []
    model.train()
    for step in range(steps):
        scale = min(1.0, (step + 1) / (_WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        logits, wanted = _asked(model, next(batches))
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def accuracy(model: TrainableVortex, batch: Batch) -> float:
    """The share of the labels that the model finds most likely, computed in torch."""
    import torch

    with torch.no_grad():
        logits, wanted = _asked(model, batch)
    return float((logits.argmax(-1) == wanted).float().mean())


def _asked(model: TrainableVortex, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and labels of the positions that are asked for."""
    import torch

    ids, labels = (torch.from_numpy(array) for array in batch)
    asked = labels != NO_LABEL
    return torch.nn.functional.linear(model.hidden(ids)[asked], model.output), labels[asked]
