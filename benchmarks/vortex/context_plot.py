"""The picture of memory and speed over the length of the context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["draw_context"]

_OURS, _OTHERS = "#1f5fbf", ("#c4451c", "#d98a3d", "#8a8f98")
_DASHES = ("--", "-")  # the caches of two engines are of one size
_PANELS = {
    "state_bytes": ("what a sequence carries, MB", 1e-6),
    "decode_tokens_per_s": ("decoding, tokens/s", 1.0),
    "prefill_tokens_per_s": ("reading, tokens/s", 1.0),
}


def draw_context(result: dict[str, Any], path: Path) -> Path:
    """Memory and speeds over the context, a line for each contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(entry["contender"] for entry in result["entries"]))
    figure, panels = plt.subplots(1, len(_PANELS), figsize=(10, 3.4), layout="constrained")
    for axes, (column, (title, unit)) in zip(panels, _PANELS.items(), strict=True):
        for i, name in enumerate(names):
            entries = [entry for entry in result["entries"] if entry["contender"] == name and column in entry]
            style = (
                {"color": _OURS, "marker": "o"}
                if i == 0
                else {"color": _OTHERS[(i - 1) % 3], "marker": "s", "linestyle": _DASHES[i % 2]}
            )
            contexts = [entry["context"] for entry in entries]
            axes.plot(contexts, [unit * entry[column] for entry in entries], label=name, markersize=4, **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({entry["context"] for entry in result["entries"]})
        axes.set_xticks(ticks, [f"{tick // 1024}k" for tick in ticks])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("tokens of context")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    sizes = " and ".join(f"{size / 1e6:.1f} M" for size in result["parameters"].values())
    threads = result["threads"]
    figure.suptitle(f"V-block model and llama, {sizes} parameters, {threads} threads", x=0.01, ha="left", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
