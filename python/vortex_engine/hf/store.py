"""The matrices of one packed model behind one pager, as products and rows of torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vortex_engine import ops
from vortex_engine.c3.activations import chosen_activations
from vortex_engine.c3.directory import C3Directory, add_matrices
from vortex_engine.profile import available_ram_bytes, default_ram_budget

__all__ = ["PagedMatrix", "PagedStore"]


class PagedStore:
    """A pager over all matrices of a packed model; `start` it before the first product."""

    def __init__(
        self,
        directory: C3Directory,
        ram_budget_bytes: int | None,
        threads: int | None,
        policy: str,
        activations: str | None,
    ) -> None:
        if ram_budget_bytes is None:
            ram_budget_bytes = default_ram_budget(directory.compressed_bytes, available_ram_bytes())
        self.directory = directory
        self.policy = policy
        self.sweep: tuple[str, ...] = ()
        self.activations = chosen_activations(directory, activations)
        self._ctx = ops.make_context(threads=threads)
        self.pager = ops.make_pager(self._ctx, ram_budget_bytes, policy)
        try:
            self._handles = add_matrices(directory, self.pager)
        except BaseException:
            self.pager.close()
            raise

    def start(self, sweep: Sequence[str]) -> None:
        """Fix who is resident for this order of matrices; the others can only be looked up by rows.

        Raises:
            BudgetError: the budget is below the minimum, which the message names.
        """
        self.sweep = tuple(sweep)
        self.pager.start([self._handles[name] for name in sweep])

    def products(self, names: Sequence[str], x: Tensor) -> list[Tensor]:
        """x [M, K] float32 times W^T of matrices [N_i, K] that share x: [M, N_i] float32 each."""
        handles = [self._handles[name] for name in names]
        return ops.paged_linear(self._ctx, self.pager, handles, x, [None] * len(handles), self.activations)

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Rows `ids` [T] int64 of a matrix [N, K], float32 [T, K]."""
        return ops.embed_rows(self._ctx, self.pager, self._handles[name], ids)

    def transposed_product(self, name: str, x: Tensor) -> Tensor:
        """x [M, N] float32 times a matrix [N, K] as it is: [M, K] float32."""
        return ops.paged_linear_transposed(self._ctx, self.pager, self._handles[name], x)

    def dense(self, name: str) -> Tensor:
        """The whole matrix in float32; for the parameters that no paged module stands for."""
        return self.rows(name, torch.arange(self.directory.matrices[name].rows))

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedStore:
        return self  # weights never change, so copies of a module share them


@dataclass(frozen=True)
class PagedMatrix:
    """One matrix of a store, and the dtype in which the model wants its values."""

    store: PagedStore
    name: str
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns as the checkpoint has them."""
        matrix = self.store.directory.matrices[self.name]
        return matrix.rows, matrix.cols
