"""The table of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from vortex_engine.cli.bench import bench
from vortex_engine.cli.demo import demo
from vortex_engine.cli.doctor import doctor
from vortex_engine.cli.generate import generate
from vortex_engine.cli.grams import grams
from vortex_engine.cli.inspect import inspect
from vortex_engine.cli.memorize import memorize
from vortex_engine.cli.pack import pack
from vortex_engine.cli.repair import repair
from vortex_engine.cli.train import train

__all__ = ["app"]

app = typer.Typer(
    name="vortex",
    help="Run language models that are bigger than your memory.",
    epilog="Exit codes: 0 ok, 1 failed check, 2 bad usage, prompt or existing target, 3 bad model or input file, "
    "4 budget too small, 5 disk full or out of memory, 130 interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vortex {version('vortex-engine')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _command in (pack, inspect, repair, generate, memorize, train, demo, bench, doctor):
    app.command()(_command)
app.add_typer(grams)
