"""What a model remembers of one text in another: the same bits whatever it was written and read with, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.vortex_checkpoints import VARIANTS, VOCAB, write_vortex

import vortex_engine as vx
from vortex_engine.errors import MachineError, PromptError, StateFileError
from vortex_engine.state import LavaState
from vortex_engine.state.lava_file import read_memory

W = LavaState.WINDOW
MEMORIES = ("plain", "surprise")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models, packed with codec exact; read-only."""
    folder = tmp_path_factory.mktemp("memory")
    for name in MEMORIES:
        write_vortex(folder / name, **VARIANTS[name])
        vx.pack(folder / name, folder / f"{name}.c3")
    return {name: folder / f"{name}.c3" for name in MEMORIES}


def some_ids(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB - 1, n).tolist()


def outcome(model: vx.Model, memory: Path | None, **options: Any) -> tuple[int, ...]:
    """Tokens across a memory's event."""
    given: dict[str, Any] = {"max_new_tokens": 16, "temperature": 0.8, "ignore_eos": True, "speculate": "off"}
    return model.generate(some_ids(2 * W - 6, seed=1), memory=memory, **(given | options)).token_ids


@pytest.mark.parametrize("name", MEMORIES)
def test_a_file_has_the_same_bytes_however_it_was_written(packed: dict[str, Path], tmp_path: Path, name: str) -> None:
    text = some_ids(3 * W + 17)
    with vx.load(packed[name], threads=1, prefill_chunk=len(text)) as model:
        n_slots = model.memorize(text, tmp_path / "one")
        n_bytes = model.stats["total_bytes"]
    told: list[tuple[int, int]] = []
    with vx.load(packed[name], threads=3, ram_budget=int(0.6 * n_bytes), prefill_chunk=50) as model:
        found = model.memorize(text, tmp_path / "other", progress=lambda done, total: told.append((done, total)))
    assert found == n_slots
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert told[-1] == (len(text), len(text)) and len(told) == 5
    memory = read_memory(tmp_path / "one")
    assert memory.n_positions == len(text) and n_slots == sum(len(bank["positions"]) for _, bank in memory.banks) > 0


@pytest.mark.parametrize("name", MEMORIES)
def test_all_of_the_text_is_in_the_file(packed: dict[str, Path], tmp_path: Path, name: str) -> None:
    # Of 65 positions none has entered a bank while they were read: the end of the text puts them there.
    with vx.load(packed[name]) as model:
        n_slots = model.memorize(some_ids(W + 1), tmp_path / "memory")
    (_, first), *_ = read_memory(tmp_path / "memory").banks
    positions = np.sort(first["positions"])
    if name == "plain":
        assert n_slots == 2 * (W + 1) and positions.tolist() == list(range(W + 1))
    else:
        assert {0, 16, 32, 48, 64} <= set(positions.tolist())


@pytest.mark.parametrize("name", MEMORIES)
def test_a_text_begins_with_what_is_remembered(packed: dict[str, Path], tmp_path: Path, name: str) -> None:
    memory = tmp_path / "memory"
    with vx.load(packed[name], threads=1) as model:
        model.memorize(some_ids(2 * W), memory)
        plain, expected = outcome(model, None), outcome(model, memory)
        assert plain != expected
        assert outcome(model, memory) == expected and outcome(model, None) == plain
        n_bytes = model.stats["total_bytes"]
        for speculate in ("prefix", "ngram+prefix", "early_exit"):
            assert outcome(model, memory, speculate=speculate, block_size=4) == expected
    with vx.load(packed[name], threads=2, ram_budget=n_bytes // 2, prefill_chunk=9) as model:
        assert outcome(model, memory) == expected


def test_texts_are_added_to_a_memory(packed: dict[str, Path], tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    with vx.load(packed["plain"]) as model:
        model.memorize(some_ids(40, seed=2), memory)
        assert model.memorize(some_ids(30, seed=3), memory, memory=memory) == 2 * 70
    kept = read_memory(memory)
    assert kept.n_positions == 70
    assert all(np.sort(bank["positions"]).tolist() == list(range(70)) for _, bank in kept.banks)


def test_the_older_text_is_what_a_full_memory_gives_up(packed: dict[str, Path], tmp_path: Path) -> None:
    memory, capacity = tmp_path / "memory", 192
    with vx.load(packed["plain"]) as model:
        model.memorize(some_ids(capacity, seed=2), memory)
        model.memorize(some_ids(50, seed=3), memory, memory=memory)
    for _, bank in read_memory(memory).banks:
        assert np.sort(bank["positions"]).tolist() == list(range(50, capacity + 50))


def test_what_cannot_be_a_memory_is_refused(packed: dict[str, Path], tmp_path: Path) -> None:
    memory, other = tmp_path / "memory", tmp_path / "other"
    with vx.load("nano") as nano:
        with pytest.raises(ValueError, match="memory needs a model with LAVA layers"):
            nano.memorize("text", memory)
        with pytest.raises(ValueError, match="memory needs a model with LAVA layers"):
            nano.generate("text", memory=memory)
    assert not memory.exists()
    with vx.load(packed["surprise"]) as model:
        model.memorize(some_ids(40), other)
    with vx.load(packed["plain"]) as model:
        model.memorize(some_ids(40), memory)
        whole = memory.read_bytes()
        with pytest.raises(StateFileError, match="of another model"):
            outcome(model, other)
        with pytest.raises(StateFileError, match="of another model"):
            model.memorize(some_ids(40), memory, memory=other)
        with pytest.raises(StateFileError, match=r"there is no file .*missing"):
            outcome(model, tmp_path / "missing")
        with pytest.raises(MachineError, match="cannot write"):
            model.memorize(some_ids(40), tmp_path / "no" / "folder")
        with pytest.raises(PromptError, match="empty"):
            model.memorize("", memory)
        with pytest.raises(ValueError, match="memory must be the path"):
            outcome(model, 3)  # pyright: ignore[reportArgumentType]
        assert memory.read_bytes() == whole
        rng = np.random.default_rng(5)
        for at in rng.integers(0, len(whole), 60).tolist():
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(rng.integers(8))
            other.write_bytes(damaged)
            try:
                found = outcome(model, other, max_new_tokens=1)
            except StateFileError:
                continue
            assert found == outcome(model, memory, max_new_tokens=1)
        for length in rng.integers(0, len(whole), 20).tolist():
            other.write_bytes(whole[:length])
            with pytest.raises(StateFileError):
                outcome(model, other, max_new_tokens=1)
