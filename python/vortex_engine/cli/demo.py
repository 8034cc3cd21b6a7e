"""`vortex demo`: watch one model run at several budgets and give the same bits."""

from __future__ import annotations

import sys

import typer

from vortex_engine.cli.options import JsonOption, ModelOption, ThreadsOption
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, note, progress_bar

__all__ = ["demo"]


def demo(model: ModelOption = "nano", threads: ThreadsOption = None, as_json: JsonOption = False) -> None:
    """Generate at 100 %, 50 % and 25 % of the weights' size and compare the results bit for bit."""
    from vortex_engine.demo import PROMPT, run_demo
    from vortex_engine.profile import format_bytes

    first = True

    def show_text(text: str) -> None:
        nonlocal first
        sys.stdout.write(PROMPT + text if first else text)
        first = False
        sys.stdout.flush()

    # The text streams to the same terminal, where a moving bar would cut through it.
    with kept_on_interrupt("nothing is kept"), progress_bar("budgets", hidden=not as_json) as move:
        report = run_demo(model, threads=threads, on_text=None if as_json else show_text, on_budget=move)
    if as_json:
        emit_json(report.to_dict())
    else:
        sys.stdout.write("\n\n")
        emit_table(
            f"{report.model}: {format_bytes(report.total_bytes)} of packed weights",
            ("budget", "of weights", "peak held", "hit rate", "best possible", "read per token", "tokens/s"),
            [
                (
                    format_bytes(run.budget_bytes),
                    f"{run.fraction:.0%}",
                    format_bytes(run.peak_bytes),
                    f"{run.hit_rate:.1%}",
                    f"{run.belady_hit_rate:.1%}",
                    format_bytes(round(run.bytes_read_per_token)),
                    f"{run.tokens_per_s:.1f}",
                )
                for run in report.runs
            ],
        )
        for reason in report.skipped:
            note(f"left out: {reason}")
        sys.stdout.write(f"same text, same logits: {'yes' if report.same else 'NO'}\n")
    if not report.same:
        raise typer.Exit(1)
