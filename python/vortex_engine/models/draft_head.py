"""Whether drafts read the head whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory

__all__ = ["drafts_with_whole_head"]

_MAX_HEAD_SHARE = 1 / 2  # of the bytes that a draft reads: what it may read of the head besides


def drafts_with_whole_head(directory: C3Directory, head: str) -> bool:
    """Whether drafts of prefix planes use the whole head: errors of its weights fall on the logits themselves, where
    those of a layer average out, but it must not make a draft much more expensive."""
    drafted = sum(int(matrix.tiles.prefix_bytes.sum()) for matrix in directory.matrices.values())
    return 0 < int(directory.matrices[head].tiles.residual_bytes.sum()) <= drafted * _MAX_HEAD_SHARE
