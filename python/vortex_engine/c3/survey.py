"""Finds everything in a packed model that is not what was packed, instead of stopping at the first."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vortex_engine import _native
from vortex_engine.c3.files import ShortReadError, crc_of_range, open_fd, read_exactly
from vortex_engine.c3.index import TileIndexError, check_index
from vortex_engine.c3.layout import INDEX_SUFFIX, TILES_SUFFIX
from vortex_engine.c3.manifest import ShardSeal, check_file, read_manifest
from vortex_engine.c3.safetensors_header import MAX_HEADER_BYTES, Header, HeaderError, TensorSpan, parse_header
from vortex_engine.errors import CorruptTileError, MachineError

Progress = Callable[[int, int, str], None]
Part = Literal["file", "length", "header", "index", "tensor", "tile"]

# Reads that are in flight while others are checked: more than this gained nothing on a local disk.
_READERS = 4


@dataclass(frozen=True, slots=True)
class Damage:
    """One part of a packed model that is not what was packed.

    `part` is `file` (a small one), `length` or `header` (of a shard), `index`, `tensor` (an ordinary one) or `tile`.
    """

    part: Part
    file: str
    reason: str
    tensor: str | None = None
    tile: int | None = None
    offset: int | None = None  # bytes from the start of the file

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        names = (("tensor", repr(self.tensor)), ("tile", self.tile), ("offset", self.offset))
        known = [f"{name} {value}" for name, value in names if getattr(self, name) is not None]
        return f"{', '.join([self.file, *known])}: {self.reason}"

    def to_error(self, n_more: int = 0) -> CorruptTileError:
        """The error of an operation that cannot go on; `n_more` counts further damage."""
        more = f" ({n_more} more: vortex inspect --verify lists all)" if n_more else ""
        return CorruptTileError(
            f"[verify] {self}{more}", file=self.file, tensor=self.tensor, tile=self.tile, offset=self.offset
        )


@dataclass(frozen=True, slots=True)
class Survey:
    """What a full check found, in file order; `read_bytes` and `seconds` are of the tiles alone."""

    damage: tuple[Damage, ...]
    read_bytes: int
    seconds: float
    io_mode: str  # o_direct or buffered

    @property
    def gb_s(self) -> float:
        """Tile bytes read and checked a second, in 10**9."""
        return self.read_bytes / self.seconds / 1e9 if self.seconds else 0.0

    def to_dict(self) -> dict[str, object]:
        """For JSON, without the damage."""
        return {
            "read_bytes": self.read_bytes,
            "seconds": self.seconds,
            "gb_s": self.gb_s,
            "io_mode": self.io_mode,
            "n_damaged": len(self.damage),
        }

    def require_intact(self) -> None:
        """CorruptTileError for the first damage, if there is any."""
        if self.damage:
            raise self.damage[0].to_error(len(self.damage) - 1)


def survey_directory(
    path: str | os.PathLike[str], *, only: Collection[str] | None = None, progress: Progress | None = None
) -> Survey:
    """Read and check every byte of a packed model that its manifest seals.

    Args:
        only: names of the files to look at; None for all.
        progress: called with (bytes of shards checked, bytes in all, shard name).

    Raises:
        ModelConfigError, TileVersionError, CorruptTileError: of `c3.json` itself, without which nothing can be told.
        MachineError: a file cannot be opened or read.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    damage: list[Damage] = []
    for name, seal in manifest.files.items():
        if only is None or name in only:
            try:
                check_file(directory / name, seal)
            except CorruptTileError as error:
                reason = str(error).removeprefix(f"[open] {directory / name}").removeprefix(":").strip()
                damage.append(Damage("file", str(directory / name), reason))
    shards = {name: seal for name, seal in manifest.shards.items() if only is None or name in only}
    total_bytes = sum(seal.n_bytes for seal in shards.values())
    done_bytes = read_bytes = 0
    seconds = 0.0
    io_mode = "o_direct"
    for name, seal in shards.items():
        shard = ShardSurvey(directory / name, seal)
        shard.look_at_tensors()
        start = time.perf_counter()

        def report(n_bytes: int, name: str = name, before: int = done_bytes) -> None:
            if progress is not None:
                progress(before + n_bytes, total_bytes, name)

        n_read, mode = shard.look_at_tiles(report)
        seconds += time.perf_counter() - start
        read_bytes += n_read
        done_bytes += seal.n_bytes
        report(seal.n_bytes)
        io_mode = mode if mode == "buffered" else io_mode
        damage += shard.damage
    return Survey(tuple(damage), read_bytes, seconds, io_mode)


def sealed_header(fd: int, seal: ShardSeal) -> Header:
    """The header of a shard that has its sealed checksum, whatever the length of the file has become.

    Raises:
        HeaderError: it is not the sealed one, or that one breaks a rule.
    """
    try:
        prefix = read_exactly(fd, 8, 0)
        header_bytes = int.from_bytes(prefix, "little")
        if header_bytes > min(MAX_HEADER_BYTES, seal.n_bytes - 8):
            raise HeaderError(f"the header claims {header_bytes} bytes")
        text = read_exactly(fd, header_bytes, 8)
    except ShortReadError as error:
        raise HeaderError(str(error)) from error
    if _native.crc32c(prefix + text) != seal.header_crc32c:
        raise HeaderError("its header's checksum does not match")
    return parse_header(text, seal.n_bytes - 8 - header_bytes)


class ShardSurvey:
    """Looks through one shard and collects `damage`; `indices` holds (offset of the tiles, index) by matrix."""

    def __init__(self, path: Path, seal: ShardSeal) -> None:
        self.damage: list[Damage] = []
        self.header: Header | None = None
        self.indices: dict[str, tuple[int, npt.NDArray[np.uint64]]] = {}
        self._path = path
        self._seal = seal

    def look_at_tensors(self) -> None:
        """Check length, header, index tensors and ordinary tensors."""
        try:
            with open_fd(self._path) as fd:
                file_bytes = os.fstat(fd).st_size
                if file_bytes != self._seal.n_bytes:
                    self._add("length", f"it has {file_bytes} bytes, {self._seal.n_bytes} were packed")
                self._look_inside(fd)
        except FileNotFoundError:
            self._add("length", "it is missing")
        except OSError as error:
            raise MachineError(f"[verify] cannot read {self._path}: {error}") from error

    def look_at_tiles(self, progress: Callable[[int], None] | None = None) -> tuple[int, str]:
        """Check the tiles of every matrix whose index is intact; bytes read, and how the file was read."""
        if not self.indices:
            return 0, "o_direct"
        matrices = [(name, offset, index) for name, (offset, index) in self.indices.items()]
        n_read, io_mode, bad = _native.verify_shard(
            os.fspath(self._path), self._seal.n_bytes, matrices, _READERS, progress
        )
        for name, tile, offset, reason in bad:
            self._add("tile" if tile is not None else "index", reason, name, tile, offset)
        return n_read, io_mode

    def span(self, name: str) -> TensorSpan | None:
        """Where a tensor lies, by the sealed header."""
        return None if self.header is None else self.header.tensors.get(name)

    def offset(self, span: TensorSpan) -> int:
        """Absolute offset of a tensor of this shard."""
        assert self.header is not None
        return self.header.data_offset + span.begin

    def _look_inside(self, fd: int) -> None:
        try:
            header = sealed_header(fd, self._seal)
        except HeaderError as error:
            return self._add("header", f"{error}; without it nothing else in the file can be found", error.tensor)
        sealed = {name for name in header.tensors if not name.endswith(TILES_SUFFIX)}
        for name in sorted(sealed ^ set(self._seal.tensor_crcs)):
            self._add("header", "it is in only one of header and manifest", name)
        self.header = header
        for name, span in header.tensors.items():
            if name not in self._seal.tensor_crcs:
                continue
            is_index = name.endswith(INDEX_SUFFIX)
            offset = header.data_offset + span.begin
            try:
                intact = crc_of_range(fd, offset, span.n_bytes) == self._seal.tensor_crcs[name]
                reason = "its checksum does not match"
            except ShortReadError as error:
                intact, reason = False, str(error)
            if not intact:
                self._add(
                    "index" if is_index else "tensor",
                    f"{reason}; without it the tiles cannot be checked" if is_index else reason,
                    name,
                    offset=offset,
                )
            elif is_index:
                self._look_at_index(fd, header, name)

    def _look_at_index(self, fd: int, header: Header, index_name: str) -> None:
        name = index_name.removesuffix(INDEX_SUFFIX)
        span, tiles = header.tensors[index_name], header.tensors.get(name + TILES_SUFFIX)
        offset = header.data_offset + span.begin
        if tiles is None or span.dtype != "U64" or len(span.shape) != 2 or tiles.dtype != "U8":
            return self._add("index", "it is not the index U64 [n_tiles, 8] of tiles", index_name, offset=offset)
        data = np.frombuffer(read_exactly(fd, span.n_bytes, offset), dtype="<u8").astype(np.uint64)
        index = np.reshape(data, span.shape)
        try:
            check_index(index, tiles.n_bytes)
        except TileIndexError as error:
            return self._add("index", str(error), index_name, error.tile, offset)
        self.indices[name] = (header.data_offset + tiles.begin, index)
        return None

    def _add(
        self, part: Part, reason: str, tensor: str | None = None, tile: int | None = None, offset: int | None = None
    ) -> None:
        self.damage.append(Damage(part, os.fspath(self._path), reason, tensor, tile, offset))
