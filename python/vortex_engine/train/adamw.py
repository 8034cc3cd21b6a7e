"""AdamW over named parameters, with its state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from vortex_engine.train.parallel import copy_whole

__all__ = ["AdamW", "AdamWConfig", "Optimizer"]


class Optimizer(Protocol):
    """What the loop asks of an optimizer."""

    def step(self, step: int, *, lr_scale: float) -> None:
        """Update the parameters from their gradients; `step` counts from 0, `lr_scale` multiplies the peak rates."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """All state, as tensors named `<kind>.<parameter>`."""
        ...

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy back what `state` gave; KeyError for what is missing."""
        ...


@dataclass(frozen=True)
class AdamWConfig:
    """Peak rate and decay; tensors of one dimension (norms, biases) do not decay."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1


class AdamW:
    """torch's fused AdamW (arXiv 1711.05101, algorithm 2), on whole parameters or on shards.

    A parameter without a gradient is left alone. Called beneath `torch.optim`, which imports the compiler of torch:
    seconds at every start, for nothing here.
    """

    def __init__(self, model: nn.Module, config: AdamWConfig) -> None:
        self._config = config
        self._named = dict(model.named_parameters())
        self._means = {name: torch.zeros_like(weight) for name, weight in self._named.items()}
        self._squares = {name: torch.zeros_like(weight) for name, weight in self._named.items()}
        self._groups = [
            ([name for name, weight in self._named.items() if weight.ndim > 1], config.weight_decay),
            ([name for name, weight in self._named.items() if weight.ndim <= 1], 0.0),
        ]

    @torch.no_grad()
    def step(self, step: int, *, lr_scale: float) -> None:
        """See `Optimizer`."""
        config = self._config
        for names, weight_decay in self._groups:
            used = [name for name in names if self._named[name].grad is not None]
            weights = [self._named[name] for name in used]
            if not used:
                continue
            n_steps = torch.tensor(float(step + 1), device=weights[0].device)
            torch.ops.aten._fused_adamw_(
                weights,
                [weight.grad for weight in weights],
                [self._means[name] for name in used],
                [self._squares[name] for name in used],
                [],
                [n_steps] * len(used),
                lr=config.lr * lr_scale,
                beta1=config.betas[0],
                beta2=config.betas[1],
                weight_decay=weight_decay,
                eps=config.eps,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, torch.Tensor]:
        """See `Optimizer`."""
        kinds = {"mean": self._means, "square": self._squares}
        return {f"{kind}.{name}": tensor for kind, group in kinds.items() for name, tensor in group.items()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Optimizer`."""
        for name, tensor in self.state().items():
            copy_whole(tensor, tensors[name])
