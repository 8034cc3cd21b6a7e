"""The codec `lz4` in Python: blocks of the public LZ4 block format, one a panel; csrc/c3/FORMAT.md, section 5. Slow."""

from __future__ import annotations

import numpy as np

__all__ = ["MAX_RAW_BYTES", "decode_blocks", "encode_blocks"]

MAX_RAW_BYTES = 1 << 20
MIN_MATCH, LAST_LITERALS, MATCH_LIMIT, MAX_OFFSET, HASH_BITS = 4, 5, 12, 65535, 14


def decode_blocks(prefix: bytes, panels: int, panel_bytes: int) -> bytes:
    """The raw bytes of all panels of an lz4 tile.

    Raises:
        ValueError: a block is not valid or does not decode to `panel_bytes` bytes.
    """
    start = panels * 4
    if len(prefix) < start or panels * panel_bytes > MAX_RAW_BYTES:
        raise ValueError("[tile_decode] an lz4 tile is shorter than its table or decodes to more than 1 MiB")
    ends = np.frombuffer(prefix, "<u4", panels).tolist()
    begins = [0, *ends[:-1]]
    ordered = all(begin <= end for begin, end in zip(begins, ends, strict=True))
    if not ordered or ends[-1] != len(prefix) - start:
        raise ValueError("[tile_decode] the blocks of an lz4 tile are out of order or range")
    blocks = (prefix[start + begin : start + end] for begin, end in zip(begins, ends, strict=True))
    return b"".join(_decode_block(block, panel_bytes) for block in blocks)


def encode_blocks(raw: bytes, panels: int) -> bytes:
    """The prefix of an lz4 tile whose panels hold equal parts of `raw`."""
    panel_bytes = len(raw) // panels
    blocks = [_encode_block(raw[i * panel_bytes : (i + 1) * panel_bytes]) for i in range(panels)]
    return np.cumsum([len(block) for block in blocks]).astype("<u4").tobytes() + b"".join(blocks)


def _decode_block(block: bytes, n_bytes: int) -> bytes:
    out = bytearray()
    at = 0
    try:
        while True:
            token = block[at]
            literals, at = _length(block, at + 1, token >> 4)
            if at + literals > len(block) or len(out) + literals > n_bytes:
                raise ValueError("[tile_decode] an lz4 block's literals leave the block or the panel")
            out += block[at : at + literals]
            at += literals
            if at == len(block):
                if len(out) != n_bytes or token & 15:
                    raise ValueError("[tile_decode] an lz4 block does not decode to its panel")
                return bytes(out)
            offset = block[at] | block[at + 1] << 8
            match, at = _length(block, at + 2, token & 15)
            match += MIN_MATCH
            if offset == 0 or offset > len(out) or len(out) + match > n_bytes:
                raise ValueError("[tile_decode] an lz4 block's match leaves the panel")
            repeated = out[-offset:] * -(-match // offset)  # a match may overlap what it writes
            out += repeated[:match]
    except IndexError:
        raise ValueError("[tile_decode] an lz4 block ends inside a sequence") from None


def _length(block: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while block[at] == 255:
            length, at = length + 255, at + 1
        length, at = length + block[at], at + 1
    return length, at


def _encode_block(data: bytes) -> bytes:
    last: dict[int, int] = {}
    out = bytearray()
    literals = at = 0
    while at + MATCH_LIMIT <= len(data):
        word = data[at : at + 4]
        slot = (int.from_bytes(word, "little") * 2654435761 & 0xFFFFFFFF) >> 32 - HASH_BITS
        found = last.get(slot)
        last[slot] = at
        if found is None or at - found > MAX_OFFSET or data[found : found + 4] != word:
            at += 1
            continue
        match = MIN_MATCH
        while at + match + LAST_LITERALS < len(data) and data[at + match] == data[found + match]:
            match += 1
        out += _sequence(data[literals:at], at - found, match)
        at = literals = at + match
    return bytes(out + _sequence(data[literals:], 0, 0))


def _sequence(literals: bytes, offset: int, match: int) -> bytes:
    extra = max(match - MIN_MATCH, 0)
    out = bytes([min(len(literals), 15) << 4 | min(extra, 15)]) + _more(len(literals)) + literals
    return out + offset.to_bytes(2, "little") + _more(extra) if match else out


def _more(length: int) -> bytes:
    return b"\xff" * ((length - 15) // 255) + bytes([(length - 15) % 255]) if length >= 15 else b""
