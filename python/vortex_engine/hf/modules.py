"""The modules that paged matrices turn a model's modules into.

A module changes its class in place and loses its weight, so hooks, biases and whatever else it carries stay. A subclass
that only adds to its parent's `forward` (a scaled embedding, say) keeps its own class in front of the paged one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from vortex_engine.errors import ModelConfigError
from vortex_engine.hf.products import linear, transposed_linear
from vortex_engine.hf.store import PagedMatrix

__all__ = ["PagedConv1D", "PagedEmbedding", "PagedExperts", "PagedLinear", "become_experts", "become_paged"]


class PagedWeight(torch.Tensor):
    """Shape and dtype of a paged matrix, for code that asks a layer's weight for them; any other use is an error."""

    matrix_name: str
    _is_hf_initialized: bool

    @classmethod
    def of(cls, matrix: PagedMatrix) -> PagedWeight:
        """The stand-in for one matrix."""
        weight = torch.empty(matrix.shape, dtype=matrix.dtype, device="meta").as_subclass(cls)
        weight.matrix_name = matrix.name
        # transformers leaves weights with this mark alone when it initialises what a checkpoint lacks.
        weight._is_hf_initialized = True
        return weight

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__self__", None) == torch.Tensor.device:
            return torch.device("cpu")
        if getattr(func, "__self__", None) in _DESCRIBING or func in _DESCRIBING:
            described: Any = super()
            return described.__torch_function__(func, types, args, kwargs or {})
        name = next((a.matrix_name for a in args if isinstance(a, PagedWeight)), "a paged matrix")
        raise ModelConfigError(
            f"[hf] {name!r} is paged and its values were asked for by {getattr(func, '__name__', func)}: this "
            "architecture uses the weight outside its module; run it unpacked"
        )


_Tensor: Any = torch.Tensor
_DESCRIBING = frozenset(
    [
        *(_Tensor.dtype, _Tensor.shape, _Tensor.ndim, _Tensor.requires_grad, _Tensor.layout, _Tensor.is_meta),
        *(_Tensor.size, _Tensor.dim, _Tensor.numel, _Tensor.is_floating_point, _Tensor.element_size),
    ]
)


class _Paged(nn.Module):
    paged: PagedMatrix
    paged_weight: PagedWeight

    @property
    def weight(self) -> Any:
        """Shape and dtype of the paged matrix."""
        return self.paged_weight


class PagedLinear(_Paged, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride] - weight is described only
    """x [..., K] -> x W^T + b in float32, returned in x's dtype; W [N, K] is paged."""

    def forward(self, input: Tensor) -> Tensor:
        out = linear(input, [self.paged])[0]
        return _with_bias(out, self.bias).to(input.dtype)


class PagedConv1D(_Paged, Conv1D):
    """x [..., N] -> x W + b in float32, returned in x's dtype; W [N, K] is paged as GPT-2's checkpoints store it."""

    def forward(self, x: Tensor) -> Tensor:
        return _with_bias(transposed_linear(x, self.paged), self.bias).to(x.dtype)


class PagedEmbedding(_Paged, nn.Embedding):  # pyright: ignore[reportIncompatibleVariableOverride] - as above
    """ids [...] -> rows of a paged matrix [N, K], [..., K] in the model's dtype."""

    def forward(self, input: Tensor) -> Tensor:
        ids = input.reshape(-1).to(torch.int64).contiguous()
        rows = self.paged.store.rows(self.paged.name, ids)
        return rows.reshape(*input.shape, rows.shape[-1]).to(self.paged.dtype)


class PagedExperts(nn.Module):
    """Experts of a mixture, of which a call touches only those it routes to."""

    num_experts: int
    has_gate: bool
    has_bias: bool
    is_transposed: bool  # the matrices are the other way round
    act_fn: Any
    _apply_gate: Any
    paged_up: list[list[PagedMatrix]]  # of each expert gate and up, both in one, or up alone: [inner, hidden]
    paged_down: list[PagedMatrix]  # [hidden, inner]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden_states [T, D]; top_k_index [T, k], where num_experts means none; top_k_weights [T, k] -> [T, D]."""
        final = torch.zeros_like(hidden_states)
        routed: list[int] = cast("Any", torch.unique(top_k_index)).tolist()
        for expert in routed:
            if expert == self.num_experts:
                continue
            token, position = torch.where(top_k_index == expert)
            inner = self._product(hidden_states[token], self.paged_up[expert], _up_name(self), expert)
            inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
            out = self._product(inner, [self.paged_down[expert]], "down_proj", expert)
            final.index_add_(0, token, (out * top_k_weights[token, position, None]).to(final.dtype))
        return final

    def _product(self, x: Tensor, matrices: list[PagedMatrix], name: str, expert: int) -> Tensor:
        outs = [transposed_linear(x, matrix) for matrix in matrices] if self.is_transposed else linear(x, matrices)
        bias = getattr(self, f"{name}_bias")[expert] if self.has_bias else None
        return _with_bias(torch.cat(outs, dim=-1), bias).to(x.dtype)


_PAGED: tuple[tuple[type[nn.Module], type[_Paged]], ...] = (
    (nn.Linear, PagedLinear),
    (nn.Embedding, PagedEmbedding),
    (Conv1D, PagedConv1D),
)


_EXPERT_TRAITS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
_EXPERT_ARGUMENTS = (
    ("hidden_states", "top_k_index", "top_k_weights"),
    ("hidden_states", "router_indices", "routing_weights"),
)


def become_paged(module: nn.Module, matrix: PagedMatrix) -> bool:
    """Turn a module into the paged one of its kind; False, and unchanged, where there is none."""
    kind = type(module)
    for base, paged in _PAGED:
        if isinstance(module, base) and _keeps_forward(kind, base):
            del module.weight
            module.__class__ = paged if kind is base else _joined(kind, paged)
            changed: Any = module
            changed.paged, changed.paged_weight = matrix, PagedWeight.of(matrix)
            return True
    return False


def become_experts(module: nn.Module, up: Sequence[Sequence[PagedMatrix]], down: Sequence[PagedMatrix]) -> bool:
    """Turn a module that holds its experts as 3-D parameters into `PagedExperts`; False where it is of another kind."""
    names = tuple(inspect.signature(module.forward).parameters)
    known = all(isinstance(getattr(module, name, None), bool) for name in _EXPERT_TRAITS)
    if names not in _EXPERT_ARGUMENTS or not known or getattr(module, "has_post_expert_norm", None) is not False:
        return False
    # Gate and up apart can only be joined one after the other, by rows.
    traits: Any = module
    if any(len(matrices) > 1 for matrices in up) and (not traits.is_concatenated or traits.is_transposed):
        return False
    weights = {_up_name(module), "down_proj"}
    biases = {f"{name}_bias" for name in weights} if traits.has_bias else set[str]()
    if {name for name, _ in module.named_parameters(recurse=False)} != weights | biases:
        return False
    for name in weights:
        delattr(module, name)
    kind = type(module)
    module.__class__ = _joined(PagedExperts, kind, name=kind.__name__)
    paged: Any = module
    paged._is_hf_initialized = True  # transformers would look for the 3-D parameters to initialise
    paged.paged_up, paged.paged_down = [list(matrices) for matrices in up], list(down)
    return True


def _up_name(module: Any) -> str:
    return "gate_up_proj" if module.has_gate else "up_proj"


def _joined(first: type[nn.Module], second: type[nn.Module], name: str | None = None) -> type[nn.Module]:
    """A class that looks in `first`, then in `second`."""
    return type(name or first.__name__, (first, second), {})


def _keeps_forward(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    if kind is NonDynamicallyQuantizableLinear:  # nn.MultiheadAttention reads its weight
        return False
    forward = inspect.unwrap(kind.forward)
    # A forward of its own that does not call its parent's computes with the weight itself.
    return kind.forward is base.forward or "__class__" in forward.__code__.co_freevars


def _with_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out + bias.to(torch.float32)
