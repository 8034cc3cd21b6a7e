"""`vortex generate`: text streams to stdout, one line of statistics follows on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

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
from vortex_engine.cli.show import emit_json, kept_on_interrupt, note
from vortex_engine.cli.texts import stdin_text

__all__ = ["generate"]


def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text to continue; without it, standard input is read.")] = None,
    model: ModelOption = "nano",
    ram_budget: BudgetOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest tokens of this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this part of the likeliest one.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 makes tokens already used rarer.")] = None,
    seed: Annotated[int, typer.Option(help="A token's randomness depends on the seed and its position only.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    threads: ThreadsOption = None,
    activations: Annotated[
        Activations | None,
        typer.Option(
            help="What meets `int8` and `int4` weights: `int8` rounds activations to 8 bits, faster and less exact. "
            "Default: what the model was packed with."
        ),
    ] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="Taken off the logits of generated tokens.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="The same, as often as each was generated.")] = None,
    penalty_window: Annotated[int | None, typer.Option(help="Penalties look at the last so many tokens only.")] = None,
    no_repeat_ngram: Annotated[int | None, typer.Option(help="No run of so many tokens occurs twice.")] = None,
    escape_restrict: Annotated[
        bool, typer.Option("--escape-restrict", help="Never break a character: the output's bytes are valid UTF-8.")
    ] = False,
    speculate: SpeculateOption = "auto",
    block_size: BlockSizeOption = None,
    draft_model: DraftModelOption = None,
    grams: Annotated[str | None, typer.Option(help="Table of `vortex grams build` that ngram drafts from too.")] = None,
    exact_copy_mode: Annotated[
        bool, typer.Option("--exact-copy-mode", help="For texts that copy from the prompt: draft from it alone.")
    ] = False,
    memory: Annotated[str | None, typer.Option(help="File of `vortex memorize`: what the text begins with.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a text under a byte budget for the weights; every budget gives the same text."""
    import vortex_engine as vx

    text = prompt if prompt is not None else stdin_text("a PROMPT")
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "penalty_window": penalty_window,
        "no_repeat_ngram": no_repeat_ngram,
        "seed": seed,
        "stop": stop or None,
        "escape_restrict": escape_restrict,
        "speculate": speculate,
        "block_size": block_size,
        "exact_copy_mode": exact_copy_mode,
        "memory": memory,
    }
    asked = None if activations is None else activations.value
    with vx.load(
        model, ram_budget=ram_budget, threads=threads, activations=asked, draft_model=draft_model, grams=grams
    ) as loaded:
        if as_json:
            with kept_on_interrupt("nothing was printed"):
                result = loaded.generate(text, **options)
            emit_json(
                {
                    "text": result.text,
                    "token_ids": list(result.token_ids),
                    "finish_reason": result.finish_reason,
                    "stats": dict(result.stats),
                }
            )
            return
        with kept_on_interrupt("the text above is complete up to here"):
            for piece in loaded.stream(text, **options):
                sys.stdout.write(piece.text)
                sys.stdout.flush()
                if piece.stats is not None:
                    sys.stdout.write("\n")
                    note(_summary(piece.finish_reason, piece.stats))


def _summary(finish_reason: str | None, stats: Mapping[str, Any]) -> str:
    from vortex_engine.profile import format_bytes

    n_accesses = stats["hits"] + stats["prefetch_hits"] + stats["page_faults"]
    parts = [f"{stats['n_new_tokens']} tokens ({finish_reason})"]
    if stats["tokens_per_s"] is not None:
        parts.append(f"{stats['tokens_per_s']:.1f} tokens/s")
    if stats["n_drafted"]:
        parts.append(f"{stats['tokens_per_sweep']:.2f} tokens a sweep")
        parts.append(f"{stats['n_accepted']} of {stats['n_drafted']} drafts right")
    if stats["ttft_s"] is not None:
        parts.append(f"first after {stats['ttft_s']:.2f} s")
    parts.append(f"weights held: {format_bytes(stats['peak_ram_bytes'])} of {format_bytes(stats['total_bytes'])}")
    if n_accesses:
        parts.append(f"hit rate {stats['hits'] / n_accesses:.0%}")
    parts.append(f"read {format_bytes(stats['bytes_compressed_read'])}")
    return ", ".join(parts)
