"""The command line that a folder of benchmarks has: figures are measured one after the other, each written at once."""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.c3.report import Figure, MissingPeerError, print_claims
from benchmarks.c3.setting import Setting
from benchmarks.machine import RESULTS, measure
from vortex_engine.errors import VortexError

__all__ = ["figures_parser", "run_figures"]

# What stops a figure and not the run: a wrong result, a peer that hangs, a full disk.
_STOPS = (SystemExit, MissingPeerError, VortexError, OSError, ValueError, RuntimeError, ImportError)


def figures_parser(package: str, about: str | None, figures: Mapping[str, str]) -> argparse.ArgumentParser:
    """Arguments that every such folder has.

    Args:
        package: "benchmarks.NAME".
        figures: what each measures, by the name of its module.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="figures:\n" + "\n".join(f"  {name:12} {what}" for name, what in figures.items()),
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for models, on the disk to be measured")
    parser.add_argument("--only", nargs="+", choices=sorted(figures), default=list(figures), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small models, one turn each")
    parser.add_argument("--rounds", type=int, help="most turns of the contenders (default: what the figure needs)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--llama-bin", type=Path, help="folder of llama.cpp's programs (default: VORTEX_LLAMA_BIN, PATH)"
    )
    parser.add_argument("--results", type=Path, help="folder of the JSON results")
    return parser


def run_figures(
    package: str,
    figures: Mapping[str, str],
    arguments: argparse.Namespace,
    make_setting: Callable[..., Setting],
    **of_setting: Any,
) -> None:
    """Measure and write what the arguments name; figures that fail do not stop the others.

    Args:
        make_setting: a `Setting` class.
        of_setting: its fields besides those that `figures_parser` has arguments for.

    Raises:
        SystemExit: a figure failed; says which and why, after all others.
    """
    work: Path = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    setting = make_setting(
        work=work,
        results=arguments.results or (work / "results" if arguments.quick else RESULTS),
        threads=arguments.threads,
        quick=arguments.quick,
        max_rounds=1 if arguments.quick else arguments.rounds,
        llama_bin=arguments.llama_bin,
        machine=measure(work, disk_bytes=(32 if arguments.quick else 512) << 20),
        **of_setting,
    )
    found: dict[str, Figure] = {}
    failed: list[str] = []
    for name in arguments.only:
        print(f"\n== {name}: {figures[name]} ({time.monotonic() - start:.0f} s)", flush=True)
        began = time.monotonic()
        try:
            figure: Figure = importlib.import_module(f"{package}.{name}").measure(setting)
        except _STOPS as error:
            failed.append(f"{name}: {error}")
            print(f"failed: {failed[-1]}", flush=True)
            continue
        figure.facts["seconds"] = time.monotonic() - began
        print(figure.write(name, setting.machine, setting.results, package.rpartition(".")[2]), flush=True)
        found[name] = figure
    print(f"\n== targets ({time.monotonic() - start:.0f} s)")
    print_claims(found)
    if failed:
        raise SystemExit("\n".join(f"not measured: {line}" for line in failed))
