"""`c3.json`: what it refuses, however well it is sealed, and how it is sealed again."""

import json
import os

import pytest

from vortex_engine import _native
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.inspect import inspect_directory, reseal
from vortex_engine.c3.pack import pack
from vortex_engine.errors import CorruptTileError, ModelConfigError, TileVersionError


@pytest.fixture
def packed(write_source, small_model, tmp_path):
    pack(write_source(small_model), tmp_path / "out")
    return tmp_path / "out"


def forge(packed, edit):
    """Change the manifest and seal it as a liar would."""
    path = packed / "c3.json"
    document = json.loads(path.read_text())
    del document["crc32c"]
    edit(document)
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    document["crc32c"] = f"{_native.crc32c(text):08x}"
    path.write_text(json.dumps(document))


def test_documented_structure(packed):
    document = json.loads((packed / "c3.json").read_text())
    assert set(document) == {"format", "codec", "files", "shards", "crc32c"}
    assert (document["format"], document["codec"]) == (1, "exact")
    (shard,) = document["shards"].values()
    assert set(shard) == {"bytes", "header_crc32c", "tensors"}
    assert set(document["files"]) | set(document["shards"]) | {"c3.json"} == set(os.listdir(packed))
    for name, seal in document["files"].items():
        data = (packed / name).read_bytes()
        assert seal == {"bytes": len(data), "crc32c": f"{_native.crc32c(data):08x}"}


@pytest.mark.parametrize("number", [0, 2, 1.0, "1", None, True])
def test_unknown_format_number(packed, number):
    forge(packed, lambda document: document.update(format=number))
    with pytest.raises(TileVersionError, match="format"):
        open_directory(packed)


def test_unknown_format_number_in_config(packed):
    path = packed / "config.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    data = path.read_bytes()
    seal = {"bytes": len(data), "crc32c": f"{_native.crc32c(data):08x}"}
    forge(packed, lambda document: document["files"].update({"config.json": seal}))
    with pytest.raises(TileVersionError, match=r"config\.json"):
        open_directory(packed)


def shard_of(document):
    return next(iter(document["shards"].values()))


LIES = {
    "codec": lambda d: d.update(codec="zip"),
    "codec_of_config": lambda d: d.update(codec="raw"),
    "extra_key": lambda d: d.update(more=1),
    "files_list": lambda d: d.update(files=[]),
    "files_escape": lambda d: d["files"].update({"../secret": d["files"]["config.json"]}),
    "files_itself": lambda d: d["files"].update({"c3.json": d["files"]["config.json"]}),
    "files_nul": lambda d: d["files"].update({"a\0b": d["files"]["config.json"]}),
    "shard_escape": lambda d: d["shards"].update({"/etc/passwd": shard_of(d)}),
    "no_bytes": lambda d: d["files"]["config.json"].pop("bytes"),
    "negative": lambda d: shard_of(d).update(bytes=-1),
    "float": lambda d: shard_of(d).update(bytes=1.5),
    "short_crc": lambda d: shard_of(d).update(header_crc32c="12"),
    "number_crc": lambda d: d["files"]["config.json"].update(crc32c=7),
    "missing_tensor": lambda d: shard_of(d)["tensors"].pop("model.norm.weight"),
    "extra_tensor": lambda d: shard_of(d)["tensors"].update(ghost="00000000"),
    "tensors_list": lambda d: shard_of(d).update(tensors=[]),
    "shard_entry": lambda d: d["shards"].update({next(iter(d["shards"])): 7}),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_lies_under_a_valid_seal(packed, lie):
    forge(packed, LIES[lie])
    with pytest.raises(CorruptTileError):
        open_directory(packed)


def test_manifest_without_a_needed_file(packed):
    forge(packed, lambda document: document["files"].pop("config.json"))
    with pytest.raises(ModelConfigError, match=r"config\.json"):
        open_directory(packed)


def test_a_tokenizer_that_the_manifest_does_not_name_is_not_there(packed):
    forge(packed, lambda document: document["files"].pop("tokenizer.json"))
    assert (packed / "tokenizer.json").is_file()
    assert open_directory(packed).tokenizer_path is None


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format": 1}', b'{"format": NaN}'])
def test_manifests_that_are_not_manifests(packed, text):
    (packed / "c3.json").write_bytes(text)
    with pytest.raises((CorruptTileError, TileVersionError)):
        open_directory(packed)


def test_directories_that_are_not_packed(write_source, small_model, tmp_path):
    source = write_source(small_model)
    with pytest.raises(ModelConfigError, match=f"vortex pack {source}"):
        open_directory(source)
    with pytest.raises(ModelConfigError, match="not a directory"):
        open_directory(tmp_path / "nowhere")


def test_reseal_after_an_edit_of_the_configuration(packed):
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    (packed / "generation_config.json").unlink()
    (packed / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(CorruptTileError, match="--reseal"):
        open_directory(packed)
    report = reseal(packed)
    assert report.to_dict() == {
        "path": str(packed),
        "changed": ("config.json",),
        "added": ("chat_template.jinja",),
        "removed": ("generation_config.json",),
    }
    directory = open_directory(packed)
    assert directory.config["rope_theta"] == 5.0
    assert directory.generation_config is None
    inspect_directory(packed, verify=True)


def test_reseal_never_hides_a_damaged_weight(packed):
    directory = open_directory(packed)
    tensor = directory.tensors["model.norm.weight"]
    before = (packed / "c3.json").read_bytes()
    changed = bytearray(tensor.shard.read_bytes())
    changed[tensor.offset] ^= 1
    tensor.shard.write_bytes(bytes(changed))
    with pytest.raises(CorruptTileError, match=r"model\.norm\.weight"):
        reseal(packed)
    assert (packed / "c3.json").read_bytes() == before


def test_reseal_keeps_the_old_seal_of_a_broken_configuration(packed):
    before = (packed / "c3.json").read_bytes()
    (packed / "config.json").write_text("{}")
    with pytest.raises(CorruptTileError, match="quantization_config"):
        reseal(packed)
    (packed / "config.json").write_text("{")
    with pytest.raises(ModelConfigError, match="not JSON"):
        reseal(packed)
    assert (packed / "c3.json").read_bytes() == before


def test_inspect_report(packed, small_model):
    seen = []
    report = inspect_directory(packed, verify=True, progress=lambda *call: seen.append(call))
    document = json.loads(json.dumps(report.to_dict()))
    assert document["verified"] and document["format"] == 1 and document["model_type"] == "llama"
    assert document["n_matrices"] == sum(a.ndim == 2 for _, a in small_model.values())
    assert document["n_tensors"] == 3
    assert document["weights"] == sum(a.size for _, a in small_model.values())
    assert sum(document["tiles_by_codec"].values()) == document["n_tiles"]
    assert document["packed_bytes"] + (packed / "c3.json").stat().st_size == sum(
        f.stat().st_size for f in packed.iterdir()
    )
    shards = [shard.stat().st_size for shard in packed.glob("*.safetensors")]
    assert seen[-1][0] == seen[-1][1] == sum(shards)
    assert document["verify"]["read_bytes"] == report.tile_bytes and document["verify"]["n_damaged"] == 0
    plain = inspect_directory(packed)
    assert not plain.verified and plain.to_dict()["verify"] is None
