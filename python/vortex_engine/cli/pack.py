"""`vortex pack`: a checkpoint becomes a packed model directory."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vortex_engine.cli.options import JsonOption, ThreadsOption
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, note, progress_bar

__all__ = ["pack"]


class Codec(str, Enum):
    """What `--codec` accepts."""

    exact = "exact"
    exact12 = "exact12"
    dense = "dense"
    lz4 = "lz4"
    int8 = "int8"
    int4 = "int4"
    raw = "raw"


def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Hugging Face model directory with safetensors files.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Packed model directory to make; it must not exist.")],
    codec: Annotated[
        Codec,
        typer.Option(
            help="`exact` is lossless at about 11.4 of 16 bits; `exact12` is lossless at 12.03 and twice as fast to "
            "decode, for models that fit in RAM; `dense` is lossless, smallest and slower to read; "
            "`lz4` is lossless and for sparse weights; `int8` and `int4` round weights to 8.3 and 4.5 bits; "
            "`raw` stores weights as they are."
        ),
    ] = Codec.exact,
    dense: Annotated[bool, typer.Option("--dense", help="The same as --codec dense.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack a Hugging Face checkpoint into tiles that can be paged.

    The work happens in DST.partial and DST appears by rename, so a stopped run leaves nothing half done: the same
    command goes on where it stopped.
    """
    import vortex_engine as vx
    from vortex_engine.profile import format_bytes

    if dense and codec not in (Codec.exact, Codec.dense):
        raise typer.BadParameter(f"--dense means --codec dense, got --codec {codec.value}", param_hint="--dense")
    chosen = Codec.dense if dense else codec
    resume = f"{target}.partial keeps what is done: run the same command to resume"
    with kept_on_interrupt(resume), progress_bar(f"packing {source.name}", unit_bytes=True) as move:
        report = vx.pack(str(source), str(target), codec=chosen.value, threads=threads, progress=move)
    if as_json:
        emit_json(report.to_dict())
        return
    emit_table(
        "",
        ("class", "weights", "bytes", "bits per weight"),
        [
            (name, f"{sizes.weights:,}", format_bytes(sizes.bytes), f"{sizes.bits_per_weight:.2f}")
            for name, sizes in report.classes.items()
            if sizes.weights
        ],
    )
    for name, reason in report.dropped.items():
        note(f"left out: {name}: {reason}")
    if report.transformers_only is not None:
        note(f"runs with transformers only (import vortex_engine.hf): {report.transformers_only}")
    if report.resumed_bytes:
        note(f"went on after {format_bytes(report.resumed_bytes)} that an earlier run had packed")
    note(
        f"packed {format_bytes(report.source_bytes)} into {target} ({format_bytes(report.packed_bytes)}, "
        f"{report.n_tiles} tiles, {report.escape_share:.2%} escapes) in {report.seconds:.1f} s, {report.gb_s:.2f} GB/s"
    )
