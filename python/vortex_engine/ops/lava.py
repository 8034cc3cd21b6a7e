"""Ops over a LAVA bank: the nearest slots of a query, and attention over what the bank remembers.

A bank is a `vortex_engine.state.LavaBank`. On the `cpu` backend every row of a result is a function of its own query
and the bank: the number of rows in a call, threads and SIMD level change no bit of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vortex_engine.ops.context import OpContext

__all__ = ["Bank", "lava_read", "lava_search"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class Bank(Protocol):
    """What the ops need of a bank."""

    @property
    def native(self) -> Any:
        """The `_native.LavaBank`."""
        ...

    @property
    def dim(self) -> int:
        """Of the keys that it stores."""
        ...

    @property
    def value_dim(self) -> int:
        """Of the values that it stores."""
        ...

    @property
    def nlist(self) -> int:
        """The most lists that it may have."""
        ...

    def export(self) -> dict[str, NDArray[Any]]:
        """What it stores, as plain arrays."""
        ...


def lava_search(ctx: OpContext, bank: Bank, q: F32, nprobe: int, k: int) -> tuple[I64, F32]:
    """The k slots with the largest q . key among those of the nprobe lists whose centroids score highest.

    Args:
        q: [Q, dim] float32.
        nprobe: from 1 to the bank's nlist; lists without slots do not count.

    Returns:
        ids [Q, k] int64 and scores [Q, k] float32, in the order (score descending, id ascending); -1 and -inf where
        there are fewer than k.

    Raises:
        ValueError: a wrong width, nprobe or k, or a value of q that is not finite or above 65504; names it.

    Source: an inverted file, doi 10.1109/ICCV.2003.1238663.
    """
    return ctx.table["lava_search"](bank, q, nprobe, k)


@overload
def lava_read(
    ctx: OpContext,
    bank: Bank,
    q: F32,
    scale: F32 | float,
    nprobe: int,
    k: int | None = None,
    tail: bool = True,
    recent_keys: F32 | None = None,
    recent_values: F32 | None = None,
    recent_range: I64 | None = None,
    return_bound: Literal[False] = False,
) -> F32: ...
@overload
def lava_read(
    ctx: OpContext,
    bank: Bank,
    q: F32,
    scale: F32 | float,
    nprobe: int,
    k: int | None = None,
    tail: bool = True,
    recent_keys: F32 | None = None,
    recent_values: F32 | None = None,
    recent_range: I64 | None = None,
    *,
    return_bound: Literal[True],
) -> tuple[F32, F32]: ...
def lava_read(
    ctx: OpContext,
    bank: Bank,
    q: F32,
    scale: F32 | float,
    nprobe: int,
    k: int | None = None,
    tail: bool = True,
    recent_keys: F32 | None = None,
    recent_values: F32 | None = None,
    recent_range: I64 | None = None,
    return_bound: bool = False,
) -> F32 | tuple[F32, F32]:
    """softmax(scale q . key) over values: exact over recent rows and the k best slots, the rest estimated.

    Every slot that is not among the k best is in the tail. Where its list is probed its weight is known, and its value
    is taken for the mean value of the list; else its key too is taken for the mean key. With k None all slots of the
    probed lists are read, so with nprobe = nlist the result is attention over everything that the bank stores.

    Args:
        q: [Q, dim] float32.
        scale: of each query's scores, [Q] float32 or one number, not negative.
        nprobe, k: as `lava_search` has them.
        tail: False leaves the slots that are not read out.
        recent_keys, recent_values: [R, dim], [R, value_dim] float32, rows that are not in the bank; None for none.
        recent_range: [Q, 2] int64, query i reads recent rows recent_range[i, 0] .. recent_range[i, 1] - 1; None: all.
        return_bound: give [Q] float32 too: no more than that is the result's distance (Euclidean) from exact attention
            over the recent rows and all that the bank stores.

    Returns:
        [Q, value_dim] float32, zeros where there is nothing to read; with `return_bound` (out, bound).

    Raises:
        ValueError: a wrong width, range, nprobe or k, or a value that is not finite or above 65504; names it.

    Source: arXiv:1706.03762, equation 1; the estimated zone is that of arXiv:2505.02922, section 4.2, with a bound.
    """
    n = len(q)
    if isinstance(scale, (int, float)):
        scale = np.full(n, scale, np.float32)
    if (recent_keys is None) != (recent_values is None):
        raise ValueError("[lava_read] recent_keys and recent_values must be given together, got one of them")
    if recent_keys is None or recent_values is None:
        recent_keys, recent_values = np.zeros((0, bank.dim), np.float32), np.zeros((0, bank.value_dim), np.float32)
    if recent_range is None:
        recent_range = np.tile(np.array([0, len(recent_keys)], np.int64), (n, 1))
    out, bound = ctx.table["lava_read"](
        bank, q, scale, nprobe, k, tail, recent_keys, recent_values, recent_range, return_bound
    )
    return (out, bound) if return_bound else out
