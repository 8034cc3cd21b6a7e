"""The loss curve of a run: `python -m vortex_engine.train.plots --metrics metrics.jsonl --png loss.png`."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vortex_engine.train.files import replace_atomically
from vortex_engine.train.progress import Record, read_records


def draw_loss(records: Sequence[Record], baselines: Mapping[str, float], *, path: Path) -> None:
    """Draw training loss and validation bits per byte over millions of tokens, as PNG.

    Args:
        records: what `Reporter` wrote.
        baselines: bits per byte to mark with horizontal lines, by name.
        path: replaced atomically.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    train = [record for record in records if record["kind"] == "train"]
    valid = [record for record in records if record["kind"] == "valid"]
    left.plot(_millions(train), [float(record["loss"]) for record in train], linewidth=0.8, label="training loss")
    left.set_ylabel("nats per token")
    rate = left.twinx()
    rate.plot(_millions(train), [float(record["lr_scale"]) for record in train], color="tab:gray", linestyle=":")
    rate.set_ylabel("learning rate, part of the peak (dotted)")
    rate.set_ylim(0, 1.05)
    bits = [float(record["bits_per_byte"]) for record in valid]
    right.plot(_millions(valid), bits, marker=".", label="validation, quick estimate")
    right.set_ylabel("bits per byte")
    for place, (name, value) in enumerate(sorted(baselines.items())):
        right.axhline(value, linestyle="--", linewidth=0.9, color=f"C{place + 1}", label=name)
    for axis in (left, right):
        axis.set_xlabel("million tokens")
        axis.grid(alpha=0.3)
    right.legend()
    replace_atomically(path, lambda temporary: FigureCanvasAgg(figure).print_png(str(temporary)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the metrics of a run beside the baselines of an evaluation report."""
    parser = argparse.ArgumentParser(prog="python -m vortex_engine.train.plots", description=__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="metrics.jsonl of the run")
    parser.add_argument("--png", type=Path, required=True, help="picture to write")
    parser.add_argument("--report", type=Path, help="report of vortex_engine.train.baselines or evaluate")
    args = parser.parse_args(arguments)
    baselines: dict[str, float] = {}
    if args.report is not None:
        figures: dict[str, float] = json.loads(args.report.read_text(encoding="utf-8"))["bits_per_byte"]
        baselines = {name: value for name, value in figures.items() if name != "nano"}
    draw_loss(read_records(args.metrics), baselines, path=args.png)
    return 0


def _millions(records: Sequence[Record]) -> list[float]:
    return [float(record["tokens"]) / 1e6 for record in records]


if __name__ == "__main__":
    sys.exit(main())
