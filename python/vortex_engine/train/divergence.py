"""Where the first number that is not finite came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from vortex_engine.train.objective import Objective
from vortex_engine.train.parallel import whole

__all__ = ["bad_gradient", "bad_loss", "bad_parameter"]


def bad_parameter(model: nn.Module) -> str | None:
    """The first parameter that is not finite, in words; every process must ask."""
    return _first_bad((f"parameter {name}", parameter.detach()) for name, parameter in model.named_parameters())


def bad_gradient(model: nn.Module) -> str | None:
    """The gradient that is not finite and nearest to the loss; every process must ask."""
    named = [(name, parameter.grad) for name, parameter in model.named_parameters()]
    return _first_bad((f"gradient of {name}", grad) for name, grad in reversed(named) if grad is not None)


@torch.no_grad()
def bad_loss(objective: Objective, batches: Sequence[torch.Tensor], forward: nn.Module) -> str:
    """Why the loss of these rows is not finite: a parameter, or the first output of the forward pass that is not.

    Args:
        forward: what is called to run `objective`.
    """
    parameter = bad_parameter(objective.model)
    if parameter is not None:
        return parameter
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            for tensor in _tensors(output):
                if not found and not bool(torch.isfinite(tensor).all()):
                    found.append(f"output of {name} {_place(tensor)}")

        return hook

    named: dict[str, nn.Module] = dict(objective.model.named_modules())  # pyright: ignore[reportUnknownArgumentType] - torch leaves its memo untyped
    hooks = [module.register_forward_hook(watch(name or "the model")) for name, module in named.items()]
    try:
        for rows in batches:
            forward(rows)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the loss itself, of finite logits, or rows of another process"


def _first_bad(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    for name, tensor in tensors:
        values = whole(tensor)
        if not bool(torch.isfinite(values).all()):
            return f"{name} {_place(values)}"
    return None


def _place(tensor: torch.Tensor) -> str:
    at = cast("list[int]", (~torch.isfinite(tensor)).nonzero()[0].tolist())
    return f"{list(tensor.shape)} is {float(tensor[tuple(at)])} at {at}"


def _tensors(output: object) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in cast("Sequence[object]", output):
            yield from _tensors(part)
