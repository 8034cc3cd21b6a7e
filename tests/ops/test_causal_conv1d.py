"""causal_conv1d against float64, and the same bits whichever way the work is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from vortex_engine import ops

F32 = np.float32
# A fiftieth of what Dao-AILab/causal-conv1d's own tests allow (rtol 3e-4, atol 1e-3).
RTOL, ATOL = 3e-4 / 50, 1e-3 / 50


@dataclass(frozen=True)
class Case:
    length: int
    channels: int
    width: int = 4
    batch: int = 2
    bias: bool = True
    activation: str | None = "silu"
    initial: bool = True


CASES = [
    Case(0, 16),
    Case(1, 1),
    Case(2, 17, 7),
    Case(5, 48, 1, bias=False),
    Case(1, 100, 7, activation=None),
    Case(3, 16, 4, initial=False),
    Case(63, 15, 2, activation="swish"),
    Case(64, 16, 3, activation=None, bias=False),
    Case(65, 48, 4),
    Case(128, 100, 4, batch=3),
    Case(500, 64, 4, batch=1, activation=None),
    Case(129, 33, 7, initial=False),
    Case(70, 48, 1, activation=None, batch=1),
]


def inputs(case: Case) -> dict[str, Any]:
    rng = np.random.default_rng(case.length * 1009 + case.channels)
    arguments: dict[str, Any] = {
        "x": rng.standard_normal((case.batch, case.channels, case.length), F32),
        "weight": rng.standard_normal((case.channels, case.width), F32),
        "activation": case.activation,
    }
    if case.bias:
        arguments["bias"] = rng.standard_normal(case.channels, F32)
    if case.initial:
        arguments["initial_state"] = rng.standard_normal((case.batch, case.channels, case.width - 1), F32)
    return arguments


def before(case: Case, arguments: dict[str, Any]) -> np.ndarray:
    return arguments.get("initial_state", np.zeros((case.batch, case.channels, case.width - 1), F32))


def conv(ctx: ops.OpContext, case: Case, arguments: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """y and the last columns, into an array whose every value must be written."""
    last = np.full((len(arguments["x"]), case.channels, case.width - 1), np.nan, F32)
    return ops.causal_conv1d(ctx, **arguments, last_state=last), last


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_float64(ctx, case):
    arguments = inputs(case)
    got, _ = conv(ctx, case, arguments)
    whole = np.concatenate([before(case, arguments), arguments["x"]], axis=2).astype(np.float64)
    wanted = np.zeros(got.shape)
    for w in range(case.width):
        wanted += arguments["weight"][:, w, None] * whole[..., w : w + case.length]
    if case.bias:
        wanted += arguments["bias"][:, None]
    if case.activation:
        wanted /= 1.0 + np.exp(-wanted)
    assert got.dtype == F32
    np.testing.assert_allclose(got, wanted, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_last_columns_are_kept_bit_for_bit(ctx, case):
    arguments = inputs(case)
    if case.length > 2:
        arguments["x"][:, :, -2] = 1e-42  # a number below the least normal one is kept too
    _, last = conv(ctx, case, arguments)
    whole = np.concatenate([before(case, arguments), arguments["x"]], axis=2)
    np.testing.assert_array_equal(last.view(np.uint32), whole[..., case.length :].copy().view(np.uint32))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_level_or_threads(native_contexts, case, same_bits):
    arguments = inputs(case)
    wanted, _ = conv(native_contexts[0], case, arguments)
    for ctx in native_contexts[1:]:
        same_bits(conv(ctx, case, arguments)[0], wanted)


@pytest.mark.parametrize("chunk", [None, 1, 2, 7, 64])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_where_a_sequence_is_cut(native_contexts, case, chunk, same_bits):
    """Once at every position, and in pieces of `chunk` columns."""
    arguments = inputs(case)
    ctx = native_contexts[-2]
    wanted, last = conv(ctx, case, arguments)
    end = case.length
    cuts = [[0, at, end] for at in range(end + 1)] if chunk is None else [[*range(0, end, chunk), end]]
    for bounds in cuts:
        state = before(case, arguments).copy()
        parts = [np.empty((case.batch, case.channels, 0), F32)]
        for begin, stop in pairwise(bounds):
            piece = {**arguments, "x": arguments["x"][..., begin:stop], "initial_state": state}
            parts.append(ops.causal_conv1d(ctx, **piece, last_state=state))
        same_bits(np.concatenate(parts, axis=2), wanted)
        same_bits(state, last)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_has_the_bits_of_its_rows_alone(native_contexts, case, same_bits):
    arguments = inputs(case)
    ctx = native_contexts[-2]
    y, last = conv(ctx, case, arguments)
    for row in range(case.batch):
        one = {
            name: value[row : row + 1] if name in ("x", "initial_state") else value for name, value in arguments.items()
        }
        alone, state = conv(ctx, case, one)
        same_bits(y[row : row + 1], alone)
        same_bits(last[row : row + 1], state)


@pytest.mark.parametrize("case", CASES[2:], ids=str)
def test_a_packed_row_has_the_bits_of_its_sequences_alone(native_contexts, case, same_bits):
    bounds = np.cumsum([0, 0, 5, 0, 2, 70, 1, 0])
    n_sequences = len(bounds) - 1
    case = replace(case, batch=1, length=int(bounds[-1]))
    arguments = inputs(case)
    states = np.random.default_rng(1).standard_normal((n_sequences, case.channels, case.width - 1), F32)
    ctx = native_contexts[-2]
    last = np.full_like(states, np.nan)
    y = ops.causal_conv1d(ctx, **{**arguments, "initial_state": states}, last_state=last, cu_seqlens=bounds)
    for s, (begin, end) in enumerate(pairwise(bounds)):
        piece = {**arguments, "x": arguments["x"][..., begin:end], "initial_state": states[s : s + 1]}
        alone, state = conv(ctx, case, piece)
        same_bits(y[..., begin:end], alone)
        same_bits(last[s : s + 1], state)


@pytest.mark.parametrize("case", CASES[1:], ids=str)
def test_pools_have_the_bits_of_gathered_states(ctx, case):
    case = replace(case, batch=4)
    arguments = inputs(case)
    slots = np.array([4, -1, 0, 2])
    pool = np.random.default_rng(2).standard_normal((6, case.channels, case.width - 1), F32)
    gathered = np.where(slots[:, None, None] < 0, F32(0), pool[slots])
    wanted, states = conv(ctx, case, {**arguments, "initial_state": gathered})
    kept = pool.copy()
    y = ops.causal_conv1d(ctx, **{**arguments, "initial_state": pool, "last_state": pool}, state_indices=slots)
    np.testing.assert_array_equal(y, wanted)
    kept[slots[slots >= 0]] = states[slots >= 0]
    np.testing.assert_array_equal(pool, kept)


def layouts(value: np.ndarray) -> Iterator[np.ndarray]:
    """The same values, laid out in memory in every way a model may have them."""
    yield np.asfortranarray(value)
    wide = np.full((*value.shape[:-1], 2 * value.shape[-1]), np.nan, F32)
    wide[..., ::2] = value
    yield wide[..., ::2]
    yield np.ascontiguousarray(value[..., ::-1])[..., ::-1]
    if value.ndim > 1:
        between = np.full((*value.shape[:-2], value.shape[-1], value.shape[-2] + 3), np.nan, F32)
        between[..., 2:-1] = value.swapaxes(-1, -2)
        yield between[..., 2:-1].swapaxes(-1, -2)


@pytest.mark.parametrize("case", CASES[2:], ids=str)
def test_bits_do_not_depend_on_the_memory_layout(native_contexts, case, same_bits):
    arguments = inputs(case)
    ctx = native_contexts[-2]
    wanted, last = conv(ctx, case, arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            for other in layouts(value):
                np.testing.assert_array_equal(other, value)
                same_bits(conv(ctx, case, {**arguments, name: other})[0], wanted)
    for kept in layouts(np.full_like(last, np.nan)):
        ops.causal_conv1d(ctx, **arguments, last_state=kept)
        same_bits(kept.copy(), last)


def test_the_output_has_the_memory_order_of_x(native_contexts):
    arguments = inputs(CASES[8])
    ctx = native_contexts[-1]
    assert ops.causal_conv1d(ctx, **arguments).flags.c_contiguous
    arguments["x"] = np.ascontiguousarray(arguments["x"].transpose(0, 2, 1)).transpose(0, 2, 1)
    assert ops.causal_conv1d(ctx, **arguments).transpose(0, 2, 1).flags.c_contiguous
