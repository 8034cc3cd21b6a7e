"""`vortex memorize`: a text becomes a file that later texts begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vortex_engine.cli.options import BudgetOption, JsonOption, ModelOption, ThreadsOption
from vortex_engine.cli.show import emit_json, kept_on_interrupt, note, progress_bar
from vortex_engine.cli.texts import file_text, stdin_text

__all__ = ["memorize"]


def memorize(
    out: Annotated[Path, typer.Option("--out", help="File to write; an older one is replaced whole or not at all.")],
    text: Annotated[Path | None, typer.Argument(help="Text to read; without it, standard input.")] = None,
    model: ModelOption = "nano",
    memory: Annotated[Path | None, typer.Option(help="Such a file to begin with: the new one has both texts.")] = None,
    ram_budget: BudgetOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a model's LAVA layers remember of a text; `vortex generate --memory` begins with it."""
    import vortex_engine as vx

    read = stdin_text("a TEXT file") if text is None else file_text(text)
    with (
        vx.load(model, ram_budget=ram_budget, threads=threads) as loaded,
        kept_on_interrupt(f"{out} is as it was"),
        progress_bar("reading", hidden=as_json) as move,
    ):
        n_slots = loaded.memorize(read, out, memory=memory, progress=move)
    n_bytes = out.stat().st_size
    if as_json:
        emit_json({"out": str(out), "slots": n_slots, "bytes": n_bytes})
        return
    from vortex_engine.profile import format_bytes

    note(f"{out}: {n_slots} slots, {format_bytes(n_bytes)}")
