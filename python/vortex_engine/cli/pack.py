"""`vortex pack`: a checkpoint becomes a packed model directory."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vortex_engine.cli.options import Activations, BudgetOption, JsonOption, ThreadsOption
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
    mixed = "mixed"
    raw = "raw"


def pack(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Hugging Face model directory with safetensors files.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Packed model directory to make; it must not exist.")],
    codec: Annotated[
        Codec,
        typer.Option(
            help="`exact` is lossless at about 11.5 of 16 bits; `exact12` is lossless at about 12.1 and faster to "
            "decode, for models that fit in RAM; `dense` is lossless, smallest and slower to read; "
            "`lz4` is lossless and for sparse weights; `int8` and `int4` round weights to 8.3 and 4.5 bits; "
            "`mixed` chooses one of these or a lossless one for every matrix, within --bits-per-weight; "
            "`raw` stores weights as they are."
        ),
    ] = Codec.exact,
    dense: Annotated[bool, typer.Option("--dense", help="The same as --codec dense.")] = False,
    activations: Annotated[
        Activations,
        typer.Option(
            help="With int8 and int4 weights, `int8` rounds activations to 8 bits: faster, less exact. Recorded."
        ),
    ] = Activations.float,
    bits_per_weight: Annotated[
        float | None,
        typer.Option(
            help="Of --codec mixed: the most stored bits a weight, as `vortex inspect` counts them. Which matrices get "
            "more of them is measured on the calibration text."
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="TEXTFILE",
            help="UTF-8 text like what the model will read: the packed model is compared on it with the checkpoint. "
            "--codec mixed needs it. Takes disk space for lossless and rounded copies while it works.",
        ),
    ] = None,
    ram_budget: BudgetOption = None,
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
        report = vx.pack(
            str(source),
            str(target),
            codec=chosen.value,
            activations=activations.value,
            calibration=calibration,
            bits_per_weight=bits_per_weight,
            ram_budget=ram_budget,
            threads=threads,
            progress=move,
        )
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
    if report.relative_rms:
        emit_table(
            "",
            ("matrix", "codec", "bits per weight", "relative RMS error"),
            [
                (name, tensor.codec, f"{tensor.bits_per_weight:.2f}", f"{tensor.relative_rms:.5f}")
                for name, tensor in report.tensors.items()
            ],
        )
    if report.divergence is not None:
        emit_table(
            "",
            ("on the calibration text", "packed beside the checkpoint"),
            [
                ("KL divergence, nats per token", f"{report.divergence.nats_per_token:.6f}"),
                ("same most likely next token", f"{report.divergence.top1_agreement:.2%}"),
                ("tokens read", f"{report.divergence.n_tokens:,}"),
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
