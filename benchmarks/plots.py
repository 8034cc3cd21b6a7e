"""The pictures of README, drawn from committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
