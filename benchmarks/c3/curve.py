"""Decoding speed and bytes a token of `exact` with a tenth of its weights in RAM up to all, beside what bounds them."""

from __future__ import annotations

from benchmarks.c3.report import Figure
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from vortex_engine.bench import BenchOptions, measure_curve
from vortex_engine.bench.rates import measure_rates
from vortex_engine.c3.directory import open_directory

_DECODE_TOKENS = 16


def measure(setting: Setting) -> Figure:
    """What `vortex bench --plot` measures; `benchmarks.report` draws it with the peers of `limited`."""
    model = setting.packed("exact")
    options = BenchOptions(threads=setting.threads, max_new_tokens=_DECODE_TOKENS, repeats=setting.rounds(2))
    curve = measure_curve(str(model), options, measure_rates(open_directory(model), setting.threads, "float"))
    figure = Figure(facts={"shape": setting.shape, "threads": setting.threads, "codec": "exact"})
    figure.facts["curve"] = curve.to_dict() | {"model": f"{setting.shape}, exact"}
    for line in curve.skipped:
        figure.skip(line)
    print_table(
        ("budget MB", "tokens/s", "MB a token", "at most tokens/s"),
        [[p.budget_bytes / 1e6, p.tokens_per_s, p.bytes_per_token / 1e6, p.ceiling_tokens_per_s] for p in curve.points],
    )
    return figure
