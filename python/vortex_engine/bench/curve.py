"""Speed and bytes read over the RAM budget, beside what the machine allows at each."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from vortex_engine.belady import sweep_tile_bytes
from vortex_engine.bench.bound import Rates
from vortex_engine.bench.run import BenchOptions, load_for, prompt_ids
from vortex_engine.errors import BudgetError
from vortex_engine.profile import available_ram_bytes, format_bytes

__all__ = ["FRACTIONS", "Curve", "CurvePoint", "measure_curve"]

FRACTIONS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class CurvePoint:
    """One budget: the medians over the repeats, and the lowest ceiling."""

    budget_bytes: int
    tokens_per_s: float
    bytes_per_token: float
    ceiling_tokens_per_s: float


@dataclass(frozen=True)
class Curve:
    """Points by rising budget; `skipped` says which budgets were left out and why."""

    model: str
    total_bytes: int
    rates: Rates
    points: tuple[CurvePoint, ...]
    skipped: tuple[str, ...]

    def ceiling(self, budget_bytes: float) -> float:
        """Tokens/s that disk, memory and computing allow at a budget."""
        return ceiling(self.rates, self.total_bytes, budget_bytes)

    def to_dict(self) -> dict[str, Any]:
        """The curve as JSON."""
        return asdict(self)


def ceiling(rates: Rates, total_bytes: int, budget_bytes: float) -> float:
    """The lowest ceiling when a budget holds all it can of `total_bytes`."""
    disk = rates.disk_ceiling(max(0.0, total_bytes - budget_bytes))
    in_ram = min(rates.memory_ceiling(total_bytes), rates.compute_ceiling(total_bytes))
    return in_ram if disk is None else min(disk, in_ram)


def measure_curve(
    model: str, options: BenchOptions, rates: Rates, on_point: Callable[[int, int, str], None] | None = None
) -> Curve:
    """Decode at budgets from a tenth of the weights to all of them; `options.ram_budget` is not used.

    Args:
        model: Packed model directory or "nano".
        options: What is measured at every budget.
        rates: Of this machine and model.
        on_point: Called with (budgets done, budgets in all, what runs).
    """
    from vortex_engine.c3.directory import open_directory
    from vortex_engine.decode.load import model_path

    directory = open_directory(model_path(model))
    total = sum(sweep_tile_bytes(directory))
    points: list[CurvePoint] = []
    skipped: list[str] = []
    for number, fraction in enumerate(FRACTIONS):
        budget = int(directory.compressed_bytes * fraction)
        if on_point is not None:
            on_point(number, len(FRACTIONS), f"budget {format_bytes(budget)}")
        free = available_ram_bytes()
        if budget > free:
            skipped.append(f"{fraction:.0%}: {format_bytes(budget)} do not fit the {format_bytes(free)} of free RAM")
            continue
        try:
            speed, read = _one_budget(model, replace(options, ram_budget=budget))
        except BudgetError as error:
            skipped.append(f"{fraction:.0%}: {error}")
            continue
        points.append(CurvePoint(budget, speed, read, ceiling(rates, total, budget)))
    return Curve(model, total, rates, tuple(points), tuple(skipped))


def _one_budget(model: str, options: BenchOptions) -> tuple[float, float]:
    """Tokens/s and bytes a sweep reads, medians over the repeats after a warm-up."""
    speeds: list[float] = []
    reads: list[float] = []
    with load_for(model, options) as loaded:
        prompt = prompt_ids(min(options.n_prompt_tokens, 16), loaded.vocab_size)
        for number in range(options.repeats + 1):
            stats = loaded.generate(
                prompt, max_new_tokens=options.max_new_tokens, ignore_eos=True, speculate="off"
            ).stats
            if number:
                n_sweeps = -(-stats["n_prompt_tokens"] // stats["prefill_chunk"]) + stats["n_new_tokens"] - 1
                speeds.append(stats["tokens_per_s"] or 0.0)
                reads.append(stats["bytes_compressed_read"] / n_sweeps)
    return statistics.median(speeds), statistics.median(reads)
