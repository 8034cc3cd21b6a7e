"""Restores damaged parts of a packed model from the checkpoint it was made of, byte for byte.

Encoders are deterministic, so what the source gives is compared with the sealed checksums before anything is written.
Only bytes that are known to be wrong are overwritten, in place: a kill leaves them wrong or right, never worse, and the
same command goes on. Small files are replaced by rename.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vortex_engine import _native
from vortex_engine.c3.files import COPY_BYTES, fsync_directory, open_fd, write_all, write_atomically
from vortex_engine.c3.geometry import Group
from vortex_engine.c3.index import unpack_index
from vortex_engine.c3.journal import MatrixRecord
from vortex_engine.c3.layout import (
    CODEC_IDS,
    CONFIG_NAME,
    DTYPE_IDS,
    INDEX_COLUMNS,
    INDEX_SUFFIX,
    TILES_SUFFIX,
    WEIGHT_MAP_NAME,
)
from vortex_engine.c3.manifest import FileSeal, Manifest, ShardSeal, read_manifest
from vortex_engine.c3.pack import matrix_record, packed_config, packed_weight_map
from vortex_engine.c3.plan import ShardPlan, matrix_dtype, plan_packing, plan_shard
from vortex_engine.c3.safetensors_header import HeaderError, TensorSpan, format_header
from vortex_engine.c3.slabs import read_slab
from vortex_engine.c3.source import SourceReader, SourceTensor, open_source
from vortex_engine.c3.survey import Damage, Progress, ShardSurvey, sealed_header, survey_directory
from vortex_engine.errors import CorruptTileError, MachineError
from vortex_engine.profile import n_cores

_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Unrepaired:
    """Damage that the source cannot undo, and why."""

    damage: Damage
    why: str

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**self.damage.to_dict(), "why": self.why}


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `repair` did; the model is intact when nothing is `unrepaired`."""

    path: str
    source: str
    repaired: tuple[Damage, ...]
    unrepaired: tuple[Unrepaired, ...]
    written_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "path": self.path,
            "source": self.source,
            "repaired": [damage.to_dict() for damage in self.repaired],
            "unrepaired": [entry.to_dict() for entry in self.unrepaired],
            "written_bytes": self.written_bytes,
            "seconds": self.seconds,
        }


def repair(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> RepairReport:
    """Check every byte of a packed model and rewrite the bad ones from its checkpoint `source`.

    Restoring a header or an index makes the tiles behind it visible, so the check is repeated until it finds nothing
    that the source can undo.

    Args:
        threads: of the encoder; None for every core this process may use.
        progress: of the check, as of `survey_directory`.

    Raises:
        CorruptTileError: `c3.json` is damaged: then nothing says what the other bytes must be.
        ModelConfigError: `path` is not a packed model, or `source` is not a checkpoint.
        MachineError: a file cannot be read or written.
    """
    start = time.perf_counter()
    directory = Path(path)
    try:
        manifest = read_manifest(directory)
    except CorruptTileError as error:
        raise CorruptTileError(
            f"{error}; without it nothing says what the other bytes must be, so they cannot be repaired: "
            f"put back a copy of {error.file}, or pack the checkpoint again",
            file=error.file,
        ) from error
    repairer = _Repairer(directory, manifest, Path(source), n_cores() if threads is None else threads)
    repaired: dict[Damage, None] = {}
    unrepaired: dict[Damage, str] = {}
    damage = survey_directory(directory, progress=progress).damage
    while damage:
        try:
            outcome = repairer.fix(damage)
        except OSError as error:
            if isinstance(error, MachineError):
                raise
            raise MachineError(f"[repair] cannot write {directory}: {error}") from error
        repaired |= dict.fromkeys(item for item, why in outcome.items() if why is None)
        unrepaired |= {item: why for item, why in outcome.items() if why is not None}
        touched = {os.path.basename(item.file) for item, why in outcome.items() if why is None}
        found = survey_directory(directory, only=touched, progress=progress).damage
        for item in found:
            if item in repaired:
                del repaired[item]
                unrepaired[item] = "it is there again: the disk does not keep bytes, or the sealed ones break a rule"
        damage = tuple(item for item in found if item not in unrepaired)
    return RepairReport(
        path=os.fspath(path),
        source=os.fspath(source),
        repaired=tuple(repaired),
        unrepaired=tuple(Unrepaired(item, why) for item, why in unrepaired.items()),
        written_bytes=repairer.written_bytes,
        seconds=time.perf_counter() - start,
    )


class _Refused(Exception):
    """Why the source cannot give the bytes that were sealed."""


def _attempt(work: Callable[..., None], *arguments: object) -> str | None:
    try:
        work(*arguments)
    except _Refused as refused:
        return str(refused)
    return None


class _Repairer:
    """Undoes damage one part at a time; the source does not change meanwhile."""

    def __init__(self, directory: Path, manifest: Manifest, source: Path, threads: int) -> None:
        self._directory = directory
        self._manifest = manifest
        self._source = open_source(source)
        # Where shards end does not matter here: the manifest says what is in which.
        self._plan = plan_packing(self._source, manifest.codec, _UNLIMITED)
        self._threads = threads
        self._pool = _native.Pool(threads, _native.simd_levels()[0])
        self._records: dict[str, MatrixRecord] = {}
        self._count_lock = threading.Lock()
        self.written_bytes = 0

    def fix(self, damage: Iterable[Damage]) -> dict[Damage, str | None]:
        """Undo what can be undone; None for each part that is right now, or the reason why it is not."""
        outcome: dict[Damage, str | None] = {}
        by_file: dict[str, list[Damage]] = {}
        for item in damage:
            by_file.setdefault(os.path.basename(item.file), []).append(item)
        # The weight map is made of the shards' headers, so it comes after them.
        for name in sorted(by_file, key=lambda name: (name in self._manifest.files, name)):
            if name in self._manifest.files:
                outcome |= dict.fromkeys(by_file[name], _attempt(self._fix_file, name))
            else:
                outcome |= self._fix_shard(name, self._manifest.shards[name], by_file[name])
        return outcome

    def _fix_file(self, name: str) -> None:
        if name == CONFIG_NAME:
            data = packed_config(self._source, self._manifest.codec, self._manifest.activations)
        elif name == WEIGHT_MAP_NAME:
            data = self._weight_map()
        elif name in self._source.copied_files:
            data = (self._source.path / name).read_bytes()
        else:
            raise _Refused(f"{self._source.path} has no {name}")
        if FileSeal(len(data), _native.crc32c(data)) != self._manifest.files[name]:
            raise _Refused(f"{name} made from {self._source.path} is not the one that was sealed")
        write_atomically(self._directory / name, data)
        self.written_bytes += len(data)

    def _weight_map(self) -> bytes:
        shards: list[tuple[str, int, Iterable[str]]] = []
        for name, seal in self._manifest.shards.items():
            try:
                with open_fd(self._directory / name) as fd:
                    header = sealed_header(fd, seal)
            except (FileNotFoundError, HeaderError) as error:
                raise _Refused(f"the header of {name} is damaged too: {error}") from error
            shards.append((name, seal.n_bytes - header.data_offset, header.tensors))
        return packed_weight_map(shards)

    def _fix_shard(self, name: str, seal: ShardSeal, damage: list[Damage]) -> dict[Damage, str | None]:
        path = self._directory / name
        if not path.exists():
            # No file is more honest than one of zeros, so the header comes first.
            why = _attempt(self._create, path, seal)
            return dict.fromkeys(damage, why)
        outcome: dict[Damage, str | None] = {}
        with open_fd(path, os.O_RDWR) as fd:
            # Bytes that a longer file has behind its sealed end belong to nothing.
            os.ftruncate(fd, seal.n_bytes)
            shard = ShardSurvey(path, seal)
            shard.look_at_tensors()
            for item in damage:
                if item.part == "length":
                    outcome[item] = None
                elif item.part == "header":
                    outcome[item] = _attempt(self._fix_header, fd, name, seal)
                elif item.part == "index":
                    outcome[item] = _attempt(self._fix_index, fd, shard, seal, item)
                elif item.part == "tensor":
                    outcome[item] = _attempt(self._fix_tensor, fd, shard, seal, item)
            tiles = [item for item in damage if item.part == "tile"]
            with ThreadPoolExecutor(self._threads, "vortex-repair") as executor:
                whys = executor.map(functools.partial(_attempt, self._fix_tile, fd, shard), tiles)
                outcome |= zip(tiles, whys, strict=True)
            os.fsync(fd)
        return outcome

    def _write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        write_all(fd, data, offset)
        with self._count_lock:
            self.written_bytes += len(data)

    def _create(self, path: Path, seal: ShardSeal) -> None:
        header = self._header(path.name, seal)
        with open_fd(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            os.ftruncate(fd, seal.n_bytes)
            self._write(fd, header, 0)
            os.fsync(fd)
        fsync_directory(self._directory)

    def _fix_header(self, fd: int, name: str, seal: ShardSeal) -> None:
        self._write(fd, self._header(name, seal), 0)

    def _header(self, name: str, seal: ShardSeal) -> bytes:
        plan = self._shard_plan(name, seal)
        spans: list[TensorSpan] = []

        def add(tensor: str, dtype: str, shape: tuple[int, ...], n_bytes: int) -> None:
            begin = spans[-1].end if spans else 0
            spans.append(TensorSpan(tensor, dtype, shape, begin, begin + n_bytes))

        records = [self._record(tensor, seal) for tensor in plan.matrices]
        for record in records:
            add(record.name + TILES_SUFFIX, "U8", (record.n_bytes,), record.n_bytes)
        for record in records:
            n_bytes = len(record.index)
            add(record.name + INDEX_SUFFIX, "U64", (n_bytes // (8 * INDEX_COLUMNS), INDEX_COLUMNS), n_bytes)
        for tensor in plan.others:
            add(tensor.name, tensor.dtype, tensor.shape, tensor.n_bytes)
        header = format_header(spans, plan.data_offset)
        if _native.crc32c(header) != seal.header_crc32c:
            raise _Refused(f"the header of {name} made from {self._source.path} is not the one that was sealed")
        return header

    def _shard_plan(self, name: str, seal: ShardSeal) -> ShardPlan:
        names = {tensor.removesuffix(INDEX_SUFFIX) for tensor in seal.tensor_crcs}
        (everything,) = self._plan.shards
        tensors = [t for t in (*everything.matrices, *everything.others) if t.name in names]
        for missing in sorted(names - {tensor.name for tensor in tensors}):
            raise _Refused(f"{self._source.path} has no tensor {missing!r}")
        return plan_shard(name, tensors)

    def _record(self, tensor: SourceTensor, seal: ShardSeal) -> MatrixRecord:
        """The record of a matrix whose index is the sealed one."""
        if tensor.name not in self._records:
            codec = self._manifest.codec
            for candidate in (codec,) if codec in CODEC_IDS else CODEC_IDS:
                record = matrix_record(self._source, self._plan, candidate, self._pool, tensor)
                if _native.crc32c(record.index) == seal.tensor_crcs[tensor.name + INDEX_SUFFIX]:
                    self._records[tensor.name] = record
                    break
            else:
                raise self._not_packed(tensor)
        return self._records[tensor.name]

    def _fix_index(self, fd: int, shard: ShardSurvey, seal: ShardSeal, item: Damage) -> None:
        assert item.tensor is not None
        span = shard.span(item.tensor)
        tensor = self._tensor(item.tensor.removesuffix(INDEX_SUFFIX))
        if span is None or not tensor.is_matrix:
            raise self._not_packed(tensor)
        record = self._record(tensor, seal)
        if len(record.index) != span.n_bytes:
            raise self._not_packed(tensor)
        self._write(fd, record.index, shard.offset(span))

    def _fix_tensor(self, fd: int, shard: ShardSurvey, seal: ShardSeal, item: Damage) -> None:
        assert item.tensor is not None
        tensor, span = self._tensor(item.tensor), shard.span(item.tensor)
        wrong = self._not_packed(tensor)
        if span is None or (tensor.dtype, tensor.shape) != (span.dtype, span.shape):
            raise wrong
        # It may be larger than memory: one pass to check, one to write.
        with contextlib.closing(SourceReader()) as reader:
            for is_known_right in (False, True):
                crc = 0
                buffer = memoryview(bytearray(min(COPY_BYTES, tensor.n_bytes)))
                for start in range(0, tensor.n_bytes, COPY_BYTES):
                    piece = buffer[: min(COPY_BYTES, tensor.n_bytes - start)]
                    reader.read(tensor, start, piece)
                    crc = _native.crc32c(piece, crc)
                    if is_known_right:
                        self._write(fd, piece, shard.offset(span) + start)
                if crc != seal.tensor_crcs[tensor.name]:
                    raise wrong

    def _not_packed(self, tensor: SourceTensor) -> _Refused:
        return _Refused(f"tensor {tensor.name!r} of {tensor.file} does not give the bytes that were packed")

    def _tensor(self, name: str) -> SourceTensor:
        tensor = self._source.tensors.get(name)
        if tensor is None:
            raise _Refused(f"{self._source.path} has no tensor {name!r}")
        return tensor

    def _fix_tile(self, fd: int, shard: ShardSurvey, item: Damage) -> None:
        assert item.tensor is not None and item.tile is not None
        tensor = self._tensor(item.tensor)
        wrong = self._not_packed(tensor)
        if item.tensor not in shard.indices:
            raise wrong
        base_offset, index = shard.indices[item.tensor]
        tiles = unpack_index(index)
        shape = (int(tiles.row0[-1] + tiles.n_rows[-1]), int(tiles.col0[-1] + tiles.n_cols[-1]))
        if not tensor.is_matrix or tensor.shape != shape:
            raise wrong
        source_dtype = DTYPE_IDS[matrix_dtype(tensor)]
        row = unpack_index(index[item.tile : item.tile + 1])
        row0, n_rows, col0, n_cols = (int(field[0]) for field in (row.row0, row.n_rows, row.col0, row.n_cols))
        group = Group(row0, n_rows, col0, n_cols, ((row0, n_rows, col0, n_cols),))
        with contextlib.closing(SourceReader()) as reader:
            slab = read_slab(reader, tensor, group, [np.empty(0, dtype=np.uint8)], 0)
        # A tile that its codec could not shrink is stored raw, which encodes to the same bytes.
        ((prefix, residual, codec, dtype),) = _native.encode_tiles(
            self._pool, slab, n_rows, n_cols, source_dtype, int(row.codec[0]), group.relative_tiles()
        )
        sizes = len(prefix) | len(residual) << 32
        crcs = _native.crc32c(prefix) | _native.crc32c(residual) << 32
        kinds = codec | dtype << 8 | source_dtype << 16
        if [sizes, crcs, kinds] != index[item.tile, 2:5].tolist():
            raise wrong
        self._write(fd, prefix, base_offset + int(row.prefix_offset[0]))
        self._write(fd, residual, base_offset + int(row.residual_offset[0]))
