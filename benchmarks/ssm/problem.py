"""What the figures run: random layers of a size, the error of a result, and turns of contenders on the same arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure
from benchmarks.machine import interleaved_timings, print_table
from vortex_engine import ops

__all__ = ["ERROR_TARGET", "Layer", "add_entries", "error_share", "random_layer", "scan", "timed"]

F32 = NDArray[np.float32]
Contender = Callable[[], Any]
# Of what state-spaces/mamba's own tests allow.
ERROR_TARGET = 1 / 50
# A contender further off than those tests allow is not timed.
_REFUSED = 1.0


@dataclass(frozen=True)
class Layer:
    """Arguments of a scan with `delta_softplus`, by the names that `ops.ssm_scan` gives them."""

    u: F32
    delta: F32
    A: F32
    B: F32
    C: F32
    D: F32
    delta_bias: F32
    z: F32 | None

    @property
    def n_exps(self) -> int:
        """Decays of one call."""
        per_step = self.A.size
        return per_step * self.u.shape[0] * self.u.shape[2]

    @property
    def n_bytes(self) -> int:
        """Bytes that must be read and written once: every argument, and y."""
        return self.u.nbytes + sum(value.nbytes for value in self.arguments().values())

    def arguments(self) -> dict[str, F32]:
        """The arrays that there are."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def rows_of_time(self) -> Layer:
        """The same values as a model has them: the channels of one time lie side by side."""
        turned = {
            name: np.ascontiguousarray(value.swapaxes(1, 2)).swapaxes(1, 2) if value.ndim == 3 else value
            for name, value in self.arguments().items()
        }
        return replace(self, **turned)


def random_layer(
    *, batch: int = 1, channels: int, n_state: int, length: int, heads: int | None = None, gated: bool = True
) -> Layer:
    """A layer as it is after initialisation: A from -1 to -n_state, steps of 0.001 to 0.1 after softplus.

    Args:
        heads: that A [heads] has; None for A [channels, n_state].
        gated: with z.

    Source: arXiv:2312.00752, section 3.6 and appendix E.
    """
    rng = np.random.default_rng(0)
    rows = heads or channels

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape, np.float32)

    steps = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), rows))
    rates = -np.arange(1, n_state + 1, dtype=np.float32)
    return Layer(
        u=normal(batch, channels, length),
        delta=np.float32(0.3) * normal(batch, rows, length),
        A=-rng.uniform(1, 16, heads).astype(np.float32) if heads else np.tile(rates, (channels, 1)),
        B=normal(batch, n_state, length),
        C=normal(batch, n_state, length),
        D=np.ones(rows, np.float32),
        delta_bias=(steps + np.log(-np.expm1(-steps))).astype(np.float32),
        z=normal(batch, channels, length) if gated else None,
    )


def scan(ctx: ops.OpContext, layer: Layer) -> F32:
    """The layer's outputs by `ops.ssm_scan`."""
    first = (layer.u, layer.delta, layer.A, layer.B, layer.C)
    return ops.ssm_scan(ctx, *first, layer.D, layer.z, layer.delta_bias, delta_softplus=True)


def error_share(got: F32, wanted: F32) -> float:
    """The largest error over what state-spaces/mamba's tests allow in its place, 2e-3 + 6e-4 |y|."""
    exact = wanted.astype(np.float64)
    return float((np.abs(got - exact) / (2e-3 + 6e-4 * np.abs(exact))).max())


def timed(contenders: Mapping[str, Contender], wanted: F32, *, repeats: int, burst: int) -> dict[str, dict[str, Any]]:
    """Error and seconds of contenders that take turns.

    Raises:
        SystemExit: a result is wrong; nothing is timed.
    """
    errors = {name: error_share(np.asarray(run()), wanted) for name, run in contenders.items()}
    wrong = {name: error for name, error in errors.items() if not error < _REFUSED}
    if wrong:
        raise SystemExit(f"errors over the tolerance, nothing is timed: {wrong}")
    taken = interleaved_timings(contenders, repeats=repeats, burst=burst)
    return {name: {"error": errors[name], "seconds": seconds} for name, seconds in taken.items()}


def add_entries(figure: Figure, case: dict[str, Any], found: dict[str, dict[str, Any]], ours: str) -> None:
    """Append an entry a contender, with how many times as long as `ours` it took, and print them."""
    base = found[ours]["seconds"]["median"]
    entries = [
        {**case, "contender": name, "ms": one["seconds"]["median"] * 1e3}
        | {"times_ours": one["seconds"]["median"] / base, **one}
        for name, one in found.items()
    ]
    figure.entries += entries
    columns = (*case, "contender", "ms", "times_ours", "error")
    print_table(columns, [[entry[column] for column in columns] for entry in entries])
