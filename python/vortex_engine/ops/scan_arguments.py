"""The shapes of the recurrent ops, checked once for every backend but the native one, which checks the same rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BLOCK", "ConvShape", "ScanShape", "Span", "conv_shape", "scan_shape"]

BLOCK = 16  # channels that lie side by side in a blocked array


@dataclass(frozen=True)
class Span:
    """One sequence of a call: columns begin..end of row `batch`; `slot` is its state's, or None for a state of zeros
    that is not kept."""

    batch: int
    begin: int
    end: int
    slot: int | None


@dataclass(frozen=True)
class ScanShape:
    """Sizes of one call of `ssm_scan`; `heads` is None for a decay of every channel and state (Mamba-1)."""

    batch: int
    channels: int
    length: int
    n_state: int
    groups: int
    heads: int | None
    n_sequences: int

    def spans(self, cu_seqlens: Any, state_indices: Any) -> list[Span]:
        """The call's sequences."""
        return _spans(self.length, self.n_sequences, cu_seqlens, state_indices)


@dataclass(frozen=True)
class ConvShape:
    """Sizes of one call of `causal_conv1d`."""

    batch: int
    channels: int
    length: int
    width: int
    n_sequences: int

    def spans(self, cu_seqlens: Any, state_indices: Any) -> list[Span]:
        """The call's sequences."""
        return _spans(self.length, self.n_sequences, cu_seqlens, state_indices)


def scan_shape(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    delta_bias: Any,
    states: dict[str, Any],
    cu_seqlens: Any,
    state_indices: Any,
) -> ScanShape:
    """Check the arguments of `ssm_scan`, arrays or tensors.

    Args:
        states: "initial_state" and "last_state", an array or None each.

    Raises:
        ValueError: names the argument, the rule and what it is.
    """
    check = _Check("ssm_scan")
    check.arrays({"u": u, "delta": delta, "A": A, "B": B, "C": C})
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "cu_seqlens": cu_seqlens, "state_indices": state_indices}
    check.arrays({name: value for name, value in {**optional, **states}.items() if value is not None})
    batch, channels, length = check.shape("u", u, (None, None, None))
    check.rule("u must have at least one channel", channels >= 1, u)
    if len(A.shape) == 1:
        (heads,) = check.shape("A", A, (None,))
        check.rule(
            f"A [heads] must have a length that divides the {channels} channels of u", _divides(heads, channels), A
        )
        n_state = _state_size(check, B, C)
        rows = heads
    else:
        wanted = (channels, None) if len(A.shape) == 2 else (_blocks(channels), None, BLOCK)
        n_state = check.shape("A", A, wanted)[1]
        check.rule("A must have at least one state", n_state >= 1, A)
        heads, rows = None, channels
    check.shape("delta", delta, (batch, rows, length))
    groups = 1
    for name, value in (("B", B), ("C", C)):
        if len(value.shape) == 2:
            check.rule(f"{name} [D, N] without time needs A [D, N]", heads is None, value)
            check.shape(name, value, (channels, n_state))
        elif len(value.shape) == 3:
            check.shape(name, value, (batch, n_state, length))
        else:
            _, groups, _, _ = check.shape(name, value, (batch, None, n_state, length))
            check.rule(f"{name} must have a number of groups that divides {rows}", _divides(groups, rows), value)
    if len(B.shape) > 2 and len(C.shape) > 2:
        check.rule("C must have the groups of B", _groups(B) == _groups(C), C)
    if D is not None:
        check.rule(
            f"D must have shape [{channels}]" + (f" or [{heads}]" if heads else ""),
            tuple(D.shape) in ((channels,), (rows,)),
            D,
        )
        check.dtype("D", D)
    if delta_bias is not None:
        check.shape("delta_bias", delta_bias, (rows,))
    if z is not None:
        check.shape("z", z, (batch, channels, length))
    n_sequences = check.sequences(batch, length, cu_seqlens, state_indices)
    if (heads or groups > 1) and channels // (heads or groups) % BLOCK:
        parts = "heads" if heads else "groups"
        for name, value, n_plain in (("A", A, 2), *((name, state, 3) for name, state in states.items())):
            plain = value is None or len(value.shape) <= n_plain
            check.rule(f"{name} may be blocked where {parts} are of a multiple of {BLOCK} channels", plain, value)
    check.states(states, n_sequences, channels, n_state, state_indices)
    return ScanShape(batch, channels, length, n_state, groups, heads, n_sequences)


def conv_shape(
    x: Any, weight: Any, bias: Any, activation: str | None, states: dict[str, Any], cu_seqlens: Any, state_indices: Any
) -> ConvShape:
    """Check the arguments of `causal_conv1d`, arrays or tensors.

    Args:
        states: "initial_state" and "last_state", an array or None each.

    Raises:
        ValueError: names the argument, the rule and what it is.
    """
    check = _Check("causal_conv1d")
    check.arrays({"x": x, "weight": weight})
    optional = {"bias": bias, "cu_seqlens": cu_seqlens, "state_indices": state_indices, **states}
    check.arrays({name: value for name, value in optional.items() if value is not None})
    batch, channels, length = check.shape("x", x, (None, None, None))
    _, width = check.shape("weight", weight, (channels, None))
    check.rule("weight must have at least one column", width >= 1, weight)
    if bias is not None:
        check.shape("bias", bias, (channels,))
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"[causal_conv1d] activation must be None, 'silu' or 'swish', got {activation!r}")
    n_sequences = check.sequences(batch, length, cu_seqlens, state_indices)
    check.states(states, n_sequences, channels, width - 1, state_indices)
    return ConvShape(batch, channels, length, width, n_sequences)


class _Check:
    def __init__(self, op: str) -> None:
        self._op = op

    def rule(self, rule: str, holds: bool, value: Any) -> None:
        if not holds:
            raise ValueError(f"[{self._op}] {rule}, got shape {tuple(value.shape)}")

    def arrays(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if not hasattr(value, "dtype") or not hasattr(value, "shape"):
                raise ValueError(f"[{self._op}] {name} must be a numpy array, got {type(value).__name__}")

    def dtype(self, name: str, value: Any, dtype: str = "float32") -> None:
        found = str(value.dtype).removeprefix("torch.")
        # A tensor of float64 is for gradient checks; torch's other types are widened before they come here.
        is_wide = dtype == "float32" and found == "float64" and not isinstance(value, np.ndarray)
        if found != dtype and not is_wide:
            raise ValueError(f"[{self._op}] {name} must be {dtype}, got {found}")

    def shape(self, name: str, value: Any, wanted: tuple[int | None, ...], dtype: str = "float32") -> tuple[int, ...]:
        self.dtype(name, value, dtype)
        found = tuple(value.shape)
        fits = len(found) == len(wanted) and all(n is None or n == m for n, m in zip(wanted, found, strict=True))
        text = ", ".join("any" if n is None else str(n) for n in wanted)
        self.rule(f"{name} must have shape ({text})", fits, value)
        return found

    def sequences(self, batch: int, length: int, cu_seqlens: Any, state_indices: Any) -> int:
        n_sequences = batch
        if cu_seqlens is not None:
            (n_ends,) = self.shape("cu_seqlens", cu_seqlens, (None,), "int64")
            bounds = cu_seqlens.tolist()
            ascending = n_ends >= 1 and bounds[0] == 0 and bounds[-1] == length and bounds == sorted(bounds)
            if batch != 1 or not ascending:
                raise ValueError(
                    f"[{self._op}] cu_seqlens must ascend from 0 to the length {length} of a batch of 1, got {bounds} "
                    f"for a batch of {batch}"
                )
            n_sequences = n_ends - 1
        if state_indices is not None:
            self.shape("state_indices", state_indices, (n_sequences,), "int64")
        return n_sequences

    def states(self, states: dict[str, Any], n_sequences: int, channels: int, n_state: int, state_indices: Any) -> None:
        n_slots = None if state_indices is not None else n_sequences
        for name, state in states.items():
            if state is not None and len(state.shape) == 4:
                self.shape(name, state, (n_slots, _blocks(channels), n_state, BLOCK))
            elif state is not None:
                self.shape(name, state, (n_slots, channels, n_state))
        last_state = states.get("last_state")
        if isinstance(last_state, np.ndarray) and not last_state.flags.writeable:
            raise ValueError(f"[{self._op}] last_state must be writeable, got a read-only array")
        self._slots(states, state_indices)

    def _slots(self, states: dict[str, Any], state_indices: Any) -> None:
        if state_indices is None:
            return
        slots = state_indices.tolist()
        n_slots = min((state.shape[0] for state in states.values() if state is not None), default=2**62)
        used = [slot for slot in slots if slot != -1]
        if any(not 0 <= slot < n_slots for slot in used) or len(set(used)) != len(used):
            raise ValueError(f"[{self._op}] state_indices must be -1 or different slots below {n_slots}, got {slots}")


def _spans(length: int, n_sequences: int, cu_seqlens: Any, state_indices: Any) -> list[Span]:
    slots: list[int] = list(range(n_sequences)) if state_indices is None else state_indices.tolist()
    if cu_seqlens is None:
        return [Span(i, 0, length, None if slot < 0 else slot) for i, slot in enumerate(slots)]
    bounds = cu_seqlens.tolist()
    return [
        Span(0, begin, end, None if slot < 0 else slot)
        for begin, end, slot in zip(bounds[:-1], bounds[1:], slots, strict=True)
    ]


def _blocks(channels: int) -> int:
    return -(-channels // BLOCK)


def _divides(part: int, whole: int) -> bool:
    return part >= 1 and whole % part == 0


def _groups(value: Any) -> int:
    return value.shape[1] if len(value.shape) == 4 else 1


def _state_size(check: _Check, B: Any, C: Any) -> int:
    check.rule("B must have 3 or 4 dimensions where A is [heads]", len(B.shape) in (3, 4), B)
    check.rule("B must have at least one state", B.shape[-2] >= 1, B)
    return B.shape[-2]
