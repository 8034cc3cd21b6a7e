"""Size of codec `dense` on the trained weights of `nano`, beside ZipNN and DFloat11; decoding speed on one core.

ZipNN is measured where its package is installed. DFloat11's size is computed from its published format, not measured:
for each matrix a Huffman code of its exponents, a byte of sign and mantissa a weight, 5 bits for each 8 coded bytes and
4 bytes for each 4096 of them (arXiv 2504.11651); its code tables are left out.
"""

from __future__ import annotations

import heapq
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from machine import base_parser, interleaved_timings, print_table, write_result
from numpy.typing import NDArray

import vortex_engine
from vortex_engine import _native
from vortex_engine.c3.directory import C3Matrix, open_directory
from vortex_engine.c3.layout import CODEC_IDS
from vortex_engine.machine import describe_machine

NANO = Path(vortex_engine.__file__).parent / "models" / "nano" / "nano.c3"
BF16 = 1
BAND_ROWS = 192  # of a tile of the benchmark: three panels


def read_matrix(matrix: C3Matrix) -> NDArray[np.uint16]:
    """Bit patterns of a bf16 matrix."""
    data = matrix.shard.read_bytes()
    out = np.zeros((matrix.rows, matrix.cols), np.uint16)
    for row in matrix.index.tolist():
        begin, middle = matrix.base_offset + row[0], matrix.base_offset + row[1]
        prefix, residual = data[begin : begin + (row[2] & 0xFFFFFFFF)], data[middle : middle + (row[2] >> 32)]
        row0, n_rows, col0, n_cols = row[5] & 0xFFFFFFFF, row[5] >> 32, row[6] & 0xFFFFFFFF, row[6] >> 32
        tile = _native.decode_tile(row[4] & 255, row[4] >> 8 & 255, n_rows, n_cols, prefix, residual)
        out[row0 : row0 + n_rows, col0 : col0 + n_cols] = tile
    return out


def encode(weights: NDArray[np.uint16], codec: str) -> list[tuple[int, tuple[bytes, bytes, int, int]]]:
    """Rows and encoded bytes of each tile."""
    rows, cols = weights.shape
    tiles = [(row, min(BAND_ROWS, rows - row), 0, cols) for row in range(0, rows, BAND_ROWS)]
    slab = np.frombuffer(weights.tobytes(), np.uint8)
    encoded = _native.encode_tiles(
        _native.Pool(1, _native.simd_levels()[0]), slab, rows, cols, BF16, CODEC_IDS[codec], tiles
    )
    return [(tile[1], part) for tile, part in zip(tiles, encoded, strict=True)]


def huffman_bits(counts: list[int]) -> int:
    """Bits of a Huffman code without a limit on its lengths."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def dfloat11_bytes(weights: NDArray[np.uint16]) -> float:
    """Computed size of a matrix in DFloat11's format."""
    coded = huffman_bits(np.bincount(weights.reshape(-1) >> 7 & 255, minlength=256).tolist()) / 8
    return weights.size + coded * (1 + 5 / 64 + 4 / 4096)


def zipnn_bytes(matrices: list[NDArray[np.uint16]]) -> int | None:
    """Measured size of all weights in one piece; None without the package."""
    try:
        zipnn = importlib.import_module("zipnn")
    except ImportError:
        return None
    data = b"".join(weights.tobytes() for weights in matrices)
    return len(zipnn.ZipNN(input_format="byte", bytearray_dtype="bfloat16", threads=1).compress(data))


def main() -> None:
    """Measure and write results/dense_size.json."""
    parser = base_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    found = open_directory(NANO).matrices.values()
    matrices = [read_matrix(matrix) for matrix in found if matrix.dtype == "bf16"]
    n_weights = sum(weights.size for weights in matrices)
    n_bytes: dict[str, float] = {}
    tiles: dict[str, list[tuple[int, int, tuple[bytes, bytes, int, int]]]] = {}
    for codec in ("dense", "exact"):
        tiles[codec] = [(n, w.shape[1], tile) for w in matrices for n, tile in encode(w, codec)]
        n_bytes[codec] = sum(len(tile[0]) + len(tile[1]) for _, _, tile in tiles[codec])
    exponents = np.concatenate([weights.reshape(-1) for weights in matrices]) >> 7 & 255
    share = np.bincount(exponents)[np.unique(exponents)] / n_weights
    n_bytes["dfloat11 (computed)"] = sum(dfloat11_bytes(weights) for weights in matrices)
    zipnn = zipnn_bytes(matrices)
    if zipnn is not None:
        n_bytes["zipnn"] = zipnn

    def decode(codec: str) -> None:
        for rows, cols, (prefix, residual, used, dtype) in tiles[codec]:
            _native.decode_tile(used, dtype, rows, cols, prefix, residual)

    seconds = interleaved_timings({c: lambda c=c: decode(c) for c in tiles}, repeats=arguments.repeats)
    entries: list[dict[str, Any]] = [
        {"format": name, "bytes": size, "bits_per_weight": 8 * size / n_weights} for name, size in n_bytes.items()
    ]
    for entry in entries:
        if entry["format"] in seconds:
            # Structure checked, every panel decoded, and rows written in row-major order.
            entry["check_decode_and_transpose_gb_s"] = 2 * n_weights / seconds[entry["format"]]["median"] / 1e9
    document = {
        "weights": n_weights,
        "zipnn_installed": zipnn is not None,
        "entropy_of_all_exponents_plus_8_bits": 8 - float((share * np.log2(share)).sum()),
        "entries": entries,
    }
    print_table(("format", "bits per weight"), [[e["format"], f"{e['bits_per_weight']:.3f}"] for e in entries])
    print(write_result("dense_size", describe_machine(), document, arguments.results))


if __name__ == "__main__":
    main()
