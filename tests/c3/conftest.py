"""Checkpoint directories written on the spot, and what comes back out of packed ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vortex_engine import _native
from vortex_engine.c3.directory import C3Directory, C3Matrix, open_directory

SafetensorsArray = tuple[str, np.ndarray]  # dtype as safetensors spells it, and the bit patterns


def write_safetensors(path: Path, tensors: dict[str, SafetensorsArray]) -> None:
    """bf16 included, which numpy cannot name and `safetensors.numpy` therefore cannot write."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, array) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def write_source(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint directory of one shard, or of `n_shards` with a weight map."""

    def write(
        tensors: dict[str, SafetensorsArray], *, name: str = "source", n_shards: int = 0, **config: object
    ) -> Path:
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False, **config}))
        (path / "tokenizer.json").write_text('{"version": "1.0"}')
        (path / "tokenizer_config.json").write_text('{"bos_token": "é"}', encoding="utf-8")
        (path / "generation_config.json").write_text('{"eos_token_id": 2}')
        (path / "README.md").write_text("not part of the model")
        if not n_shards:
            write_safetensors(path / "model.safetensors", tensors)
            return path
        weight_map = {}
        for i in range(n_shards):
            file_name = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
            part = dict(list(tensors.items())[i::n_shards])
            write_safetensors(path / file_name, part)
            weight_map |= dict.fromkeys(part, file_name)
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return path

    return write


def _decode_matrix(directory: C3Directory, name: str) -> np.ndarray:
    """Bit patterns of a matrix: its tiles read by the index and decoded one by one."""
    matrix = directory.matrices[name]
    data = matrix.shard.read_bytes()
    wide = matrix.dtype == "f32"
    out = np.zeros((matrix.rows, matrix.cols), dtype=np.uint32 if wide else np.uint16)
    for row in matrix.index.tolist():
        prefix_bytes, residual_bytes = row[2] & 0xFFFFFFFF, row[2] >> 32
        begin, middle = matrix.base_offset + row[0], matrix.base_offset + row[1]
        prefix, residual = data[begin : begin + prefix_bytes], data[middle : middle + residual_bytes]
        assert (_native.crc32c(prefix), _native.crc32c(residual)) == (row[3] & 0xFFFFFFFF, row[3] >> 32)
        (row0, n_rows), (col0, n_cols) = ((field & 0xFFFFFFFF, field >> 32) for field in row[5:7])
        codec, dtype = row[4] & 255, row[4] >> 8 & 255
        tile = _native.decode_tile(codec, dtype, n_rows, n_cols, prefix, residual)
        if wide and tile.dtype == np.uint16:
            tile = tile.astype(np.uint32) << 16
        out[row0 : row0 + n_rows, col0 : col0 + n_cols] = tile
    return out


def _assert_holds(path: Path, tensors: dict[str, SafetensorsArray]) -> C3Directory:
    """Every tensor comes back out of the packed directory bit for bit."""
    directory = open_directory(path)
    for name, (dtype, array) in tensors.items():
        if array.ndim == 2 and dtype in {"BF16", "F16", "F32"}:
            np.testing.assert_array_equal(_decode_matrix(directory, name), array, err_msg=name)
        else:
            tensor = directory.tensors[name]
            assert (tensor.dtype, tensor.shape) == (dtype, array.shape)
            data = tensor.shard.read_bytes()[tensor.offset : tensor.offset + tensor.n_bytes]
            assert data == array.tobytes()
    return directory


def random_bf16(rng: np.random.Generator, *shape: int) -> SafetensorsArray:
    """Gaussian weights, as a trained matrix has them."""
    return "BF16", (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture
def assert_holds() -> Callable[[Path, dict[str, SafetensorsArray]], C3Directory]:
    """Checks that every tensor comes back bit for bit; returns the open directory."""
    return _assert_holds


@pytest.fixture
def decode_matrix() -> Callable[[C3Directory, str], np.ndarray]:
    """The bit patterns of a matrix of a packed directory."""
    return _decode_matrix


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a directory."""
    return lambda path: {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """flip(path, offset) changes a bit of a file."""

    def run(path: Path, offset: int) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 16
        path.write_bytes(bytes(data))

    return run


@pytest.fixture
def first_bytes() -> Callable[[C3Matrix, int], int]:
    """Absolute offset of a tile's prefix in its shard."""
    return lambda matrix, tile: matrix.base_offset + int(matrix.tiles.prefix_offset[tile])


@pytest.fixture
def small_model() -> dict[str, SafetensorsArray]:
    """A model of two layers whose tiles are as small as they get, so that it has many."""
    rng = np.random.default_rng(7)
    tensors: dict[str, SafetensorsArray] = {"model.embed_tokens.weight": random_bf16(rng, 100, 24)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "self_attn.q_proj.weight"] = random_bf16(rng, 65, 24)
        tensors[prefix + "mlp.down_proj.weight"] = random_bf16(rng, 24, 40)
        tensors[prefix + "input_layernorm.weight"] = ("F32", np.arange(24, dtype=np.uint32))
    tensors["model.norm.weight"] = random_bf16(rng, 24)
    tensors["lm_head.weight"] = random_bf16(rng, 100, 24)
    return tensors
