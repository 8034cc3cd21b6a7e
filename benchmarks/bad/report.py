"""What README says of block speculation: the table that matters, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Each a file results/bad_NAME.json.
FIGURES = ("limited", "acceptance", "ngram", "proof")
_COLUMNS = {
    "plain": "plain",
    "BAD": "BAD",
    "llama.cpp": "llama.cpp, mmap",
    "llama.cpp, n-gram lookup": "llama.cpp, mmap and n-gram lookup",
}
_COLORS = {"plain": "#7fa6dd", "BAD": "#1f5fbf", "llama.cpp": "#e29b80", "llama.cpp, n-gram lookup": "#c4451c"}


def budget_table(result: dict[str, Any]) -> list[str]:
    """Lines of markdown: budget by engine in tokens/s, and whether BAD wrote what plain decoding writes."""
    speeds = _speeds(result)
    lines = [
        f"Tokens/s of a predictable model of {result['bf16_bytes'] / 1e9:.2f} GB of bf16 by RAM budget: "
        f"{result['n_prompts']} prompts of code and prose, {result['new_tokens']} tokens each, every engine inside the "
        "same memory cgroup.",
        "",
        f"| budget | {' | '.join(_COLUMNS.values())} | output identical |",
        f"|---|{'---|' * (len(_COLUMNS) + 1)}",
    ]
    for share, n_different in result["different_tokens"].items():
        row = speeds[float(share)]
        cells = [f"{row[engine]:.2f}" if engine in row else "-" for engine in _COLUMNS]
        budget_mb = float(share) * result["bf16_bytes"] / 1e6
        verdict = "yes" if n_different == 0 else f"**no**, {n_different} tokens"
        lines.append(f"| {100 * float(share):.0f} %, {budget_mb:.0f} MB | {' | '.join(cells)} | {verdict} |")
    return lines


def draw_budgets(result: dict[str, Any], path: Path) -> Path:
    """Speeds over the budget, a line an engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    speeds = _speeds(result)
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for engine, label in _COLUMNS.items():
        points = sorted((100 * share, row[engine]) for share, row in speeds.items() if engine in row)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=_COLORS[engine], label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks([100 * share for share in speeds])
    axes.set_xlabel("budget, % of the bf16 bytes")
    axes.set_ylabel("tokens/s")
    axes.set_title(f"nano grown to {result['bf16_bytes'] / 1e9:.2f} GB, {result['threads']} threads", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _speeds(result: dict[str, Any]) -> dict[float, dict[str, float]]:
    """Share of the bf16 bytes -> engine -> tokens/s, the largest budget first."""
    speeds: dict[float, dict[str, float]] = {float(share): {} for share in result["different_tokens"]}
    for entry in result["entries"]:
        speeds[entry["share"]][entry["engine"]] = entry["tokens_per_s"]["median"]
    return speeds
