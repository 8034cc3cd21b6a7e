"""Every number of lossless block speculation against plain decoding and peers, in one run on one machine.

`python -m benchmarks.bad --work DIR [--only NAME …] [--quick] [--llama-bin DIR]` measures the figures below and writes
results/bad_NAME.json for each as soon as it is measured. Models are made in DIR once and kept. A peer that is missing
is skipped with a line that says so. `--quick` uses small models and writes to DIR/results: its numbers mean nothing.
As root on Linux nothing is skipped for want of cgroups. `python -m benchmarks.bad.proof` is the proof, and
`python -m benchmarks.report` then makes README's tables and the plots.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from benchmarks.bad.prompts import DATA
from benchmarks.bad.setting import SpeculationSetting
from benchmarks.c3.__main__ import STOPS
from benchmarks.c3.report import Figure, print_claims
from benchmarks.machine import RESULTS, measure

FIGURES = {
    "limited": "a predictable gigabyte over the RAM budget: plain, BAD, llama.cpp with n-gram lookup",
    "ngram": "accepted tokens a step of n-gram drafting, beside suffix decoding and prompt lookup",
    "acceptance": "tokens a sweep of the drafters, speculation on random text, time of a rollback",
}


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bad",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="figures:\n" + "\n".join(f"  {name:12} {what}" for name, what in FIGURES.items()),
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for models, on the disk to be measured")
    parser.add_argument("--only", nargs="+", choices=sorted(FIGURES), default=list(FIGURES), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small models, one turn each")
    parser.add_argument("--rounds", type=int, help="most turns of the contenders (default: what the figure needs)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-bin", type=Path, help="folder of llama-server (default: VORTEX_LLAMA_BIN, PATH)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of prompts and checkpoints")
    parser.add_argument("--results", type=Path, help="folder of the JSON results")
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    setting = SpeculationSetting(
        work=work,
        results=arguments.results or (work / "results" if arguments.quick else RESULTS),
        threads=arguments.threads,
        quick=arguments.quick,
        max_rounds=1 if arguments.quick else arguments.rounds,
        llama_bin=arguments.llama_bin,
        weights=(),
        machine=measure(work, disk_bytes=(32 if arguments.quick else 512) << 20),
        data=arguments.data,
    )
    figures: dict[str, Figure] = {}
    failed: list[str] = []
    for name in arguments.only:
        print(f"\n== {name}: {FIGURES[name]} ({time.monotonic() - start:.0f} s)", flush=True)
        began = time.monotonic()
        try:
            figure: Figure = importlib.import_module(f"benchmarks.bad.{name}").measure(setting)
        except STOPS as error:
            failed.append(f"{name}: {error}")
            print(f"failed: {failed[-1]}", flush=True)
            continue
        figure.facts["seconds"] = time.monotonic() - began
        print(figure.write(name, setting.machine, setting.results, "bad"), flush=True)
        figures[name] = figure
    print(f"\n== targets ({time.monotonic() - start:.0f} s)")
    print_claims(figures)
    if failed:
        raise SystemExit("\n".join(f"not measured: {line}" for line in failed))


if __name__ == "__main__":
    main()
