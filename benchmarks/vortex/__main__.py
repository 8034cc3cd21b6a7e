"""What the parts of a VORTEX model are worth at equal size, each measured with the others left as they are.

`python -m benchmarks.vortex --work DIR [--only NAME …] [--quick]` trains the arms of the figures below and writes
results/vortex_NAME.json for each as soon as it is measured; runs that are done are kept in DIR and not repeated.
`--quick` trains next to nothing and writes to DIR/results: its numbers mean nothing.
"""

from __future__ import annotations

from benchmarks.c3.setting import Setting
from benchmarks.figures import figures_parser, run_figures

FIGURES = {
    "mqar": "associative recall (MQAR): recurrence, four times its state, recurrence with memory, attention",
    "bits": "bits per byte of code and prose: a llama, the V-block, and that without each part",
    "speed": "tokens a second of training: the V-block, and without each part, beside llamas of equal size",
    "context": "memory and speed against the length of the context, beside a llama of equal size in three engines",
    "passkey": "a pass key after up to a million tokens, in memory that does not grow",
}


def main() -> None:
    """Parse, measure, write."""
    arguments = figures_parser("benchmarks.vortex", __doc__, FIGURES).parse_args()
    run_figures("benchmarks.vortex", FIGURES, arguments, Setting, weights=())


if __name__ == "__main__":
    main()
