"""Draws a budget curve: tokens/s and bytes a token over the budget, the machine's bound, and peers' points."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vortex_engine.bench.curve import Curve
from vortex_engine.errors import BackendUnavailableError

__all__ = ["Peer", "check_plotting", "plot_curve", "read_peers"]

_FORMATS = (".png", ".svg", ".pdf")
_MB = 1e6
_BOUND, _OURS, _PEERS = "#8a8f98", "#1f5fbf", ("#c4451c", "#8c5aa8", "#2f8f4e", "#b8860b")


@dataclass(frozen=True)
class Peer:
    """Another engine's speed under a limit on the memory of its whole process."""

    name: str
    limit_bytes: int
    tokens_per_s: float


def check_plotting(path: Path) -> None:
    """Refuse before anything is measured.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
        ValueError: the picture's folder is missing or its suffix is no format that can be drawn.
    """
    if path.suffix not in _FORMATS:
        raise ValueError(f"[bench] a picture ends in one of {' '.join(_FORMATS)}, got {path}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"[bench] {path.absolute().parent} is no folder; make it, or draw elsewhere")
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendUnavailableError(
            "[bench] a plot needs matplotlib, which is not installed; pip install 'vortex-engine[bench]'"
        )


def read_peers(path: Path) -> list[Peer]:
    """The engines but ours in a result of `benchmarks.c3 --only limited`, one point for each limit.

    Raises:
        ValueError: the file is not such a result.
    """
    try:
        document: Any = json.loads(path.read_bytes())
        return [
            Peer(
                name=f"{entry['engine']}, {document['shape']}",
                limit_bytes=int(entry["limit_bytes"]),
                tokens_per_s=float(entry["tokens_per_s"]["median"]),
            )
            for entry in document["entries"]
            if entry["engine"] != "vortex"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"[bench] {path} is no result of the `limited` benchmark ({type(error).__name__}: {error})"
        ) from error


def plot_curve(curve: Curve, path: Path, *, peers: Sequence[Peer] = (), title: str | None = None) -> None:
    """Write the picture; its format follows the suffix of `path`.

    Args:
        curve: What is drawn; at least one point.
        path: The picture's file.
        peers: Points of other engines, placed at their memory limit.
        title: None says the model and the threads.
    """
    check_plotting(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 6.6), sharex=True, layout="constrained", height_ratios=[3, 2]
    )
    _draw_speed(above, curve, peers)
    _draw_bytes(below, curve)
    right = max([curve.total_bytes, *(peer.limit_bytes for peer in peers)]) * 1.06 / _MB
    below.set_xlim(0, right)
    rates = curve.rates
    above.set_title(
        title or f"{Path(curve.model).name}: decoding over the RAM budget, {rates.threads} threads", loc="left"
    )
    below.text(
        0.0,
        -0.33,
        f"measured here: disk {rates.disk_gb_s:.2f} GB/s, memory {rates.memory_gb_s:.1f} GB/s, "
        f"computing {rates.compute_gb_s:.1f} GB/s of packed weights",
        transform=below.transAxes,
        color=_BOUND,
        fontsize=8.5,
    )
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_speed(axes: Any, curve: Curve, peers: Sequence[Peer]) -> None:
    points = curve.points
    speeds = [point.tokens_per_s for point in points] + [peer.tokens_per_s for peer in peers]
    top = max(curve.ceiling(curve.total_bytes), *speeds) * 1.15
    budgets = [curve.total_bytes * step / 400 for step in range(401)]
    bound = [curve.ceiling(budget) for budget in budgets]
    shown = [budget / _MB for budget in budgets]
    axes.plot(shown, bound, color=_BOUND, linewidth=1.4, label="what disk, memory and computing allow")
    axes.fill_between(shown, bound, top, color=_BOUND, alpha=0.12, linewidth=0)
    in_ram = "memory" if curve.rates.memory_gb_s <= curve.rates.compute_gb_s else "computing"
    axes.annotate(
        f"bound by {in_ram}",
        (shown[-1], bound[-1]),
        xytext=(-4, 5),
        textcoords="offset points",
        ha="right",
        color=_BOUND,
        fontsize=9,
    )
    bent = next((i for i, value in enumerate(bound) if value >= bound[-1]), len(bound) - 1)
    axes.annotate(
        "bound by the disk",
        (shown[bent * 3 // 5], bound[bent * 3 // 5]),
        xytext=(-6, 8),
        textcoords="offset points",
        ha="right",
        color=_BOUND,
        fontsize=9,
    )
    axes.plot(
        [point.budget_bytes / _MB for point in points],
        [point.tokens_per_s for point in points],
        "o-",
        color=_OURS,
        label="measured",
    )
    for i, name in enumerate(dict.fromkeys(peer.name for peer in peers)):
        own = [peer for peer in peers if peer.name == name]
        axes.plot(
            [peer.limit_bytes / _MB for peer in own],
            [peer.tokens_per_s for peer in own],
            "Xsd^"[i % 4],
            color=_PEERS[i % len(_PEERS)],
            label=f"{name} (limit of the whole process)",
            clip_on=False,
        )
    axes.set_ylim(0, top)
    axes.set_ylabel("tokens/s")
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _draw_bytes(axes: Any, curve: Curve) -> None:
    axes.plot(
        [0, curve.total_bytes / _MB],
        [curve.total_bytes / _MB, 0],
        color=_BOUND,
        linewidth=1.4,
        label="weights that are not in the budget",
    )
    axes.plot(
        [point.budget_bytes / _MB for point in curve.points],
        [point.bytes_per_token / _MB for point in curve.points],
        "o-",
        color=_OURS,
        label="read from disk",
    )
    axes.set_ylabel("MB a token")
    axes.set_xlabel("RAM budget for weights, MB")
    axes.legend(loc="upper right", frameon=False, fontsize=9)
