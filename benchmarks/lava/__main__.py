"""LAVA banks beside the vector indices that others have, in one run on one machine.

`python -m benchmarks.lava --work DIR [--only NAME …] [--quick]` measures the figures below and writes
results/lava_NAME.json for each as soon as it is measured. A peer that is missing is skipped with a line that says so.
`--quick` uses small sizes and writes to DIR/results: its numbers mean nothing.
"""

from __future__ import annotations

from benchmarks.c3.setting import Setting
from benchmarks.figures import figures_parser, run_figures

FIGURES = {
    "search": "one query over 2^20 slots beside faiss IndexIVFFlat with the same centroids and lists",
    "drift": "a drifting stream that grows tenfold, beside faiss retrained and faiss as it was trained",
    "contents": "error of attention with keys of 2 bits a dimension, beside faiss RaBitQ and TurboQuant",
    "writes": "sustained writes beside hnswlib",
}


def main() -> None:
    """Parse, measure, write."""
    arguments = figures_parser("benchmarks.lava", __doc__, FIGURES).parse_args()
    run_figures("benchmarks.lava", FIGURES, arguments, Setting, weights=())


if __name__ == "__main__":
    main()
