"""`vortex train`: a model from text, by one configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vortex_engine.cli.options import JsonOption
from vortex_engine.cli.show import emit_json, emit_table

__all__ = ["train"]


def train(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML file of the run.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run, if there is one.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Directory of the run, instead of `out` in the file.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train up to this step, instead of `loop.steps`.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of `seed` in the file.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Instead of `loop.threads`: of each process.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as optim.lr=3e-4; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model as a configuration file says, alone or in every process that torchrun starts.

    Ctrl-C saves and stops; a killed run goes on from its newest checkpoint with --resume. RUN/best/model is the Hugging
    Face directory of what was best on held-out text, RUN/last/model of what came last: `vortex pack` takes them.
    """
    from vortex_engine.train.config import read_config
    from vortex_engine.train.launch import train as run

    given = {"out": out, "loop.steps": steps, "seed": seed, "loop.threads": threads}
    report = run(read_config(config, settings or (), given), resume=resume)
    if report.stopped:
        raise KeyboardInterrupt(f"step {report.step} is saved in {report.out}; --resume goes on")
    if report.rank:
        return  # the first process speaks for all
    if as_json:
        emit_json(report.to_dict())
        return
    emit_table(
        "",
        ("run", report.out),
        [
            ("steps", f"{report.step:,}"),
            ("tokens", f"{report.n_tokens:,} in {report.seconds:.0f} s"),
            ("loss, nats a token", "not logged" if report.loss is None else f"{report.loss:.4f}"),
            (
                "best, bits a byte of held-out text",
                "nothing held out"
                if report.best_bits_per_byte is None
                else f"{report.best_bits_per_byte:.4f} at step {report.best_step:,}",
            ),
            ("parameters", f"{report.n_parameters:,}"),
            ("arithmetic, processes", f"{report.precision}, {report.n_processes}"),
        ],
    )
