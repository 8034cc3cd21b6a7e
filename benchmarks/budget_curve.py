"""Decoding speed of a model of the 0.5B shape at budgets from a tenth of its packed weights to all of them.

Beside each speed stands the ceiling of its budget: the disk's rate over the bytes that the budget cannot hold, or the
speed with everything in RAM where that is lower. Writes results/budget_curve.json and results/budget_curve.png.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from decode_05b import drop_page_cache, run_child
from machine import base_parser, measure, print_table, spread, write_result
from make_model import SHAPES, make_model

import vortex_engine as vx
from vortex_engine.belady import sweep_tile_bytes
from vortex_engine.c3.directory import open_directory

FRACTIONS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)


def plot(document: dict[str, Any], path: Path) -> None:
    """Draw measured speed and ceiling over the budget."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    entries = document["entries"]
    budgets = [entry["budget_bytes"] / 1e6 for entry in entries]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(budgets, [entry["ceiling_tokens_per_s"] for entry in entries], "--", color="grey", label="ceiling")
    axes.plot(budgets, [entry["tokens_per_s"]["median"] for entry in entries], "o-", label="measured")
    axes.axvline(document["bf16_bytes"] / 1e6, color="grey", linewidth=0.8)
    axes.annotate(
        "bf16 checkpoint", (document["bf16_bytes"] / 1e6, 0), rotation=90, va="bottom", ha="right", color="grey"
    )
    axes.set_xlabel("RAM budget for weights, MB")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.set_title(
        f"Decoding {document['shape']}, exact (lossless), {document['threads']} threads: same bits at each budget"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure every budget."""
    parser = base_parser(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2-0.5b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        folder = Path(work)
        machine = measure(folder)
        bf16_bytes = make_model(folder / "source", arguments.shape)
        packed = folder / "model.c3"
        vx.pack(folder / "source", packed, codec="exact")
        (folder / "source" / "model.safetensors").unlink()
        total = sum(sweep_tile_bytes(open_directory(packed)))
        cold = drop_page_cache()
        entries: list[dict[str, Any]] = []
        texts: set[tuple[int, ...]] = set()
        for fraction in sorted(FRACTIONS, reverse=True):
            budget = int(total * fraction)
            runs = [
                run_child(packed, budget, arguments.threads, arguments.tokens, "stable")
                for _ in range(arguments.repeats)
            ]
            texts.update(tuple(run["token_ids"]) for run in runs)
            entries.append(
                {
                    "budget_bytes": budget,
                    "tokens_per_s": spread([run["stats"]["tokens_per_s"] for run in runs]),
                    "peak_pager_bytes": max(run["stats"]["peak_bytes"] for run in runs),
                    "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
                }
            )
    if len(texts) != 1:
        raise SystemExit("the text differs between budgets: no speed is reported")
    in_ram = entries[0]["tokens_per_s"]["median"]
    for entry in entries:
        missing = max(total - entry["budget_bytes"], 1)
        entry["ceiling_tokens_per_s"] = min(in_ram, machine["disk_read_gb_s"] * 1e9 / missing)
    entries.reverse()
    document = {
        "shape": arguments.shape,
        "threads": arguments.threads,
        "bf16_bytes": bf16_bytes,
        "packed_tile_bytes": total,
        "cold_page_cache": cold,
        "entries": entries,
    }
    print_table(
        ("budget MB", "tokens/s", "ceiling", "peak held MB", "peak RSS MB"),
        [
            [
                entry["budget_bytes"] / 1e6,
                entry["tokens_per_s"]["median"],
                entry["ceiling_tokens_per_s"],
                entry["peak_pager_bytes"] / 1e6,
                entry["peak_rss_bytes"] / 1e6,
            ]
            for entry in entries
        ],
    )
    path = write_result("budget_curve", machine, document, arguments.results)
    plot(document, path.with_suffix(".png"))
    print(path)


if __name__ == "__main__":
    main()
