"""Bad checkpoints: one clear error that names file, tensor and fix, and nothing left behind."""

import json
import os
import struct

import numpy as np
import pytest

from vortex_engine.c3.pack import pack
from vortex_engine.errors import ModelConfigError


def edit_header(path, edit, data=lambda data: data):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + n])
    text = edit(header)
    text = text if isinstance(text, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data(raw[8 + n :]))


def refuse(source, tmp_path, *words):
    with pytest.raises(ModelConfigError) as caught:
        pack(source, tmp_path / "out")
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
    return str(caught.value)


NAME = "model.layers.0.mlp.down_proj.weight"


def overlap(header):
    header[NAME]["data_offsets"] = [offset - 2 for offset in header[NAME]["data_offsets"]]


def outside(header):
    last = max((entry for name, entry in header.items() if name != "__metadata__"), key=lambda e: e["data_offsets"])
    last["data_offsets"][1] += 48
    last["shape"][0] += 1


def lying_shape(header):
    header[NAME]["shape"][0] *= 2


def huge_shape(header):
    header[NAME]["shape"] = [1 << 62, 1 << 62]


def unknown_dtype(header):
    header[NAME]["dtype"] = "BF17"


def negative(header):
    header[NAME]["data_offsets"][0] = -1


def no_offsets(header):
    del header[NAME]["data_offsets"]


def twice(header):
    text = json.dumps(header)
    entry = json.dumps(header[NAME])
    return f'{text[:-1]}, "{NAME}": {entry}}}'.encode()


@pytest.mark.parametrize(
    "edit",
    [overlap, outside, lying_shape, huge_shape, unknown_dtype, negative, no_offsets, twice],
    ids=lambda e: e.__name__,
)
def test_lying_headers(write_source, small_model, tmp_path, edit):
    source = write_source(small_model)
    edit_header(source / "model.safetensors", edit)
    refuse(source, tmp_path, "model.safetensors", "" if edit is outside else NAME, "download")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated(write_source, small_model, tmp_path, kept):
    source = write_source(small_model)
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refuse(source, tmp_path, "model.safetensors", "download")


@pytest.mark.parametrize(
    "text", [b"[1]", b"{", b"\xff{}", b'{"a": 1}', b"{" + b'"a":{' * 5000, b'{"a": ' + b"9" * 9000 + b"}"]
)
def test_headers_that_are_not_headers(write_source, small_model, tmp_path, text):
    source = write_source(small_model)
    (source / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    refuse(source, tmp_path, "model.safetensors")


def test_header_size_is_bounded_before_it_is_read(write_source, small_model, tmp_path):
    source = write_source(small_model)
    with open(source / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 41)
    refuse(source, tmp_path, "limit")


def test_missing_shard_and_missing_tensor(write_source, small_model, tmp_path):
    source = write_source(small_model, n_shards=2)
    index = source / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["ghost.weight"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(document))
    refuse(source, tmp_path, "model-00002-of-00002.safetensors", "ghost.weight")
    (source / "model-00002-of-00002.safetensors").unlink()
    refuse(source, tmp_path, "model-00002-of-00002.safetensors is missing")


@pytest.mark.parametrize("file_name", ["../elsewhere.safetensors", "/etc/passwd", 7, "pytorch_model.bin"])
def test_weight_map_stays_inside_the_directory(write_source, small_model, tmp_path, file_name):
    source = write_source(small_model, n_shards=2)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file_name}}))
    refuse(source, tmp_path, "model.safetensors.index.json", "'a'")


def test_tensor_outside_the_weight_map_is_reported(write_source, small_model, tmp_path):
    source = write_source(small_model, n_shards=2)
    index = source / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    del document["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(document))
    assert list(pack(source, tmp_path / "out").dropped) == ["model.norm.weight"]


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_pickles_are_refused_with_the_conversion(write_source, small_model, tmp_path, suffix):
    source = write_source(small_model)
    (source / "model.safetensors").unlink()
    (source / f"pytorch_model{suffix}").write_bytes(b"\x80\x04.")
    call = f"AutoModelForCausalLM.from_pretrained('{source}').save_pretrained('{source}-safetensors')"
    refuse(source, tmp_path, f"pytorch_model{suffix}", call)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(write_source, small_model, tmp_path, name):
    source = write_source(small_model)
    (source / name).unlink()
    refuse(source, tmp_path, name)


@pytest.mark.parametrize("text", ["[]", "{", "\0"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_broken_json(write_source, small_model, tmp_path, name, text):
    source = write_source(small_model)
    (source / name).write_text(text)
    refuse(source, tmp_path, name)


def test_no_directory_and_no_tensor(write_source, tmp_path):
    refuse(tmp_path / "nowhere", tmp_path, "not a directory")
    refuse(write_source({}), tmp_path, "no tensor")


@pytest.mark.parametrize("dtype", ["F64", "I8", "U8", "F8_E4M3"])
def test_matrices_of_other_dtypes(write_source, small_model, tmp_path, dtype):
    array = np.zeros((4, 8), dtype=np.float64 if dtype == "F64" else np.uint8)
    refuse(write_source({**small_model, "odd.weight": (dtype, array)}), tmp_path, "'odd.weight'", dtype)


def test_empty_matrices_and_packed_names(write_source, small_model, tmp_path):
    empty = ("F32", np.zeros((0, 4), dtype=np.uint32))
    refuse(write_source({"none.weight": empty}), tmp_path, "'none.weight'", "empty")
    refuse(write_source({"w.c3": ("U8", np.zeros(4, dtype=np.uint8))}, name="packed"), tmp_path, "'w.c3'")


def test_quantised_sources(write_source, small_model, tmp_path):
    source = write_source(small_model, quantization_config={"quant_method": "gptq"})
    refuse(source, tmp_path, "quantization_config")


def test_config_is_checked_before_anything_is_written(write_source, small_model, tmp_path):
    def check_config(config):
        assert config["model_type"] == "llama"
        raise ModelConfigError("cannot run this")

    with pytest.raises(ModelConfigError, match="cannot run"):
        pack(write_source(small_model), tmp_path / "out", check_config=check_config)
    assert not (tmp_path / "out.partial").exists()


def test_source_that_shrinks_while_packed(write_source, small_model, tmp_path):
    source = write_source(small_model)

    def shrink(done, total, name):
        os.truncate(source / "model.safetensors", 3000)

    with pytest.raises(ModelConfigError, match=r"model\.safetensors, tensor .*ends"):
        pack(source, tmp_path / "out", progress=shrink)
    assert not (tmp_path / "out.partial").exists()
