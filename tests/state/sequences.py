"""Sequences that are drafted, kept and taken back, beside what they should be the state of."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.models import build_model
from vortex_engine.models.effort import FULL, Effort
from vortex_engine.models.protocol import LanguageModel
from vortex_engine.state import recurrent_layers

VOCAB = 322


@contextmanager
def opened(path: Path, before: Callable[[], None] = lambda: None, op: str = "ssm_scan") -> Generator[LanguageModel]:
    """A model that calls `before` each time it comes to this op."""
    directory = open_directory(path)
    plain = ops.make_context(threads=1)

    def announced(*arguments: Any) -> Any:
        before()
        return plain.table[op](*arguments)

    ctx = ops.OpContext(plain.backend, plain.simd, 1, plain.pool, {**plain.table, op: announced})
    pager = ops.make_pager(ctx, 1 << 24)
    try:
        model = build_model(directory, pager, add_matrices(directory, pager), ctx, "float")
        pager.start(list(model.sweep))
        yield model
    finally:
        pager.close()


class Sequence:
    """A sequence and the ids that it should be the state of."""

    def __init__(self, model: LanguageModel, seed: int) -> None:
        self.model = model
        self.state = model.new_state(4096)
        self.ids: list[int] = []
        self.draw = np.random.default_rng(seed)

    def rows(self, n: int, effort: Effort = FULL) -> None:
        ids = self.draw.integers(0, VOCAB, n)
        self.model.forward(ids, self.state, "none", effort)
        self.ids.extend(ids.tolist())

    def commit(self, mark: Any, at: int, n: int) -> None:
        self.state.commit(mark, n)
        del self.ids[at + n :]

    def rollback(self, mark: Any, at: int) -> None:
        self.state.rollback(mark)
        del self.ids[at:]

    def check(self) -> None:
        assert self.state.length == recurrent_layers(self.state).length == len(self.ids)
        probe = np.array([5, 6], np.int64)
        mark = self.state.snapshot()
        found = self.model.forward(probe, self.state, "all")
        self.state.rollback(mark)
        fresh = self.model.new_state(4096)
        expected = self.model.forward(np.array([*self.ids, 5, 6], np.int64), fresh, "all")[-2:]
        np.testing.assert_array_equal(bits(found), bits(expected))


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return values.view(np.uint32)
