"""Reads the slab of the next tile group while the one before is encoded; two buffers, whatever the model's size."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from vortex_engine.c3.geometry import Group
from vortex_engine.c3.layout import ITEM_BYTES
from vortex_engine.c3.plan import matrix_dtype
from vortex_engine.c3.source import SourceReader, SourceTensor


def read_slabs(
    reader: SourceReader, work: Iterable[tuple[SourceTensor, Group]]
) -> Generator[tuple[Group, npt.NDArray[np.uint8]]]:
    """The row-major bytes of each group's rectangle, valid until the next one is asked for."""
    buffers = [np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)]
    pending: Future[npt.NDArray[np.uint8]] | None = None
    pending_group: Group | None = None
    with ThreadPoolExecutor(1, "vortex-read") as executor:
        for number, (tensor, group) in enumerate(work):
            following = executor.submit(read_slab, reader, tensor, group, buffers, number % 2)
            if pending is not None and pending_group is not None:
                yield pending_group, pending.result()
            pending, pending_group = following, group
        if pending is not None and pending_group is not None:
            yield pending_group, pending.result()


def read_slab(
    reader: SourceReader, tensor: SourceTensor, group: Group, buffers: list[npt.NDArray[np.uint8]], which: int
) -> npt.NDArray[np.uint8]:
    """The row-major bytes of one group's rectangle, in `buffers[which]`, which grows as needed."""
    item_bytes = ITEM_BYTES[matrix_dtype(tensor)]
    row_bytes = tensor.shape[1] * item_bytes
    slab_row_bytes = group.n_cols * item_bytes
    n_bytes = group.n_rows * slab_row_bytes
    if len(buffers[which]) < n_bytes:
        buffers[which] = np.empty(n_bytes, dtype=np.uint8)
    slab = buffers[which][:n_bytes]
    view = slab.data
    start = group.row0 * row_bytes + group.col0 * item_bytes
    if slab_row_bytes == row_bytes:
        reader.read(tensor, start, view)
    else:
        for row in range(group.n_rows):
            end = (row + 1) * slab_row_bytes
            reader.read(tensor, start + row * row_bytes, view[end - slab_row_bytes : end])
    return slab
