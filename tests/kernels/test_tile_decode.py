"""Triton's tile_decode against the patterns that were encoded and against the native decoder, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from vortex_engine.kernels import support

from vortex_engine import _native, ops

if reason := support.reason_against():
    pytest.skip(reason, allow_module_level=True)

import torch
from vortex_engine.kernels.tile_decode import tile_decode

decode_bytes = ops.select("tile_decode", "triton").bind(None)
RAW, EXACT, INT8, INT4 = 0, 1, 2, 3


@pytest.mark.parametrize("dtype", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *[(name, EXACT) for name in ("gaussian", "every_exponent", "many_near", "upcast", "zero")],
        *[(name, RAW) for name in ("every_exponent", "odd", "one")],
    ],
)
def test_bits_equal_the_source_and_the_native_decoder(encode, patterns, name, codec, dtype):
    source = patterns(name, dtype)
    (tile,) = encode(source, dtype, codec)
    # Exact is not smaller for a tile of few weights, nor for fp16 with a block full of escapes.
    if name in ("gaussian", "every_exponent") or (name == "many_near" and dtype != 2):
        assert tile.codec == codec
    arguments = (tile.codec, tile.dtype, *source.shape, tile.prefix, tile.residual)
    decoded = decode_bytes(*arguments)
    native = _native.decode_tile(*arguments)
    assert decoded.dtype == native.dtype
    np.testing.assert_array_equal(decoded, native)
    wide = decoded.astype(np.uint32) << np.uint32(16) if tile.dtype != dtype else decoded
    np.testing.assert_array_equal(wide, source)


@pytest.mark.parametrize("codec", [RAW, EXACT])
def test_writes_every_element_and_nothing_else(encode, place, patterns, codec):
    source = patterns("gaussian", 1)
    arena, (tile,) = place(encode(source, 1, codec))
    memory = torch.full((source.size + 512,), -1, dtype=torch.int16, device=arena.device)
    out = memory[256:-256].view(source.shape)
    assert tile_decode(arena, tile, out) is out
    np.testing.assert_array_equal(out.cpu().numpy().view(np.uint16), source)
    assert (memory[:256] == -1).all() and (memory[-256:] == -1).all()


@pytest.mark.parametrize("codec", [INT8, INT4])
@pytest.mark.parametrize(
    ("name", "dtype"), [("gaussian", 1), ("gaussian", 2), ("gaussian", 3), ("odd", 1), ("zero", 1)]
)
def test_integer_tiles_equal_the_native_decoder(encode, patterns, name, dtype, codec):
    source = patterns(name, dtype)
    if name == "odd":
        source = np.where(source & 0x7F80 == 0x7F80, 0, source).astype(np.uint16)  # finite, else it is stored raw
    (tile,) = encode(source, dtype, codec)
    assert (tile.codec, tile.dtype) == (codec, 3)
    arguments = (tile.codec, tile.dtype, *source.shape, tile.prefix, tile.residual)
    np.testing.assert_array_equal(decode_bytes(*arguments), _native.decode_tile(*arguments))


def test_broken_integer_tiles_are_refused(encode, patterns):
    (tile,) = encode(patterns("gaussian", 1), 1, INT8)
    for unit in (np.float32(-1.0), np.float32(np.nan)):
        prefix = tile.prefix[:4] + unit.tobytes() + tile.prefix[8:]
        with pytest.raises(ValueError, match=r"\[tile_decode\] row units must be finite and not negative"):
            decode_bytes(INT8, 3, 70, 37, prefix, b"")
    with pytest.raises(ValueError, match=r"\[tile_decode\] an integer tile must decode to f32"):
        decode_bytes(INT8, 1, 70, 37, tile.prefix, b"")
    with pytest.raises(ValueError, match=r"\[tile_decode\] ranges must hold"):
        decode_bytes(INT4, 3, 70, 37, tile.prefix, b"")


def test_changed_bytes_are_refused_or_decoded_like_the_native_decoder(encode, patterns):
    source = patterns("gaussian", 1)[:64, :16].copy()
    source[::7, ::5] ^= 0x3000
    (tile,) = encode(source, 1, EXACT)
    assert tile.codec == EXACT
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(40):
        parts = [bytearray(tile.prefix), bytearray(tile.residual)]
        part = parts[rng.integers(2)]
        at = int(rng.integers(16) if rng.random() < 0.3 else len(part) - 1 - rng.integers(len(part) // 8))
        part[at] ^= int(rng.integers(1, 256))
        arguments = (EXACT, 1, 64, 16, bytes(parts[0]), bytes(parts[1]))
        native = _outcome(_native.decode_tile, arguments)
        ours = _outcome(decode_bytes, arguments)
        if isinstance(ours, str) and "repeat" in ours:
            continue  # only a GPU minds it
        assert isinstance(ours, str) == isinstance(native, str), (ours, native)
        if not isinstance(ours, str):
            np.testing.assert_array_equal(ours, native)
        outcomes.add(isinstance(ours, str))
    assert outcomes == {True, False}


def _outcome(decode, arguments) -> np.ndarray | str:
    try:
        return decode(*arguments)
    except ValueError as error:
        return str(error)


def test_a_repeated_escape_is_refused(encode, patterns):
    (tile,) = encode(patterns("gaussian", 1), 1, EXACT)
    first = len(tile.residual) - 2 * sum(np.frombuffer(tile.prefix, "<u4", 8)[2::4])
    residual = bytearray(tile.residual)
    residual[first + 2 : first + 4] = residual[first : first + 2]
    with pytest.raises(ValueError, match=r"\[tile_decode\] near escapes must not repeat a position, got \d+"):
        decode_bytes(EXACT, 1, 70, 37, tile.prefix, bytes(residual))


def test_bad_arguments_are_named(encode, place, patterns):
    arena, (tile,) = place(encode(patterns("gaussian", 1), 1, EXACT))
    cases = [
        (arena, replace(tile, codec=99), r"\[tile_decode\] codec .*got 99"),
        (arena, replace(tile, dtype=0), r"\[tile_decode\] dtype .*got 0"),
        (arena, replace(tile, n_rows=0), r"\[tile_decode\] the shape .*got \(0, 37\)"),
        (arena, replace(tile, prefix_offset=tile.prefix_offset + 1), r"\[tile_decode\] a range .*multiple of 16"),
        (arena, replace(tile, residual_offset=1 << 40), r"\[tile_decode\] a range must lie in the arena"),
        (arena, replace(tile, n_rows=129), r"\[tile_decode\] ranges must hold"),
        (arena, replace(tile, residual_bytes=tile.residual_bytes - 1), r"\[tile_decode\] ranges must hold"),
        (arena.view(torch.int8), tile, r"\[tile_decode\] the arena must be a contiguous uint8"),
        (arena.to("meta"), tile, r"\[tile_decode\] the arena must be on a (cpu|cuda) device, got meta"),
    ]
    for bad_arena, bad_tile, message in cases:
        with pytest.raises(ValueError, match=message):
            tile_decode(bad_arena, bad_tile)
    with pytest.raises(
        ValueError, match=r"\[tile_decode\] out must be .*\[70, 37\], got torch.int16 of shape \(37, 70\)"
    ):
        tile_decode(arena, tile, torch.empty((37, 70), dtype=torch.int16, device=arena.device))
