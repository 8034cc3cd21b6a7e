"""The pictures of README, drawn from committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bad.ngram_plot import draw_ngram
from benchmarks.bad.report import draw_budgets
from benchmarks.ssm.report import draw_scans
from benchmarks.vortex.context_plot import draw_context
from benchmarks.vortex.report import draw_parts
from vortex_engine.bench import Curve, CurvePoint, Rates
from vortex_engine.bench.plot import plot_curve, read_peers

_OURS, _THEIRS, _TARGET = "#1f5fbf", "#c4451c", "#8a8f98"


def draw(results: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what the results allow into the folder that holds them; returns the pictures."""
    drawn: list[Path] = []
    if "curve" in results:
        drawn.append(_draw_curve(results["curve"]["curve"], folder))
    if "resident" in results:
        drawn.append(_draw_peers(results["resident"], folder / "c3_peers.png"))
    if "traces" in results:
        drawn.append(_draw_traces(results["traces"]["entries"], folder / "c3_traces.png"))
    if "bad_limited" in results:
        drawn.append(draw_budgets(results["bad_limited"], folder / "bad_budgets.png"))
    if "bad_ngram" in results:
        drawn.append(draw_ngram(results["bad_ngram"], folder / "bad_ngram.png"))
    if "ssm_prefill" in results:
        drawn.append(draw_scans(results, folder / "ssm_scans.png"))
    if "vortex_context" in results:
        drawn.append(draw_context(results["vortex_context"], folder / "vortex_context.png"))
    if "vortex_mqar" in results:
        drawn.append(draw_parts(results, folder / "vortex_parts.png"))
    return drawn


def _draw_curve(document: dict[str, Any], folder: Path) -> Path:
    curve = Curve(
        model=document["model"],
        total_bytes=document["total_bytes"],
        rates=Rates(**document["rates"]),
        points=tuple(CurvePoint(**point) for point in document["points"]),
        skipped=tuple(document["skipped"]),
    )
    limited, path = folder / "c3_limited.json", folder / "c3_budget_curve.png"
    plot_curve(curve, path, peers=read_peers(limited) if limited.is_file() else [])
    return path


def _draw_peers(document: dict[str, Any], path: Path) -> Path:
    """Bars of decoding and prefill with all weights in RAM, the fastest at the top of each half."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, halves = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    kinds = {"decode_tokens_per_s": "decoding", "prefill_tokens_per_s": "prefill of 512 tokens"}
    for axes, (kind, title) in zip(halves, kinds.items(), strict=True):
        entries = sorted(
            (entry for entry in document["entries"] if kind in entry), key=lambda entry: entry[kind]["median"]
        )
        names = [f"{entry['engine']} {entry['weights']}" for entry in entries]
        speeds = [entry[kind]["median"] for entry in entries]
        colors = [_OURS if entry["engine"] == "vortex" else _THEIRS for entry in entries]
        bars = axes.barh(names, speeds, color=colors)
        axes.bar_label(bars, fmt="%.3g", padding=3, color=_TARGET)
        axes.set_title(f"{title}, tokens/s", loc="left")
        axes.set_xlim(0, max(speeds) * 1.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{document['shape']}, all weights in RAM, {document['threads']} threads", x=0.01, ha="left")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _draw_traces(entries: list[dict[str, Any]], path: Path) -> Path:
    """Bytes read over Belady's by budget, a panel a trace."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    traces = list(dict.fromkeys(entry["trace"] for entry in entries))
    figure, panels = plt.subplots(1, len(traces), figsize=(10, 3.2), sharey=True, layout="constrained")
    for axes, trace in zip(panels, traces, strict=True):
        shown = [entry for entry in entries if entry["trace"] == trace]
        budgets = [100 * entry["fraction"] for entry in shown]
        for policy, color, marker in (("lru", _THEIRS, "s"), ("stable", _OURS, "o")):
            ratios = [entry[policy] / entry["belady"] for entry in shown]
            axes.plot(budgets, ratios, color=color, marker=marker, label=policy)
        axes.axhline(1, color=_TARGET, linestyle="--", label="Belady")
        axes.set_title(trace, loc="left")
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(budgets)
        axes.set_xlabel("budget, % of the weights")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("bytes read over Belady's")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
