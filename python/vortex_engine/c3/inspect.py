"""Describes and verifies a packed model, and seals it again after a deliberate edit of its small files."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vortex_engine import _native
from vortex_engine.c3.directory import C3Directory, C3Matrix, open_directory, read_config, read_shard
from vortex_engine.c3.files import write_atomically
from vortex_engine.c3.layout import CODEC_IDS, FORMAT, INDEX_COLUMNS, MANIFEST_NAME
from vortex_engine.c3.manifest import Manifest, read_manifest, seal_file
from vortex_engine.c3.plan import tensor_class
from vortex_engine.c3.report import ClassSizes, sum_classes
from vortex_engine.c3.source import copied_names
from vortex_engine.errors import MachineError

_VERIFY_BUDGET_BYTES = 64 << 20

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class InspectReport:
    """What a packed model consists of; `verified` says that every tile was read and checked too."""

    path: str
    format: int
    codec: str
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

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        document = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**document, "classes": {name: sizes.to_dict() for name, sizes in self.classes.items()}}


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
    path: str | os.PathLike[str], *, verify: bool = False, progress: Progress | None = None
) -> InspectReport:
    """Open a packed model and describe it; `verify` also reads every tile and checks its checksum and structure.

    Args:
        progress: called with (bytes verified, bytes in all, matrix name) after every matrix.

    Raises:
        As `open_directory`; CorruptTileError also names the tile.
    """
    directory = open_directory(path)
    if verify:
        _verify_tiles(directory, progress)
    matrices = directory.matrices.values()
    parts = [(tensor_class(m.name), m.rows * m.cols, m.n_bytes + 8 * INDEX_COLUMNS * m.n_tiles) for m in matrices]
    parts += [("other", math.prod(tensor.shape), tensor.n_bytes) for tensor in directory.tensors.values()]
    weights, n_bytes = sum(part[1] for part in parts), sum(part[2] for part in parts)
    model_type = directory.config.get("model_type")
    return InspectReport(
        path=os.fspath(path),
        format=FORMAT,
        codec=directory.codec,
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
        verified=verify,
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
        new = Manifest(old.codec, {name: seal_file(directory / name) for name in sorted(names)}, old.shards)
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


def _verify_tiles(directory: C3Directory, progress: Progress | None) -> None:
    pager = _native.Pager(_VERIFY_BUDGET_BYTES)
    try:
        files: dict[Path, int] = {}
        handles: list[tuple[C3Matrix, int]] = []
        for matrix in directory.matrices.values():
            if matrix.shard not in files:
                files[matrix.shard] = pager.add_file(os.fspath(matrix.shard))
            handle = pager.add_matrix(matrix.name, files[matrix.shard], matrix.base_offset, matrix.index)
            handles.append((matrix, handle))
        done_bytes = 0
        for matrix, handle in handles:
            pager.verify(handle)
            done_bytes += matrix.n_bytes
            if progress is not None:
                progress(done_bytes, directory.compressed_bytes, matrix.name)
    finally:
        pager.close()
