"""Muon for the weight matrices and AdamW for the rest, with all state in plain tensors."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

# Quintic of the Newton-Schulz iteration (Muon, github.com/KellerJordan/Muon): singular values go to about 1.
_NS_A, _NS_B, _NS_C = 3.4445, -4.7750, 2.0315
_NS_STEPS = 5


@dataclass(frozen=True)
class OptimConfig:
    """Peak learning rates and decay; a schedule scales both rates by one factor."""

    matrix_lr: float = 0.008
    vector_lr: float = 2e-3
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-10
    weight_decay: float = 0.05
    low_precision: bool = False


class MuonAdamW:
    """One optimizer for a transformer: 2-D projections by Muon, embedding and norms by AdamW.

    Args:
        model: its parameters must have float32 gradients when `step` is called.
        pool: updates parameters side by side.

    Source: Muon as in github.com/KellerJordan/Muon; AdamW arXiv 1711.05101, algorithm 2.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, pool: Executor | None = None) -> None:
        self._config = config
        self._pool = pool
        self._matrices = {n: p for n, p in model.named_parameters() if n.endswith("_proj.weight")}
        self._others = {n: p for n, p in model.named_parameters() if n not in self._matrices}
        self._momentum = {n: torch.zeros_like(p) for n, p in self._matrices.items()}
        self._mean = {n: torch.zeros_like(p) for n, p in self._others.items()}
        self._square = {n: torch.zeros_like(p) for n, p in self._others.items()}

    def step(self, step: int, *, lr_scale: float) -> None:
        """Update the parameters from their gradients.

        Args:
            step: counts from 0.
            lr_scale: multiplies both rates.
        """
        updates = [partial(self._update_matrix, name, lr_scale) for name in self._matrices]
        updates += [partial(self._update_other, name, step, lr_scale) for name in self._others]
        if self._pool is None:
            for update in updates:
                update()
            return
        # Asking for the results waits for the tasks and raises what they raised.
        for future in [self._pool.submit(update) for update in updates]:
            future.result()

    @torch.no_grad()
    def _update_matrix(self, name: str, lr_scale: float) -> None:
        config, weight, buffer = self._config, self._matrices[name], self._momentum[name]
        assert weight.grad is not None
        lr = config.matrix_lr * lr_scale
        buffer.lerp_(weight.grad, 1 - config.momentum)
        update = orthogonalise(weight.grad.lerp(buffer, config.momentum), low_precision=config.low_precision)
        # Tall matrices get a larger step so that the change of the output has the same size for every shape.
        stretch = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
        weight.mul_(1 - lr * config.weight_decay)
        weight.add_(update, alpha=-lr * stretch)

    @torch.no_grad()
    def _update_other(self, name: str, step: int, lr_scale: float) -> None:
        config, weight, mean, square = self._config, self._others[name], self._mean[name], self._square[name]
        assert weight.grad is not None
        lr = config.vector_lr * lr_scale
        beta1, beta2 = config.betas
        mean.lerp_(weight.grad, 1 - beta1)
        square.lerp_(weight.grad.square(), 1 - beta2)
        denominator = (square / (1 - beta2 ** (step + 1))).sqrt_().add_(config.eps)
        if weight.ndim > 1:
            weight.mul_(1 - lr * config.weight_decay)
        weight.addcdiv_(mean, denominator, value=-lr / (1 - beta1 ** (step + 1)))

    def state(self) -> dict[str, torch.Tensor]:
        """All state, as float32 tensors named `<kind>.<parameter>`; the tensors are not copied."""
        kinds = {"momentum": self._momentum, "mean": self._mean, "square": self._square}
        return {f"{kind}.{name}": tensor for kind, group in kinds.items() for name, tensor in group.items()}

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy state written by `state` back."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])


def orthogonalise(matrix: torch.Tensor, *, low_precision: bool) -> torch.Tensor:
    """Nearest semi-orthogonal matrix of `matrix` [m, n] float32, by five Newton-Schulz steps (bfloat16 if asked)."""
    x = matrix.bfloat16() if low_precision else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (cast("torch.Tensor", x.norm()) + 1e-7)
    for _ in range(_NS_STEPS):
        gram = x @ x.T
        x = _NS_A * x + (_NS_B * gram + _NS_C * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)
