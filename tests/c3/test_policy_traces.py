"""Bytes that the policies read on recorded patterns of access: near Belady's on a sweep, never much more than LRU's."""

from __future__ import annotations

import itertools

import pytest
from benchmarks.c3.traces import Trace, belady_bytes, compare, make_layers, record_traces

from vortex_engine.c3.directory import C3Directory, open_directory


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> C3Directory:
    """2048 matrices of one tile each."""
    return open_directory(make_layers(tmp_path_factory.mktemp("traces")))


def trace_named(name: str, n_tokens: int) -> Trace:
    return next(trace for trace in record_traces(n_tokens) if trace.name == name)


@pytest.mark.parametrize("fraction", [0.25, 0.9])
def test_a_dense_sweep_reads_what_belady_would(layers: C3Directory, fraction: float) -> None:
    (entry,) = compare(layers, [trace_named("dense sweep", 48)], [fraction], ["stable"])
    assert entry["belady"] <= entry["stable"] <= 1.02 * entry["belady"]


@pytest.mark.parametrize(
    ("name", "n_tokens", "fraction"),
    [("8 of 64 experts", 128, 0.25), ("8 of 64 experts", 256, 0.75), ("two models", 256, 0.75)],
)
def test_stable_keeps_up_with_lru_where_lru_is_right(
    layers: C3Directory, name: str, n_tokens: int, fraction: float
) -> None:
    (entry,) = compare(layers, [trace_named(name, n_tokens)], [fraction])
    assert entry["belady"] <= entry["lru"]
    assert entry["stable"] <= 1.02 * entry["lru"]


def test_an_early_exit_keeps_the_layers_that_run(layers: C3Directory) -> None:
    trace = trace_named("early exit", 64)
    (entry,) = compare(layers, [trace], [0.5], ["stable"])
    sizes = [int(sum(matrix.tiles.stored_bytes)) for matrix in layers.matrices.values()]
    used = sum(len(step) for token in trace.tokens[-trace.n_measured :] for step in token) / trace.n_measured
    assert entry["stable"] < 0.75 * used * sizes[0] / 2  # a fixed half would miss half of what is used


def test_belady_reads_the_least_that_any_choice_can() -> None:
    uses = [0, 1, 2, 0, 3, 1, 0, 2, 3, 0, 1, 2]
    trace = Trace("uses", [*([list[int]()] for _ in uses), *([[tile]] for tile in uses)])
    for slots in (1, 2, 3):
        fewest = {frozenset[int](): 0}
        for tile in uses:
            step: dict[frozenset[int], int] = {}
            for held, n_read in fewest.items():
                after = held | {tile}
                for kept in itertools.combinations(after, min(slots, len(after))):
                    state = frozenset(kept)
                    step[state] = min(step.get(state, len(uses)), n_read + (tile not in held))
            fewest = step
        assert belady_bytes(trace, [4096] * 4, slots * 4096) == 4096 * min(fewest.values())
