"""Every number of lossless block speculation against plain decoding and peers, in one run on one machine.

`python -m benchmarks.bad --work DIR [--only NAME …] [--quick] [--llama-bin DIR]` measures the figures below and writes
results/bad_NAME.json for each as soon as it is measured. Models are made in DIR once and kept. A peer that is missing
is skipped with a line that says so. `--quick` uses small models and writes to DIR/results: its numbers mean nothing.
As root on Linux nothing is skipped for want of cgroups. `python -m benchmarks.bad.proof` is the proof, and
`python -m benchmarks.report` then makes README's tables and the plots.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.bad.prompts import DATA
from benchmarks.bad.setting import SpeculationSetting
from benchmarks.figures import figures_parser, run_figures

FIGURES = {
    "limited": "a predictable gigabyte over the RAM budget: plain, BAD, llama.cpp with n-gram lookup",
    "ngram": "accepted tokens a step of n-gram drafting, beside suffix decoding and prompt lookup",
    "acceptance": "tokens a sweep of the drafters, speculation on random text, time of a rollback",
}


def main() -> None:
    """Parse, measure, write."""
    parser = figures_parser("benchmarks.bad", __doc__, FIGURES)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of prompts and checkpoints")
    arguments = parser.parse_args()
    run_figures("benchmarks.bad", FIGURES, arguments, SpeculationSetting, weights=(), data=arguments.data)


if __name__ == "__main__":
    main()
