"""What ssm_scan and causal_conv1d refuse, by the same names on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.errors import VortexError

BATCH, CHANNELS, STATES, LENGTH, WIDTH = 2, 20, 4, 6, 4


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def scan_arguments() -> dict[str, Any]:
    return {
        "u": normal(BATCH, CHANNELS, LENGTH),
        "delta": normal(BATCH, CHANNELS, LENGTH),
        "A": -abs(normal(CHANNELS, STATES)),
        "B": normal(BATCH, STATES, LENGTH),
        "C": normal(BATCH, STATES, LENGTH),
        "D": normal(CHANNELS),
        "z": normal(BATCH, CHANNELS, LENGTH),
        "delta_bias": normal(CHANNELS),
        "delta_softplus": True,
        "initial_state": normal(BATCH, CHANNELS, STATES),
        "last_state": normal(BATCH, CHANNELS, STATES),
    }


def head_arguments() -> dict[str, Any]:
    """One decay for each of five heads of four channels."""
    return {
        **scan_arguments(),
        "A": -abs(normal(5)),
        "delta": normal(BATCH, 5, LENGTH),
        "delta_bias": normal(5),
        "D": normal(5),
    }


def conv_arguments() -> dict[str, Any]:
    return {
        "x": normal(BATCH, CHANNELS, LENGTH),
        "weight": normal(CHANNELS, WIDTH),
        "bias": normal(CHANNELS),
        "activation": "silu",
        "initial_state": normal(BATCH, CHANNELS, WIDTH - 1),
        "last_state": normal(BATCH, CHANNELS, WIDTH - 1),
    }


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def misaligned(*shape: int) -> np.ndarray:
    raw = np.zeros(int(np.prod(shape)) * 4 + 1, np.uint8)
    return raw[1:].view(np.float32).reshape(shape)


def int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def each(arguments: dict[str, Any], also: tuple[str, ...]) -> list[tuple[str, Any, str]]:
    """For every array of a call: what is not one, other types, and shapes that are off by one."""
    table = []
    for name, value in arguments.items():
        if not isinstance(value, np.ndarray):
            continue
        table += [
            (name, value.tolist(), name),
            (name, value.astype(np.float64), f"{name} must be float32, got float64"),
            (name, value.astype(np.int32), f"{name} must be float32, got int32"),
            (name, value.astype(np.float16), f"{name} must be float32, got float16"),
            (name, value[None], name),
            (name, value[..., None, None], name),
        ]
        if name != "A":  # which may have one dimension
            table.append((name, value[..., 0], name))
        if name not in also:
            table += [(name, value[:-1], name), (name, value[..., :-1], name)]
    return table


SCAN = [
    *each(scan_arguments(), ("u", "A")),
    ("u", None, "u"),
    ("delta", None, "delta"),
    ("A", None, "A"),
    ("B", None, "B"),
    ("C", None, "C"),
    ("u", normal(BATCH, 0, LENGTH), "u must have at least one channel"),
    ("A", normal(CHANNELS + 1, STATES), "A"),
    ("A", normal(CHANNELS, 0), "A must have at least one state"),
    ("B", normal(BATCH, 3, STATES, LENGTH), "B must have a number of groups that divides 20"),
    ("B", normal(BATCH, 0, STATES, LENGTH), "B must have a number of groups that divides 20"),
    ("C", normal(BATCH, 3, STATES, LENGTH), "C must have a number of groups that divides 20"),
    ("B", normal(BATCH, 2, STATES, LENGTH), "C must have the groups of B"),
    ("C", normal(BATCH, 2, STATES, LENGTH), "C must have the groups of B"),
    ("C", normal(CHANNELS, STATES + 1), "C"),
    ("D", normal(5), r"D must have shape \[20\]"),
    ("last_state", read_only(normal(BATCH, CHANNELS, STATES)), "last_state must be writeable"),
]
HEADS = [
    ("A", normal(7), r"A \[heads\] must have a length that divides the 20 channels of u"),
    ("A", normal(0), r"A \[heads\]"),
    ("B", normal(CHANNELS, STATES), "B must have 3 or 4 dimensions where A is"),
    ("C", normal(CHANNELS, STATES), r"C \[D, N\] without time needs A \[D, N\]"),
    ("B", normal(BATCH, 2, STATES, LENGTH), "B must have a number of groups that divides 5"),
    ("B", normal(BATCH, 0, LENGTH), "B must have at least one state"),
    ("D", normal(4), r"D must have shape \[20\] or \[5\]"),
    ("delta", normal(BATCH, CHANNELS, LENGTH), "delta must have shape"),
    ("delta_bias", normal(CHANNELS), "delta_bias must have shape"),
]
CONV = [
    *each(conv_arguments(), ("x", "weight")),
    ("x", None, "x"),
    ("weight", None, "weight"),
    ("x", normal(BATCH, 0, LENGTH), "x must have at least one channel|weight must have shape"),
    ("weight", normal(CHANNELS + 1, WIDTH), "weight"),
    ("weight", normal(CHANNELS, 0), "weight must have at least one column"),
    ("activation", "relu", "activation must be None, 'silu' or 'swish', got 'relu'"),
    ("activation", 3, "activation .*got 3"),
    ("last_state", read_only(normal(BATCH, CHANNELS, WIDTH - 1)), "last_state must be writeable"),
]
SEQUENCES: list[tuple[int, dict[str, Any], str]] = [
    (1, {"cu_seqlens": int64(0, 4, 3, LENGTH)}, "cu_seqlens must ascend from 0 to the length 6"),
    (1, {"cu_seqlens": int64(0, 3, LENGTH - 1)}, "cu_seqlens must ascend"),
    (1, {"cu_seqlens": int64(0, 3, LENGTH + 1)}, "cu_seqlens must ascend"),
    (1, {"cu_seqlens": int64(1, LENGTH)}, "cu_seqlens must ascend"),
    (1, {"cu_seqlens": int64(-1, LENGTH)}, "cu_seqlens must ascend"),
    (1, {"cu_seqlens": int64()}, "cu_seqlens must ascend"),
    (2, {"cu_seqlens": int64(0, LENGTH)}, "cu_seqlens .* of a batch of 1, got .* for a batch of 2"),
    (1, {"cu_seqlens": int64(0, LENGTH).astype(np.int32)}, "cu_seqlens must be int64, got int32"),
    (1, {"cu_seqlens": normal(2)}, "cu_seqlens must be int64, got float32"),
    (1, {"cu_seqlens": [0, LENGTH]}, "cu_seqlens must be a numpy array, got list"),
    (1, {"cu_seqlens": int64(0, LENGTH)[None]}, "cu_seqlens"),
    (1, {"cu_seqlens": int64(0, 1, 2, LENGTH)}, "initial_state must have shape"),
    (2, {"state_indices": int64(0, 2)}, r"state_indices must be -1 or different slots below 2, got \[0, 2\]"),
    (2, {"state_indices": int64(-2, 0)}, "state_indices must be -1"),
    (2, {"state_indices": int64(1, 1)}, "state_indices must be -1"),
    (2, {"state_indices": int64(0, 1, -1)}, "state_indices"),
    (2, {"state_indices": int64(0)}, "state_indices"),
    (2, {"state_indices": int64(0, 1).astype(np.int32)}, "state_indices must be int64, got int32"),
    (2, {"state_indices": [0, 1]}, "state_indices must be a numpy array, got list"),
    (2, {"state_indices": int64(0, 1)[None]}, "state_indices"),
]


def refuses(ctx: ops.OpContext, op: Callable[..., Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^\[{op.__name__}\] ({message})"):
        op(ctx, **arguments)


@pytest.mark.parametrize("arguments", [scan_arguments, head_arguments])
def test_the_arguments_of_this_table_are_good_before_they_are_changed(ctx, arguments):
    assert np.isfinite(ops.ssm_scan(ctx, **arguments())).all()
    assert np.isfinite(ops.causal_conv1d(ctx, **conv_arguments())).all()


def test_bad_arguments_of_the_scan_are_named(ctx):
    for name, value, message in SCAN:
        refuses(ctx, ops.ssm_scan, {**scan_arguments(), name: value}, message)


def test_bad_arguments_of_a_scan_with_heads_are_named(ctx):
    for name, value, message in HEADS:
        refuses(ctx, ops.ssm_scan, {**head_arguments(), name: value}, message)


def test_bad_arguments_of_the_convolution_are_named(ctx):
    for name, value, message in CONV:
        refuses(ctx, ops.causal_conv1d, {**conv_arguments(), name: value}, message)


@pytest.mark.parametrize(("batch", "bad", "message"), SEQUENCES)
def test_bad_sequences_and_slots_are_named(ctx, batch, bad, message):
    for op, arguments in ((ops.ssm_scan, scan_arguments()), (ops.causal_conv1d, conv_arguments())):
        batched = {"u", "delta", "B", "C", "z", "x", "initial_state", "last_state"}
        cut = {name: value[:batch] if name in batched else value for name, value in arguments.items()}
        refuses(ctx, op, {**cut, **bad}, message)


def test_misaligned_arrays_are_named(native_contexts):
    ctx = native_contexts[0]
    refuses(ctx, ops.ssm_scan, {**scan_arguments(), "u": misaligned(BATCH, CHANNELS, LENGTH)}, "u must be aligned")
    refuses(ctx, ops.causal_conv1d, {**conv_arguments(), "bias": misaligned(CHANNELS)}, "bias must be aligned")


@pytest.mark.parametrize(("heads", "groups", "name"), [(4, 1, "initial_state"), (0, 2, "A"), (4, 1, "last_state")])
def test_blocks_that_cross_heads_or_groups_are_named(ctx, heads, groups, name):
    channels = 80 if heads else 48
    arguments = {
        "u": normal(1, channels, 3),
        "delta": normal(1, heads or channels, 3),
        "A": normal(heads) if heads else normal(channels, STATES),
        "B": normal(1, groups, STATES, 3),
        "C": normal(1, groups, STATES, 3),
    }
    bad = normal(*([] if name == "A" else [1]), channels // 16, STATES, 16)
    parts = "heads" if heads else "groups"
    refuses(ctx, ops.ssm_scan, {**arguments, name: bad}, f"{name} may be blocked where {parts} are of a multiple of 16")


SCAN_FLOATS = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("arguments", [scan_arguments, head_arguments])
@pytest.mark.parametrize("name", SCAN_FLOATS)
def test_values_that_are_not_finite_are_named(ctx, arguments, name, value):
    bad = arguments()
    at = tuple(n - 1 - (n > 2) for n in bad[name].shape)
    bad[name][at] = value
    place = ", ".join(map(str, at))
    with pytest.raises(VortexError, match=rf"^\[ssm_scan\] {name} must be finite, got -?(nan|inf) at \[{place}\]"):
        ops.ssm_scan(ctx, **bad)


@pytest.mark.parametrize("name", ["B", "C"])
def test_constant_readouts_that_are_not_finite_are_named(ctx, name):
    bad = {**scan_arguments(), name: normal(CHANNELS, STATES)}
    bad[name][17, 1] = np.nan
    with pytest.raises(VortexError, match=rf"^\[ssm_scan\] {name} must be finite, got nan at \[17, 1\]"):
        ops.ssm_scan(ctx, **bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_values_of_the_convolution_that_are_not_finite_are_named(ctx, name, activation, value):
    bad = {**conv_arguments(), "activation": activation}
    at = tuple(n - 1 - (n > 2) for n in bad[name].shape)
    bad[name][at] = value
    place = ", ".join(map(str, at))
    with pytest.raises(VortexError, match=rf"^\[causal_conv1d\] {name} must be finite, got -?(nan|inf) at \[{place}\]"):
        ops.causal_conv1d(ctx, **bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("slots", [None, (1, 0), (-1, 1)])
def test_states_that_are_not_finite_are_named(ctx, slots, value):
    for op, arguments in ((ops.ssm_scan, scan_arguments()), (ops.causal_conv1d, conv_arguments())):
        arguments["initial_state"][1, 18, 2] = value
        arguments["state_indices"] = None if slots is None else int64(*slots)
        with pytest.raises(VortexError, match=rf"^\[{op.__name__}\] initial_state must be finite, got .* in slot 1"):
            op(ctx, **arguments)


def test_states_that_are_not_used_may_hold_anything(ctx):
    for op, arguments in ((ops.ssm_scan, scan_arguments()), (ops.causal_conv1d, conv_arguments())):
        arguments["initial_state"][1] = arguments["last_state"][...] = np.nan
        assert np.isfinite(op(ctx, **arguments, state_indices=int64(0, -1))).all()
        assert np.isfinite(arguments["last_state"][0]).all() and np.isnan(arguments["last_state"][1]).all()


@pytest.mark.parametrize("in_place", [False, True])
def test_finite_values_may_overflow(ctx, in_place):
    arguments = {**scan_arguments(), "A": np.full((CHANNELS, STATES), 3e38, np.float32)}
    arguments["u"] *= np.float32(1e38)
    if in_place:
        arguments["initial_state"] = arguments["last_state"]
    assert not np.isfinite(ops.ssm_scan(ctx, **arguments)).all()
    wide = conv_arguments()
    wide["weight"][:] = wide["x"][:] = 3e38
    assert np.isinf(ops.causal_conv1d(ctx, **wide)).any()
