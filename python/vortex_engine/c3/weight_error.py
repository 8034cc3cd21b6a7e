"""How far the weights of a packed model are from its checkpoint's: every tensor, one tile at a time.

The tiles are read back from the shard, so what is measured is what was stored.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vortex_engine import _native
from vortex_engine.c3.files import open_fd, read_exactly
from vortex_engine.c3.geometry import Group
from vortex_engine.c3.index import TileColumns, unpack_index
from vortex_engine.c3.journal import MatrixRecord
from vortex_engine.c3.layout import CODEC_IDS, INDEX_COLUMNS, LOSSY_CODECS
from vortex_engine.c3.slabs import read_slab
from vortex_engine.c3.source import Source, SourceReader, SourceTensor

_CODEC_NAMES = {number: name for name, number in CODEC_IDS.items()}
_LOSSY_IDS = [CODEC_IDS[name] for name in sorted(LOSSY_CODECS)]


@dataclass(frozen=True, slots=True)
class TensorError:
    """One packed matrix W' beside the checkpoint's W.

    A weight that is not finite is stored as it is and counts in neither sum.
    """

    codec: str  # of most of its tiles
    weights: int
    bytes: int  # stored, alignment and index included
    error_square_sum: float  # ||W' - W||^2; 0 of a lossless codec
    square_sum: float  # ||W||^2; 0 where nothing had to be measured

    @property
    def relative_rms(self) -> float:
        """||W' - W|| / ||W||."""
        return _relative_rms(self.error_square_sum, self.square_sum)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight."""
        return 8 * self.bytes / self.weights

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "codec": self.codec,
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
            "relative_rms": self.relative_rms,
        }


def measure_weights(
    source: Source, directory: Path, records: Sequence[MatrixRecord], threads: int
) -> dict[str, TensorError]:
    """The error of every packed matrix; those whose tiles are all lossless are not read.

    Sums are in tile order, so they do not depend on `threads`. Memory: a few tiles a thread.
    """
    errors: dict[str, TensorError] = {}
    with (
        contextlib.closing(SourceReader()) as reader,
        ThreadPoolExecutor(threads, "vortex-error") as executor,
    ):
        for record in records:
            tensor = source.tensors[record.name]
            index = np.reshape(np.frombuffer(record.index, dtype="<u8"), (-1, INDEX_COLUMNS)).astype(np.uint64)
            tiles = unpack_index(index)
            error_square_sum = square_sum = 0.0
            if np.isin(tiles.codec, _LOSSY_IDS).any():
                with open_fd(directory / record.shard) as fd:
                    stored = _Stored(fd, record.offset, tiles)
                    jobs = [(reader, tensor, stored, number) for number in range(len(tiles.codec))]
                    for error, square in executor.map(_tile_sums, *zip(*jobs, strict=True)):
                        error_square_sum, square_sum = error_square_sum + error, square_sum + square
            numbers, counts = np.unique(tiles.codec, return_counts=True)
            errors[record.name] = TensorError(
                codec=_CODEC_NAMES[int(numbers[np.argmax(counts)])],
                weights=math.prod(tensor.shape),
                bytes=record.n_bytes + len(record.index),
                error_square_sum=error_square_sum,
                square_sum=square_sum,
            )
    return errors


def total_relative_rms(errors: Iterable[TensorError]) -> float:
    """||W' - W|| / ||W|| over the matrices that were measured, as if they were one; 0 where none was."""
    measured = [error for error in errors if error.square_sum]
    return _relative_rms(
        math.fsum(error.error_square_sum for error in measured), math.fsum(error.square_sum for error in measured)
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where the tiles of a matrix lie."""

    fd: int
    offset: int
    tiles: TileColumns


def _tile_sums(reader: SourceReader, tensor: SourceTensor, stored: _Stored, number: int) -> tuple[float, float]:
    tiles = stored.tiles
    row0, n_rows, col0, n_cols = (int(field[number]) for field in (tiles.row0, tiles.n_rows, tiles.col0, tiles.n_cols))
    group = Group(row0, n_rows, col0, n_cols, ((row0, n_rows, col0, n_cols),))
    slab = read_slab(reader, tensor, group, [np.empty(0, dtype=np.uint8)], 0)
    weights = _widen(slab, tensor.dtype)
    finite = np.isfinite(weights)
    if not finite.all():
        weights = np.where(finite, weights, 0)
    square_sum = float(np.square(weights).sum())
    codec = int(tiles.codec[number])
    if codec not in _LOSSY_IDS:
        return 0.0, square_sum
    prefix = read_exactly(stored.fd, int(tiles.prefix_bytes[number]), stored.offset + int(tiles.prefix_offset[number]))
    decoded = _native.decode_tile(codec, int(tiles.dtype[number]), n_rows, n_cols, prefix, b"")
    return float(np.square(decoded.view(np.float32).reshape(-1) - weights).sum()), square_sum


def _widen(slab: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.float64]:
    """The weights of a slab, [n_rows * n_cols]."""
    if dtype == "BF16":
        return (slab.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return slab.view("<f2" if dtype == "F16" else "<f4").astype(np.float64)


def _relative_rms(error_square_sum: float, square_sum: float) -> float:
    return math.sqrt(error_square_sum / square_sum) if square_sum else 0.0
