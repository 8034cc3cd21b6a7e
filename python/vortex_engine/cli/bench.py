"""`vortex bench`: speed, what bounds it, and what would change that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vortex_engine.cli.options import (
    Activations,
    BlockSizeOption,
    BudgetOption,
    DraftModelOption,
    JsonOption,
    ModelOption,
    SpeculateOption,
    ThreadsOption,
)
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, note, progress_bar

if TYPE_CHECKING:
    from vortex_engine.bench import Speculation

__all__ = ["bench"]


def bench(
    model: ModelOption = "nano",
    ram_budget: BudgetOption = None,
    threads: ThreadsOption = None,
    policy: Annotated[str, typer.Option(help="`stable`, or `lru` to compare with.")] = "stable",
    activations: Annotated[
        Activations | None, typer.Option(help="As of `generate`. Default: what the model was packed with.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 64,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "--max-new", help="Tokens to generate.")] = 32,
    repeats: Annotated[int, typer.Option(help="Runs after the warm-up; medians are shown.")] = 3,
    speculate: SpeculateOption = "auto",
    block_size: BlockSizeOption = None,
    draft_model: DraftModelOption = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Text to continue. Default: ids spread over the vocabulary, no text at all.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why it is not faster, and what to buy or change.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also measure budgets from a tenth of the weights to all of them, and draw them here."),
    ] = None,
    peers: Annotated[
        Path | None, typer.Option(help="With --plot: a c3_limited.json whose other engines are drawn too.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option(help="Also write the JSON document to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure prefill and decoding, and say whether disk, memory or computing bounds them."""
    from vortex_engine.bench import BenchOptions, measure_curve, run_bench
    from vortex_engine.bench.plot import check_plotting, plot_curve, read_peers
    from vortex_engine.profile import format_bytes

    if peers is not None and plot is None:
        raise typer.BadParameter("--peers needs --plot")
    points = [] if peers is None else read_peers(peers)
    if plot is not None:
        check_plotting(plot)
    if json_out is not None and not json_out.absolute().parent.is_dir():
        raise typer.BadParameter(f"--json-out: {json_out.absolute().parent} is no folder")
    asked = None if activations is None else activations.value
    options = BenchOptions(
        ram_budget=ram_budget,
        threads=threads,
        policy=policy,
        n_prompt_tokens=prompt_tokens,
        max_new_tokens=max_new_tokens,
        repeats=repeats,
        activations=asked,
        speculate=speculate,
        block_size=block_size,
        draft_model=draft_model,
        prompt=None if prompt_file is None else prompt_file.read_text(encoding="utf-8"),
    )
    with kept_on_interrupt("nothing is kept"), progress_bar("benchmark") as move:
        report = run_bench(model, options, move)
        document = report.to_dict()
        if plot is not None:
            curve = measure_curve(model, options, report.rates, move)
            document["curve"] = curve.to_dict()
            plot_curve(curve, plot, peers=points)
    if json_out is not None:
        json_out.write_text(json.dumps(document, indent=2) + "\n")
    if as_json:
        emit_json(document)
        return
    stats = report.stats
    emit_table(
        "",
        ("measured", model),
        [
            ("prefill", f"{report.prefill_tokens_per_sec:.1f} tokens/s over {stats['n_prompt_tokens']} tokens"),
            ("decode", f"{report.decode_tokens_per_sec:.2f} tokens/s over {stats['n_new_tokens']} tokens"),
            ("with speculation", _speculation(report.speculation)),
            ("first token", f"{report.ttft_s:.3f} s"),
            (
                "weights",
                f"{format_bytes(stats['total_bytes'])}, budget {format_bytes(stats['budget_bytes'])}, "
                f"peak held {format_bytes(stats['peak_bytes'])}",
            ),
            (
                "hit rate",
                f"{report.hit_rate:.1%} of the bytes, at best {report.belady_hit_rate:.1%}; "
                f"{format_bytes(round(report.bytes_read_per_token))} read per sweep",
            ),
            ("runs on", f"{stats['threads']} threads, {stats['simd']}, reads {stats['io_mode']}"),
            ("peak RSS", "unknown" if report.peak_rss_bytes is None else format_bytes(report.peak_rss_bytes)),
            ("bound by", f"{report.bound.words}; reached {report.bound.share_of_ceiling:.0%}"),
        ],
    )
    if explain:
        for line in report.explanation.lines:
            typer.echo(line)
    if plot is not None:
        note(f"drawn: {plot}")


def _speculation(run: Speculation) -> str:
    same = "output identical" if run.same_output else "OUTPUT DIFFERS"
    if run.speculate == "off":
        return "off: no drafter for this model"
    return (
        f"{run.decode_tokens_per_sec:.2f} tokens/s, {run.speedup:.2f} of plain; {run.tokens_per_sweep:.2f} tokens a "
        f"sweep by {run.speculate}; {same}"
    )
