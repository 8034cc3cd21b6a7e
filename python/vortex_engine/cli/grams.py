"""`vortex grams`: counts of the n-grams of a corpus, for drafting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vortex_engine.cli.options import JsonOption
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, note, progress_bar

__all__ = ["grams"]

grams = typer.Typer(
    name="grams", help="Count the n-grams of a corpus, and look into such a table.", no_args_is_help=True
)

TokenizerOption = Annotated[
    str,
    typer.Option(
        "--tokenizer", help="Directory with the tokenizer.json that makes the ids, or `nano`, the embedded model."
    ),
]


@grams.command()
def build(
    corpus: Annotated[
        Path,
        typer.Option(help="Directory of UTF-8 text and of .jsonl with a `text` field, plain or .gz; or one such file."),
    ],
    target: Annotated[
        Path, typer.Option("--out", metavar="F", help="Table to make, .json or .scxq2 (compressed); must not exist.")
    ],
    n: Annotated[int, typer.Option("--n", help="Longest n-grams.")] = 3,
    min_count: Annotated[int, typer.Option(help="Leave out n-grams that occur less often.")] = 1,
    tokenizer: TokenizerOption = "nano",
    memory: Annotated[
        str, typer.Option(help="Bytes of buffers; more goes to disk beside F. Tokenising takes about 32 MiB besides.")
    ] = "256MiB",
    as_json: JsonOption = False,
) -> None:
    """Count the n-grams of a corpus exactly, in bounded memory.

    N-grams do not reach from one document into the next. The table appears by rename, so a stopped run leaves nothing.
    """
    from vortex_engine.decode.load import model_path
    from vortex_engine.grams import build_grams, tokenizer_sha256
    from vortex_engine.profile import format_bytes
    from vortex_engine.tok import load_tokenizer

    folder = model_path(tokenizer)
    encoder = load_tokenizer(folder)
    with kept_on_interrupt("nothing is kept"), progress_bar(f"counting {corpus.name}", unit_bytes=True) as move:
        report = build_grams(
            corpus,
            target,
            tokenizer=encoder,
            tokenizer_sha256=tokenizer_sha256(folder),
            n=n,
            min_count=min_count,
            memory=memory,
            progress=move,
        )
    if as_json:
        emit_json(report.to_dict())
        return
    emit_table(
        "", ("n", "distinct n-grams"), [(str(i), f"{count:,}") for i, count in enumerate(report.n_grams, start=1)]
    )
    note(
        f"counted {report.n_tokens:,} tokens of {report.n_documents:,} documents in {report.n_files} file(s) into "
        f"{target} ({format_bytes(report.table_bytes)}) in {report.seconds:.1f} s"
    )


@grams.command()
def show(
    table: Annotated[Path, typer.Argument(metavar="F", help="Table that `vortex grams build` made.")],
    context: Annotated[
        str | None, typer.Option(help="Text before the tokens to show; without it the most frequent ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most tokens that are shown.")] = 16,
    tokenizer: TokenizerOption = "nano",
    max_bytes: Annotated[str, typer.Option(help="The most bytes of JSON to read or unpack.")] = "256MiB",
    as_json: JsonOption = False,
) -> None:
    """Show what a table of n-grams holds, and what follows a text in it."""
    from dataclasses import asdict

    from vortex_engine.decode.load import model_path
    from vortex_engine.grams import GramTable, check_tokenizer
    from vortex_engine.tok import load_tokenizer

    folder = model_path(tokenizer)
    with kept_on_interrupt("nothing was changed"):
        counts = GramTable.load(table, max_bytes=max_bytes)
        check_tokenizer(counts, folder)
        encoder = load_tokenizer(folder)
        ids = encoder.encode_texts([context or ""])[0]
        found = counts.next_ids(ids, limit)
    rows = [{"id": token_id, "text": encoder.decode([token_id]), "probability": p} for token_id, p in found]
    n_grams = [len(order.ids) for order in counts.orders]
    if as_json:
        emit_json({"path": str(table), **asdict(counts.facts), "n_grams": n_grams, "context_ids": ids, "next": rows})
        return
    facts = counts.facts
    emit_table(
        "",
        ("table", str(table)),
        [
            ("n-grams, n = 1 …", ", ".join(f"{count:,}" for count in n_grams)),
            ("counted", f"{facts.n_tokens:,} tokens of {facts.n_documents:,} documents"),
            ("left out", f"below {facts.min_count} occurrences"),
            ("tokenizer", f"{facts.vocab_size} ids, SHA-256 {facts.tokenizer_sha256[:12]}…"),
        ],
    )
    emit_table(
        "",
        ("probability", "id", "text"),
        [(f"{row['probability']:.4f}", str(row["id"]), repr(row["text"])) for row in rows],
    )
