"""Lossless means bits: whatever goes in comes out, in every dtype and shape, and other tools can open the result."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.layout import ALIGNMENT, MAX_TILE_BYTES
from vortex_engine.c3.pack import pack
from vortex_engine.errors import ModelConfigError

SHAPES = [(1, 1), (63, 65), (65, 8), (151, 7), (64, 9000), (1, 500), (500, 1), (128, 64)]
SPECIAL_BF16 = [0x7F80, 0xFF80, 0x7FC1, 0xFFAB, 0x8000, 0x0000, 0x0001, 0x807F, 0x7F7F, 0x0080]
SPECIAL_F32 = [0x7F800001, 0xFFC12345, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0xFF800000]


def bits(rng, dtype, shape):
    wide = rng.standard_normal(shape).astype(np.float32) * 0.02
    if dtype == "BF16":
        out = (wide.view(np.uint32) >> 16).astype(np.uint16)
        special = SPECIAL_BF16
    elif dtype == "F16":
        out = wide.astype(np.float16).view(np.uint16)
        special = [0x7C01, 0xFE01, 0x8000, 0x0001, 0x83FF, 0x7C00, 0x7BFF]
    else:
        out = wide.view(np.uint32)
        special = SPECIAL_F32
    flat = out.reshape(-1)
    n = min(len(special), len(flat))
    flat[rng.choice(len(flat), n, replace=False)] = special[:n]
    return dtype, out


@pytest.mark.parametrize("codec", ["exact", "raw", "lz4", "exact12", "dense"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_every_shape_comes_back_bit_for_bit(write_source, assert_holds, tmp_path, codec, dtype):
    rng = np.random.default_rng(1)
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": bits(rng, dtype, shape) for i, shape in enumerate(SHAPES)}
    tensors["model.norm.weight"] = bits(rng, dtype, (33,))
    report = pack(write_source(tensors), tmp_path / "out", codec=codec)
    directory = assert_holds(tmp_path / "out", tensors)
    assert directory.codec == codec
    assert report.n_tiles == sum(matrix.n_tiles for matrix in directory.matrices.values())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("codec", ["exact", "lz4", "exact12", "dense"])
def test_all_65536_patterns(write_source, assert_holds, tmp_path, dtype, codec):
    shuffled = np.random.default_rng(2).permutation(1 << 16).astype(np.uint16)
    tensors = {
        "a.weight": (dtype, shuffled.reshape(256, 256)),
        "b.weight": (dtype, np.sort(shuffled).reshape(1024, 64)),
    }
    pack(write_source(tensors), tmp_path / "out", codec=codec)
    assert_holds(tmp_path / "out", tensors)


def test_fp32_patterns_and_upcast_bf16(write_source, assert_holds, tmp_path):
    rng = np.random.default_rng(3)
    random = rng.integers(0, 1 << 32, (130, 70), dtype=np.uint32)
    gaussian = rng.standard_normal((640, 256)).astype(np.float32).view(np.uint32)
    upcast = gaussian & np.uint32(0xFFFF0000)
    tensors = {"random.weight": ("F32", random), "full.weight": ("F32", gaussian), "upcast.weight": ("F32", upcast)}
    pack(write_source(tensors), tmp_path / "out")
    directory = assert_holds(tmp_path / "out", tensors)
    full, upcast_matrix = directory.matrices["full.weight"], directory.matrices["upcast.weight"]
    assert set(upcast_matrix.tiles.dtype.tolist()) == {1}
    assert upcast_matrix.dtype == "f32"
    exact_bytes = [int((m.tiles.prefix_bytes + m.tiles.residual_bytes).sum()) for m in (full, upcast_matrix)]
    assert exact_bytes[1] < 0.5 * exact_bytes[0]


def test_ordinary_tensors_of_any_dtype_and_rank_are_copied(write_source, assert_holds, tmp_path):
    tensors = {
        "model.layers.0.mlp.up_proj.weight": ("BF16", np.arange(512, dtype=np.uint16).reshape(64, 8)),
        "bias": ("BF16", np.arange(5, dtype=np.uint16)),
        "flags": ("U8", np.arange(3, dtype=np.uint8)),
        "conv": ("F32", np.arange(24, dtype=np.uint32).reshape(2, 3, 4)),
        "positions": ("I64", np.arange(6, dtype=np.int64).reshape(2, 3)),
        "empty": ("F32", np.zeros(0, dtype=np.uint32)),
        "scalar": ("F32", np.array(7, dtype=np.uint32)),
    }
    pack(write_source(tensors), tmp_path / "out")
    directory = assert_holds(tmp_path / "out", tensors)
    assert list(directory.matrices) == ["model.layers.0.mlp.up_proj.weight"]
    values = directory.tensor("bias")
    np.testing.assert_array_equal(values, (np.arange(5, dtype=np.uint32) << 16).view(np.float32))
    assert values.dtype == np.float32


def test_the_safetensors_package_opens_every_shard(write_source, small_model, tmp_path):
    pack(write_source(small_model, n_shards=3), tmp_path / "out", max_shard_bytes=8000)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    weight_map = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    found = {}
    for shard in shards:
        with safe_open(shard, "np") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118 - not a mapping
                found[name] = shard.name
                if not name.endswith("norm.weight"):
                    assert file.get_tensor(name).dtype == (np.uint8 if name.endswith(".c3") else np.uint64)
    assert found == weight_map
    assert {name.removesuffix(".c3") for name in found if name.endswith(".c3")} == {
        name for name, (_, array) in small_model.items() if array.ndim == 2
    }


def test_sources_written_by_the_safetensors_package(assert_holds, write_source, tmp_path):
    rng = np.random.default_rng(4)
    half, single = rng.standard_normal((70, 30)).astype(np.float16), rng.standard_normal((9, 5)).astype(np.float32)
    source = write_source({})
    save_file({"half": half, "single": single}, source / "model.safetensors", metadata={"format": "pt"})
    pack(source, tmp_path / "out")
    assert_holds(tmp_path / "out", {"half": ("F16", half.view(np.uint16)), "single": ("F32", single.view(np.uint32))})


@pytest.mark.parametrize(
    ("dtype", "rows", "codec"), [("BF16", 12000, "exact"), ("F32", 5000, "raw"), ("F16", 40, "exact")]
)
def test_layout_rules(write_source, tmp_path, dtype, rows, codec):
    """Aligned ranges that cover their tensor, tiles of at most 1 MiB and 1/64 of the model."""
    rng = np.random.default_rng(5)
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": bits(rng, dtype, (rows, 520)) for i in range(2)}
    report = pack(write_source(tensors), tmp_path / "out", codec=codec)
    directory = open_directory(tmp_path / "out")
    assert report.tile_bytes_max <= max(8192, min(MAX_TILE_BYTES, report.packed_bytes // 64))
    for matrix in directory.matrices.values():
        assert matrix.base_offset % ALIGNMENT == 0
        tiles = matrix.tiles
        starts = np.concatenate((tiles.prefix_offset, tiles.residual_offset[tiles.residual_bytes > 0]))
        sizes = np.concatenate((tiles.prefix_bytes, tiles.residual_bytes[tiles.residual_bytes > 0]))
        order = np.argsort(starts)
        ends = (starts + -(-sizes // ALIGNMENT) * ALIGNMENT)[order]
        assert starts[order].tolist() == [0, *ends[:-1].tolist()]
        assert ends[-1] == matrix.n_bytes
        for first in range(0, matrix.n_tiles - 8, 8):
            group = slice(first, first + 8)
            if tiles.n_rows[group].sum() == 8 * tiles.n_rows[first] and tiles.residual_bytes[group].all():
                assert tiles.prefix_offset[group].max() < tiles.residual_offset[group].min()


def test_bytes_depend_neither_on_threads_nor_on_the_run(write_source, small_model, tmp_path, tree):
    source = write_source(small_model)
    pack(source, tmp_path / "one", threads=1)
    pack(source, tmp_path / "two", threads=3)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_copied_files_and_config(write_source, small_model, tmp_path):
    source = write_source(small_model)
    pack(source, tmp_path / "out", codec="raw")
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        "c3.json",
        "config.json",
        "generation_config.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config.pop("quantization_config") == {"quant_method": "c3", "format": 1, "codec": "raw"}
    assert config == json.loads((source / "config.json").read_text())
    assert not (tmp_path / "out.partial").exists()


def test_tied_embedding_drops_the_head_and_comes_last(write_source, small_model, tmp_path):
    small_model["lm_head.weight"] = small_model["model.embed_tokens.weight"]
    report = pack(write_source(small_model, tie_word_embeddings=True), tmp_path / "out")
    directory = open_directory(tmp_path / "out")
    assert "lm_head.weight" in report.dropped
    assert "lm_head.weight" not in directory.matrices
    assert list(directory.matrices)[-1] == "model.embed_tokens.weight"


def test_tied_head_that_differs_is_refused(write_source, small_model, tmp_path):
    with pytest.raises(ModelConfigError, match=r"lm_head\.weight.*differ"):
        pack(write_source(small_model, tie_word_embeddings=True), tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_report(write_source, small_model, tmp_path):
    seen = []
    report = pack(write_source(small_model), tmp_path / "out", progress=lambda *call: seen.append(call))
    total = sum(array.nbytes for _, array in small_model.values())
    assert [call[1] for call in seen] == [total] * len(seen)
    assert [call[0] for call in seen] == sorted(call[0] for call in seen)
    assert seen[-1][0] == report.source_bytes == total
    assert report.packed_bytes == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert sum(sizes.weights for sizes in report.classes.values()) == sum(a.size for _, a in small_model.values())
    assert 0.0 < report.escape_share < 0.1
    document = json.loads(json.dumps(report.to_dict()))
    assert document["classes"]["mlp"]["bits_per_weight"] > 0


MEASURED = """
import resource, sys
from vortex_engine.c3.pack import pack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pack(sys.argv[1], sys.argv[2], threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_matrix(write_source, tmp_path):
    """A sparse file of 200 MB: one matrix of many rows, one of many columns."""
    source = write_source({})
    header = {
        "rows": {"dtype": "F32", "shape": [250_000, 100], "data_offsets": [0, 100_000_000]},
        "cols": {"dtype": "F32", "shape": [100, 250_000], "data_offsets": [100_000_000, 200_000_000]},
    }
    text = json.dumps(header).encode()
    with open(source / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 200_000_000)
    arguments = [sys.executable, "-c", MEASURED, source, tmp_path / "out"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    assert int(result.stdout) < 60_000  # KiB


def test_wrong_arguments(write_source, small_model, tmp_path):
    source = write_source(small_model)
    for arguments in ({"codec": "int3"}, {"threads": 0}, {"max_shard_bytes": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            pack(source, tmp_path / "out", **arguments)
    with pytest.raises(ValueError, match="directory of the target"):
        pack(source, tmp_path / "no" / "out")
    assert not (tmp_path / "out.partial").exists()
