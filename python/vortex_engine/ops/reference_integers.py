"""`int8` and `int4` tiles in numpy, as plain as csrc/c3/FORMAT.md says it, and the activations that meet them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["INTEGER_CODECS", "decode_integers", "round_activations"]

_INT8, _INT4, _F32 = 2, 3, 3
INTEGER_CODECS = (_INT8, _INT4)
_PANEL_ROWS, _GROUP_COLS = 64, 32


def decode_integers(
    codec: int, dtype: int, n_rows: int, n_cols: int, prefix: bytes, residual: bytes
) -> NDArray[np.uint32]:
    """fp32 bit patterns [n_rows, n_cols] of an int8 (2) or int4 (3) tile: unit * scale byte * (u - zero).

    Raises:
        ValueError: the bytes do not have the structure that codec, dtype and shape promise.
    """
    bits = 4 if codec == _INT4 else 8
    per_lane = 32 // bits
    panels, groups = -(-n_rows // _PANEL_ROWS), -(-n_cols // _GROUP_COLS)
    n_parameters = 2 if bits == 4 else 1
    group_bytes = 64 * n_parameters + 64 * _GROUP_COLS * bits // 8
    if dtype != _F32 or residual or len(prefix) != panels * (256 + groups * group_bytes):
        raise ValueError(f"[tile_decode] an int{bits} tile of {n_rows} x {n_cols} decodes to f32 and has no residual")
    data = np.frombuffer(prefix, np.uint8).reshape(panels, -1)
    units = np.ascontiguousarray(data[:, :256]).view("<f4")  # [panel, row]
    if not (np.isfinite(units) & (units >= 0)).all():
        raise ValueError("[tile_decode] a row unit is not valid")
    body = data[:, 256:].reshape(panels, groups, group_bytes)
    scales = units[:, None] * body[:, :, :64].astype(np.float32)  # [panel, group, row]
    zeros: Any = np.float32(128)
    if bits == 4:
        zeros = (body[:, :, 64:128].astype(np.float32) / np.float32(16))[..., None, :]
    words = np.ascontiguousarray(body[:, :, 64 * n_parameters :]).view("<u4").reshape(panels, groups, -1, _PANEL_ROWS)
    shifts = bits * np.arange(per_lane, dtype=np.uint32)
    u = words[:, :, :, None, :] >> shifts[:, None] & np.uint32((1 << bits) - 1)
    u = u.reshape(panels, groups, _GROUP_COLS, _PANEL_ROWS).astype(np.float32)
    weights = scales[:, :, None, :] * (u - zeros)  # [panel, group, column, row]
    rows = weights.transpose(0, 3, 1, 2).reshape(panels * _PANEL_ROWS, groups * _GROUP_COLS)
    return np.ascontiguousarray(rows[:n_rows, :n_cols]).view(np.uint32)


def round_activations(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Activations in 8 bits: x [M, K] is values * scales for groups of 32 columns, the last one filled up with zeros.

    Every step is one fp32 operation, so all backends round alike. With a the largest |x| of a group, its scale is
    a / 127 and its values x * (127 / a) rounded to the nearest integer, ties to even. Groups with a < 2^-100 are zeros;
    the scale of one that is not finite is NaN.

    Returns:
        values: [M, G, 32] int8 from -127 to 127; scales: [M, G] float32.
    """
    rows, cols = x.shape
    n_groups = -(-cols // _GROUP_COLS)
    groups = np.zeros((rows, n_groups * _GROUP_COLS), np.float32)
    groups[:, :cols] = x
    groups = groups.reshape(rows, n_groups, _GROUP_COLS)
    largest = np.abs(groups).max(axis=2)  # NaN where there is one
    finite = np.isfinite(largest)
    counts = finite & (largest >= np.float32(2.0**-100))
    divisors = np.where(counts, largest, np.float32(127))
    rounded = np.rint(np.where(counts[..., None], groups, np.float32(0)) * (np.float32(127) / divisors)[..., None])
    scales = np.where(counts, divisors / np.float32(127), np.where(finite, np.float32(0), np.float32(np.nan)))
    return rounded.astype(np.int8), scales
