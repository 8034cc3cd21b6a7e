"""What is rolled back never was: a bank after any program of transactions is, in every array that decides what it
answers from then on, a bank that was only given what survived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vortex_engine import ops
from vortex_engine.state import LavaBank

F32 = np.float32
DIM, VALUE_DIM = 3, 2
CTX = ops.make_context(threads=1, backend="cpu")
STEPS = st.tuples(
    st.sampled_from(["insert", "insert", "insert", "remove", "importance", "begin", "commit", "rollback"]),
    st.integers(0, 2**32 - 1),
)


def fresh(contents: str) -> LavaBank:
    return LavaBank(CTX, DIM, VALUE_DIM, capacity=150, nlist=6, contents=contents, half_life=50.0)


def step(bank: LavaBank, kind: str, seed: int) -> None:
    """One operation; what it does depends on the seed and on what the bank holds."""
    rng = np.random.default_rng(seed)
    if kind == "insert":
        n = int(rng.integers(1, 90))
        keys = rng.choice(np.eye(DIM), n) + 0.3 * rng.standard_normal((n, DIM))
        values = rng.standard_normal((n, VALUE_DIM)).astype(F32)
        bank.insert(keys.astype(F32), values, rng.integers(0, 500, n), rng.random(n).astype(F32))
        return
    ids = bank.export()["ids"]
    some = rng.permutation(ids)[: int(rng.integers(0, len(ids) + 1))]
    if kind == "remove":
        bank.remove(some)
    else:
        bank.set_importance(some, rng.random(len(some)).astype(F32))


def check_same(got: LavaBank, wanted: LavaBank) -> None:
    a, b = got.native.state(), wanted.native.state()
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_array_equal(array.view(np.uint8), b[name].view(np.uint8), err_msg=name)
    q = np.random.default_rng(1).standard_normal((4, DIM)).astype(F32)
    for one, other in zip(got.search(q, 3, 20), wanted.search(q, 3, 20), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(
        got.read(q, 2.0, 2, 5, return_bound=True), wanted.read(q, 2.0, 2, 5, return_bound=True), strict=True
    ):
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


@pytest.mark.parametrize("contents", ["fp16", "int8", "2bit"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=st.lists(STEPS, max_size=25))
def test_any_program_leaves_what_survived(contents: str, program: list[tuple[str, int]]):
    bank = fresh(contents)
    done: list[tuple[str, int]] = []
    marks: list[tuple[int, int]] = []  # mark, how much was done before it
    for kind, seed in program:
        if kind == "begin":
            marks.append((bank.begin(), len(done)))
        elif kind in ("commit", "rollback"):
            if marks:
                at = seed % len(marks)
                mark, n_done = marks[at]
                getattr(bank, kind)(mark)
                del marks[at:]
                if kind == "rollback":
                    del done[n_done:]
        else:
            step(bank, kind, seed)
            done.append((kind, seed))
    wanted = fresh(contents)
    for kind, seed in done:
        step(wanted, kind, seed)
    check_same(bank, wanted)


def grown(n: int = 2000) -> LavaBank:
    bank = LavaBank(CTX, 8, 4, capacity=n, nlist=24)
    rng = np.random.default_rng(2)
    bank.insert(rng.standard_normal((n, 8)).astype(F32), rng.standard_normal((n, 4)).astype(F32), np.arange(n))
    return bank


def test_splits_merges_and_evictions_are_undone():
    bank, untouched = grown(), grown()
    rng, away = np.random.default_rng(3), np.array([4.0, 0, 0, 0, 0, 0, 0, 0])
    for _ in range(3):
        mark = bank.begin()
        before = bank.stats()
        bank.remove(rng.permutation(bank.export()["ids"])[:900])
        for i in range(30):
            keys = (rng.standard_normal((64, 8)) + away).astype(F32)
            bank.insert(keys, np.ones((64, 4), F32), np.arange(64 * i, 64 * i + 64) + 5000)
        after = bank.stats()
        assert all(after[name] > before[name] for name in ("splits", "merges", "moves"))
        bank.rollback(mark)
        assert {**bank.stats(), "longest_pause_s": 0} == {**before, "longest_pause_s": 0}
    for name, array in bank.native.state().items():
        np.testing.assert_array_equal(array, untouched.native.state()[name], err_msg=name)
    # From here on both do the same.
    for one in (bank, untouched):
        more = np.random.default_rng(4)
        one.insert(more.standard_normal((500, 8)).astype(F32), np.ones((500, 4), F32), np.arange(500) + 9000)
    for name, array in bank.native.state().items():
        np.testing.assert_array_equal(array, untouched.native.state()[name], err_msg=name)


def closings() -> list[Callable[[LavaBank, Any], None]]:
    return [LavaBank.commit, LavaBank.rollback]


@pytest.mark.parametrize("close", closings())
def test_marks_that_are_not_open_are_refused(close: Callable[[LavaBank, Any], None]):
    bank = fresh("fp16")
    with pytest.raises(ValueError, match=r"mark must be one that is open, got 1"):
        close(bank, 1)
    outer = bank.begin()
    inner = bank.begin()
    close(bank, outer)
    for mark in (outer, inner):
        with pytest.raises(ValueError, match=rf"mark must be one that is open, got {mark}"):
            close(bank, mark)
