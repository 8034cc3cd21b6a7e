"""`vortex inspect`: what a packed model holds, whether it is intact, and sealing it again after an edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vortex_engine.cli.options import JsonOption
from vortex_engine.cli.show import emit_json, emit_table, kept_on_interrupt, note, progress_bar

if TYPE_CHECKING:
    from vortex_engine.c3.inspect import InspectReport
    from vortex_engine.c3.survey import Survey

__all__ = ["inspect"]


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Packed model directory.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every tile and check it; list all that is damaged.")
    ] = (False),
    reseal: Annotated[
        bool, typer.Option("--reseal", help="First rewrite c3.json after a deliberate edit of a configuration file.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a packed model holds; everything but the tiles is checked on the way, the tiles with --verify."""
    from vortex_engine.c3.inspect import inspect_directory
    from vortex_engine.c3.inspect import reseal as reseal_directory
    from vortex_engine.c3.survey import survey_directory

    sealed = reseal_directory(directory) if reseal else None
    if sealed is not None and not as_json:
        for what, names in (("changed", sealed.changed), ("added", sealed.added), ("removed", sealed.removed)):
            for name in names:
                note(f"resealed: {name} {what}")
    with (
        kept_on_interrupt("nothing was changed"),
        progress_bar("verifying", unit_bytes=True, hidden=not verify) as move,
    ):
        survey = survey_directory(directory, progress=move) if verify else None
        damaged = survey is not None and len(survey.damage) > 0
        report = None if damaged else inspect_directory(directory, survey=survey)
    if report is None:
        assert survey is not None
        show_damage(directory, survey, as_json=as_json)
        raise typer.Exit(3)
    if as_json:
        emit_json({**report.to_dict(), "reseal": None if sealed is None else sealed.to_dict()})
    else:
        _show(report)


def show_damage(directory: Path, survey: Survey, *, as_json: bool) -> None:
    """All that is damaged, on stdout, and a summary on stderr."""
    shown = [damage.to_dict() for damage in survey.damage]
    message = f"{directory}: {len(shown)} damaged part(s), {_speed(survey)}; vortex repair can restore them"
    if as_json:
        error = {"type": "CorruptTileError", "message": message, "exit_code": 3}
        emit_json({"path": str(directory), "verify": survey.to_dict(), "damage": shown, "error": error})
    else:
        columns = ("part", "file", "tensor", "tile", "offset", "reason")
        cells = [{**item, "file": Path(damage.file).name} for item, damage in zip(shown, survey.damage, strict=True)]
        rows = [["" if cell[column] is None else str(cell[column]) for column in columns] for cell in cells]
        emit_table("", columns, rows)
    note(f"vortex: {message}")


def _speed(survey: Survey) -> str:
    from vortex_engine.profile import format_bytes

    return f"{format_bytes(survey.read_bytes)} of tiles read in {survey.seconds:.2f} s, {survey.gb_s:.2f} GB/s"


def _show(report: InspectReport) -> None:
    from vortex_engine.profile import format_bytes

    verify = report.verify
    intact = "all but the tiles, which --verify checks" if verify is None else f"yes, every byte; {_speed(verify)}"
    codecs = ", ".join(f"{n} {codec}" for codec, n in report.tiles_by_codec.items() if n)
    emit_table(
        "",
        ("packed model", report.path),
        [
            ("architecture", str(report.model_type)),
            ("format", f"{report.format}, codec {report.codec}, {report.activations} activations"),
            ("size", f"{format_bytes(report.packed_bytes)} in {report.n_shards} shard(s)"),
            ("weights", f"{report.weights:,} at {report.bits_per_weight:.2f} bits"),
            (
                "tiles",
                f"{report.n_tiles} ({codecs}), {format_bytes(report.tile_bytes)}, the largest "
                f"{format_bytes(report.tile_bytes_max)}",
            ),
            ("tensors", f"{report.n_matrices} paged matrices, {report.n_tensors} ordinary tensors"),
            ("intact", intact),
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
