"""`repair` restores every byte from the checkpoint, writes nothing else, and refuses a checkpoint that differs."""

import errno
import json
import os
import random
import shutil

import numpy as np
import pytest

from vortex_engine import _native
from vortex_engine.c3 import repair as repair_module
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.layout import CODEC_IDS
from vortex_engine.c3.pack import pack
from vortex_engine.c3.repair import repair
from vortex_engine.c3.survey import survey_directory
from vortex_engine.cli import main
from vortex_engine.errors import CorruptTileError, MachineError, ModelConfigError


@pytest.fixture
def source(write_source, small_model):
    rng = np.random.default_rng(8)
    # Split columns, upcast bf16, fp16, and an ordinary tensor of three dimensions.
    small_model["model.layers.0.mlp.up_proj.weight"] = (
        "F32",
        (rng.standard_normal((70, 300)).astype(np.float32).view(np.uint32) & 0xFFFF0000),
    )
    small_model["model.layers.1.mlp.up_proj.weight"] = (
        "F16",
        rng.standard_normal((70, 300)).astype(np.float16).view(np.uint16),
    )
    small_model["model.conv.weight"] = ("BF16", np.arange(60, dtype=np.uint16).reshape(3, 4, 5))
    return write_source(small_model)


@pytest.fixture(params=sorted(CODEC_IDS))
def codec(request):
    return request.param


@pytest.fixture
def packed(source, codec, tmp_path):
    pack(source, tmp_path / "out", codec=codec, max_shard_bytes=60_000)
    return tmp_path / "out"


@pytest.fixture
def packed_exact(source, tmp_path):
    pack(source, tmp_path / "out", max_shard_bytes=60_000)
    return tmp_path / "out"


def test_nothing_to_repair(packed_exact, source, tree):
    before = tree(packed_exact)
    report = repair(packed_exact, source)
    assert (report.repaired, report.unrepaired, report.written_bytes) == ((), (), 0)
    assert tree(packed_exact) == before


def test_any_damaged_tile_of_any_codec(packed, source, tree, flip, first_bytes):
    before = tree(packed)
    rng = random.Random(1)
    hit = []
    for matrix in open_directory(packed).matrices.values():
        tile = rng.randrange(matrix.n_tiles)
        flip(matrix.shard, first_bytes(matrix, tile))
        if matrix.tiles.residual_bytes[tile]:
            flip(matrix.shard, matrix.base_offset + int(matrix.tiles.residual_offset[tile]) + 7)
        hit.append((matrix.name, tile, int(matrix.tiles.prefix_bytes[tile] + matrix.tiles.residual_bytes[tile])))
    report = repair(packed, source, threads=2)
    assert report.unrepaired == ()
    assert [(d.part, d.tensor, d.tile) for d in report.repaired] == [("tile", name, tile) for name, tile, _ in hit]
    assert report.written_bytes == sum(n_bytes for *_, n_bytes in hit)
    assert tree(packed) == before


def test_whatever_is_lost_comes_back(packed, source, tree):
    """Each file in turn: gone, cut anywhere, longer, zeroed, or with a wrong byte."""
    before = tree(packed)
    rng = random.Random(2)
    for name, data in before.items():
        if name == "c3.json":
            continue
        at = rng.randrange(len(data))
        for changed in (None, data[:at], b"", data + b"more", bytes(len(data)), data[:at] + b"\x9d" + data[at + 1 :]):
            if changed is None:
                (packed / name).unlink()
            else:
                (packed / name).write_bytes(changed)
            was_damaged = survey_directory(packed).damage != ()
            report = repair(packed, source)
            assert report.unrepaired == (), (name, report.unrepaired)
            assert bool(report.repaired) == was_damaged
            after = tree(packed)
            if was_damaged:
                assert survey_directory(packed).damage == ()
            # Padding carries nothing, so nobody looks at it.
            if changed is None or changed == b"" or not name.endswith(".safetensors"):
                assert after == before
            (packed / name).write_bytes(data)


def test_everything_at_once(packed, source, tree):
    before = tree(packed)
    for name in before:
        if name != "c3.json":
            (packed / name).unlink()
    report = repair(packed, source)
    assert report.unrepaired == ()
    assert tree(packed) == before


def test_damage_elsewhere_and_padding_are_left_alone(packed_exact, source, flip, first_bytes):
    """The repair of one tile changes no byte outside it."""
    matrix = next(m for m in open_directory(packed_exact).matrices.values() if m.tiles.prefix_bytes[0] % 4096)
    padding = first_bytes(matrix, 0) + int(matrix.tiles.prefix_bytes[0])
    (packed_exact / "notes.txt").write_text("mine")
    flip(matrix.shard, padding)
    flip(matrix.shard, first_bytes(matrix, 0))
    expected = bytearray(matrix.shard.read_bytes())
    expected[first_bytes(matrix, 0)] ^= 16
    repair(packed_exact, source)
    assert matrix.shard.read_bytes() == bytes(expected)
    assert (packed_exact / "notes.txt").read_text() == "mine"


def test_another_checkpoint_is_refused_by_tensor(packed, source, tmp_path, tree, flip, first_bytes):
    other = tmp_path / "other"
    shutil.copytree(source, other)
    matrices = open_directory(packed).matrices
    matrix = matrices["model.layers.0.self_attn.q_proj.weight"]
    right = matrices["lm_head.weight"]
    data = bytearray((other / "model.safetensors").read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin = 8 + int.from_bytes(data[:8], "little") + header[matrix.name]["data_offsets"][0]
    data[begin + 1] ^= 0x43  # an exponent far from the one that was packed
    (other / "model.safetensors").write_bytes(bytes(data))
    (other / "tokenizer.json").write_text('{"version": "2.0"}')

    flip(matrix.shard, first_bytes(matrix, 0))
    flip(right.shard, first_bytes(right, 0))
    (packed / "tokenizer.json").write_text("{}")
    damaged = tree(packed)
    report = repair(packed, other)
    assert [d.tensor for d in report.repaired] == ["lm_head.weight"]
    why = {entry.damage.tensor or os.path.basename(entry.damage.file): entry.why for entry in report.unrepaired}
    assert set(why) == {matrix.name, "tokenizer.json"}
    assert matrix.name in why[matrix.name] and "tokenizer.json" in why["tokenizer.json"]
    after = tree(packed)
    assert after["tokenizer.json"] == damaged["tokenizer.json"]
    assert matrix.shard.read_bytes()[first_bytes(matrix, 0)] == damaged[matrix.shard.name][first_bytes(matrix, 0)]
    assert repair(packed, source).unrepaired == ()


def test_a_checkpoint_without_the_tensor(packed_exact, small_model, write_source, tree, flip):
    del small_model["model.norm.weight"]
    other = write_source(small_model, name="other")
    norm = open_directory(packed_exact).tensors["model.norm.weight"]
    flip(norm.shard, norm.offset)
    damaged = tree(packed_exact)
    (entry,) = repair(packed_exact, other).unrepaired
    assert entry.damage.tensor == "model.norm.weight" and "no tensor 'model.norm.weight'" in entry.why
    # A shard that is gone is not replaced by one of zeros.
    norm.shard.unlink()
    (entry,) = repair(packed_exact, other).unrepaired
    assert "model.norm.weight" in entry.why and not norm.shard.exists()
    assert {**tree(packed_exact), norm.shard.name: damaged[norm.shard.name]} == damaged


def test_a_header_that_the_checkpoint_does_not_give(packed_exact, small_model, source, write_source, tree, flip):
    """Same tensors, but one that is stored wider: the header would not be the sealed one."""
    name = "model.norm.weight"
    small_model[name] = ("F32", small_model[name][1].astype(np.uint32) << 16)
    other = write_source(small_model, name="other")
    shard = open_directory(packed_exact).tensors[name].shard
    flip(shard, 20)
    damaged = tree(packed_exact)
    (entry,) = repair(packed_exact, other).unrepaired
    assert entry.damage.part == "header" and shard.name in entry.why
    assert tree(packed_exact) == damaged


def test_an_edited_configuration_is_not_overwritten_by_the_packed_one(packed_exact, source):
    config = packed_exact / "config.json"
    edited = config.read_text().replace('"llama"', '"mistral"')
    config.write_text(edited)
    assert main(["inspect", str(packed_exact), "--reseal"]) == 0
    config.write_text("{}")
    (entry,) = repair(packed_exact, source).unrepaired
    assert "config.json" in entry.why and config.read_text() == "{}"


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_damaged_manifest_is_refused(packed_exact, source, damage, tree, flip):
    if damage == "gone":
        (packed_exact / "c3.json").unlink()
    else:
        flip(packed_exact / "c3.json", 40)
    before = tree(packed_exact)
    with pytest.raises((CorruptTileError, ModelConfigError), match=r"c3\.json"):
        repair(packed_exact, source)
    assert tree(packed_exact) == before


def test_a_forged_index_is_not_called_repaired(packed_exact, source):
    """The seal of an index that breaks a rule can be kept, but never made right."""
    matrix = next(iter(open_directory(packed_exact).matrices.values()))
    data = bytearray(matrix.shard.read_bytes())
    survey = survey_directory(packed_exact)
    assert not survey.damage
    index = matrix.index.copy()
    index[0, 7] = 1
    at = data.find(matrix.index.tobytes())
    data[at : at + index.nbytes] = index.tobytes()
    matrix.shard.write_bytes(bytes(data))
    document = json.loads((packed_exact / "c3.json").read_text())
    del document["crc32c"]
    crc = f"{_native.crc32c(index.tobytes()):08x}"
    document["shards"][matrix.shard.name]["tensors"][matrix.name + ".c3_index"] = crc
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    (packed_exact / "c3.json").write_text(json.dumps({**document, "crc32c": f"{_native.crc32c(text):08x}"}))
    report = repair(packed_exact, source)
    assert report.repaired == () and [entry.damage.part for entry in report.unrepaired] == ["index"]


def test_a_stop_in_the_middle_leaves_nothing_worse(packed_exact, source, monkeypatch, tree):
    """Whichever write is the last before a kill: what was right is right, and the next repair finishes."""
    before = tree(packed_exact)
    shards = [packed_exact / name for name in before if name.endswith(".safetensors")]
    real = repair_module.write_all

    for stop_after in range(12):
        # The first shard loses its middle; in the second only one tile is hit.
        data = before[shards[0].name]
        shards[0].write_bytes(data[: len(data) // 2])
        n_writes = 0

        def torn(fd, data, offset, stop_after=stop_after):
            nonlocal n_writes
            n_writes += 1
            if n_writes > stop_after:
                real(fd, memoryview(data)[: len(data) // 2], offset)
                raise OSError(errno.EIO, "killed")
            real(fd, data, offset)

        monkeypatch.setattr(repair_module, "write_all", torn)
        with pytest.raises(MachineError):
            repair(packed_exact, source, threads=1)
        monkeypatch.setattr(repair_module, "write_all", real)
        left = shards[0].read_bytes()
        kept = len(data) // 2
        wrong = [i for i in range(kept) if left[i] != data[i]]
        assert not wrong, f"after {stop_after} writes, byte {wrong[0]} was right and is wrong"
        assert repair(packed_exact, source).unrepaired == ()
        assert tree(packed_exact) == before


def test_the_command(packed_exact, source, tree, capsys, tmp_path, flip, first_bytes):
    before = tree(packed_exact)
    assert main(["repair", str(packed_exact), "--from", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repaired"] == []
    matrix = next(iter(open_directory(packed_exact).matrices.values()))
    flip(matrix.shard, first_bytes(matrix, 1))
    assert main(["repair", str(packed_exact), "--from", str(source), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["repaired"]
    assert (entry["part"], entry["tensor"], entry["tile"]) == ("tile", matrix.name, 1)
    assert tree(packed_exact) == before

    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "tokenizer.json").write_text("{}")
    (packed_exact / "tokenizer.json").unlink()
    assert main(["repair", str(packed_exact), "--from", str(other)]) == 3
    shown = capsys.readouterr()
    assert "tokenizer.json" in shown.out and "not repaired" in shown.out and "tokenizer.json" in shown.err
    assert main(["repair", str(packed_exact), "--from", str(other), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 3
    assert main(["repair", str(packed_exact), "--from", str(source)]) == 0
    assert tree(packed_exact) == before
    assert main(["repair", str(packed_exact), "--from", str(packed_exact)]) == 3
    assert "packed already" in capsys.readouterr().err
