"""The codec `exact12` in numpy: the executable form of its section of csrc/c3/FORMAT.md, slow.

A tile is an array [panel, column, row of the panel] of bf16 bit patterns, uint16.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vortex_engine.ops.reference_vectors import BYTE_OF_ROW, ROW_OF_BYTE

__all__ = ["decode_panels", "encode_panels"]

BF16 = 1
BLOCK_COLS, BLOCK_BYTES, WINDOW, MAX_ESCAPES = 8, 768, 7, 255


def _table_bytes(panels: int) -> int:
    return -(-panels * 8 // 64) * 64


def decode_panels(prefix: bytes, dtype: int, panels: int, n_cols: int) -> NDArray[np.uint16]:
    """The panels of an exact12 tile.

    Raises:
        ValueError: the bytes do not have the structure that dtype and shape promise.
    """
    if dtype != BF16:
        raise ValueError(f"[tile_decode] an exact12 tile must be bf16 (1), got dtype {dtype}")
    blocks = -(-n_cols // BLOCK_COLS)
    n_blocks, planes_start = panels * blocks, _table_bytes(panels)
    counts_start = planes_start + n_blocks * BLOCK_BYTES
    escapes_start = counts_start + n_blocks + n_blocks % 2
    if len(prefix) < escapes_start:
        raise ValueError(f"[tile_decode] the prefix must hold at least {escapes_start} bytes, got {len(prefix)}")
    base, n_escapes = np.frombuffer(prefix, "<u4", panels * 2).reshape(panels, 2).astype(np.int64).T
    counts = np.frombuffer(prefix, np.uint8, n_blocks, counts_start).astype(np.int64)
    if (base > 127).any() or (counts.reshape(panels, blocks).sum(1) != n_escapes).any():
        raise ValueError("[tile_decode] a panel's table entry is not valid")
    if len(prefix) != escapes_start + 2 * int(counts.sum()):
        raise ValueError("[tile_decode] the escapes of the panels do not add up")

    planes = np.frombuffer(prefix, np.uint8, n_blocks * BLOCK_BYTES, planes_start)
    vectors = planes.reshape(panels, blocks, 12, 64)[..., BYTE_OF_ROW].astype(np.int64)
    nibbles = np.stack([vectors[:, :, :4] & 15, vectors[:, :, :4] >> 4], axis=3).reshape(panels, blocks, 8, 64)
    code = nibbles & 7
    upper = np.where(code != 0, base[:, None, None, None] + code & 127, 0).reshape(n_blocks, -1)
    escapes = np.frombuffer(prefix, "<u2", offset=escapes_start).astype(np.int64)
    np.bitwise_or.at(upper, (np.repeat(np.arange(n_blocks), counts), escapes & 511), escapes >> 9)
    weights = (nibbles >> 3) << 15 | upper.reshape(nibbles.shape) << 8 | vectors[:, :, 4:]
    return weights.reshape(panels, blocks * BLOCK_COLS, 64)[:, :n_cols].astype("<u2")


def encode_panels(weights: NDArray[np.uint16]) -> bytes | None:
    """The prefix of an exact12 tile of panels [panel, column, 64]; None when a block has too many escapes."""
    panels, n_cols, _ = weights.shape
    blocks = -(-n_cols // BLOCK_COLS)
    padded = np.zeros((panels, blocks * BLOCK_COLS, 64), np.int64)
    padded[:, :n_cols] = weights
    w = padded.reshape(panels, blocks, BLOCK_COLS, 64)
    upper = w >> 8 & 127
    table, planes, counts, lists = bytearray(), bytearray(), bytearray(), bytearray()
    for panel in range(panels):
        histogram = np.bincount(upper[panel].reshape(-1), minlength=128)
        covered = [histogram[b + 1 : b + 1 + WINDOW].sum() for b in range(128 - WINDOW)]
        base = int(np.argmax(covered))
        code = upper[panel] - base
        code = np.where((code >= 1) & (code <= WINDOW), code, 0)
        escaped = ((code == 0) & (upper[panel] != 0)).reshape(blocks, -1)
        if escaped.sum(1).max() > MAX_ESCAPES:
            return None
        nibbles = (w[panel] >> 15) << 3 | code
        pairs = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
        vectors = np.concatenate([pairs, w[panel] & 255], axis=1)[..., ROW_OF_BYTE]
        of_block, place = np.nonzero(escaped)
        entries = place | upper[panel].reshape(blocks, -1)[of_block, place] << 9
        table += np.array([base, len(entries)], "<u4").tobytes()
        planes += vectors.astype(np.uint8).tobytes()
        counts += escaped.sum(1).astype(np.uint8).tobytes()
        lists += entries.astype("<u2").tobytes()
    table += bytes(_table_bytes(panels) - len(table))
    counts += bytes(len(counts) % 2)
    return bytes(table + planes + counts + lists)
