"""Size of trained weights under the lossless codecs, beside ZipNN and the DFloat11 format.

ZipNN packs for real, all matrices in one piece. DFloat11's own packer needs a GPU, so its size is computed from the
published format (arXiv 2504.11651, section 2): the exponents of a transformer block share one Huffman code; sign and
mantissa are stored as they are; every thread of the decoder reads 8 bytes of code and has a gap of 5 bits; every thread
block of 512 has one u32 output position. Its lookup tables are not counted, in its favour. Ours are the bytes of the
tiles without the alignment that pages need, which is given beside, as is the rate at which one core multiplies them
by one row, in bytes of bf16.
"""

from __future__ import annotations

import functools
import heapq
import importlib
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import LOSSLESS, Setting, present
from benchmarks.c3.weights import Bits, trained_weights, unpacked, write_checkpoint
from benchmarks.machine import interleaved_timings, print_table
from vortex_engine import ops
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.c3.pack import pack

# Below that the code's tables decide, and those of DFloat11 are not counted.
_MIN_WEIGHTS = 1_000_000
_THREAD_BYTES, _GAP_BITS, _BLOCK_THREADS, _POSITION_BYTES = 8, 5, 512, 4


def measure(setting: Setting) -> Figure:
    """Every lossless codec and peer on every trained model at hand."""
    figure = Figure()
    for model, matrices in trained_weights(setting.weights, figure).items():
        n_weights = sum(bits.size for bits in matrices.values())
        sizes = _ours(setting, matrices)
        sizes["DFloat11 (computed)"] = {"bytes": dfloat11_bytes(matrices)}
        try:
            sizes["ZipNN"] = {"bytes": _zipnn_bytes(matrices)}
        except MissingPeerError as error:
            figure.skip(error)
        sizes["entropy of the exponents + 8 bits"] = {"bytes": entropy_bytes(matrices)}
        for name, size in sizes.items():
            bits = size["bytes"] * 8 / n_weights
            figure.entries.append(
                {"model": model, "weights": n_weights, "format": name, **size, "bits_per_weight": bits}
            )
        peers = [size["bytes"] for name, size in sizes.items() if name.startswith(("ZipNN", "DFloat11"))]
        if "dense" in sizes and n_weights >= _MIN_WEIGHTS:
            ours, theirs = sizes["dense"]["bytes"], min(peers)
            peer, detail = "the smaller of ZipNN and DFloat11", f"{ours} over {theirs} bytes"
            figure.claim(f"`dense` size, {model}", ours / theirs, "<=", 1.015, peer=peer, detail=detail)
            figure.claim(f"`dense` bits a weight, {model}", ours * 8 / n_weights, "<=", 10.9, peer="16 of bf16")
            rate = sizes["dense"]["product_gb_s"]
            figure.claim(f"`dense` decoded and multiplied, GB/s of bf16, {model}", rate, ">=", 1.0, peer="one core")
    print_table(
        ("model", "weights", "format", "bytes", "bits a weight", "GB/s of bf16"),
        [
            [
                e["model"],
                e["weights"],
                e["format"],
                e["bytes"],
                f"{e['bits_per_weight']:.3f}",
                e.get("product_gb_s", ""),
            ]
            for e in figure.entries
        ],
    )
    return figure


def _ours(setting: Setting, matrices: dict[str, Bits]) -> dict[str, dict[str, Any]]:
    folder = setting.work / "size"
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder / "source", matrices)
    sizes: dict[str, dict[str, Any]] = {}
    for codec in present(LOSSLESS):
        pack(folder / "source", folder / codec, codec=codec)
        directory = open_directory(folder / codec)
        for name, values in unpacked(directory):
            if not np.array_equal(values.view(np.uint32) >> np.uint32(16), matrices[name]):
                raise SystemExit(f"{codec}: {name} is not what was packed, nothing is reported")
        tiles = [matrix.tiles for matrix in directory.matrices.values()]
        sizes[codec] = {
            "bytes": sum(int(tile.prefix_bytes.sum() + tile.residual_bytes.sum()) for tile in tiles),
            "aligned_bytes": directory.compressed_bytes,
        }
    n_bytes = sum(bits.nbytes for bits in matrices.values())
    for codec, seconds in _product_seconds(setting, {codec: folder / codec for codec in sizes}).items():
        sizes[codec]["product_gb_s"] = n_bytes / seconds / 1e9
    shutil.rmtree(folder)
    return sizes


def _product_seconds(setting: Setting, folders: dict[str, Path]) -> dict[str, float]:
    """How long one core takes to decode every weight from RAM and multiply it by one row."""
    ctx = ops.make_context(threads=1)
    products: dict[str, Callable[[], object]] = {}
    pagers: list[Any] = []
    for codec, folder in folders.items():
        directory = open_directory(folder)
        pager = ops.make_pager(ctx, directory.compressed_bytes)
        handles = add_matrices(directory, pager)
        pager.start(list(handles.values()))
        pagers.append(pager)
        rows = {name: np.ones((1, matrix.cols), np.float32) for name, matrix in directory.matrices.items()}
        products[codec] = functools.partial(_multiply, ctx, pager, handles, rows)
        products[codec]()
    taken = interleaved_timings(products, repeats=setting.rounds(8))
    for pager in pagers:
        pager.close()
    return {codec: seconds["median"] for codec, seconds in taken.items()}


def _multiply(ctx: ops.OpContext, pager: Any, handles: dict[str, int], rows: dict[str, NDArray[np.float32]]) -> None:
    for name, handle in handles.items():
        ops.paged_linear(ctx, pager, [handle], rows[name], [None])


def _zipnn_bytes(matrices: dict[str, Bits]) -> int:
    try:
        zipnn = importlib.import_module("zipnn")
    except ImportError as error:
        raise MissingPeerError("ZipNN: pip install zipnn") from error
    data = b"".join(np.ascontiguousarray(bits).tobytes() for bits in matrices.values())
    packer, unpacker = (zipnn.ZipNN(bytearray_dtype="bfloat16", threads=1) for _ in range(2))
    packed = packer.compress(bytearray(data))  # a copy: it works in its input
    if bytes(unpacker.decompress(packed)) != data:
        raise SystemExit("ZipNN: the weights came back changed, nothing is reported")
    return len(packed)


def dfloat11_bytes(matrices: dict[str, Bits]) -> int:
    """Bytes of the DFloat11 format for these matrices, without its lookup tables."""
    blocks: defaultdict[str, list[Bits]] = defaultdict(list)
    for name, bits in matrices.items():
        layer = re.search(r"\.(\d+)\.", name)
        blocks[layer[1] if layer else name].append(bits)
    n_bytes = 0
    for group in blocks.values():
        counts = _exponent_counts(group)
        lengths = huffman_lengths(counts)
        code_bytes = -(-int(np.dot(counts, lengths)) // 8)
        n_threads = -(-code_bytes // _THREAD_BYTES)
        n_bytes += sum(bits.size for bits in group) + n_threads * _THREAD_BYTES
        n_bytes += -(-n_threads * _GAP_BITS // 8) + (n_threads // _BLOCK_THREADS + 2) * _POSITION_BYTES
    return n_bytes


def huffman_lengths(counts: Sequence[int]) -> list[int]:
    """Code lengths in bits of a Huffman code for symbols with these counts; 0 for symbols that do not occur.

    Source: D. A. Huffman, Proceedings of the IRE 40(9), 1952.
    """
    heap = [(count, [symbol]) for symbol, count in enumerate(counts) if count]
    lengths = [0] * len(counts)
    if len(heap) == 1:
        lengths[heap[0][1][0]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        left, right = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in left[1] + right[1]:
            lengths[symbol] += 1
        heapq.heappush(heap, (left[0] + right[0], left[1] + right[1]))
    return lengths


def entropy_bytes(matrices: dict[str, Bits]) -> float:
    """What no code of single exponents, one for each matrix, can go below."""
    total = 0.0
    for bits in matrices.values():
        counts = np.array(_exponent_counts([bits]))
        share = counts[counts > 0] / bits.size
        total += bits.size * (8 - float(np.dot(share, np.log2(share)))) / 8
    return total


def _exponent_counts(group: Sequence[Bits]) -> list[int]:
    counts = sum(np.bincount(((bits >> np.uint16(7)) & np.uint16(255)).ravel(), minlength=256) for bits in group)
    return [int(count) for count in np.asarray(counts)]
