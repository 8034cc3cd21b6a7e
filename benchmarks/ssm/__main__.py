"""The selective scan beside the ways that others have for it without a GPU, in one run on one machine.

`python -m benchmarks.ssm --work DIR [--only NAME …] [--quick]` measures the figures below and writes
results/ssm_NAME.json for each as soon as it is measured. A peer that is missing is skipped with a line that says so.
Contenders take turns on the same arrays, and none is timed whose result is wrong. `--quick` uses small sizes and writes
to DIR/results: its numbers mean nothing. `python -m benchmarks.report` then makes README's tables and the plots.
"""

from __future__ import annotations

from benchmarks.c3.setting import Setting
from benchmarks.figures import figures_parser, run_figures

FIGURES = {
    "prefill": "2048 steps of 1536 channels and 16 states: torch step by step, a parallel scan, scalar C",
    "step": "one step of decoding, a batch of 1 and of 8",
    "decode": "a model of mamba-130m's shape, token by token, beside transformers",
    "verify": "that model's sweep over eight drafted tokens, and forgetting them",
    "forms": "one decay a head (Mamba-2) with 128 states: in chunks and step by step in torch",
}


def main() -> None:
    """Parse, measure, write."""
    arguments = figures_parser("benchmarks.ssm", __doc__, FIGURES).parse_args()
    run_figures("benchmarks.ssm", FIGURES, arguments, Setting, weights=())


if __name__ == "__main__":
    main()
