"""The picture of n-gram drafting: accepted tokens a step by limit, a panel a kind of trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANELS = {
    "edit": "a file with edits",
    "twin": "a file after a similar one",
    "fix": "one-line bug fixes",
    "completion": "completions",
}
# Names as in ngram_contenders, which needs the native module.
_COLORS = {
    "ours": "#1f5fbf",
    "arctic-inference, any length": "#c4451c",
    "arctic-inference": "#e29b80",
    "prompt lookup": "#8a8f98",
    "best copy, known afterwards": "#c9c9c9",
}


def draw_ngram(result: dict[str, Any], path: Path) -> Path:
    """Lines over the limit of proposed tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(_PANELS), figsize=(11, 3.2), layout="constrained")
    for axes, (kind, title) in zip(panels, _PANELS.items(), strict=True):
        for name, color in _COLORS.items():
            shown = [e for e in result["entries"] if e["contender"] == name and e["kind"] == kind]
            limits, accepted = [e["limit"] for e in shown], [e["accepted_per_step"] for e in shown]
            axes.plot(limits, accepted, color=color, marker="o", label=name)
        axes.set_title(title, loc="left")
        axes.set_xscale("log", base=2)
        axes.set_xticks([8, 16, 32], ["8", "16", "32"])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("at most proposed")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accepted tokens a step")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
