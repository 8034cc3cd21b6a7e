"""A full check lists all damage, of every kind, and goes on after each."""

import json
import os

import pytest

from vortex_engine import _native
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.inspect import inspect_directory
from vortex_engine.c3.pack import pack
from vortex_engine.c3.survey import survey_directory
from vortex_engine.cli import main
from vortex_engine.errors import CorruptTileError


@pytest.fixture
def packed(write_source, small_model, tmp_path):
    pack(write_source(small_model), tmp_path / "out", max_shard_bytes=16_000)
    return tmp_path / "out"


def test_an_intact_model(packed):
    survey = survey_directory(packed)
    assert survey.damage == ()
    assert survey.read_bytes == open_directory(packed).compressed_bytes
    assert survey.gb_s > 0
    survey.require_intact()


def test_everything_damaged_is_listed(packed, flip, first_bytes):
    directory = open_directory(packed)
    matrices = list(directory.matrices.values())
    hit = [(m, tile) for m in (matrices[0], matrices[-1]) for tile in (0, m.n_tiles - 1)]
    for matrix, tile in hit:
        flip(matrix.shard, first_bytes(matrix, tile))
    norm = directory.tensors["model.norm.weight"]
    flip(norm.shard, norm.offset)
    flip(packed / "tokenizer.json", 3)
    (packed / "generation_config.json").unlink()

    survey = survey_directory(packed)
    found = {(d.part, os.path.basename(d.file), d.tensor, d.tile, d.offset) for d in survey.damage}
    expected = {("tile", m.shard.name, m.name, tile, first_bytes(m, tile)) for m, tile in hit}
    expected |= {
        ("tensor", norm.shard.name, norm.name, None, norm.offset),
        ("file", "tokenizer.json", None, None, None),
        ("file", "generation_config.json", None, None, None),
    }
    assert found == expected
    assert len(survey.damage) == len(expected)
    assert all(damage.reason and damage.file in str(damage) for damage in survey.damage)
    with pytest.raises(CorruptTileError, match="6 more"):
        survey.require_intact()


def test_only_the_files_asked_for(packed, flip):
    flip(packed / "tokenizer.json", 3)
    assert survey_directory(packed, only={"config.json"}).damage == ()
    assert len(survey_directory(packed, only={"tokenizer.json"}).damage) == 1


def test_a_truncated_shard_loses_what_lay_behind_the_cut(packed):
    matrices = list(open_directory(packed).matrices.values())
    shard = matrices[0].shard
    here = [m for m in matrices if m.shard == shard]
    # The indices lie behind the tiles: keep them by cutting inside the last tensor only, then cut everything.
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    parts = {damage.part for damage in survey_directory(packed).damage}
    assert "length" in parts and parts <= {"length", "tensor", "index"}
    shard.write_bytes(data[: here[0].base_offset + 4096])
    survey = survey_directory(packed)
    assert {d.tensor for d in survey.damage if d.part == "index"} == {m.name + ".c3_index" for m in here}
    shard.write_bytes(data[:100])
    assert [d.part for d in survey_directory(packed).damage] == ["length", "header"]
    shard.unlink()
    assert [d.part for d in survey_directory(packed).damage] == ["length"]


def test_tiles_behind_the_end_of_a_file_are_bad(packed, first_bytes):
    matrix = next(iter(open_directory(packed).matrices.values()))
    data = matrix.shard.read_bytes()
    cut = first_bytes(matrix, 1) + 10
    matrix.shard.write_bytes(data[:cut])
    _, _, bad = _native.verify_shard(str(matrix.shard), len(data), [(matrix.name, matrix.base_offset, matrix.index)], 2)
    # Residuals lie behind the prefixes of their group, so no tile is whole.
    assert [(name, tile) for name, tile, _, _ in bad] == [(matrix.name, tile) for tile in range(matrix.n_tiles)]
    assert all("ends inside" in reason for *_, reason in bad)


def test_unreadable_blocks_are_bad_tiles_and_not_the_end(packed):
    """Reading a directory fails like a bad block does."""
    matrix = next(iter(open_directory(packed).matrices.values()))
    n_bytes = matrix.shard.stat().st_size
    _, _, bad = _native.verify_shard(str(packed), n_bytes, [(matrix.name, matrix.base_offset, matrix.index)], 2)
    assert len(bad) == matrix.n_tiles and all("failed" in reason for *_, reason in bad)


def test_progress_can_stop_the_check(packed):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey_directory(packed, progress=stop)


def test_the_command_lists_all_and_fails(packed, capsys, flip, first_bytes):
    matrices = list(open_directory(packed).matrices.values())
    assert main(["inspect", str(packed), "--verify", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verify"]["gb_s"] > 0 and document["verify"]["n_damaged"] == 0
    for matrix in matrices[:2]:
        flip(matrix.shard, first_bytes(matrix, 0))
    assert main(["inspect", str(packed), "--verify", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["exit_code"] == 3 and document["verify"]["gb_s"] > 0
    assert [(d["part"], d["tensor"], d["tile"], d["offset"]) for d in document["damage"]] == [
        ("tile", m.name, 0, first_bytes(m, 0)) for m in matrices[:2]
    ]
    assert main(["inspect", str(packed), "--verify"]) == 3
    shown = capsys.readouterr()
    assert all(m.name in shown.out for m in matrices[:2]) and "GB/s" in shown.err
    with pytest.raises(CorruptTileError, match=r"tile 0.*1 more"):
        inspect_directory(packed, verify=True)
