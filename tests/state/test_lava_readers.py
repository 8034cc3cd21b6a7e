"""Readers beside a writer: every answer is that of the bank between two writes, and no reader changes the writer."""

from __future__ import annotations

import threading

import numpy as np

from vortex_engine.ops import lava_search, make_context
from vortex_engine.state import LavaBank

DIM, N, BLOCK = 8, 4096, 64


def test_readers_see_whole_writes() -> None:
    rng = np.random.default_rng(3)
    # Halves and quarters: fp16 holds them, and sums of their products are exact in any order.
    keys = rng.integers(-8, 9, (N, DIM)).astype(np.float32) / 4
    values = np.stack((np.arange(N), np.arange(N) // BLOCK), axis=1).astype(np.float32) / 4096
    queries = rng.integers(-8, 9, (7, DIM)).astype(np.float32) / 4
    ctx = make_context(threads=1)

    def filled(bank: LavaBank) -> LavaBank:
        for start in range(0, N, BLOCK):
            rows = slice(start, start + BLOCK)
            bank.insert(keys[rows], values[rows], np.arange(start, start + BLOCK))
        return bank

    alone = filled(LavaBank(ctx, DIM, 2, capacity=N, nlist=24))
    shared = LavaBank(ctx, DIM, 2, capacity=N, nlist=24)
    done, wrong, lengths = threading.Event(), list[str](), set[int]()

    def read() -> None:
        mine = make_context(threads=1)
        while not done.is_set():
            before = len(shared)
            ids, scores = lava_search(mine, shared, queries, 24, 40)
            after = len(shared)
            lengths.add(after)
            # All lists are probed: what comes back is the best of all slots there were, in whole blocks.
            n_found = int((ids[0] >= 0).sum())
            if n_found < min(40, before) or ids.max(initial=-1) >= after:
                wrong.append(f"{n_found} of {before} to {after} slots")
            for i, row in enumerate(ids):
                known = row >= 0
                if not np.array_equal(scores[i, known], keys[row[known]] @ queries[i]):
                    wrong.append(f"scores of query {i}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        filled(shared)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not wrong, wrong[:3]
    assert len(lengths) > 3  # they did read while it grew
    first, second = alone.export(), shared.export()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
