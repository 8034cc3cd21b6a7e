"""tile_decode: the bit patterns of a tile, equal to every other backend's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from vortex_engine.kernels.decode_block import decode_block, lane_rows
from vortex_engine.kernels.launch import check_device, launch
from vortex_engine.kernels.tiles import F32, N_FIELDS, DeviceTile, EncodedTile, make_strips, upload_tiles

__all__ = ["decode_bytes", "tile_decode", "tile_decode_kernel"]

_BLOCKS_A_PROGRAM = 8


@triton.jit
def tile_decode_kernel(
    p_arena,
    p_strips,
    p_starts,
    p_out,
    n_rows,
    n_cols,
    CODEC: tl.constexpr,
    DTYPE: tl.constexpr,
    FIELDS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    i_panel = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCKS
    last = tl.minimum(first + BLOCKS, tl.cdiv(n_cols, 8))
    o_row = i_panel * 64 + lane_rows()
    p_strip = p_strips + i_panel * FIELDS
    for i_block in range(first, last):
        b_pattern = decode_block(p_arena, p_starts, p_strip, i_block, n_cols, CODEC, DTYPE)
        o_column = i_block * 8 + tl.arange(0, 8)
        m_out = (o_column < n_cols)[:, None] & (o_row < n_rows)[None, :]
        p_weight = p_out + o_row[None, :] * n_cols + o_column[:, None]
        tl.store(p_weight, b_pattern.to(p_out.dtype.element_ty), mask=m_out)


def tile_decode(arena: Tensor, tile: DeviceTile, out: Tensor | None = None) -> Tensor:
    """Bit patterns of a tile in device memory.

    Args:
        arena: uint8 [n_bytes], on the device, contiguous.
        out: [n_rows, n_cols] int16 (bf16, fp16) or int32 (fp32), contiguous, on the arena's device; None makes one.

    Returns:
        `out`; one program decodes 8 blocks (64 columns) of one panel.

    Raises:
        ValueError: a size, dtype or device is wrong, or the bytes do not have the structure they promise.
    """
    check_device("tile_decode", "the arena", arena)
    strips = make_strips("tile_decode", arena, [tile])
    item = torch.int32 if tile.dtype == F32 else torch.int16
    if out is None:
        out = torch.empty((tile.n_rows, tile.n_cols), dtype=item, device=arena.device)
    fits = out.shape == (tile.n_rows, tile.n_cols) and out.dtype == item and out.device == arena.device
    if not fits or not out.is_contiguous():
        got = f"{out.dtype} of shape {tuple(out.shape)} on {out.device}"
        raise ValueError(f"[tile_decode] out must be contiguous {item} [{tile.n_rows}, {tile.n_cols}], got {got}")
    grid = (tile.n_panels, -(-tile.n_blocks // _BLOCKS_A_PROGRAM), 1)
    launch(
        "tile_decode",
        tile_decode_kernel,
        grid,
        arena,
        strips.table,
        strips.starts,
        out,
        tile.n_rows,
        tile.n_cols,
        CODEC=tile.codec,
        DTYPE=tile.dtype,
        FIELDS=N_FIELDS,
        BLOCKS=_BLOCKS_A_PROGRAM,
    )
    return out


def decode_bytes(codec: int, dtype: int, n_rows: int, n_cols: int, prefix: bytes, residual: bytes) -> NDArray[Any]:
    """The op's own contract: bytes in, patterns [n_rows, n_cols] out as uint16 or uint32, through device memory."""
    arena, (tile,) = upload_tiles([EncodedTile(codec, dtype, 0, n_rows, 0, n_cols, prefix, residual)])
    patterns = tile_decode(arena, tile).cpu().numpy()
    return patterns.view(np.uint32 if dtype == F32 else np.uint16)
