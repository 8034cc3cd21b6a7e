"""Writes one shard from front to back without knowing its sizes before: room for the header first, the header last."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vortex_engine import _native
from vortex_engine.c3.files import write_all, write_parts
from vortex_engine.c3.geometry import Group
from vortex_engine.c3.journal import MatrixRecord
from vortex_engine.c3.layout import (
    ALIGNMENT,
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

EncodedTile = tuple[bytes, bytes, int, int]  # prefix, residual, codec id, dtype id


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

    def append(self, group: Group, encoded: list[EncodedTile]) -> None:
        """Write a group: all prefixes, then all residuals, each padded to the alignment."""
        parts: list[bytes] = []
        end = self._n_bytes
        prefix_offsets: list[int] = []
        residual_offsets: list[int] = []
        for prefix, *_ in encoded:
            prefix_offsets.append(end)
            end += _add_padded(parts, prefix)
        for _, residual, *_ in encoded:
            residual_offsets.append(end if residual else 0)
            end += _add_padded(parts, residual)
        for i, (tile, (prefix, residual, codec, dtype)) in enumerate(zip(group.tiles, encoded, strict=True)):
            row0, n_rows, col0, n_cols = tile
            self._rows.append(
                [
                    prefix_offsets[i],
                    residual_offsets[i],
                    len(prefix) | len(residual) << 32,
                    _native.crc32c(prefix) | _native.crc32c(residual) << 32,
                    codec | dtype << 8 | self._source_dtype << 16,
                    row0 | n_rows << 32,
                    col0 | n_cols << 32,
                    0,
                ]
            )
            if codec == CODEC_IDS["exact"]:
                self._n_escapes += _count_escapes(prefix, n_rows)
        self._behind.run(functools.partial(write_parts, self._fd, parts, self._offset + self._n_bytes))
        for part in parts:
            self._crc = _native.crc32c(part, self._crc)
        self._n_bytes = end

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


def _add_padded(parts: list[bytes], data: bytes) -> int:
    padding = -len(data) % ALIGNMENT
    parts += [data, _ZEROS[:padding]]
    return len(data) + padding


_ZEROS = bytes(ALIGNMENT)


def _count_escapes(prefix: bytes, n_rows: int) -> int:
    """Escapes of an exact tile, from the panel table at the start of its prefix."""
    table = np.frombuffer(prefix, dtype="<u4", count=-(-n_rows // PANEL_ROWS) * 4)
    # Words 1 and 2 of four: far and near.
    return int(table[1::4].sum(dtype=np.int64) + table[2::4].sum(dtype=np.int64))
