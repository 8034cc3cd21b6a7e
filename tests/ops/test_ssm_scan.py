"""ssm_scan and ssm_step against float64, and the same bits whichever way the work is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vortex_engine import ops

F32 = np.float32
# A fiftieth of what state-spaces/mamba's own tests allow (rtol 6e-4, atol 2e-3).
RTOL, ATOL = 6e-4 / 50, 2e-3 / 50


@dataclass(frozen=True)
class Case:
    length: int
    channels: int
    n_state: int
    batch: int = 2
    heads: int = 0  # 0: A is [D, N]
    groups: int = 0  # 0: B and C have no dimension of groups
    constant: str = ""  # which of B and C do not change with time
    has: str = "D z delta_bias initial_state"
    softplus: bool = True
    D_per_head: bool = True

    @property
    def rows(self) -> int:
        return self.heads or self.channels


CHANNELS = [
    Case(0, 16, 16),
    Case(1, 1, 1),
    Case(2, 15, 7, has=""),
    Case(63, 16, 8, has="D"),
    Case(64, 17, 17, has="z initial_state"),
    Case(65, 48, 16),
    Case(128, 100, 64, softplus=False),
    Case(500, 48, 128, has="D z initial_state", softplus=False),
    Case(500, 100, 16, batch=1),
    Case(128, 48, 16, groups=1),
    Case(65, 100, 16, groups=2),
    Case(64, 48, 7, groups=6, batch=3),
    Case(65, 17, 8, groups=17),
    Case(65, 48, 16, constant="BC"),
    Case(128, 17, 8, constant="B", has="z"),
    Case(64, 100, 16, constant="C", groups=4),
    Case(1, 100, 16, constant="B", groups=2, batch=5),
]
HEADS = [
    Case(0, 64, 16, heads=4),
    Case(1, 1, 1, heads=1),
    Case(2, 16, 7, heads=16, has=""),
    Case(63, 48, 16, heads=3, groups=3),
    Case(64, 48, 17, heads=6, groups=2, D_per_head=False),
    Case(65, 100, 64, heads=5, batch=3),
    Case(128, 128, 128, heads=2, groups=1),
    Case(500, 64, 16, heads=1, batch=1),
    Case(128, 100, 8, heads=5, groups=5, softplus=False, has="z"),
    Case(65, 17, 16, heads=1, D_per_head=False),
    Case(65, 15, 1, heads=15, has="D initial_state"),
    Case(65, 320, 16, heads=5, groups=5, batch=1),
]
CASES = [*CHANNELS, *HEADS]
STEPPED = [case for case in CASES if case.length]


def inputs(case: Case) -> dict[str, Any]:
    """Arguments drawn as state-spaces/mamba's tests draw theirs."""
    rng = np.random.default_rng(case.length * 1009 + case.channels * 31 + case.n_state)
    batch, channels, length, n_state = case.batch, case.channels, case.length, case.n_state

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(F32)

    def readout(name: str) -> np.ndarray:
        if name in case.constant:
            return normal(channels, n_state)
        return normal(batch, *([case.groups] if case.groups else []), n_state, length)

    arguments: dict[str, Any] = {
        "u": normal(batch, channels, length),
        "delta": 0.5 * rng.random((batch, case.rows, length), F32),
        "A": -0.5 * rng.random(case.heads or (channels, n_state), F32),
        "B": readout("B"),
        "C": readout("C"),
        "delta_softplus": case.softplus,
    }
    if "D" in case.has.split():
        arguments["D"] = normal(case.rows if case.D_per_head else channels)
    if "z" in case.has.split():
        arguments["z"] = normal(batch, channels, length)
    if "delta_bias" in case.has:
        arguments["delta_bias"] = 0.5 * rng.random(case.rows, F32)
    if "initial_state" in case.has:
        arguments["initial_state"] = normal(batch, channels, n_state)
    return arguments


def scan64(case: Case, a: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """y and the last states by the definition, in float64."""
    wide = {name: value.astype(np.float64) for name, value in a.items() if isinstance(value, np.ndarray)}
    repeats = case.channels // case.rows
    dt = wide["delta"] + (wide["delta_bias"][:, None] if "delta_bias" in wide else 0.0)
    dt = (np.logaddexp(0.0, dt) if case.softplus else dt).repeat(repeats, axis=1)
    rates = wide["A"].repeat(repeats)[:, None] if case.heads else wide["A"]

    def at(name: str, t: int) -> np.ndarray:
        value = wide[name]
        if value.ndim == 2:
            return value
        value = value[..., t] if value.ndim == 4 else value[:, None, :, t]
        return value.repeat(case.channels // value.shape[1], axis=1)

    state = wide.get("initial_state", np.zeros((case.batch, case.channels, case.n_state)))
    y = np.zeros(wide["u"].shape)
    for t in range(case.length):
        step = dt[:, :, t, None]
        state = np.exp(step * rates) * state + step * at("B", t) * wide["u"][:, :, t, None]
        y[:, :, t] = (state * at("C", t)).sum(axis=-1)
    if "D" in wide:
        y += wide["D"].repeat(case.channels // len(wide["D"]))[:, None] * wide["u"]
    if "z" in wide:
        y *= wide["z"] / (1.0 + np.exp(-wide["z"]))
    return y, state


def scan(ctx: ops.OpContext, arguments: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    y, state = ops.ssm_scan(ctx, **arguments, return_last_state=True)
    return y, state


IN_TIME = {"u", "delta", "z"}


def columns(arguments: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    """The arguments of a piece of the sequence, its initial state left out."""
    cut = {
        name: value[..., begin:end] if name in IN_TIME or (name in "BC" and value.ndim > 2) else value
        for name, value in arguments.items()
    }
    cut.pop("initial_state", None)
    return cut


def rows(arguments: dict[str, Any], row: int) -> dict[str, Any]:
    """The arguments of one row of the batch."""
    per_row = {*IN_TIME, "initial_state"}
    return {
        name: value[row : row + 1] if name in per_row or (name in "BC" and value.ndim > 2) else value
        for name, value in arguments.items()
    }


def packed(case: Case, lengths: list[int]) -> dict[str, Any]:
    """One row that holds sequences of these lengths, each with a state of its own to start from."""
    arguments = inputs(replace(case, batch=1, length=sum(lengths), has=case.has.replace("initial_state", "")))
    states = np.random.default_rng(1).standard_normal((len(lengths), case.channels, case.n_state)).astype(F32)
    return {**arguments, "initial_state": states, "cu_seqlens": np.cumsum([0, *lengths])}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_float64(ctx, case):
    arguments = inputs(case)
    for got, wanted in zip(scan(ctx, arguments), scan64(case, arguments), strict=True):
        assert got.dtype == F32
        np.testing.assert_allclose(got, wanted, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_level_or_threads(native_contexts, case, same_bits):
    arguments = inputs(case)
    wanted = scan(native_contexts[0], arguments)
    for ctx in native_contexts[1:]:
        for got, one in zip(scan(ctx, arguments), wanted, strict=True):
            same_bits(got, one)


@pytest.mark.parametrize("case", [case for case in STEPPED if case.length <= 128], ids=str)
def test_bits_do_not_depend_on_where_a_sequence_is_cut(native_contexts, case, same_bits):
    arguments = inputs(case)
    wanted, last = scan(native_contexts[0], arguments)
    for cut in range(case.length + 1):
        ctx = native_contexts[-1 - cut % 3]
        first, state = scan(ctx, columns(arguments, 0, cut) | initial(arguments))
        second, state = scan(ctx, {**columns(arguments, cut, case.length), "initial_state": state})
        same_bits(np.concatenate([first, second], axis=2), wanted)
        same_bits(state, last)


def initial(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name == "initial_state"}


@pytest.mark.parametrize("case", [case for case in STEPPED if case.constant == ""], ids=str)
def test_steps_have_the_bits_of_the_scan(native_contexts, case, same_bits):
    arguments = inputs(case)
    ctx = native_contexts[-2]
    wanted, last = scan(ctx, arguments)
    state = arguments.get("initial_state", np.zeros_like(last)).copy()
    for t in range(case.length):
        y = ops.ssm_step(
            ctx,
            state,
            arguments["u"][..., t],
            arguments["delta"][..., t],
            arguments["A"],
            arguments["B"][..., t],
            arguments["C"][..., t],
            arguments.get("D"),
            arguments["z"][..., t] if "z" in arguments else None,
            arguments.get("delta_bias"),
            case.softplus,
        )
        same_bits(y, wanted[..., t])
    same_bits(state, last)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_has_the_bits_of_its_rows_alone(native_contexts, case, same_bits):
    arguments = inputs(case)
    ctx = native_contexts[-2]
    y, last = scan(ctx, arguments)
    for row in range(case.batch):
        alone, state = scan(ctx, rows(arguments, row))
        same_bits(y[row : row + 1], alone)
        same_bits(last[row : row + 1], state)


@pytest.mark.parametrize("case", CASES[5:], ids=str)
def test_a_packed_row_has_the_bits_of_its_sequences_alone(native_contexts, case, same_bits):
    arguments = packed(case, [0, 5, 0, 0, 64, 1, 70, 0])
    ctx = native_contexts[-2]
    y, last = scan(ctx, arguments)
    bounds, states = arguments.pop("cu_seqlens"), arguments.pop("initial_state")
    for s, (begin, end) in enumerate(pairwise(bounds)):
        alone, state = scan(ctx, {**columns(arguments, begin, end), "initial_state": states[s : s + 1]})
        same_bits(y[..., begin:end], alone)
        same_bits(last[s : s + 1], state)


@pytest.mark.parametrize("case", [case for case in CASES[5:] if case.length <= 128], ids=str)
def test_pools_have_the_bits_of_gathered_states(ctx, case):
    arguments = inputs(replace(case, batch=4))
    slots = np.array([4, -1, 0, 2])
    pool = np.random.default_rng(2).standard_normal((6, case.channels, case.n_state)).astype(F32)
    gathered = np.where(slots[:, None, None] < 0, F32(0), pool[slots])
    wanted, states = scan(ctx, {**arguments, "initial_state": gathered})
    left = np.full_like(pool, 7.0)
    y = ops.ssm_scan(ctx, **{**arguments, "initial_state": pool}, last_state=left, state_indices=slots)
    np.testing.assert_array_equal(y, wanted)
    kept = slots >= 0
    np.testing.assert_array_equal(left[slots[kept]], states[kept])
    untouched = np.setdiff1d(np.arange(6), slots)
    assert (left[untouched] == 7.0).all()


def test_a_packed_row_may_have_its_states_in_a_pool(ctx):
    arguments = packed(CHANNELS[5], [3, 0, 20])
    wanted, states = scan(ctx, arguments)
    pool = np.zeros((5, 48, 16), F32)
    slots = np.array([3, 0, 1])
    pool[slots] = arguments["initial_state"]
    y = ops.ssm_scan(ctx, **{**arguments, "initial_state": pool, "last_state": pool, "state_indices": slots})
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(pool[slots], states)


def layouts(value: np.ndarray) -> Iterator[np.ndarray]:
    """The same values, laid out in memory in every way a model may have them."""
    yield np.asfortranarray(value)
    if value.ndim > 1:
        yield np.ascontiguousarray(value.swapaxes(-1, -2)).swapaxes(-1, -2)
    wide = np.full((*value.shape[:-1], 2 * value.shape[-1]), np.nan, F32)
    wide[..., ::2] = value
    yield wide[..., ::2]
    yield np.ascontiguousarray(value[..., ::-1])[..., ::-1]
    if value.ndim > 1:
        between = np.full((*value.shape[:-2], value.shape[-1], value.shape[-2] + 3), np.nan, F32)
        between[..., 2:-1] = value.swapaxes(-1, -2)
        yield between[..., 2:-1].swapaxes(-1, -2)


@pytest.mark.parametrize("case", [CASES[5], *CASES[9:17], *HEADS[3:6], HEADS[9]], ids=str)
def test_bits_do_not_depend_on_the_memory_layout(native_contexts, case, same_bits):
    arguments = inputs(case)
    ctx = native_contexts[-2]
    wanted = scan(ctx, arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            for other in layouts(value):
                np.testing.assert_array_equal(other, value)
                for got, one in zip(scan(ctx, {**arguments, name: other}), wanted, strict=True):
                    same_bits(got, one)
    for last in layouts(np.zeros_like(wanted[1])):
        same_bits(ops.ssm_scan(ctx, **arguments, last_state=last), wanted[0])
        same_bits(last.copy(), wanted[1])


def blocked(value: np.ndarray) -> np.ndarray:
    """[..., D, N] as [..., D / 16, N, 16]."""
    *rest, channels, n_state = value.shape
    return np.ascontiguousarray(value.reshape(*rest, channels // 16, 16, n_state).swapaxes(-1, -2))


BLOCKED = [
    CASES[5],
    replace(CASES[5], groups=3, batch=3),
    Case(65, 48, 16, constant="BC"),
    HEADS[3],
    HEADS[6],
    Case(65, 96, 7, heads=3, groups=3),
    Case(65, 80, 16, heads=1),
]


@pytest.mark.parametrize("case", BLOCKED, ids=str)
def test_blocked_layouts_give_the_same_bits(ctx, case, same_bits):
    arguments = inputs(case)
    wanted, last = scan(ctx, arguments)
    states, rates = blocked(arguments["initial_state"]), arguments["A"] if case.heads else blocked(arguments["A"])
    left = np.full_like(states, np.nan)
    same_bits(ops.ssm_scan(ctx, **{**arguments, "A": rates, "initial_state": states}, last_state=left), wanted)
    same_bits(left, blocked(last))
    same_bits(ops.ssm_scan(ctx, **{**arguments, "A": rates, "initial_state": states}, last_state=states), wanted)
    same_bits(states, blocked(last))


@pytest.mark.parametrize("name", ["initial_state", "last_state"])
def test_states_of_heads_that_share_a_block_are_not_blocked(ctx, name):
    arguments = inputs(Case(5, 48, 7, heads=6))
    states = blocked(arguments.pop("initial_state"))
    with pytest.raises(ValueError, match=rf"\[ssm_scan\] {name} may be blocked where heads are of a multiple of 16"):
        ops.ssm_scan(ctx, **arguments, **{name: states})


@pytest.mark.parametrize("case", [*CHANNELS[4:6], *CHANNELS[11:14], *HEADS[3:6], HEADS[10]], ids=str)
def test_the_state_may_be_updated_in_place(ctx, case):
    arguments = inputs(case)
    wanted, last = scan(ctx, arguments)
    state = arguments["initial_state"].copy()
    y, same = ops.ssm_scan(ctx, **{**arguments, "initial_state": state}, last_state=state, return_last_state=True)
    assert same is state
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(state, last)


def test_no_steps_leave_the_state_as_it_was(ctx):
    arguments = inputs(replace(CASES[0], channels=20))
    y, last = scan(ctx, arguments)
    assert y.shape == (2, 20, 0)
    np.testing.assert_array_equal(last, arguments["initial_state"])


def test_the_output_has_the_memory_order_of_u(native_contexts):
    arguments = inputs(CASES[5])
    ctx = native_contexts[-1]
    assert ops.ssm_scan(ctx, **arguments).flags.c_contiguous
    arguments["u"] = np.ascontiguousarray(arguments["u"].transpose(0, 2, 1)).transpose(0, 2, 1)
    assert ops.ssm_scan(ctx, **arguments).transpose(0, 2, 1).flags.c_contiguous
