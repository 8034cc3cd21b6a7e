"""`vortex repair`: damaged parts of a packed model, made again from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vortex_engine.cli.options import JsonOption, ThreadsOption
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, note, progress_bar

__all__ = ["repair"]


def repair(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Packed model directory.")],
    source: Annotated[
        Path, typer.Option("--from", metavar="SRC", help="The checkpoint that DIR was packed from.", show_default=False)
    ],
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a packed model and rewrite the bad ones from its checkpoint.

    Nothing is written that does not have the checksum sealed when the model was packed, so a checkpoint that is not the
    one it was packed from is refused by the tensor that differs. A stopped run leaves nothing worse than it was.
    """
    from vortex_engine.c3.repair import repair as repair_directory
    from vortex_engine.profile import format_bytes

    with (
        kept_on_interrupt("parts already repaired stay repaired; use the same command to go on"),
        progress_bar("checking", unit_bytes=True, hidden=as_json) as move,
    ):
        report = repair_directory(directory, source, threads=threads, progress=move)
    n_bad = len(report.unrepaired)
    message = (
        f"{directory}: {len(report.repaired)} damaged part(s) repaired, {n_bad} not; "
        f"{format_bytes(report.written_bytes)} written in {report.seconds:.1f} s"
    )
    if report.unrepaired:
        first = report.unrepaired[0]
        message += f"; {first.damage}: {first.why}"
    if as_json:
        error = {"type": "CorruptTileError", "message": message, "exit_code": 3}
        emit_json({**report.to_dict(), **({"error": error} if report.unrepaired else {})})
    elif report.repaired or report.unrepaired:
        outcomes = [(damage, "repaired") for damage in report.repaired]
        outcomes += [(entry.damage, f"not repaired: {entry.why}") for entry in report.unrepaired]
        rows: list[list[str]] = []
        for damage, outcome in outcomes:
            cells = (damage.part, Path(damage.file).name, damage.tensor, damage.tile, damage.offset, outcome)
            rows.append(["" if cell is None else str(cell) for cell in cells])
        emit_table("", ("part", "file", "tensor", "tile", "offset", "outcome"), rows)
    note(f"vortex: {message}")
    if report.unrepaired:
        raise typer.Exit(3)
