"""Bytes that the policies read on recorded patterns of access, beside Belady's, at 25, 50, 75 and 90 % of the weights.

Four patterns over 2048 small tiles, recorded from seeded generators: a dense sweep; a mixture that uses 8 of 64 experts
in each layer, most of them those of the token before; an early exit that mostly leaves after half of the layers; and a
smaller and a larger model that take turns of several tokens. The native pager serves each of them from a file, in a RAM
file system where there is one, since bytes are counted and not timed: those it read a token in the second half of the
trace. `stable` must read little more than Belady's policy on the sweep, where `lru` reads everything, and little more
than `lru` where that is right: where it reads less than a subset of the weights that never changes would.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure
from benchmarks.c3.setting import Setting
from benchmarks.machine import print_table
from benchmarks.make_model import to_bf16
from vortex_engine import _native
from vortex_engine.c3.directory import C3Directory, open_directory
from vortex_engine.c3.pack import pack

FRACTIONS = (0.25, 0.5, 0.75, 0.9)
POLICIES = ("stable", "lru")
_N_LAYERS, _N_EXPERTS, _N_ACTIVE = 32, 64, 8
_RAM_DISK = Path("/dev/shm")
_WIDTH = 64  # of every matrix [64, 64]: one tile
_KEPT_SHARE = 0.6  # of the experts of a token, used by the next one too
_EXIT_SHARE = 0.8  # of the tokens that leave after half of the layers
_SMALLER_LAYERS = 12  # of the smaller one of two models
_TURN_TOKENS = 8  # of one model before the other one runs

Token = list[list[int]]  # the tiles of each step, which are multiplied in one call


@dataclass(frozen=True)
class Trace:
    """A recorded pattern: `tokens`, of which the first half only fills the budget."""

    name: str
    tokens: list[Token]

    @property
    def n_measured(self) -> int:
        """Tokens whose bytes count."""
        return len(self.tokens) - len(self.tokens) // 2


def record_traces(n_tokens: int, seed: int = 0) -> list[Trace]:
    """The four patterns over matrices `layer * 64 + expert`; tokens longer than the experts' are fewer."""
    generator = np.random.default_rng(seed)
    layers = [list(range(layer * _N_EXPERTS, (layer + 1) * _N_EXPERTS)) for layer in range(_N_LAYERS)]
    half = _N_LAYERS // 2
    n_long = max(4, n_tokens // 8)
    exits = generator.random(n_long) < _EXIT_SHARE
    models = layers[:_SMALLER_LAYERS], layers[_SMALLER_LAYERS:]
    turns = [models[token // _TURN_TOKENS % 2] for token in range(2 * n_long)]
    return [
        Trace("dense sweep", [layers] * n_long),
        Trace("8 of 64 experts", list(_expert_tokens(n_tokens, generator))),
        Trace("early exit", [layers[:half] if leaves else layers for leaves in exits]),
        Trace("two models", turns),
    ]


def _expert_tokens(n_tokens: int, generator: np.random.Generator) -> Iterable[Token]:
    active = [generator.choice(_N_EXPERTS, _N_ACTIVE, replace=False) for _ in range(_N_LAYERS)]
    n_kept = round(_KEPT_SHARE * _N_ACTIVE)
    for _ in range(n_tokens):
        token: Token = []
        for layer in range(_N_LAYERS):
            kept = generator.choice(active[layer], n_kept, replace=False)
            others = np.setdiff1d(np.arange(_N_EXPERTS), kept)
            active[layer] = np.concatenate([kept, generator.choice(others, _N_ACTIVE - n_kept, replace=False)])
            token.append(sorted(layer * _N_EXPERTS + int(expert) for expert in active[layer]))
        yield token


def belady_bytes(trace: Trace, tile_bytes: Sequence[int], budget_bytes: int) -> int:
    """Bytes read in the measured half under Belady's policy: evict the tile whose next use is farthest.

    Source: L. A. Belady, IBM Systems Journal 5(2), 1966, algorithm MIN.
    """
    uses = [tile for token in trace.tokens for step in token for tile in step]
    first = sum(len(step) for token in trace.tokens[: len(trace.tokens) // 2] for step in token)
    never = len(uses)
    next_use = [never] * len(uses)
    later: dict[int, int] = {}
    for at in range(len(uses) - 1, -1, -1):
        next_use[at] = later.get(uses[at], never)
        later[uses[at]] = at
    held: dict[int, int] = {}  # tile -> its next use
    farthest: list[tuple[int, int]] = []  # (-next use, tile), some out of date
    held_bytes = n_read = 0
    for at, tile in enumerate(uses):
        if tile not in held:
            n_read += tile_bytes[tile] if at >= first else 0
            held_bytes += tile_bytes[tile]
        held[tile] = next_use[at]
        heapq.heappush(farthest, (-next_use[at], tile))
        while held_bytes > budget_bytes:
            use, victim = heapq.heappop(farthest)
            if held.get(victim) == -use:
                del held[victim]
                held_bytes -= tile_bytes[victim]
    return n_read


def make_layers(folder: Path) -> Path:
    """A packed model of `_N_LAYERS * _N_EXPERTS` matrices of one tile each, in a new folder."""
    source, target = folder / "traces", folder / "traces.c3"
    source.mkdir()
    generator = np.random.default_rng(0)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    size = 2 * _WIDTH * _WIDTH
    n_matrices = _N_LAYERS * _N_EXPERTS
    for i in range(n_matrices):
        span = [i * size, (i + 1) * size]
        header[f"experts.{i:04d}.weight"] = {"dtype": "BF16", "shape": [_WIDTH, _WIDTH], "data_offsets": span}
    text = json.dumps(header).encode()
    weights = to_bf16(generator.standard_normal(n_matrices * _WIDTH * _WIDTH, dtype=np.float32))
    (source / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + weights.tobytes())
    (source / "config.json").write_text(json.dumps({"model_type": "traces"}))
    pack(source, target)
    return target


def bytes_read(directory: C3Directory, trace: Trace, policy: str, budget_bytes: int) -> dict[str, Any]:
    """Serve the trace from the file; the pager's counters of the measured half, and `checksum` of all products."""
    pager = _native.Pager(budget_bytes, policy)
    pool = _native.Pool(1, _native.simd_levels()[0])
    files = {shard: pager.add_file(str(shard)) for shard in {matrix.shard for matrix in directory.matrices.values()}}
    handles = [
        pager.add_matrix(name, files[matrix.shard], matrix.base_offset, matrix.index)
        for name, matrix in sorted(directory.matrices.items())
    ]
    pager.start(handles)
    x: NDArray[np.float32] = np.ones((1, _WIDTH), np.float32)
    checksum = 0
    try:
        for number, token in enumerate(trace.tokens):
            if number == len(trace.tokens) // 2:
                pager.reset_counters()
            for step in token:
                for out in _native.paged_linear(pool, pager, [handles[i] for i in step], x, [None] * len(step)):
                    checksum = _native.crc32c(out.tobytes(), checksum)
        return {**pager.counters(), "checksum": checksum}
    finally:
        pager.close()


def compare(
    directory: C3Directory, traces: Sequence[Trace], fractions: Sequence[float], policies: Sequence[str] = POLICIES
) -> list[dict[str, Any]]:
    """Bytes a token of the policies, Belady's and a subset that never changes (`fixed`), an entry a trace and budget.

    Raises:
        AssertionError: the products differ between policies or budgets.
    """
    tiles = [int(sum(matrix.tiles.stored_bytes)) for _, matrix in sorted(directory.matrices.items())]
    entries: list[dict[str, Any]] = []
    for trace in traces:
        checksums: set[int] = set()
        for fraction in fractions:
            budget = int(sum(tiles) * fraction)
            entry: dict[str, Any] = {"trace": trace.name, "fraction": fraction, "budget_bytes": budget}
            for policy in policies:
                counters = bytes_read(directory, trace, policy, budget)
                checksums.add(counters["checksum"])
                assert counters["peak_bytes"] <= budget
                entry[policy] = counters["bytes_compressed_read"] / trace.n_measured
            used = sum(tiles[tile] for token in trace.tokens[-trace.n_measured :] for step in token for tile in step)
            entry["fixed"] = used * (1 - fraction) / trace.n_measured
            entry["belady"] = belady_bytes(trace, tiles, budget) / trace.n_measured
            entries.append(entry)
        assert len(checksums) == 1
    return entries


def measure(setting: Setting) -> Figure:
    """Every trace at every budget."""
    figure = Figure()
    with tempfile.TemporaryDirectory(dir=_RAM_DISK if _RAM_DISK.is_dir() else setting.work) as folder:
        directory = open_directory(make_layers(Path(folder)))
        figure.entries = compare(directory, record_traces(64 if setting.quick else 256), FRACTIONS)
    for entry in figure.entries:
        at = f"{entry['trace']}, budget {entry['fraction']:.0%}"
        if entry["trace"] == "dense sweep":
            figure.claim(f"bytes a token, {at}", entry["stable"] / entry["belady"], "<=", 1.02, peer="Belady")
        if entry["lru"] < entry["fixed"]:
            figure.claim(f"bytes a token, {at}", entry["stable"] / entry["lru"], "<=", 1.02, peer="policy lru")
    readers = (*POLICIES, "fixed", "belady")
    print_table(
        ("trace", "budget", *(f"{reader} MB a token" for reader in readers), "stable over lru", "over Belady"),
        [
            [
                entry["trace"],
                f"{entry['fraction']:.0%}",
                *(f"{entry[reader] / 1e6:.3f}" for reader in readers),
                f"{entry['stable'] / entry['lru']:.3f}",
                f"{entry['stable'] / entry['belady']:.3f}",
            ]
            for entry in figure.entries
        ],
    )
    return figure
