"""Format 1 is forever: golden directories open, and FORMAT.md alone is enough to decode them.

`tests/golden/format1/exact` and `raw` are `tests/golden/format1/source` packed with those codecs.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from vortex_engine import _native
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.inspect import inspect_directory
from vortex_engine.c3.pack import pack
from vortex_engine.c3.source import SourceReader, open_source

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "format1"
BYTE_OF_ROW = [16 * (row // 4 % 4) + 8 * (row // 32) + 2 * (row % 4) + row // 16 % 2 for row in range(64)]
MANTISSA_BITS = {1: 7, 2: 10, 3: 23}


def decode_raw(dtype, n_rows, n_cols, prefix):
    weights = np.frombuffer(prefix, "<u4" if dtype == 3 else "<u2").reshape(-1, n_cols, 64)
    return weights.transpose(0, 2, 1).reshape(-1, n_cols)[:n_rows]


def decode_exact(dtype, n_rows, n_cols, prefix, residual):
    """A decoder written from section 5 of FORMAT.md, one weight at a time."""
    m_bits = MANTISSA_BITS[dtype]
    r_bits = m_bits - 1
    e_bits = {1: 8, 2: 5, 3: 8}[dtype]
    planes = r_bits // 8
    n_panels, n_blocks = -(-n_rows // 64), -(-n_cols // 8)
    table = np.frombuffer(prefix, "<u4", 4 * n_panels).reshape(-1, 4).tolist()
    blocks = -(-16 * n_panels // 64) * 64
    far = np.frombuffer(prefix[blocks + 320 * n_panels * n_blocks :], "<u4").tolist()
    counts_at = 64 * r_bits * n_panels * n_blocks
    near_at = counts_at + n_panels * n_blocks + n_panels * n_blocks % 2
    near = np.frombuffer(residual[near_at:], "<u2").tolist()
    out = np.zeros((64 * n_panels, 8 * n_blocks), dtype=np.uint32)
    for panel, (base, n_far, n_near, zero) in enumerate(table):
        assert zero == 0
        exponents = {}
        for entry in far[:n_far]:
            exponents[entry & 0xFFFFFF] = entry >> 24
        far = far[n_far:]
        for block in range(n_blocks):
            number = panel * n_blocks + block
            for entry in near[: residual[counts_at + number]]:
                exponents[512 * block + (entry & 511)] = base - (entry >> 9)
                n_near -= 1
            near = near[residual[counts_at + number] :]
            front = prefix[blocks + 320 * number :]
            rest = residual[64 * r_bits * number :]
            for col in range(8):
                for row in range(64):
                    at = BYTE_OF_ROW[row]
                    nibble = front[64 * (col // 2) + at] >> 4 * (col % 2) & 15
                    mantissa = sum(rest[(col * planes + b) * 64 + at] << 8 * b for b in range(planes))
                    if r_bits % 8 == 1:
                        high = rest[512 * planes + at] >> col & 1
                    else:
                        v = [rest[512 * planes + 192 * (col // 4) + 64 * j + at] for j in range(3)]
                        high = v[col % 4] & 63 if col % 4 < 3 else v[0] >> 6 | v[1] >> 6 << 2 | v[2] >> 6 << 4
                    mantissa |= high << 8 * planes | (front[256 + at] >> col & 1) << r_bits
                    code = nibble & 7
                    exponent = exponents.get(512 * block + 64 * col + row, base + code if code else 0)
                    out[64 * panel + row, 8 * block + col] = (
                        (nibble >> 3) << (m_bits + e_bits) | exponent << m_bits | mantissa
                    )
        assert n_near == 0
    assert not far and not near
    return out[:n_rows, :n_cols]


def decode(matrix):
    data = matrix.shard.read_bytes()[matrix.base_offset :]
    out = np.zeros((matrix.rows, matrix.cols), dtype=np.uint32)
    for row in matrix.index.tolist():
        prefix = data[row[0] : row[0] + (row[2] & 0xFFFFFFFF)]
        residual = data[row[1] : row[1] + (row[2] >> 32)]
        codec, dtype, source_dtype = row[4] & 255, row[4] >> 8 & 255, row[4] >> 16
        row0, n_rows, col0, n_cols = row[5] & 0xFFFFFFFF, row[5] >> 32, row[6] & 0xFFFFFFFF, row[6] >> 32
        tile = (
            decode_exact(dtype, n_rows, n_cols, prefix, residual)
            if codec
            else decode_raw(dtype, n_rows, n_cols, prefix)
        )
        out[row0 : row0 + n_rows, col0 : col0 + n_cols] = tile.astype(np.uint32) << (16 if dtype != source_dtype else 0)
    return out


def source_bits(tensor):
    reader = SourceReader()
    data = bytearray(tensor.n_bytes)
    reader.read(tensor, 0, memoryview(data))
    reader.close()
    return np.frombuffer(data, "<u4" if tensor.dtype == "F32" else "<u2").reshape(tensor.shape)


@pytest.mark.parametrize("codec", ["exact", "raw"])
def test_golden_directory_opens_and_decodes_by_the_specification(codec):
    source = open_source(GOLDEN / "source")
    directory = open_directory(GOLDEN / codec)
    assert directory.codec == codec
    assert {(m.dtype, int(m.tiles.dtype[0])) for m in directory.matrices.values()} >= {
        ("bf16", 1),
        ("f16", 2),
        ("f32", 3),
    }
    for name, matrix in directory.matrices.items():
        np.testing.assert_array_equal(decode(matrix), source_bits(source.tensors[name]), err_msg=name)
    assert set(directory.tensors) == {"model.norm.weight"}
    np.testing.assert_array_equal(directory.tensor("model.norm.weight"), np.arange(5, dtype=np.float32))
    assert inspect_directory(GOLDEN / codec, verify=True).n_tiles > 5


@pytest.mark.parametrize("codec", ["exact", "raw"])
def test_packing_gives_the_golden_bytes(codec, tmp_path, tree):
    pack(GOLDEN / "source", tmp_path / "out", codec=codec)
    assert tree(tmp_path / "out") == tree(GOLDEN / codec)


def test_every_escape_kind_is_in_the_golden_directory():
    kinds = set()
    for matrix in open_directory(GOLDEN / "exact").matrices.values():
        data = matrix.shard.read_bytes()[matrix.base_offset :]
        for row in matrix.index.tolist():
            if row[4] & 255:
                n_panels = -(-(row[5] >> 32) // 64)
                table = np.frombuffer(data, "<u4", 4 * n_panels, row[0]).reshape(-1, 4)
                kinds |= {("far", row[4] >> 8 & 255)} if table[:, 1].any() else set()
                kinds |= {("near", row[4] >> 8 & 255)} if table[:, 2].any() else set()
    assert kinds == {(kind, dtype) for kind in ("near", "far") for dtype in (1, 2, 3)}


def test_worked_example_of_the_specification():
    text = (REPOSITORY / "csrc" / "c3" / "FORMAT.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"```(weights|prefix|residual|index)\n(.*?)```", text, re.DOTALL))
    weights = np.array([int(word, 16) for word in parts["weights"].split()], dtype="<u2")
    pool = _native.Pool(1, _native.simd_levels()[0])
    ((prefix, residual, codec, dtype),) = _native.encode_tiles(pool, weights.view(np.uint8), 1, 8, 1, 1, [(0, 1, 0, 8)])
    for data, listing, n_bytes in ((prefix, parts["prefix"], 388), (residual, parts["residual"], 386)):
        expected = bytearray(n_bytes)
        for line in listing.splitlines():
            offset, *values = (int(word, 16) for word in line.split())
            expected[offset : offset + len(values)] = bytes(values)
        assert data == bytes(expected)
    crcs = _native.crc32c(prefix) | _native.crc32c(residual) << 32
    row = [0, 4096, 388 | 386 << 32, crcs, codec | dtype << 8 | 1 << 16, 1 << 32, 8 << 32, 0]
    assert [int(word, 16) for word in parts["index"].split()] == row
    np.testing.assert_array_equal(decode_exact(1, 1, 8, prefix, residual)[0], weights)
