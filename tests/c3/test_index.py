"""Index tensors: whatever is wrong with one is found before a model is wired with its shape."""

import struct

import numpy as np
import pytest

from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.index import TileIndexError, check_index
from vortex_engine.c3.pack import pack

LOW, HIGH = 1, 1 << 32


@pytest.fixture
def matrix(write_source, tmp_path):
    """6 tiles: three row groups of two column splits."""
    bits = np.full((130, 12), 0x3F80, dtype=np.uint16)
    pack(write_source({"w.weight": ("BF16", bits)}), tmp_path / "out")
    matrix = open_directory(tmp_path / "out").matrices["w.weight"]
    assert (matrix.rows, matrix.cols, matrix.n_tiles) == (130, 12, 6)
    return matrix


def test_good_index(matrix):
    rows, cols, _ = check_index(matrix.index, matrix.n_bytes)
    assert (rows, cols) == (130, 12)


# column, change added to tile 2's word
EDITS = {
    "prefix_misaligned": (0, 512),
    "prefix_outside": (0, 1 << 40),
    "prefix_beyond_any_file": (0, 1 << 63),
    "residual_misaligned": (1, 8),
    "residual_outside": (1, 1 << 30),
    "larger_than_a_tile": (2, (1 << 21) * LOW),
    "residual_size_outside": (2, (1 << 20) * HIGH),
    "unknown_codec": (4, 100),
    "unknown_dtype": (4, 7 << 8),
    "source_dtype_differs": (4, 1 << 16),
    "reserved_kind_bits": (4, 1 << 24),
    "row_moved": (5, 64 * LOW),
    "rows_lost": (5, -1 * HIGH),
    "rows_added": (5, 64 * HIGH),
    "col_moved": (6, 8 * LOW),
    "cols_added": (6, 8 * HIGH),
    "cols_lost": (6, -8 * HIGH),
    "reserved_word": (7, 1),
}


@pytest.mark.parametrize("edit", list(EDITS))
def test_edits_of_one_field(matrix, edit):
    column, change = EDITS[edit]
    index = matrix.index.copy()
    index[2, column] = np.uint64(int(index[2, column]) + change)
    with pytest.raises(TileIndexError):
        check_index(index, matrix.n_bytes)


def test_missing_repeated_and_swapped_tiles(matrix):
    index = matrix.index
    for order in ([1, 2, 3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [0, 1, 4, 5, 2, 3]):
        with pytest.raises(TileIndexError):
            check_index(index[order], matrix.n_bytes)


@pytest.mark.parametrize("shape", [(0, 8), (6, 7), (48,)])
def test_shapes(matrix, shape):
    with pytest.raises(TileIndexError, match="n_tiles"):
        check_index(np.zeros(shape, dtype=np.uint64), matrix.n_bytes)


def test_random_words_never_crash(matrix):
    rng = np.random.default_rng(0)
    for _ in range(2000):
        index = matrix.index.copy()
        for _ in range(rng.integers(1, 4)):
            word = struct.unpack("<Q", rng.bytes(8))[0] >> int(rng.integers(0, 64))
            index[rng.integers(0, 6), rng.integers(0, 8)] = np.uint64(word)
        try:
            rows, cols, tiles = check_index(index, matrix.n_bytes)
        except TileIndexError:
            continue
        assert (rows, cols) == (130, 12)
        assert tiles.stored_bytes.max() <= 1 << 20
