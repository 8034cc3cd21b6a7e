"""Where a panel's 64 rows lie in the vectors of `exact` and `exact12` tiles (csrc/c3/FORMAT.md section 5)."""

from __future__ import annotations

import numpy as np

__all__ = ["BYTE_OF_ROW", "ROW_OF_BYTE"]

_ROWS = np.arange(64)
# Row = 16v+4i+t is at byte 16i + 8*(v/2) + 2t + (v%2).
BYTE_OF_ROW = 16 * (_ROWS // 4 % 4) + 8 * (_ROWS // 32) + 2 * (_ROWS % 4) + _ROWS // 16 % 2
ROW_OF_BYTE = np.argsort(BYTE_OF_ROW)
