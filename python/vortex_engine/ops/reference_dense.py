"""The codec `dense` in numpy: the executable form of its section of csrc/c3/FORMAT.md, slow.

A tile is an array [panel, column, row of the panel] of bit patterns: uint16 (bf16, fp16) or uint32 (fp32). Of its last
panel only the rows that the tile has are stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_panels", "encode_panels"]

F16, F32 = 2, 3
SYMBOLS, MAX_LENGTH, STREAMS = 256, 11, 4
LENGTH_BYTES = SYMBOLS // 2


def decode_panels(prefix: bytes, dtype: int, n_rows: int, n_cols: int) -> NDArray[Any]:
    """The panels of a dense tile; rows that the tile does not have are zero.

    Raises:
        ValueError: the bytes do not have the structure that dtype and shape promise.
    """
    rows = _stored_rows(n_rows)
    rest_bytes = 3 if dtype == F32 else 1
    rest_start = LENGTH_BYTES + len(rows) * STREAMS * 4
    start = rest_start + n_rows * n_cols * rest_bytes
    if len(prefix) < start:
        raise ValueError(f"[tile_decode] a dense tile must hold at least {start} bytes, got {len(prefix)}")
    packed = np.frombuffer(prefix, np.uint8, LENGTH_BYTES)
    lengths = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1).tolist()
    if max(lengths) > MAX_LENGTH or sum(2 ** (MAX_LENGTH - n) for n in lengths if n) != 2**MAX_LENGTH:
        raise ValueError("[tile_decode] the code of a dense tile is too long or not complete")
    ends = np.frombuffer(prefix, "<u4", len(rows) * STREAMS, LENGTH_BYTES).tolist()
    begins = [0, *ends[:-1]]
    ordered = all(begin <= end for begin, end in zip(begins, ends, strict=True))
    if not ordered or ends[-1] != len(prefix) - start:
        raise ValueError("[tile_decode] the streams of a dense tile are out of order or range")

    symbol_of = {word: symbol for symbol, word in _code_words(lengths).items()}
    panels = np.zeros((len(rows), n_cols, 64), "<u4" if dtype == F32 else "<u2")
    for panel, n_stored in enumerate(rows):
        n_weights = n_stored * n_cols
        symbols = np.concatenate(
            [
                _decode_stream(
                    prefix[start + begins[i] : start + ends[i]],
                    symbol_of,
                    _stream_columns(i % STREAMS, n_cols) * n_stored,
                )
                for i in range(panel * STREAMS, (panel + 1) * STREAMS)
            ]
        )
        at = rest_start + panel * 64 * n_cols * rest_bytes
        plain = np.frombuffer(prefix, np.uint8, n_weights, at)
        weights = _join(symbols.astype(np.uint32), plain.astype(np.uint32), dtype)
        if dtype == F32:
            weights = weights << 16 | np.frombuffer(prefix, "<u2", n_weights, at + n_weights)
        panels[panel, :, :n_stored] = weights.reshape(n_cols, n_stored)
    return panels


def encode_panels(weights: NDArray[Any], dtype: int, n_rows: int) -> bytes:
    """The prefix of a dense tile of panels [panel, column, 64] that has n_rows rows."""
    n_cols = weights.shape[1]
    rows = _stored_rows(n_rows)
    parts: list[bytes] = []
    symbols: list[NDArray[np.uint32]] = []  # of a panel, [column, row]
    for panel, n_stored in enumerate(rows):
        wide = weights[panel, :, :n_stored].astype(np.uint32)
        upper = wide >> 16 if dtype == F32 else wide
        if dtype == F16:
            coded, plain = upper >> 8, upper & 255
        else:
            coded, plain = upper >> 7 & 255, upper >> 8 & 128 | upper & 127
        symbols.append(coded.astype(np.uint32))
        parts.append(plain.astype(np.uint8).tobytes())
        if dtype == F32:
            parts.append((wide & 0xFFFF).astype("<u2").tobytes())

    counts = np.bincount(np.concatenate([coded.reshape(-1) for coded in symbols]), minlength=SYMBOLS)
    lengths = _choose_lengths(counts.tolist())
    words = _code_words(lengths)
    ends: list[int] = []
    streams = bytearray()
    for coded in symbols:
        begin = 0
        for stream in range(STREAMS):
            end = begin + _stream_columns(stream, n_cols)
            streams += _encode_stream("".join(words[symbol] for symbol in coded[begin:end].reshape(-1).tolist()))
            ends.append(len(streams))
            begin = end
    packed = bytes(lengths[i] | lengths[i + 1] << 4 for i in range(0, SYMBOLS, 2))
    return packed + np.array(ends, "<u4").tobytes() + b"".join(parts) + bytes(streams)


def _stored_rows(n_rows: int) -> list[int]:
    """Rows of each panel that the tile has."""
    return [min(64, n_rows - row) for row in range(0, n_rows, 64)]


def _stream_columns(stream: int, n_cols: int) -> int:
    return (stream + 1) * n_cols // STREAMS - stream * n_cols // STREAMS


def _join(symbols: NDArray[np.uint32], plain: NDArray[np.uint32], dtype: int) -> NDArray[Any]:
    if dtype == F16:
        return symbols << 8 | plain
    return (plain & 128) << 8 | symbols << 7 | plain & 127


def _code_words(lengths: list[int]) -> dict[int, str]:
    """Canonical code words as strings of 0 and 1, first bit first."""
    words: dict[int, str] = {}
    word, last = 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - last
        words[symbol] = f"{word:0{length}b}"
        word, last = word + 1, length
    return words


def _decode_stream(data: bytes, symbol_of: dict[str, int], n_weights: int) -> NDArray[np.uint8]:
    bits = "".join(map(str, np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tolist()))
    symbols: list[int] = []
    at = 0
    while len(symbols) < n_weights:
        length = next((n for n in range(1, MAX_LENGTH + 1) if bits[at : at + n] in symbol_of), 0)
        if length == 0 or at + length > len(bits):
            raise ValueError("[tile_decode] a stream of a dense tile ends before its last weight")
        symbols.append(symbol_of[bits[at : at + length]])
        at += length
    if len(bits) - at > 7 or "1" in bits[at:]:
        raise ValueError("[tile_decode] a stream of a dense tile goes on after its last weight")
    return np.array(symbols, np.uint8)


def _encode_stream(bits: str) -> bytes:
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0"), bitorder="little").tobytes()


def _choose_lengths(counts: list[int]) -> list[int]:
    """Package-merge: the code lengths of at most MAX_LENGTH that cost fewest bits."""
    used = [symbol for symbol, count in enumerate(counts) if count]
    if len(used) == 1:
        used.append(used[0] ^ 1)
    symbols = sorted(((counts[symbol], (symbol,)) for symbol in used), key=lambda coin: coin[0])
    row: list[tuple[int, tuple[int, ...]]] = symbols
    for _ in range(MAX_LENGTH - 1):
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(row[::2], row[1::2], strict=False)]
        row = sorted([*symbols, *packages], key=lambda coin: coin[0])  # stable: a symbol before a package
    lengths = [0] * SYMBOLS
    for _, members in row[: 2 * len(used) - 2]:
        for symbol in members:
            lengths[symbol] += 1
    return lengths
