"""Writes one shard from front to back without knowing its sizes before: room for the header first, the header last."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vortex_engine import _native
from vortex_engine.c3.files import write_all, write_parts
from vortex_engine.c3.geometry import Group
from vortex_engine.c3.journal import MatrixRecord
from vortex_engine.c3.layout import (
    CODEC_IDS,
    DTYPE_IDS,
    INDEX_COLUMNS,
    INDEX_SUFFIX,
    PANEL_ROWS,
    TILES_SUFFIX,
)
from vortex_engine.c3.safetensors_header import TensorSpan, format_header
from vortex_engine.c3.source import SourceTensor
from vortex_engine.c3.write_behind import WriteBehind


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What the manifest and the weight map need to know of a finished shard."""

    name: str
    n_bytes: int
    data_bytes: int  # without the header
    header_crc32c: int
    tensor_crcs: dict[str, int]  # of every tensor that is not tiles
    tensor_names: tuple[str, ...]


class MatrixWriter:
    """Appends the tile groups of one matrix to its shard and keeps its index and checksum.

    `behind` does the writing: the bytes are in the file when it has run what it was given.
    """

    def __init__(self, fd: int, offset: int, dtype: str, behind: WriteBehind) -> None:
        self._fd = fd
        self._behind = behind
        self._offset = offset
        self._source_dtype = DTYPE_IDS[dtype]
        self._rows: list[list[int]] = []
        self._n_bytes = 0
        self._crc = 0
        self._n_escapes = 0

    def append(
        self, group: Group, encoded: _native.EncodedGroup, release: Callable[[_native.EncodedGroup], None]
    ) -> None:
        """Write a group; `release` gets `encoded` back once its bytes are in the file."""
        tiles, parts = encoded.tiles(), encoded.parts()
        ends = list(itertools.accumulate(map(len, parts), initial=self._n_bytes))
        for i, ((row0, n_rows, col0, n_cols), tile) in enumerate(zip(group.tiles, tiles, strict=True)):
            prefix_bytes, residual_bytes, prefix_crc, residual_crc, codec, dtype = tile
            self._rows.append(
                [
                    ends[i],
                    ends[len(tiles) + i] if residual_bytes else 0,
                    prefix_bytes | residual_bytes << 32,
                    prefix_crc | residual_crc << 32,
                    codec | dtype << 8 | self._source_dtype << 16,
                    row0 | n_rows << 32,
                    col0 | n_cols << 32,
                    0,
                ]
            )
            if codec == CODEC_IDS["exact"]:
                self._n_escapes += _count_escapes(parts[i], n_rows)
        self._crc = encoded.extend_crc(self._crc)
        self._behind.run(functools.partial(self._write, encoded, parts, self._offset + self._n_bytes, release))
        self._n_bytes = ends[-1]

    def _write(
        self,
        encoded: _native.EncodedGroup,
        parts: list[memoryview],
        offset: int,
        release: Callable[[_native.EncodedGroup], None],
    ) -> None:
        write_parts(self._fd, parts, offset)
        # Else the disk would stand idle until the fsync at the shard's end, which then takes as long as the disk does.
        _native.start_writeback(self._fd, offset, sum(map(len, parts)))
        release(encoded)

    def finish(self, name: str, shard: str) -> MatrixRecord:
        """The record of the finished matrix."""
        index = np.array(self._rows, dtype="<u8").tobytes()
        return MatrixRecord(name, shard, self._offset, self._n_bytes, self._crc, self._n_escapes, index)


class ShardWriter:
    """Writes the shard file at `path`, whose data starts at `data_offset`."""

    def __init__(self, path: Path, data_offset: int) -> None:
        self._path = path
        self._data_offset = data_offset
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._end = data_offset
        self._records: list[MatrixRecord] = []

    def start_matrix(self, dtype: str, behind: WriteBehind) -> MatrixWriter:
        """A writer for the next matrix, whose first byte follows the matrix before it."""
        return MatrixWriter(self._fd, self._end, dtype, behind)

    def add_matrix(self, record: MatrixRecord) -> None:
        """Count a finished matrix, written now or before an interruption."""
        assert record.offset == self._end
        self._records.append(record)
        self._end += record.n_bytes

    def finish(self, others: Iterable[tuple[SourceTensor, Iterable[bytes | memoryview]]]) -> ShardSummary:
        """Write index tensors, ordinary tensors (as pieces of bytes) and the header, and make all of it durable."""
        os.ftruncate(self._fd, self._end)
        spans = [self._span(record) for record in self._records]
        crcs: dict[str, int] = {}
        for record in self._records:
            shape = (len(record.index) // (8 * INDEX_COLUMNS), INDEX_COLUMNS)
            name = record.name + INDEX_SUFFIX
            spans.append(self._append(name, "U64", shape, [record.index], crcs))
        for tensor, pieces in others:
            spans.append(self._append(tensor.name, tensor.dtype, tensor.shape, pieces, crcs))
        header = format_header(spans, self._data_offset)
        write_all(self._fd, header, 0)
        os.fsync(self._fd)
        names = tuple(span.name for span in spans)
        data_bytes = self._end - self._data_offset
        return ShardSummary(self._path.name, self._end, data_bytes, _native.crc32c(header), crcs, names)

    def close(self) -> None:
        """Close the file, finished or not."""
        os.close(self._fd)

    def _span(self, record: MatrixRecord) -> TensorSpan:
        begin = record.offset - self._data_offset
        return TensorSpan(record.name + TILES_SUFFIX, "U8", (record.n_bytes,), begin, begin + record.n_bytes)

    def _append(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        pieces: Iterable[bytes | memoryview],
        crcs: dict[str, int],
    ) -> TensorSpan:
        begin = self._end
        crc = 0
        for piece in pieces:
            write_all(self._fd, piece, self._end)
            crc = _native.crc32c(piece, crc)
            self._end += len(piece)
        crcs[name] = crc
        return TensorSpan(name, dtype, shape, begin - self._data_offset, self._end - self._data_offset)


def _count_escapes(prefix: memoryview, n_rows: int) -> int:
    """Escapes of an exact tile, from the panel table at the start of its prefix."""
    table = np.frombuffer(prefix, dtype="<u4", count=-(-n_rows // PANEL_ROWS) * 4)
    # Words 1 and 2 of four: far and near.
    return int(table[1::4].sum(dtype=np.int64) + table[2::4].sum(dtype=np.int64))
