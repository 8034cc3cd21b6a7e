"""Every number of packed models against peers and physical limits, in one run on one machine.

`python -m benchmarks.c3 --work DIR [--only NAME …] [--quick] [--llama-bin DIR]` measures the figures below, checks
results before it times them, and writes results/c3_NAME.json for each as soon as it is measured, with the machine
described. Models are made in DIR once and kept. Contenders take turns on the same threads. A peer that is missing is
skipped with a line that says so; a figure that fails does not stop the others, and `--only` repeats or continues a run.
`--quick` uses a tiny model and writes to DIR/results: it shows that everything runs, its numbers mean nothing. As root
on Linux nothing is skipped for want of cgroups. `python -m benchmarks.report` then makes README's table and the plots.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.c3.setting import Setting
from benchmarks.figures import figures_parser, run_figures

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
_WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "weights"


def main() -> None:
    """Parse, measure, write."""
    parser = figures_parser("benchmarks.c3", __doc__, FIGURES)
    parser.add_argument("--weights", type=Path, nargs="*", default=[_WEIGHTS], help="folders of trained checkpoints")
    arguments = parser.parse_args()
    weights = tuple(folder for folder in arguments.weights if folder.is_dir())
    run_figures("benchmarks.c3", FIGURES, arguments, Setting, weights=weights)


if __name__ == "__main__":
    main()
