"""A saved bank: the same bank when it is loaded, or a typed error; never a crash, never another bank."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from vortex_engine import _native, ops
from vortex_engine.errors import MachineError, StateFileError
from vortex_engine.state import LavaBank

F32 = np.float32
CTX = ops.make_context(threads=1, backend="cpu")


def grown(contents: str = "fp16", n: int = 600) -> LavaBank:
    bank = LavaBank(CTX, 6, 3, capacity=500, nlist=12, contents=contents)
    rng = np.random.default_rng(0)
    ids = bank.insert(rng.standard_normal((n, 6)).astype(F32), rng.standard_normal((n, 3)).astype(F32), np.arange(n))
    bank.remove(ids[-40:])
    return bank


def same(a: LavaBank, b: LavaBank) -> bool:
    one, other = a.native.state(), b.native.state()
    return all(one[name].tobytes() == other[name].tobytes() for name in one) and a._options() == b._options()


def go_on(bank: LavaBank) -> None:
    rng = np.random.default_rng(1)
    for i in range(20):
        bank.insert(rng.standard_normal((30, 6)).astype(F32) + i / 4, np.ones((30, 3), F32), np.arange(30) + 1000 * i)
    bank.remove(bank.export()["ids"][::7])


@pytest.mark.parametrize("contents", ["fp16", "int8", "2bit"])
def test_a_loaded_bank_goes_on_as_the_saved_one(tmp_path: Path, contents: str):
    bank = grown(contents)
    bank.save(tmp_path / "bank.safetensors")
    loaded = LavaBank.load(CTX, tmp_path / "bank.safetensors", dim=6, value_dim=3)
    assert same(bank, loaded)
    q = np.random.default_rng(2).standard_normal((5, 6)).astype(F32)
    for one, other in zip(bank.search(q, 3, 9), loaded.search(q, 3, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(bank.read(q, 2.0, 3, 9), loaded.read(q, 2.0, 3, 9))
    go_on(bank)
    go_on(loaded)
    assert same(bank, loaded) and bank.stats()["splits"] == loaded.stats()["splits"] > 0


def test_an_empty_bank_is_saved_and_loaded(tmp_path: Path):
    bank = LavaBank(CTX, 6, 3, capacity=500, nlist=12, half_life=float("inf"))
    bank.save(tmp_path / "empty")
    loaded = LavaBank.load(CTX, tmp_path / "empty")
    assert len(loaded) == 0 and same(bank, loaded) and loaded.half_life == float("inf")


def test_saving_replaces_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "bank"
    grown(n=100).save(path)
    old = path.read_bytes()
    os.symlink("/nowhere/file", tmp_path / "loop")
    grown().save(path)
    assert path.read_bytes() != old and sorted(p.name for p in tmp_path.iterdir()) == ["bank", "loop"]
    with pytest.raises(MachineError, match="cannot write"):
        grown().save(tmp_path / "no" / "such" / "folder")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(StateFileError, match=r"there is no file .*nothing"):
        LavaBank.load(CTX, tmp_path / "nothing")


def test_another_width_is_refused(tmp_path: Path):
    grown().save(tmp_path / "bank")
    with pytest.raises(StateFileError, match="must have dim 8, got 6"):
        LavaBank.load(CTX, tmp_path / "bank", dim=8)
    with pytest.raises(StateFileError, match="must have value_dim 6, got 3"):
        LavaBank.load(CTX, tmp_path / "bank", dim=6, value_dim=6)


def test_every_damaged_byte_is_refused_or_harmless(tmp_path: Path):
    bank = grown(n=90)
    path = tmp_path / "bank"
    bank.save(path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(3)
    for at in [*range(0, header, 3), *rng.integers(header, len(whole), 150).tolist()]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = LavaBank.load(CTX, path)
        except StateFileError:
            continue
        assert at < header and same(bank, loaded)
    for length in [*range(0, header, 97), *rng.integers(header, len(whole), 30).tolist()]:
        path.write_bytes(whole[:length])
        with pytest.raises(StateFileError):
            LavaBank.load(CTX, path)


def rewritten(path: Path, arrays: dict[str, Any], change: dict[str, Any]) -> None:
    """A file whose checksum is right, whatever is in it."""
    text = path.read_bytes()
    metadata = json.loads(text[8 : 8 + struct.unpack("<Q", text[:8])[0]])["__metadata__"]
    bank = json.loads(metadata["about"])
    for key, value in change.items():
        (bank if key in bank else bank["options"])[key] = value
    bank["arrays"] = {name: [str(array.dtype), len(array)] for name, array in sorted(arrays.items())}
    metadata["about"] = json.dumps(bank, sort_keys=True)
    crc = _native.crc32c(metadata["about"].encode())
    for name in sorted(arrays):
        crc = _native.crc32c(arrays[name], crc)
    path.write_bytes(save(arrays, {**metadata, "crc32c": str(crc)}))


LIES: list[tuple[str, dict[str, Any], str]] = [
    ("number", {"number": 1}, "format number 1, this version reads 2"),
    ("dim", {"dim": 5}, "must have"),
    ("dim", {"dim": -1}, "dim must be"),
    ("capacity", {"capacity": 10}, "must fit its capacity 10"),
    ("nlist", {"nlist": 1}, "lists must be at most nlist 1"),
    ("contents", {"contents": "int8"}, "must have"),
    ("contents", {"contents": 8}, "contradicts itself"),
    ("half_life", {"half_life": -1.0}, "half_life must be above 0"),
]


@pytest.mark.parametrize(("name", "change", "message"), LIES)
def test_options_that_lie_are_refused(tmp_path: Path, name: str, change: dict[str, Any], message: str):
    path = tmp_path / "bank"
    grown().save(path)
    rewritten(path, load(path.read_bytes()), {})
    LavaBank.load(CTX, path)
    rewritten(path, load(path.read_bytes()), change)
    with pytest.raises(StateFileError, match=message):
        LavaBank.load(CTX, path)


SPOILED = [
    ("lists", 0, 99),
    ("lists", 0, -2),
    ("places", 0, 10**6),
    ("places", 0, -1),
    ("places", 1, "copy"),
    ("free_slots", 0, 3),
    ("free_slots", 0, -1),
    ("free_slots", 1, "copy"),
    ("positions", 0, -1),
    ("importance", 0, np.nan),
    ("key_scales", 0, np.inf),
    ("keys", 0, 0x7C00),
    ("values", 0, 0x7E00),
    ("centroids", 0, np.nan),
    ("key_sums", 0, np.inf),
    ("value_sums", 0, np.nan),
    ("key_radii", 0, -1.0),
    ("value_anchors", 0, np.inf),
    ("split_gains", 0, -1.0),
    ("merge_costs", 0, np.nan),
    ("merge_with", 0, 0),
    ("merge_with", 0, 10**6),
    ("merge_with", "all", -1),
    ("n_stirred", 0, -1),
    ("is_alive", "all", 0),
]


@pytest.mark.parametrize(("name", "at", "value"), SPOILED)
def test_arrays_that_no_bank_has_are_refused(tmp_path: Path, name: str, at: Any, value: Any):
    path = tmp_path / "bank"
    grown(n=450).save(path)
    arrays = load(path.read_bytes())
    array = arrays[name].copy()
    if at == "all":
        array[:] = value
    elif value == "copy":
        first = int(np.flatnonzero(arrays["lists"] == arrays["lists"][0])[1]) if name == "places" else 1
        array[first] = array[0]
    else:
        array[at] = value
    rewritten(path, {**arrays, name: array}, {})
    with pytest.raises(StateFileError, match="holds no bank"):
        LavaBank.load(CTX, path)
    rewritten(path, {**arrays, name: arrays[name][:-1]}, {})
    with pytest.raises(StateFileError):
        LavaBank.load(CTX, path)
    rewritten(path, {other: values for other, values in arrays.items() if other != name}, {})
    with pytest.raises(StateFileError, match=f"must have {name}"):
        LavaBank.load(CTX, path)


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "weights").write_bytes(save({"w": np.zeros(3, F32)}, {"format": "pt"}))
    with pytest.raises(StateFileError, match="must hold a lava_bank, got format 'pt'"):
        LavaBank.load(CTX, tmp_path / "weights")
    (tmp_path / "text").write_text("not a file of tensors at all")
    with pytest.raises(StateFileError, match="not a whole safetensors file"):
        LavaBank.load(CTX, tmp_path / "text")
