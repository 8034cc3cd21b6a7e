"""`vortex inspect`: what a packed model holds, whether it is intact, and sealing it again after an edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vortex_engine.cli.options import JsonOption
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, note, progress_bar

if TYPE_CHECKING:
    from vortex_engine.c3.inspect import InspectReport

__all__ = ["inspect"]


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Packed model directory.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every tile and check its checksum and structure.")] = (
        False
    ),
    reseal: Annotated[
        bool, typer.Option("--reseal", help="First rewrite c3.json after a deliberate edit of a configuration file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a packed model holds; everything but the tiles is checked on the way, the tiles with --verify."""
    from vortex_engine.c3.inspect import inspect_directory
    from vortex_engine.c3.inspect import reseal as reseal_directory

    sealed = reseal_directory(directory) if reseal else None
    if sealed is not None and not as_json:
        for what, names in (("changed", sealed.changed), ("added", sealed.added), ("removed", sealed.removed)):
            for name in names:
                note(f"resealed: {name} {what}")
    with (
        kept_on_interrupt("nothing was changed"),
        progress_bar("verifying", unit_bytes=True, hidden=not verify) as move,
    ):
        report = inspect_directory(directory, verify=verify, progress=move)
    if as_json:
        emit_json({**report.to_dict(), "reseal": None if sealed is None else sealed.to_dict()})
    else:
        _show(report)


def _show(report: InspectReport) -> None:
    from vortex_engine.profile import format_bytes

    codecs = ", ".join(f"{n} {codec}" for codec, n in report.tiles_by_codec.items() if n)
    emit_table(
        "",
        ("packed model", report.path),
        [
            ("architecture", str(report.model_type)),
            ("format", f"{report.format}, codec {report.codec}"),
            ("size", f"{format_bytes(report.packed_bytes)} in {report.n_shards} shard(s)"),
            ("weights", f"{report.weights:,} at {report.bits_per_weight:.2f} bits"),
            (
                "tiles",
                f"{report.n_tiles} ({codecs}), {format_bytes(report.tile_bytes)}, the largest "
                f"{format_bytes(report.tile_bytes_max)}",
            ),
            ("tensors", f"{report.n_matrices} paged matrices, {report.n_tensors} ordinary tensors"),
            ("intact", "yes, every byte" if report.verified else "all but the tiles, which --verify checks"),
        ],
    )
    emit_table(
        "",
        ("class", "weights", "bytes", "bits per weight"),
        [
            (name, f"{sizes.weights:,}", format_bytes(sizes.bytes), f"{sizes.bits_per_weight:.2f}")
            for name, sizes in report.classes.items()
            if sizes.weights
        ],
    )
