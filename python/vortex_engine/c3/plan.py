"""What goes where, decided before the first byte is written: the order of matrices and the shards they fill.

Matrices lie in the order in which a forward pass reads them: the token embedding, then the layers by number with
q, k, v, o, gate, up, down (of a Mamba mixer: in, x, dt, out; of a VORTEX layer part by part) inside each, then
matrices outside the layers by name, then `lm_head`. A tied embedding comes last, since it is read as the head. Other
matrices of a layer follow the named ones. Numbers in names sort as numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vortex_engine.c3.geometry import count_tiles, tile_limit
from vortex_engine.c3.layout import (
    ALIGNMENT,
    INDEX_COLUMNS,
    INDEX_SUFFIX,
    MIXED,
    SAFETENSORS_DTYPES,
    TILES_SUFFIX,
    shard_name,
    split_cols,
)
from vortex_engine.c3.safetensors_header import ELEMENT_BITS, reserve_bytes
from vortex_engine.c3.source import Source, SourceTensor, is_embedding

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_MAMBA_PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")
# Parts of a VORTEX layer that come before what other models have.
_LAYER_PARTS = ("local", "ssm", "lava")
_LAYER = re.compile(r"(?:^|\.)[0-9]+\.")
# The fewest bits a weight can take: nothing else may be promised before the weights are read.
_LEAST_BITS = {
    "raw": {"bf16": 16, "f16": 16, "f32": 32},
    "exact": {"bf16": 11, "f16": 14, "f32": 11},
    "int8": {"bf16": 8, "f16": 8, "f32": 8},
    "int4": {"bf16": 4, "f16": 4, "f32": 4},
    MIXED: {"bf16": 4, "f16": 4, "f32": 4},
    "lz4": {"bf16": 0, "f16": 0, "f32": 0},
    "exact12": {"bf16": 12, "f16": 14, "f32": 12},
    "dense": {"bf16": 9, "f16": 9, "f32": 9},
}


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard: its matrices in file order, its ordinary tensors in file order, and where its data starts."""

    name: str
    matrices: tuple[SourceTensor, ...]
    others: tuple[SourceTensor, ...]
    data_offset: int


@dataclass(frozen=True, slots=True)
class PackPlan:
    """A whole packed model before it is written."""

    shards: tuple[ShardPlan, ...]
    tile_limit_bytes: int
    least_bytes: int  # disk space that packing needs in any case


def matrix_dtype(tensor: SourceTensor) -> str:
    """The project's name of a matrix's dtype."""
    return SAFETENSORS_DTYPES[tensor.dtype]


def plan_packing(source: Source, codec: str, max_shard_bytes: int) -> PackPlan:
    """Lay out a packed model: shards are filled in order until the next tensor would exceed `max_shard_bytes`."""
    matrices = [tensor for tensor in source.tensors.values() if tensor.is_matrix]
    tied = source.config.get("tie_word_embeddings") is True or "lm_head.weight" not in source.tensors
    matrices.sort(key=lambda tensor: sweep_key(tensor.name, tied_embedding=tied))
    others = [tensor for tensor in source.tensors.values() if not tensor.is_matrix]
    others.sort(key=lambda tensor: _natural(tensor.name))

    shards: list[list[SourceTensor]] = []
    shard_bytes = 0
    for tensor in [*matrices, *others]:
        if not shards or shard_bytes + tensor.n_bytes > max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(tensor)
        shard_bytes += tensor.n_bytes

    limit = tile_limit((*_shape(tensor), matrix_dtype(tensor)) for tensor in matrices)
    least_bytes = sum(tensor.n_bytes for tensor in others) + sum(
        _least_matrix_bytes(tensor, codec, limit) for tensor in matrices
    )
    plans = (plan_shard(shard_name(i + 1, len(shards)), tensors) for i, tensors in enumerate(shards))
    return PackPlan(tuple(plans), limit, least_bytes)


def sweep_key(name: str, *, tied_embedding: bool) -> tuple[object, ...]:
    """Sorts matrix names in the order of a forward pass."""
    if name.endswith("lm_head.weight"):
        return (3, _natural(name))
    if is_embedding(name):
        return (3 if tied_embedding else 0, _natural(name))
    layer = _LAYER.search(name)
    if layer is None:
        return (2, _natural(name))
    names = _MAMBA_PROJECTIONS if ".mixer." in name or ".ssm." in name else _PROJECTIONS
    projection = next((i for i, part in enumerate(names) if f".{part}." in name), len(names))
    part = next((i for i, part in enumerate(_LAYER_PARTS) if f".{part}." in name), len(_LAYER_PARTS))
    return (1, _natural(name[: layer.end()]), part, projection, _natural(name))


def tensor_class(name: str) -> str:
    """The line of the report a matrix is counted in."""
    if is_embedding(name) or name.endswith("lm_head.weight"):
        return "embedding"
    if "attn" in name or "attention" in name:
        return "attention"
    return "mlp" if any(part in name for part in ("mlp", "feed_forward", "ffn", "experts")) else "other"


def check_codec(codec: str) -> None:
    """ValueError for a codec that the packer does not know."""
    if codec not in _LEAST_BITS:
        raise ValueError(f"[pack] codec must be one of {', '.join(sorted(_LEAST_BITS))}, got {codec!r}")


def _least_matrix_bytes(tensor: SourceTensor, codec: str, limit_bytes: int) -> int:
    (rows, cols), dtype = _shape(tensor), matrix_dtype(tensor)
    n_tiles = count_tiles(rows, cols, dtype, limit_bytes, split_cols=split_cols(codec))
    return max(rows * cols * _LEAST_BITS[codec][dtype] // 8, n_tiles * ALIGNMENT) + n_tiles * INDEX_COLUMNS * 8


def plan_shard(name: str, tensors: Iterable[SourceTensor]) -> ShardPlan:
    """Lay out one shard; the matrices are in file order already."""
    tensors = tuple(tensors)
    matrices = tuple(tensor for tensor in tensors if tensor.is_matrix)
    # Falling element size keeps every tensor aligned to its elements without a hole.
    others = tuple(
        sorted((tensor for tensor in tensors if not tensor.is_matrix), key=lambda tensor: -ELEMENT_BITS[tensor.dtype])
    )
    names_and_ranks = [(tensor.name + suffix, rank) for tensor in matrices for suffix, rank in _PARTS]
    names_and_ranks += [(tensor.name, len(tensor.shape)) for tensor in others]
    return ShardPlan(name, matrices, others, reserve_bytes(names_and_ranks))


_PARTS = ((TILES_SUFFIX, 1), (INDEX_SUFFIX, 2))


def _shape(tensor: SourceTensor) -> tuple[int, int]:
    rows, cols = tensor.shape
    return rows, cols


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    parts = (part for part in re.split(r"([0-9]{1,18})", name) if part)
    return tuple((0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts)
