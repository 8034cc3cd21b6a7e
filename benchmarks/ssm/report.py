"""What README says of the scan: the time of every contender, and its picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Each a file results/ssm_NAME.json.
FIGURES = ("prefill", "step", "decode", "verify", "forms")
_TITLES = {
    "ssm_prefill": "{length} steps of {channels} channels, {n_state} states each",
    "ssm_step": "one step of {channels} channels, {n_state} states each",
    "ssm_forms": "{length} steps of {n_heads} heads, {n_state} states each",
}
_DRAWN = {**_TITLES, "ssm_decode": "a token of a model of mamba-130m's shape"}
_OURS, _THEIRS, _TARGET = "#1f5fbf", "#c4451c", "#8a8f98"


def scan_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of markdown: milliseconds and error of every contender, and how close ours is to the machine's limits."""
    shown = _shown(results, _TITLES)
    threads = sorted({result["threads"] for result in shown.values()})
    lines = [
        f"The selective scan in fp32 on {' or '.join(map(str, threads))} threads; the error is the largest against "
        "float64, over what state-spaces/mamba's own tests allow:",
        "",
        "| work | contender | ms | times ours | error |",
        "|---|---|---|---|---|",
    ]
    for name, result in shown.items():
        for entry in result["entries"]:
            work = _TITLES[name].format(**result) + (f", batch {entry['batch']}" if "batch" in entry else "")
            numbers = f"{entry['ms']:.3g} | {entry['times_ours']:.3g} | {entry['error']:.1g}"
            lines.append(f"| {work} | {entry['contender']} | {numbers} |")
    if "ssm_prefill" in shown:
        line = next(iter(shown["ssm_prefill"]["roofline"].values()))
        lines += [
            "",
            f"The first of these computes {line['gexps_s']:.2f} G decays a second, {100 * line['share_of_exps']:.0f} % "
            f"of what its threads reach with nothing else to do ({line['gexps_s_bound']:.2f} G), and moves "
            f"{line['gb_s']:.1f} GB/s, {100 * line['share_of_bandwidth']:.0f} % of the memory's bandwidth.",
        ]
    return lines


def draw_scans(results: dict[str, dict[str, Any]], path: Path) -> Path:
    """Bars of the time of every contender, a panel for each figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = _shown(results, _DRAWN)
    n_rows = (len(shown) + 1) // 2
    figure, panels = plt.subplots(n_rows, 2, figsize=(10, 3 * n_rows), squeeze=False, layout="constrained")
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    for axes, (name, result) in zip(panels.flat, shown.items(), strict=False):
        entries = list(reversed(result["entries"]))
        labels = [entry["contender"] + (f", batch {entry['batch']}" if "batch" in entry else "") for entry in entries]
        times = [entry["ms"] for entry in entries]
        colors = [_OURS if entry["contender"].startswith("vortex") else _THEIRS for entry in entries]
        bars = axes.barh(labels, times, color=colors)
        axes.bar_label(bars, fmt="%.3g", padding=3, color=_TARGET)
        axes.set_xscale("log")
        axes.set_xlim(min(times) / 2, max(times) * 4)
        axes.set_title("ms: " + _DRAWN[name].format(**result), loc="left", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _shown(results: dict[str, dict[str, Any]], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {name: results[name] for name in names if name in results}
