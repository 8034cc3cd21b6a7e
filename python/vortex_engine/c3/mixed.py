"""Codecs of a `mixed` model: every matrix gets the one that lowers the model's error most for the bytes it costs.

Per matrix the options form a curve of error over bytes; where its lower convex hull is steepest over all matrices, the
next byte is spent. That is the Lagrangian solution of the multiple-choice knapsack problem: optimal up to the last
matrix that does not fit (Sinha and Zoltners, Operations Research 27(3), 1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vortex_engine.c3.geometry import groups
from vortex_engine.c3.layout import INDEX_COLUMNS, INT_GROUP_COLS, ITEM_BYTES, PANEL_ROWS, align_up, split_cols
from vortex_engine.c3.plan import PackPlan, matrix_dtype
from vortex_engine.c3.source import Source, SourceTensor
from vortex_engine.errors import BudgetError

# Of both integer codecs, see FORMAT.md: a unit a row; bytes of a group of 32 columns of a panel.
_HEADER_BYTES = 4 * PANEL_ROWS
_GROUP_BYTES = {"int8": 2112, "int4": 1152}


@dataclass(frozen=True, slots=True)
class Option:
    """A codec for a matrix, the bytes it stores (alignment and index included) and the error it adds to the model."""

    codec: str
    bytes: int
    error: float


def assign(options: Mapping[str, Sequence[Option]], budget_bytes: int) -> dict[str, str]:
    """The codec of every matrix under a budget for all of them together, which the smallest options must fit."""
    hulls = {name: _hull(choices) for name, choices in options.items()}
    spent = sum(hull[0].bytes for hull in hulls.values())
    assert spent <= budget_bytes
    chosen = {name: hull[0] for name, hull in hulls.items()}
    steps = [(_slope(*pair), name, pair) for name, hull in hulls.items() for pair in pairwise(hull)]
    # Slopes fall along a hull, so each matrix climbs its own in order.
    for _, name, (below, above) in sorted(steps, key=lambda step: (-step[0], step[1])):
        if chosen[name] == below and spent + above.bytes - below.bytes <= budget_bytes:
            chosen[name] = above
            spent += above.bytes - below.bytes
    return {name: option.codec for name, option in chosen.items()}


def raw_bytes(tensor: SourceTensor, plan: PackPlan) -> int:
    """Bytes that a matrix takes as raw tiles, alignment and index included."""
    return _stored_bytes(tensor, plan, "raw")


def check_bits_per_weight(bits_per_weight: float, source: Source, plan: PackPlan) -> None:
    """Refuse a bound that no choice of codecs can reach, before anything is packed.

    Raises:
        BudgetError: names the least that can be reached.
    """
    matrices = [tensor for tensor in source.tensors.values() if tensor.is_matrix]
    least = sum(min(_stored_bytes(tensor, plan, codec) for codec in ("raw", "int8", "int4")) for tensor in matrices)
    if least > matrix_budget(bits_per_weight, source):
        raise unreachable(bits_per_weight, least, source)


def matrix_budget(bits_per_weight: float, source: Source) -> int:
    """Bytes that the matrices may take in a model whose tensors together store at most that many bits a weight."""
    return math.floor(bits_per_weight * _n_weights(source) / 8) - _other_bytes(source)


def unreachable(bits_per_weight: float, least_matrix_bytes: int, source: Source) -> BudgetError:
    """The error of a bound below what the smallest choice for every matrix takes."""
    least = 8 * (least_matrix_bytes + _other_bytes(source)) / _n_weights(source)
    # Rounded up, so that the number named can be reached.
    return BudgetError(
        f"[pack] bits_per_weight must be at least {math.ceil(least * 1000) / 1000:.3f} for this checkpoint, its norms, "
        f"indices and alignment included, got {bits_per_weight:g}"
    )


def _n_weights(source: Source) -> int:
    return sum(math.prod(tensor.shape) for tensor in source.tensors.values())


def _other_bytes(source: Source) -> int:
    return sum(tensor.n_bytes for tensor in source.tensors.values() if not tensor.is_matrix)


def _stored_bytes(tensor: SourceTensor, plan: PackPlan, codec: str) -> int:
    rows, cols = tensor.shape
    dtype = matrix_dtype(tensor)
    tiles: Iterable[tuple[int, int, int, int]] = (
        tile
        for group in groups(rows, cols, dtype, plan.tile_limit_bytes, split_cols=split_cols(codec))
        for tile in group.tiles
    )
    total = 0
    for _, n_rows, _, n_cols in tiles:
        n_panels = -(-n_rows // PANEL_ROWS)
        if codec == "raw":
            panel_bytes = n_cols * PANEL_ROWS * ITEM_BYTES[dtype]
        else:
            panel_bytes = _HEADER_BYTES + -(-n_cols // INT_GROUP_COLS) * _GROUP_BYTES[codec]
        total += align_up(n_panels * panel_bytes) + 8 * INDEX_COLUMNS
    return total


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of error over bytes, by rising bytes; the first is the smallest."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.bytes, option.error, option.codec)):
        if hull and option.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _slope(hull[-1], option) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(below: Option, above: Option) -> float:
    """Error that a byte saves between two options, of which the second is larger."""
    return (below.error - above.error) / (above.bytes - below.bytes)
