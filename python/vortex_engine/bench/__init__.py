"""How fast a packed model runs here, what bounds it, and what would make it faster."""

from __future__ import annotations

from vortex_engine.bench.bound import Bound, Rates, Speed, find_bound
from vortex_engine.bench.curve import Curve, CurvePoint, measure_curve
from vortex_engine.bench.explain import Change, CodecRate, Explanation, Situation, explain
from vortex_engine.bench.run import BenchOptions, BenchReport, Speculation, run_bench

__all__ = [
    "BenchOptions",
    "BenchReport",
    "Bound",
    "Change",
    "CodecRate",
    "Curve",
    "CurvePoint",
    "Explanation",
    "Rates",
    "Situation",
    "Speculation",
    "Speed",
    "explain",
    "find_bound",
    "measure_curve",
    "run_bench",
]
