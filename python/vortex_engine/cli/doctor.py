"""`vortex doctor`: what works here, what does not, and the fix."""

from __future__ import annotations

from typing import Annotated

import typer

from vortex_engine.cli.options import JsonOption, ModelOption
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, progress_bar

__all__ = ["doctor"]


def doctor(
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read every tile and compare the results of all SIMD levels and budgets."),
    ] = False,
    model: ModelOption = "nano",
    as_json: JsonOption = False,
) -> None:
    """Check machine and installation; every failure comes with its fix."""
    from vortex_engine.doctor import run_doctor

    with kept_on_interrupt("nothing was changed"), progress_bar("checks", hidden=not deep) as move:
        report = run_doctor(deep=deep, model=model, on_check=move)
    if as_json:
        emit_json(report.to_dict())
    else:
        emit_table(
            "",
            ("check", "", "found", "fix"),
            [(check.name, check.status, check.detail, check.fix or "") for check in report.checks],
        )
        emit_table(
            "",
            ("op", "backend", "runs here"),
            [(row["op"], row["backend"], "yes" if row["reason"] is None else row["reason"]) for row in report.ops],
        )
    if not report.ok:
        raise typer.Exit(1)
