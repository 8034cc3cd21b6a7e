"""What no paging policy can beat: the yardstick beside a measured hit rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory

__all__ = ["best_byte_hit_rate", "best_hit_rate", "sweep_tile_bytes"]

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def sweep_tile_bytes(directory: C3Directory) -> list[int]:
    """Stored sizes of the tiles that every sweep visits; an embedding with a head of its own is only looked up."""
    looked_up = {_EMBEDDING} if _HEAD in directory.matrices else set[str]()
    return [
        int(n_bytes)
        for name, matrix in directory.matrices.items()
        if name not in looked_up
        for n_bytes in matrix.tiles.stored_bytes
    ]


def best_byte_hit_rate(sweep_bytes: int, *, n_sweeps: int, budget_bytes: int) -> float:
    """An upper bound on the share of bytes that any policy finds in memory over cyclic sweeps from a cold start.

    Bytes found in a sweep were held at the boundary before it, where no more than the budget is held.

    Args:
        sweep_bytes: Stored bytes that one sweep visits.
        n_sweeps: Sweeps of the trace; the first one finds nothing.
    """
    if n_sweeps * sweep_bytes == 0:
        return 0.0
    return (n_sweeps - 1) * min(budget_bytes, sweep_bytes) / (n_sweeps * sweep_bytes)


def best_hit_rate(
    tile_bytes: Sequence[int], *, n_accesses: int, n_sweeps: int, budget_bytes: int, n_cold_sweeps: int = 1
) -> float:
    """An upper bound on the hit rate of any policy, Belady's included, over cyclic sweeps.

    A sweep visits each of its tiles once, so a tile that hits in a sweep was held at the boundary before that sweep.
    The tiles held there fit the budget together, so they are at most as many as the smallest tiles whose sum does. A
    cold sweep finds nothing held. Lookups, which come on top of one access per tile and sweep, all count as hits; that
    can only raise the bound. Belady's policy itself stays below it by about the one tile that is being read.

    Args:
        tile_bytes: Stored size of every tile of the sweep.
        n_accesses: Accesses of the whole trace, lookups included.
        n_sweeps: Sweeps of the trace.
        budget_bytes: Bytes that may be held at any time.
        n_cold_sweeps: Sweeps at the start that find nothing held: 1 from a cold start, 0 in a steady state.
    """
    if n_accesses == 0:
        return 0.0
    held = n_fit = 0
    for size in sorted(tile_bytes):
        held += size
        if held > budget_bytes:
            break
        n_fit += 1
    n_lookups = max(0, n_accesses - n_sweeps * len(tile_bytes))
    return min(1.0, (max(0, n_sweeps - n_cold_sweeps) * n_fit + n_lookups) / n_accesses)
