"""How close a scan comes to what its exps and its bytes allow."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from vortex_engine import _native, ops

__all__ = ["exp2_rate", "roofline"]


def exp2_rate(ctx: ops.OpContext, *, repeats: int = 200) -> float:
    """Decays a second that all threads could compute if a scan were nothing else: exp2 of one thread on an array in its
    L2 cache, times the threads."""
    x = np.linspace(-10, 0, 1 << 15, dtype=np.float32)
    taken: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        _native.exp2(ctx.pool, x)
        taken.append(time.perf_counter() - start)
    return x.size / statistics.median(taken) * ctx.threads


def roofline(seconds: float, n_exps: int, n_bytes: int, bound: float, machine: dict[str, Any]) -> dict[str, Any]:
    """Rates of a scan beside the machine's.

    Args:
        bound: exps a second, of `exp2_rate`.
        machine: of `benchmarks.machine.measure`.
    """
    bandwidth = machine["read_bandwidth_2_gb_s"]
    return {
        "gexps_s": n_exps / seconds / 1e9,
        "gexps_s_bound": bound / 1e9,
        "share_of_exps": n_exps / seconds / bound,
        "gb_s": n_bytes / seconds / 1e9,
        "gb_s_bound": bandwidth,
        "share_of_bandwidth": n_bytes / seconds / 1e9 / bandwidth,
    }
