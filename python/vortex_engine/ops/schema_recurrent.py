"""torch.ops.vortex.ssm_scan and causal_conv1d: functional, with gradients, their states returned and never written.

Forward has the bits of the context's backend. Backward is an op of its own, so a compiler sees one call and no loop
over chunks: the backend's gradient where that has one (a decay a head, float32, every row a sequence), else the op
computed again in torch operations and differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vortex_engine.errors import VortexError
from vortex_engine.ops.chunked_scan import arithmetic, ssm_scan_chunked
from vortex_engine.ops.scan_arguments import ConvShape, ScanShape, conv_shape, scan_shape
from vortex_engine.ops.schema import LIBRARY, owned
from vortex_engine.ops.shifted_conv import causal_conv1d_shifted

__all__ = ["conv_sizes", "scan_sizes"]

_SCAN = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? cu_seqlens, bool delta_softplus"
)
_CONV = "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, Tensor? cu_seqlens, str? activation"
for _schema in (
    f"ssm_scan({_SCAN}, int ctx) -> (Tensor, Tensor)",
    f"causal_conv1d({_CONV}, int ctx) -> (Tensor, Tensor)",
    f"ssm_scan_backward(Tensor grad_y, Tensor grad_last, {_SCAN}, bool[] wanted, int ctx) -> Tensor[]",
    f"causal_conv1d_backward(Tensor grad_y, Tensor grad_last, {_CONV}, bool[] wanted, int ctx) -> Tensor[]",
):
    LIBRARY.define(_schema)

Maybe = Tensor | None
# Of the arguments of each op the first ones are tensors with gradients.
_N_SCAN, _N_CONV = 9, 4


def scan_sizes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Maybe,
    z: Maybe,
    delta_bias: Maybe,
    states: dict[str, Maybe],
    cu_seqlens: Maybe = None,
    state_indices: Maybe = None,
) -> ScanShape:
    """The sizes of a scan of tensors, which may be of float16 or bfloat16 too and are not blocked.

    Raises:
        ValueError: as `scan_shape`.
    """
    for name, value, n_dims in (("A", A, 2), *((name, state, 3) for name, state in states.items())):
        if value is not None and value.dim() > n_dims:
            raise ValueError(f"[ssm_scan] {name} may be blocked where it is an array, got shape {tuple(value.shape)}")
    tensors = map(_as_float32, (u, delta, A, B, C, D, z, delta_bias))
    widened = {name: _as_float32(state) for name, state in states.items()}
    return scan_shape(*tensors, states=widened, cu_seqlens=cu_seqlens, state_indices=state_indices)


def conv_sizes(
    x: Tensor,
    weight: Tensor,
    bias: Maybe,
    activation: str | None,
    states: dict[str, Maybe],
    cu_seqlens: Maybe = None,
    state_indices: Maybe = None,
) -> ConvShape:
    """The sizes of a convolution of tensors, which may be of float16 or bfloat16 too.

    Raises:
        ValueError: as `conv_shape`.
    """
    widened = {name: _as_float32(state) for name, state in states.items()}
    tensors = map(_as_float32, (x, weight, bias))
    return conv_shape(
        *tensors, activation=activation, states=widened, cu_seqlens=cu_seqlens, state_indices=state_indices
    )


def _as_float32(value: Maybe) -> Maybe:
    """What the checks see of a narrow tensor: its shape, and the dtype it will be widened to."""
    if value is None or value.dtype not in (torch.float16, torch.bfloat16):
        return value
    return torch.empty_like(value, dtype=torch.float32, device="meta")


def _ssm_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Maybe,
    z: Maybe,
    delta_bias: Maybe,
    initial_state: Maybe,
    cu_seqlens: Maybe,
    delta_softplus: bool,
    ctx: int,
) -> tuple[Tensor, Tensor]:
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    shape = scan_sizes(*tensors, {"initial_state": initial_state}, cu_seqlens)
    if arithmetic(*tensors, initial_state) == torch.float64:
        y, last = ssm_scan_chunked(*tensors, delta_softplus, initial_state, cu_seqlens)
        return _order_of(u).copy_(y), last.clone(memory_format=torch.contiguous_format)
    last = torch.zeros((shape.n_sequences, shape.channels, shape.n_state))
    views, states = map(_view, tensors), (_view(initial_state), last.numpy())
    y = owned("ctx", ctx).table["ssm_scan"](*views, delta_softplus, *states, _indices(cu_seqlens), None)
    return _ordered(u, torch.from_numpy(y)), last


def _causal_conv1d(
    x: Tensor, weight: Tensor, bias: Maybe, initial_state: Maybe, cu_seqlens: Maybe, activation: str | None, ctx: int
) -> tuple[Tensor, Tensor]:
    tensors = (x, weight, bias)
    shape = conv_sizes(*tensors, activation, {"initial_state": initial_state}, cu_seqlens)
    if arithmetic(*tensors, initial_state) == torch.float64:
        y, last = causal_conv1d_shifted(*tensors, activation, initial_state, cu_seqlens)
        return _order_of(x).copy_(y), last.clone(memory_format=torch.contiguous_format)
    last = torch.zeros((shape.n_sequences, shape.channels, shape.width - 1))
    views, states = map(_view, tensors), (_view(initial_state), last.numpy())
    y = owned("ctx", ctx).table["causal_conv1d"](*views, activation, *states, _indices(cu_seqlens), None)
    return _ordered(x, torch.from_numpy(y)), last


def _fake_ssm_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Maybe,
    z: Maybe,
    delta_bias: Maybe,
    initial_state: Maybe,
    cu_seqlens: Maybe,
    delta_softplus: bool,
    ctx: int,
) -> tuple[Tensor, Tensor]:
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    # The values of cu_seqlens are not known here: the op looks at them and at the number of states.
    states = {"initial_state": None if cu_seqlens is not None else initial_state}
    shape = scan_sizes(*tensors, states)
    n_sequences = shape.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = arithmetic(*tensors, initial_state)
    return _order_of(u), u.new_empty((n_sequences, shape.channels, shape.n_state), dtype=dtype)


def _fake_causal_conv1d(
    x: Tensor, weight: Tensor, bias: Maybe, initial_state: Maybe, cu_seqlens: Maybe, activation: str | None, ctx: int
) -> tuple[Tensor, Tensor]:
    states = {"initial_state": None if cu_seqlens is not None else initial_state}
    shape = conv_sizes(x, weight, bias, activation, states)
    n_sequences = shape.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dtype = arithmetic(x, weight, bias, initial_state)
    return _order_of(x), x.new_empty((n_sequences, shape.channels, shape.width - 1), dtype=dtype)


def _ssm_scan_backward(grad_y: Tensor, grad_last: Tensor, *arguments: Any) -> list[Tensor]:
    *tensors, cu_seqlens, delta_softplus, wanted, ctx = arguments
    has_heads = tensors[2].dim() == 1 and cu_seqlens is None
    if has_heads and arithmetic(*tensors, grad_y, grad_last) == torch.float32:
        *inputs, initial = tensors
        start = None if initial is None else _view(initial.contiguous())
        function = owned("ctx", ctx).table["ssm_scan_gradient"]
        given = (_view(grad_y), _view(grad_last.contiguous()), *map(_view, inputs))
        return _wanted(tensors, function(*given, delta_softplus, start), wanted)

    def again(*inputs: Any) -> tuple[Tensor, Tensor]:
        return ssm_scan_chunked(
            *inputs[:8], delta_softplus=delta_softplus, initial_state=inputs[8], cu_seqlens=cu_seqlens
        )

    return _differentiate(again, tensors, wanted, (grad_y, grad_last))


def _wanted(tensors: Sequence[Maybe], grads: Sequence[Any], wanted: Sequence[bool]) -> list[Tensor]:
    """The gradients that are asked for, of a backend: contiguous, of signals and readouts time before channels."""
    found: list[Tensor] = []
    for i, (tensor, grad) in enumerate(zip(tensors, grads, strict=True)):
        if tensor is None or grad is None or not wanted[i]:
            continue
        value = torch.from_numpy(grad).to(tensor.dtype)
        is_state = i == len(tensors) - 1
        if tensor.dim() == 3 and not is_state:
            value = value.flatten(2).transpose(1, 2)  # B and C of one group have no axis for it
        elif tensor.dim() == 4:
            value = value.permute(0, 2, 3, 1)
        found.append(_laid_out(tensor, value))
    return found


def _causal_conv1d_backward(grad_y: Tensor, grad_last: Tensor, *arguments: Any) -> list[Tensor]:
    *tensors, cu_seqlens, activation, wanted, ctx = arguments
    if cu_seqlens is None and arithmetic(*tensors, grad_y, grad_last) == torch.float32:
        x, weight, bias, initial = tensors
        parameters = (None if value is None else _view(value.contiguous()) for value in (weight, bias))
        rest = (activation, None if initial is None else _view(initial.contiguous()))
        function = owned("ctx", ctx).table["causal_conv1d_gradient"]
        found = function(_view(grad_y), _view(grad_last.contiguous()), _view(x), *parameters, *rest)
        return _wanted(tensors, found, wanted)

    def again(*inputs: Any) -> tuple[Tensor, Tensor]:
        return causal_conv1d_shifted(*inputs[:3], activation=activation, initial_state=inputs[3], cu_seqlens=cu_seqlens)

    return _differentiate(again, tensors, wanted, (grad_y, grad_last))


def _differentiate(
    again: Callable[..., tuple[Tensor, Tensor]],
    tensors: Sequence[Maybe],
    wanted: Sequence[bool],
    grads: tuple[Tensor, Tensor],
) -> list[Tensor]:
    indices = [i for i, wants in enumerate(wanted) if wants]

    def of_needed(*needed: Tensor) -> tuple[Tensor, Tensor]:
        inputs = list(tensors)
        for i, tensor in zip(indices, needed, strict=True):
            inputs[i] = tensor
        return again(*inputs)

    # An op runs below autograd, where nothing is recorded: torch.func brings its own.
    pullback: Any = torch.func.vjp(of_needed, *(tensors[i] for i in indices))[1]
    found = pullback(grads, retain_graph=False, create_graph=False)
    return [_laid_out(tensors[i], grad) for i, grad in zip(indices, found, strict=True)]


def _fake_backward(grad_y: Tensor, grad_last: Tensor, *arguments: Any) -> list[Tensor]:
    wanted = arguments[-2]
    return [_layout_of(tensor) for tensor, wants in zip(arguments, wanted, strict=False) if wants]


def _keep(n_tensors: int) -> Callable[..., None]:
    """What backward needs: the tensors of an op whose arguments end with cu_seqlens, one option and the context."""

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: n_tensors + 1])
        ctx.option, ctx.context = inputs[n_tensors + 1 :]

    return keep


def _backward(op: str, n_tensors: int) -> Callable[..., tuple[Maybe, ...]]:
    def backward(saved: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Maybe, ...]:
        wanted = list(saved.needs_input_grad[:n_tensors])
        options = (saved.option, wanted, saved.context)
        found = getattr(torch.ops.vortex, op)(grad_y, grad_last, *saved.saved_tensors, *options)
        grads = iter(found)
        return (*(next(grads) if wants else None for wants in wanted), None, None, None)

    return backward


def _no_second_derivative(saved: Any, *grads: Any) -> Any:
    raise VortexError(
        "[ssm_scan, causal_conv1d] second derivatives are not implemented: differentiate "
        "vortex_engine.ops.chunked_scan.ssm_scan_chunked instead, or leave create_graph out"
    )


def _view(value: Maybe) -> Any:
    # By DLPack: `numpy()` marks the storage as never to be resized, which is how FSDP frees gathered parameters.
    return None if value is None else np.from_dlpack(value.detach().to(torch.float32))


def _indices(value: Maybe) -> Any:
    return None if value is None else value.numpy()


def _order_of(like: Tensor) -> Tensor:
    """A new tensor of the shape of `like`: [batch, time, channel] in memory where its channels lie side by side."""
    batch, channels, length = like.shape
    if length <= 1 or like.stride(1) >= like.stride(2):
        return like.new_empty((batch, channels, length))
    return like.new_empty((batch, length, channels)).transpose(1, 2)


def _layout_of(tensor: Tensor) -> Tensor:
    """A new tensor that a gradient of `tensor` is put in."""
    return _order_of(tensor) if tensor.dim() == 3 else tensor.new_empty(tensor.shape)


def _laid_out(tensor: Any, grad: Tensor) -> Tensor:
    wanted = _layout_of(tensor)
    return grad if grad.dtype == wanted.dtype and grad.stride() == wanted.stride() else wanted.copy_(grad)


def _ordered(like: Tensor, y: Tensor) -> Tensor:
    wanted = _order_of(like)
    return y if y.dtype == wanted.dtype and y.stride() == wanted.stride() else wanted.copy_(y)


for _name, _kernel, _fake in (
    ("ssm_scan", _ssm_scan, _fake_ssm_scan),
    ("causal_conv1d", _causal_conv1d, _fake_causal_conv1d),
    ("ssm_scan_backward", _ssm_scan_backward, _fake_backward),
    ("causal_conv1d_backward", _causal_conv1d_backward, _fake_backward),
):
    LIBRARY.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"vortex::{_name}", _fake, lib=LIBRARY)
for _name, _n_tensors in (("ssm_scan", _N_SCAN), ("causal_conv1d", _N_CONV)):
    torch.library.register_autograd(
        f"vortex::{_name}", _backward(f"{_name}_backward", _n_tensors), setup_context=_keep(_n_tensors), lib=LIBRARY
    )
    torch.library.register_autograd(f"vortex::{_name}_backward", _no_second_derivative, lib=LIBRARY)
