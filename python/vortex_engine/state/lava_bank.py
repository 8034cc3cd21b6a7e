"""The memory of a LAVA layer: keys and values in lists around centroids that follow what arrives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from vortex_engine import _native, ops
from vortex_engine.errors import StateFileError
from vortex_engine.ops import cpu
from vortex_engine.state.lava_basis import fit_basis, stored_basis
from vortex_engine.state.lava_file import BankParts, read_bank, write_bank

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext

__all__ = ["LavaBank", "fit_basis"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class LavaBank:
    """An inverted file that learns while it is used: slots are added, overwritten and removed, lists split and merge.

    Lists are those of k-means by direction: a key belongs to the list with whose direction it scores highest, and a
    query probes the lists with whose directions it does.

    A slot is a key, a value, the position that wrote it and an importance. What the bank answers is a function of the
    calls alone: no bit depends on threads or SIMD level. Several threads may search and read at once; one that writes
    waits for them.

    Attributes:
        dim, value_dim: of keys and values; capacity: slots; nlist: the most lists that there may be.
        contents: "fp16"; "int8", a byte a dimension and a scale a vector; or "2bit", two bits a dimension of a rotated
            vector and a scale.
    """

    def __init__(
        self,
        ctx: OpContext,
        dim: int,
        value_dim: int,
        *,
        capacity: int,
        nlist: int,
        contents: str = "fp16",
        ema: float = 0.0,
        half_life: float = 65536.0,
        key_basis: F32 | None = None,
        value_basis: F32 | None = None,
    ) -> None:
        """
        Args:
            ctx: what searches and reads run on.
            ema: the least rate at which a centroid follows the keys that arrive; 0 for the mean of its list's keys.
            half_life: positions that weigh as much as an importance of 1 when a full bank gives up a slot; `math.inf`
                for importance alone.
            key_basis, value_basis: [rank, dim], [rank, value_dim] float32 with orthonormal rows, as `fit_basis` makes
                them: only these coordinates are stored. None for all.

        Raises:
            ValueError: a size, rate, kind of contents or basis that cannot be; names it.
        """
        self._ctx = ctx
        self._pool = ctx.pool if ctx.pool is not None else cpu.make_pool(1, None)
        self.dim, self.value_dim, self.capacity, self.nlist = dim, value_dim, capacity, nlist
        self.contents, self.ema, self.half_life = contents, float(ema), float(half_life)
        self.native = _native.LavaBank(
            self._pool,
            **self._options(),
            key_basis=stored_basis(key_basis, dim, contents),
            value_basis=stored_basis(value_basis, value_dim, contents),
        )

    def _options(self) -> dict[str, Any]:
        names = ("dim", "value_dim", "capacity", "nlist", "contents", "ema", "half_life")
        return {name: getattr(self, name) for name in names}

    def __len__(self) -> int:
        return self.stats()["slots"]

    @property
    def n_bytes(self) -> int:
        """Bytes that it holds."""
        return self.native.n_bytes

    def stats(self) -> dict[str, Any]:
        """slots, lists, splits, merges, moves (of slots between lists), longest_pause_s (of 64 rows' insertion)."""
        return self.native.stats()

    def insert(
        self, keys: F32, values: F32, positions: I64 | Sequence[int], importance: F32 | Sequence[float] | float = 0.0
    ) -> I64:
        """Remember rows, in order.

        Args:
            keys, values: [n, dim], [n, value_dim] float32.
            positions: [n], from 0 to 2^52; importance: [n], or one for all.

        Returns:
            [n] int64, the slots they are in. In a full bank each takes the place of the slot with the lowest
            importance + position / half_life, of the older one on ties.

        Raises:
            ValueError: a wrong shape, or a value that is not finite or above 65504 in magnitude; nothing was inserted.
        """
        weights = np.broadcast_to(np.asarray(importance, np.float32), (len(keys),))
        return self.native.insert(
            self._pool, keys, values, np.ascontiguousarray(positions, np.int64), np.ascontiguousarray(weights)
        )

    def remove(self, ids: I64 | Sequence[int]) -> None:
        """Forget slots.

        Raises:
            ValueError: an id that is not in use, or twice; nothing was removed.
        """
        self.native.remove(np.ascontiguousarray(ids, np.int64))

    def set_importance(self, ids: I64 | Sequence[int], importance: F32 | Sequence[float]) -> None:
        """Change the importance of slots.

        Raises:
            ValueError: an id that is not in use; nothing was changed.
        """
        self.native.set_importance(np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(importance, np.float32))

    def search(self, q: F32, nprobe: int, k: int) -> tuple[I64, F32]:
        """`ops.lava_search` of this bank."""
        return ops.lava_search(self._ctx, self, q, nprobe, k)

    @overload
    def read(
        self,
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
    def read(
        self,
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
    def read(
        self,
        q: F32,
        scale: F32 | float,
        nprobe: int,
        k: int | None = None,
        tail: bool = True,
        recent_keys: F32 | None = None,
        recent_values: F32 | None = None,
        recent_range: I64 | None = None,
        return_bound: bool = False,
    ) -> Any:
        """`ops.lava_read` of this bank."""
        recent = recent_keys, recent_values, recent_range
        if return_bound:
            return ops.lava_read(self._ctx, self, q, scale, nprobe, k, tail, *recent, return_bound=True)
        return ops.lava_read(self._ctx, self, q, scale, nprobe, k, tail, *recent)

    def begin(self) -> int:
        """A mark to commit or roll back to; marks nest, and one that is closed closes those begun after it."""
        return self.native.begin()

    def commit(self, mark: int) -> None:
        """Keep what was done since the mark.

        Raises:
            ValueError: the mark is not open.
        """
        self.native.commit(mark)

    def rollback(self, mark: int) -> None:
        """Be what it was at the mark, bit for bit.

        Raises:
            ValueError: the mark is not open.
        """
        self.native.rollback(mark)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file, which replaces `path` whole or not at all.

        Raises:
            MachineError: it cannot be written; what was there is as it was.
        """
        write_bank(Path(path), *self.parts())

    def parts(self) -> BankParts:
        """What it was made with, and every array that decides what it answers."""
        return self._options(), self.native.state()

    @classmethod
    def load(
        cls, ctx: OpContext, path: str | os.PathLike[str], *, dim: int | None = None, value_dim: int | None = None
    ) -> LavaBank:
        """The bank that was saved: from here on it does what that one would have done, bit for bit.

        Args:
            dim, value_dim: what its widths must be; None for any.

        Raises:
            StateFileError: a file that is missing, damaged, no bank, of another format number or of another width.
            MachineError: it cannot be read.
        """
        return cls.from_parts(ctx, read_bank(Path(path)), os.fspath(path), dim=dim, value_dim=value_dim)

    @classmethod
    def from_parts(
        cls, ctx: OpContext, parts: BankParts, path: str, *, dim: int | None = None, value_dim: int | None = None
    ) -> LavaBank:
        """The bank whose `parts` these are; `path` is where they were read from. As `load`."""
        options, arrays = parts
        for name, wanted in (("dim", dim), ("value_dim", value_dim)):
            if wanted is not None and options[name] != wanted:
                raise StateFileError(f"[lava_bank] {path} must have {name} {wanted}, got {options[name]}")
        try:
            bank = cls(ctx, **options)
            bank.native = _native.LavaBank.from_state(bank._pool, arrays, **options)
        except ValueError as error:
            raise StateFileError(f"[lava_bank] {path} holds no bank: {error}") from error
        return bank

    def export(self) -> dict[str, NDArray[Any]]:
        """What it stores: ids, keys, values (as the contents decode), positions, importance and lists of the slots in
        the order of their ids; centroids (directions of length 1) and is_alive of every list that ever was.
        """
        return self.native.export()
