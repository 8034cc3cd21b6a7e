"""What README says of VORTEX models: which figures there are, and the picture of what their parts are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Each a file results/vortex_NAME.json.
FIGURES = ("mqar", "passkey", "bits", "speed", "context")
_COLORS = ("#1f5fbf", "#c4451c", "#8a8f98", "#2b8a5b", "#8d5bb5", "#c79a1e", "#4c4c4c")
_RECALL = ("trained", "16x", "16x, 8x the pairs")


def draw_parts(results: dict[str, dict[str, Any]], path: Path) -> Path:
    """Recall, pass keys and bits per byte, a panel each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {"vortex_mqar": _recall, "vortex_passkey": _passkey, "vortex_bits": _bits}
    shown = {name: panel for name, panel in panels.items() if name in results}
    figure, places = plt.subplots(1, len(shown), figsize=(4.6 * len(shown), 3.6), squeeze=False, layout="constrained")
    for axes, (name, panel) in zip(places.flat, shown.items(), strict=True):
        panel(axes, results[name])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _recall(axes: Axes, result: dict[str, Any]) -> None:
    entries = result["entries"]
    width = 0.8 / len(entries)
    for i, entry in enumerate(entries):
        heights = [entry[test] for test in _RECALL]
        places = [j + (i - (len(entries) - 1) / 2) * width for j in range(len(_RECALL))]
        axes.bar(places, heights, width, label=entry["arm"], color=_COLORS[i])
    lengths = [f"{result['tests'][test][0]} tokens,\n{result['tests'][test][1]} pairs" for test in _RECALL]
    axes.set_xticks(range(len(_RECALL)), lengths, fontsize=8)
    axes.set_ylim(0, 1.25)
    axes.set_title("MQAR: share recalled (trained on 64 tokens)", loc="left", fontsize=9)
    axes.legend(fontsize=7, ncols=2, frameon=False, loc="upper left")


def _passkey(axes: Axes, result: dict[str, Any]) -> None:
    for i, entry in enumerate(result["entries"]):
        tests = list(zip(*(run["tests"] for run in entry["runs"]), strict=True))
        lengths = [runs[0]["tokens"] for runs in tests]
        found = [sum(run["recall"] for run in runs) / len(runs) for runs in tests]
        axes.plot(lengths, found, "o-", color=_COLORS[i], label=entry["arm"])
    axes.set_xscale("log")
    axes.set_ylim(-0.05, 1.25)
    axes.set_xlabel("tokens", fontsize=8)
    title = f"pass keys found (trained on {result['trained length']} tokens)"
    axes.set_title(title, loc="left", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="upper right")


def _bits(axes: Axes, result: dict[str, Any]) -> None:
    entries = list(reversed(result["entries"]))
    kinds = ("code", "prose")
    for k, kind in enumerate(kinds):
        places = [i + (0.5 - k) * 0.38 for i in range(len(entries))]
        spread = [[entry[kind] - min(run[kind] for run in entry["runs"]) for entry in entries]]
        spread.append([max(run[kind] for run in entry["runs"]) - entry[kind] for entry in entries])
        values = [entry[kind] for entry in entries]
        bars = axes.barh(places, values, 0.36, xerr=spread, label=kind, color=_COLORS[2 * k])
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=7)
    axes.set_yticks(range(len(entries)), [entry["arm"] for entry in entries], fontsize=8)
    lowest = min(entry[kind] for entry in entries for kind in kinds)
    highest = max(entry[kind] for entry in entries for kind in kinds)
    axes.set_xlim(lowest - 0.3, highest + 0.25)
    axes.set_title("bits a byte, held-out text (fewer is better)", loc="left", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
