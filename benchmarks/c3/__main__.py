"""Every number of packed models against peers and physical limits, in one run on one machine.

`python -m benchmarks.c3 --work DIR [--only NAME …] [--quick] [--llama-bin DIR]` measures the figures below, checks
results before it times them, and writes results/c3_NAME.json for each as soon as it is measured, with the machine
described. Models are made in DIR once and kept. Contenders take turns on the same threads. A peer that is missing is
skipped with a line that says so; a figure that fails does not stop the others, and `--only` repeats or continues a run.
`--quick` uses a tiny model and writes to DIR/results: it shows that everything runs, its numbers mean nothing. As root
on Linux nothing is skipped for want of cgroups. `python -m benchmarks.report` then makes README's table and the plots.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from benchmarks.c3.report import Figure, MissingPeerError, print_claims
from benchmarks.c3.setting import Setting
from benchmarks.machine import RESULTS, measure
from vortex_engine.errors import VortexError

FIGURES = {
    "gemv": "paged_linear per codec and M over a read-only STREAM",
    "resident": "decode and prefill, all in RAM, beside llama.cpp",
    "limited": "decode inside memory cgroups, beside llama.cpp mmap, accelerate and AirLLM",
    "paging": "bytes per token over Belady, sweep time over max(I/O, compute)",
    "traces": "bytes a token of the policies over Belady on recorded patterns of access",
    "size": "lossless size of trained weights, beside ZipNN and DFloat11's format",
    "quant_error": "error of quantised weights, beside ggml",
    "quality": "divergence of rounded models: mixed beside other choices of equal size, int4 beside ggml",
    "packing": "packing speed per codec",
    "curve": "speed and bytes a token over the RAM budget",
}
# What stops a figure and not the run: a wrong result, a peer that hangs, a full disk.
STOPS = (SystemExit, MissingPeerError, VortexError, OSError, ValueError, RuntimeError, ImportError)
_WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "weights"


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.c3",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="figures:\n" + "\n".join(f"  {name:12} {what}" for name, what in FIGURES.items()),
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for models, on the disk to be measured")
    parser.add_argument("--only", nargs="+", choices=sorted(FIGURES), default=list(FIGURES), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one turn each")
    parser.add_argument("--rounds", type=int, help="most turns of the contenders (default: what the figure needs)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--llama-bin", type=Path, help="folder of llama.cpp's programs (default: VORTEX_LLAMA_BIN, PATH)"
    )
    parser.add_argument("--weights", type=Path, nargs="*", default=[_WEIGHTS], help="folders of trained checkpoints")
    parser.add_argument("--results", type=Path, help="folder of the JSON results")
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    setting = Setting(
        work=work,
        results=arguments.results or (work / "results" if arguments.quick else RESULTS),
        threads=arguments.threads,
        quick=arguments.quick,
        max_rounds=1 if arguments.quick else arguments.rounds,
        llama_bin=arguments.llama_bin,
        weights=tuple(folder for folder in arguments.weights if folder.is_dir()),
        machine=measure(work, disk_bytes=(32 if arguments.quick else 512) << 20),
    )
    figures: dict[str, Figure] = {}
    failed: list[str] = []
    for name in arguments.only:
        print(f"\n== {name}: {FIGURES[name]} ({time.monotonic() - start:.0f} s)", flush=True)
        began = time.monotonic()
        try:
            figure: Figure = importlib.import_module(f"benchmarks.c3.{name}").measure(setting)
        except STOPS as error:
            failed.append(f"{name}: {error}")
            print(f"failed: {failed[-1]}", flush=True)
            continue
        figure.facts["seconds"] = time.monotonic() - began
        print(figure.write(name, setting.machine, setting.results), flush=True)
        figures[name] = figure
    print(f"\n== targets ({time.monotonic() - start:.0f} s)")
    print_claims(figures)
    if failed:
        raise SystemExit("\n".join(f"not measured: {line}" for line in failed))


if __name__ == "__main__":
    main()
