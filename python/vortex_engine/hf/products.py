"""Differentiable products of activations of any shape and dtype with frozen paged matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from vortex_engine.errors import BackendUnavailableError
from vortex_engine.hf.store import PagedMatrix

__all__ = ["linear", "transposed_linear"]


def linear(x: Tensor, matrices: Sequence[PagedMatrix]) -> list[Tensor]:
    """x [..., K] times W^T of each [N_i, K], float32 [..., N_i]; gives x its gradient."""
    flat = _flat(x)
    store, names = matrices[0].store, [matrix.name for matrix in matrices]
    outs: list[Tensor] = list(_apply_linear(flat, store, names)) if flat.requires_grad else store.products(names, flat)
    return [out.reshape(*x.shape[:-1], out.shape[-1]) for out in outs]


def transposed_linear(x: Tensor, matrix: PagedMatrix) -> Tensor:
    """x [..., N] times W [N, K], float32 [..., K]; gives x its gradient."""
    flat = _flat(x)
    store, name = matrix.store, matrix.name
    out = _apply_transposed(flat, store, name) if flat.requires_grad else store.transposed_product(name, flat)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _flat(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        raise BackendUnavailableError(f"[PagedLinear] x must be on the CPU, got {x.device}; leave device_map out")
    return x.reshape(-1, x.shape[-1]).to(torch.float32).contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Any, names: list[str]) -> tuple[Tensor, ...]:
        ctx.store, ctx.names = store, names
        return tuple(store.products(names, x))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        parts = [ctx.store.transposed_product(name, g.contiguous()) for name, g in zip(ctx.names, grads, strict=True)]
        return torch.stack(parts).sum(0), None, None


class _TransposedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Any, name: str) -> Tensor:
        ctx.store, ctx.name = store, name
        return store.transposed_product(name, x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.store.products([ctx.name], grads[0].contiguous())[0], None, None


# Torch leaves the type of `apply` open.
_apply_linear: Callable[..., tuple[Tensor, ...]] = cast("Any", _Linear).apply
_apply_transposed: Callable[..., Tensor] = cast("Any", _TransposedLinear).apply
