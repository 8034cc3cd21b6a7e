"""torch.ops.vortex.*: the ops declared for torch once, with their fakes and their CPU implementation.

Contexts and pagers travel as int ids from a weak registry, because op arguments are tensors and numbers. Imported only
when a torch tensor meets an op. Gradients are the business of autograd functions outside these ops.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vortex_engine.ops.sampling_law import MAX_SEED, SamplingLaw

__all__ = ["LIBRARY", "id_of", "owned"]

LIBRARY = torch.library.Library("vortex", "DEF")

_SCHEMAS = (
    "paged_linear(Tensor x, Tensor?[] biases, int[] handles, int[] out_features, int pager, int ctx, "
    'str activations="float", str planes="all") -> Tensor[]',
    "paged_linear_transposed(Tensor x, int handle, int out_features, int pager, int ctx) -> Tensor",
    'embed_rows(Tensor ids, int handle, int in_features, int pager, int ctx, str planes="all") -> Tensor',
    "rms_norm(Tensor x, Tensor weight, float eps, int ctx) -> Tensor",
    "rope(Tensor x, Tensor cos, Tensor sin, int ctx) -> Tensor",
    "kv_append(Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, int pos, int ctx) -> ()",
    "kv_move(Tensor(a!) k_cache, Tensor(b!) v_cache, int source, int target, int ctx) -> ()",
    "attend(Tensor q, Tensor k_cache, Tensor v_cache, int pos, int window, float scale, int ctx) -> Tensor",
    "swiglu(Tensor gate, Tensor up, int ctx) -> Tensor",
    "token_surprises(Tensor logits, Tensor ids, int ctx) -> Tensor",
    "entropies(Tensor logits, int ctx) -> Tensor",
    "bad_verify(Tensor draft_ids, Tensor target_logits, float temperature, int? top_k, float? top_p, float? min_p, "
    "int seed, int position, int ctx) -> Tensor",
)
for _schema in _SCHEMAS:
    LIBRARY.define(_schema)

_next_id = itertools.count(1)
_by_id: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_ids: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def id_of(value: Any) -> int:
    """The id under which the ops find a context or pager for as long as its owner keeps it."""
    number = _ids.get(value)
    if number is None:
        number = _ids[value] = next(_next_id)
        _by_id[number] = value
    return number


def owned(kind: str, number: int) -> Any:
    """The context or pager with this id.

    Raises:
        ValueError: its owner has let it go.
    """
    value = _by_id.get(number)
    if value is None:
        raise ValueError(f"[torch.ops.vortex] {kind} must be the id of one that is alive, got {number}")
    return value


def _run(ctx: int, op: str, *arguments: Any) -> Any:
    return owned("ctx", ctx).table[op](*arguments)


def _view(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def _paged_linear(
    x: Tensor,
    biases: Sequence[Tensor | None],
    handles: list[int],
    out_features: list[int],
    pager: int,
    ctx: int,
    activations: str = "float",
    planes: str = "all",
) -> list[Tensor]:
    views = [None if bias is None else _view(bias) for bias in biases]
    outs = _run(ctx, "paged_linear", owned("pager", pager), handles, _view(x), views, activations, planes)
    return [torch.from_numpy(out) for out in outs]


def _paged_linear_transposed(x: Tensor, handle: int, out_features: int, pager: int, ctx: int) -> Tensor:
    return torch.from_numpy(_run(ctx, "paged_linear_transposed", owned("pager", pager), handle, _view(x)))


def _embed_rows(ids: Tensor, handle: int, in_features: int, pager: int, ctx: int, planes: str = "all") -> Tensor:
    return torch.from_numpy(_run(ctx, "embed_rows", owned("pager", pager), handle, _view(ids), planes))


def _rms_norm(x: Tensor, weight: Tensor, eps: float, ctx: int) -> Tensor:
    return torch.from_numpy(_run(ctx, "rms_norm", _view(x), _view(weight), eps))


def _rope(x: Tensor, cos: Tensor, sin: Tensor, ctx: int) -> Tensor:
    return torch.from_numpy(_run(ctx, "rope", _view(x), _view(cos), _view(sin)))


def _kv_append(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, pos: int, ctx: int) -> None:
    _run(ctx, "kv_append", _view(k), _view(v), _view(k_cache), _view(v_cache), pos)


def _kv_move(k_cache: Tensor, v_cache: Tensor, source: int, target: int, ctx: int) -> None:
    _run(ctx, "kv_move", _view(k_cache), _view(v_cache), source, target)


def _attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, pos: int, window: int, scale: float, ctx: int) -> Tensor:
    return torch.from_numpy(_run(ctx, "attend", _view(q), _view(k_cache), _view(v_cache), pos, window, scale))


def _swiglu(gate: Tensor, up: Tensor, ctx: int) -> Tensor:
    return torch.from_numpy(_run(ctx, "swiglu", _view(gate), _view(up)))


def _token_surprises(logits: Tensor, ids: Tensor, ctx: int) -> Tensor:
    return torch.from_numpy(_run(ctx, "token_surprises", _view(logits), _view(ids)))


def _entropies(logits: Tensor, ctx: int) -> Tensor:
    return torch.from_numpy(_run(ctx, "entropies", _view(logits)))


def _bad_verify(
    draft_ids: Tensor,
    target_logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
    position: int,
    ctx: int,
) -> Tensor:
    law = SamplingLaw(temperature, top_k, top_p, min_p)
    # Integers of the dispatcher are signed: the upper half of the seeds arrives below zero.
    verdict = _run(ctx, "bad_verify", _view(draft_ids), _view(target_logits), law, seed & MAX_SEED, position)
    return torch.tensor(verdict, dtype=torch.int64)


def _fake_paged_linear(
    x: Tensor, biases: Sequence[Tensor | None], handles: list[int], out_features: list[int], *_: object
) -> list[Tensor]:
    _check("paged_linear", "x", x, torch.float32, 2)
    for name, values in (("out_features", out_features), ("biases", biases)):
        if len(values) != len(handles):
            raise ValueError(f"[paged_linear] {name} must have one entry a handle, got {len(values)}")
    return [x.new_empty((x.shape[0], n)) for n in out_features]


def _fake_paged_linear_transposed(x: Tensor, handle: int, out_features: int, pager: int, ctx: int) -> Tensor:
    _check("paged_linear_transposed", "x", x, torch.float32, 2)
    return x.new_empty((x.shape[0], out_features))


def _fake_embed_rows(ids: Tensor, handle: int, in_features: int, *_: object) -> Tensor:
    _check("embed_rows", "ids", ids, torch.int64, 1)
    return ids.new_empty((ids.shape[0], in_features), dtype=torch.float32)


def _fake_rms_norm(x: Tensor, weight: Tensor, eps: float, ctx: int) -> Tensor:
    _check("rms_norm", "x", x, torch.float32, 2)
    _check("rms_norm", "weight", weight, torch.float32, 1)
    return x.new_empty(x.shape)


def _fake_rope(x: Tensor, cos: Tensor, sin: Tensor, ctx: int) -> Tensor:
    _check("rope", "x", x, torch.float32, 3)
    _check("rope", "cos", cos, torch.float32, 2)
    _check("rope", "sin", sin, torch.float32, 2)
    return x.new_empty(x.shape)


def _fake_kv_append(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, pos: int, ctx: int) -> None:
    for name, tensor in (("k", k), ("v", v), ("k_cache", k_cache), ("v_cache", v_cache)):
        _check("kv_append", name, tensor, torch.float32, 3)


def _fake_kv_move(k_cache: Tensor, v_cache: Tensor, source: int, target: int, ctx: int) -> None:
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        _check("kv_move", name, tensor, torch.float32, 3)


def _fake_attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, pos: int, window: int, scale: float, ctx: int) -> Tensor:
    for name, tensor in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)):
        _check("attend", name, tensor, torch.float32, 3)
    return q.new_empty(q.shape)


def _fake_swiglu(gate: Tensor, up: Tensor, ctx: int) -> Tensor:
    _check("swiglu", "gate", gate, torch.float32, 2)
    _check("swiglu", "up", up, torch.float32, 2)
    return gate.new_empty(gate.shape)


def _fake_token_surprises(logits: Tensor, ids: Tensor, ctx: int) -> Tensor:
    _check("token_surprises", "logits", logits, torch.float32, 2)
    _check("token_surprises", "ids", ids, torch.int64, 1)
    return logits.new_empty((logits.shape[0],))


def _fake_entropies(logits: Tensor, ctx: int) -> Tensor:
    _check("entropies", "logits", logits, torch.float32, 2)
    return logits.new_empty((logits.shape[0],))


def _fake_bad_verify(draft_ids: Tensor, target_logits: Tensor, *_: object) -> Tensor:
    _check("bad_verify", "draft_ids", draft_ids, torch.int64, 1)
    _check("bad_verify", "target_logits", target_logits, torch.float32, 2)
    return draft_ids.new_empty((2,))


def _check(op: str, name: str, tensor: Tensor, dtype: torch.dtype, ndim: int) -> None:
    if tensor.dtype != dtype or tensor.dim() != ndim:
        raise ValueError(
            f"[{op}] {name} must be {dtype} of {ndim} dimensions, got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )


_KERNELS = {
    "paged_linear": (_paged_linear, _fake_paged_linear),
    "paged_linear_transposed": (_paged_linear_transposed, _fake_paged_linear_transposed),
    "embed_rows": (_embed_rows, _fake_embed_rows),
    "rms_norm": (_rms_norm, _fake_rms_norm),
    "rope": (_rope, _fake_rope),
    "kv_append": (_kv_append, _fake_kv_append),
    "kv_move": (_kv_move, _fake_kv_move),
    "attend": (_attend, _fake_attend),
    "swiglu": (_swiglu, _fake_swiglu),
    "token_surprises": (_token_surprises, _fake_token_surprises),
    "entropies": (_entropies, _fake_entropies),
    "bad_verify": (_bad_verify, _fake_bad_verify),
}
for _name, (_kernel, _fake) in _KERNELS.items():
    LIBRARY.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"vortex::{_name}", _fake, lib=LIBRARY)
