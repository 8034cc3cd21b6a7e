"""What no paging policy can beat: the yardstick beside a measured hit rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory

__all__ = ["belady_bytes_per_sweep", "best_byte_hit_rate", "sweep_tile_bytes"]

_EMBEDDING, _HEAD, _MULTI_TOKEN = "model.embed_tokens.weight", "lm_head.weight", "mtp."


def sweep_tile_bytes(directory: C3Directory) -> list[int]:
    """Stored sizes of the tiles that every sweep visits.

    An embedding with a head of its own is only looked up, multi-token heads are read while drafting.
    """
    looked_up = {_EMBEDDING} if _HEAD in directory.matrices else set[str]()
    return [
        int(n_bytes)
        for name, matrix in directory.matrices.items()
        if name not in looked_up and not name.startswith(_MULTI_TOKEN)
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


def belady_bytes_per_sweep(tile_bytes: Sequence[int], budget_bytes: int, n_sweeps: int = 4) -> float:
    """Bytes a sweep reads in the steady state under Belady's policy: evict the tile whose next use is farthest.

    In a cyclic sweep the farthest is the one used last, so what a miss evicts is what was just multiplied.

    Source: L. A. Belady, IBM Systems Journal 5(2), 1966, algorithm MIN.
    """
    held: list[int] = []  # in order of last use
    held_bytes = n_read = 0
    for sweep in range(n_sweeps):
        if sweep == n_sweeps // 2:  # the first half fills the budget
            n_read = 0
        for tile, size in enumerate(tile_bytes):
            if tile in held:
                held.remove(tile)
            else:
                n_read += size
                held_bytes += size
                while held and held_bytes > budget_bytes:
                    held_bytes -= tile_bytes[held.pop()]
            held.append(tile)
    return n_read / (n_sweeps - n_sweeps // 2)
