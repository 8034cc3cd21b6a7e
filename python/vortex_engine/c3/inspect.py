"""Describes and verifies a packed model, and seals it again after a deliberate edit of its small files."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path

from vortex_engine.c3.directory import open_directory, read_config, read_shard
from vortex_engine.c3.files import write_atomically
from vortex_engine.c3.layout import CODEC_IDS, FORMAT, INDEX_COLUMNS, MANIFEST_NAME
from vortex_engine.c3.manifest import read_manifest, seal_file
from vortex_engine.c3.plan import tensor_class
from vortex_engine.c3.report import ClassSizes, sum_classes
from vortex_engine.c3.source import copied_names
from vortex_engine.c3.survey import Progress, Survey, survey_directory
from vortex_engine.errors import MachineError


@dataclass(frozen=True, slots=True)
class InspectReport:
    """What a packed model consists of; `verified` says that every tile was read and checked too."""

    path: str
    format: int
    codec: str
    activations: str  # of products with int8 and int4 tiles, unless a caller asks otherwise
    model_type: str | None
    packed_bytes: int
    tile_bytes: int
    tile_bytes_max: int
    n_shards: int
    n_matrices: int
    n_tensors: int  # ordinary ones
    n_tiles: int
    tiles_by_codec: dict[str, int]
    weights: int
    bits_per_weight: float
    classes: dict[str, ClassSizes]
    verified: bool
    verify: Survey | None  # the check that `verified` speaks of

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        document = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        classes = {name: sizes.to_dict() for name, sizes in self.classes.items()}
        return {**document, "classes": classes, "verify": None if self.verify is None else self.verify.to_dict()}


@dataclass(frozen=True, slots=True)
class ResealReport:
    """Which files the new manifest sees differently from the old one."""

    path: str
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return dataclasses.asdict(self)


def inspect_directory(
    path: str | os.PathLike[str],
    *,
    verify: bool = False,
    progress: Progress | None = None,
    survey: Survey | None = None,
) -> InspectReport:
    """Open a packed model and describe it; `verify` also reads every tile and checks its checksum and structure.

    Args:
        progress: called with (bytes of shards verified, bytes in all, shard name).
        survey: the full check, where the caller has made it just now.

    Raises:
        As `open_directory`; CorruptTileError also names the tile. `survey_directory` lists all damage instead.
    """
    if verify and survey is None:
        survey = survey_directory(path, progress=progress)
    if survey is not None:
        survey.require_intact()
    directory = open_directory(path)
    matrices = directory.matrices.values()
    parts = [(tensor_class(m.name), m.rows * m.cols, m.n_bytes + 8 * INDEX_COLUMNS * m.n_tiles) for m in matrices]
    parts += [("other", math.prod(tensor.shape), tensor.n_bytes) for tensor in directory.tensors.values()]
    weights, n_bytes = sum(part[1] for part in parts), sum(part[2] for part in parts)
    model_type = directory.config.get("model_type")
    return InspectReport(
        path=os.fspath(path),
        format=FORMAT,
        codec=directory.codec,
        activations=directory.activations,
        model_type=model_type if isinstance(model_type, str) else None,
        packed_bytes=directory.packed_bytes,
        tile_bytes=directory.compressed_bytes,
        tile_bytes_max=max((int(m.tiles.stored_bytes.max()) for m in matrices), default=0),
        n_shards=len({*(m.shard for m in matrices), *(tensor.shard for tensor in directory.tensors.values())}),
        n_matrices=len(matrices),
        n_tensors=len(directory.tensors),
        n_tiles=sum(m.n_tiles for m in matrices),
        tiles_by_codec={
            name: sum(int((m.tiles.codec == number).sum()) for m in matrices) for name, number in CODEC_IDS.items()
        },
        weights=weights,
        bits_per_weight=8 * n_bytes / weights if weights else 0.0,
        classes=sum_classes(parts),
        verified=survey is not None,
        verify=survey,
    )


def reseal(path: str | os.PathLike[str]) -> ResealReport:
    """Rewrite `c3.json` for the small files as they are now, after a deliberate edit of one.

    The shards must still be what was packed: new checksums never hide a damaged weight.

    Raises:
        As `open_directory`, except for changed small files.
    """
    directory = Path(path)
    old = read_manifest(directory)
    for name, seal in old.shards.items():
        read_shard(directory / name, seal)
    names = {name for name in old.files if (directory / name).is_file()} | set(copied_names(directory))
    try:
        new = dataclasses.replace(old, files={name: seal_file(directory / name) for name in sorted(names)})
        read_config(directory, new)
        write_atomically(directory / MANIFEST_NAME, new.to_bytes())
    except OSError as error:
        if isinstance(error, MachineError):
            raise
        raise MachineError(f"[inspect] cannot reseal {directory}: {error}") from error
    return ResealReport(
        path=os.fspath(path),
        changed=tuple(sorted(name for name in names & set(old.files) if new.files[name] != old.files[name])),
        added=tuple(sorted(names - set(old.files))),
        removed=tuple(sorted(set(old.files) - names)),
    )
