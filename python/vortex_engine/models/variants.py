"""A packed model any of whose matrices can be read from another packing of the same checkpoint instead.

One decoder, one pager, one set of norms and biases: two runs differ in nothing but the matrices that were replaced, and
their logits have the bits of the engine, whatever the threads and the budget.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.c3.directory import C3Directory, add_matrices, open_directory
from vortex_engine.models import build_model
from vortex_engine.profile import available_ram_bytes, default_ram_budget

__all__ = ["VariantModel", "open_variants"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@contextmanager
def open_variants(
    reference: Path, variants: Mapping[str, Path], *, threads: int | None, ram_budget_bytes: int | None
) -> Generator[VariantModel]:
    """The model of the packed directory `reference`, with `variants` by name, all under one byte budget.

    Raises:
        BudgetError: the budget is below the minimum.
        ModelConfigError, CorruptTileError: a directory cannot be used.
    """
    directory = open_directory(reference)
    others = {name: open_directory(path) for name, path in variants.items()}
    if ram_budget_bytes is None:
        total_bytes = directory.compressed_bytes + sum(other.compressed_bytes for other in others.values())
        ram_budget_bytes = default_ram_budget(total_bytes, available_ram_bytes())
    ctx = ops.make_context(threads=threads)
    pager = ops.make_pager(ctx, ram_budget_bytes)
    try:
        yield VariantModel(ctx, pager, directory, others)
    finally:
        pager.close()


class VariantModel:
    """Made by `open_variants`; one window at a time, each a sequence of its own."""

    def __init__(
        self, ctx: ops.OpContext, pager: Any, reference: C3Directory, variants: Mapping[str, C3Directory]
    ) -> None:
        self._linear, self._rows = ctx.table["paged_linear"], ctx.table["embed_rows"]
        table = {**ctx.table, "paged_linear": self._paged_linear, "embed_rows": self._embed_rows}
        table["decoder_layer"] = ops.composed(table)
        self._handles = add_matrices(reference, pager)
        self._names = {handle: name for name, handle in self._handles.items()}
        self._variants = {name: add_matrices(variant, pager) for name, variant in variants.items()}
        self._replaced: dict[int, int] = {}
        self._sums: _Sums | None = None
        self._decoder = build_model(
            reference,
            pager,
            self._handles,
            ops.OpContext(ctx.backend, ctx.simd, ctx.threads, ctx.pool, table),
            # The reference's own tiles are lossless and take float activations whatever is said here.
            "int8" if any(variant.activations == "int8" for variant in variants.values()) else "float",
        )
        self.vocab_size = self._decoder.config.vocab_size
        pager.start(list(self._decoder.sweep))

    def logits(self, ids: Ids, replaced: Mapping[str, str] | str | None = None) -> Floats:
        """Logits after every id of a window, float32 [T, vocab].

        Args:
            ids: [T] int64.
            replaced: name of a matrix -> the variant that it is read from; the name of a variant replaces all.
        """
        if isinstance(replaced, str):
            replaced = dict.fromkeys(self._handles, replaced)
        pairs = (replaced or {}).items()
        self._replaced = {self._handles[name]: self._variants[variant][name] for name, variant in pairs}
        return self._decoder.forward(ids, self._decoder.new_state(len(ids)), "all")

    def output_errors(self, windows: Sequence[Ids]) -> dict[str, dict[str, float]]:
        """What each variant W' of each matrix W does to its outputs: sum |(W' - W) x|^2 / sum |W x|^2.

        Returns:
            matrix -> variant -> that ratio over all inputs x that the windows bring, 0 where every W x is 0; matrices
            in the order of their first use, those that no forward pass reads left out.
        """
        sums = self._sums = _Sums()
        try:
            for ids in windows:
                self.logits(ids)
        finally:
            self._sums = None
        return {
            self._names[handle]: {
                variant: sums.errors[handle, variant] / square if square else 0.0 for variant in self._variants
            }
            for handle, square in sums.squares.items()
        }

    def _paged_linear(
        self,
        pager: Any,
        handles: Sequence[int],
        x: Floats,
        biases: Sequence[Floats | None],
        activations: str,
        planes: str,
    ) -> list[Floats]:
        if self._sums is not None:
            # Without biases, which are no output of the matrix.
            none = [None] * len(handles)
            outputs = self._linear(pager, handles, x, none, activations, planes)
            for variant, twins in self._variants.items():
                replaced = [twins[self._names[handle]] for handle in handles]
                others = self._linear(pager, replaced, x, none, activations, planes)
                self._sums.add(variant, handles, outputs, others)
        replaced = [self._replaced.get(handle, handle) for handle in handles]
        return self._linear(pager, replaced, x, biases, activations, planes)

    def _embed_rows(self, pager: Any, handle: int, ids: Ids, planes: str) -> Floats:
        if self._sums is not None:
            rows = self._rows(pager, handle, ids, planes)
            for variant, twins in self._variants.items():
                self._sums.add(variant, [handle], [rows], [self._rows(pager, twins[self._names[handle]], ids, planes)])
        return self._rows(pager, self._replaced.get(handle, handle), ids, planes)


class _Sums:
    """Sums of squares: of outputs by matrix, of errors by matrix and variant."""

    def __init__(self) -> None:
        self.squares: dict[int, float] = {}
        self.errors: dict[tuple[int, str], float] = {}
        self._counted: str | None = None

    def add(self, variant: str, handles: Sequence[int], outputs: Sequence[Floats], others: Sequence[Floats]) -> None:
        # The outputs come once with every variant and count with the first.
        self._counted = self._counted or variant
        for handle, output, other in zip(handles, outputs, others, strict=True):
            if variant == self._counted:
                self.squares[handle] = self.squares.get(handle, 0.0) + _square_sum(output)
            key = handle, variant
            self.errors[key] = self.errors.get(key, 0.0) + _square_sum(other - output)


def _square_sum(values: Floats) -> float:
    # A row at a time: a head's outputs are long, and in float64 twice as much.
    return sum(float(np.square(row, dtype=np.float64).sum()) for row in values)
