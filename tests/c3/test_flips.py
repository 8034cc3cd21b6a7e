"""Any changed byte of a packed directory: a typed error, or exactly the same content."""

import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.inspect import inspect_directory
from vortex_engine.c3.pack import pack
from vortex_engine.errors import CorruptTileError, ModelConfigError, TileFileError


@pytest.fixture
def packed(write_source, small_model, tmp_path):
    pack(write_source(small_model), tmp_path / "out", max_shard_bytes=16_000)
    return tmp_path / "out"


@pytest.fixture
def content(decode_matrix):
    """Everything a model is made of, after a full check."""

    def read(path):
        inspect_directory(path, verify=True)
        directory = open_directory(path)
        files = {
            name: (path / name).read_bytes() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        }
        bits = {name: decode_matrix(directory, name).tobytes() for name in directory.matrices}
        small = {name: directory.tensor(name).tobytes() for name in directory.tensors}
        return directory.config, directory.generation_config, files, bits, small

    return read


@pytest.fixture
def expected(packed, content):
    return content(packed)


def check_change(path, file, changed, content, expected):
    original = file.read_bytes()
    file.write_bytes(changed)
    try:
        found = content(path)
    except TileFileError as error:
        # A changed c3.json may accuse the file that it no longer describes.
        assert file.name in str(error.file) or file.name == "c3.json"
    except ModelConfigError:
        # c3.json itself no longer says that this is a packed model.
        assert file.name == "c3.json"
    else:
        assert found == expected
    finally:
        file.write_bytes(original)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_of_any_file(packed, content, expected, data):
    file = data.draw(st.sampled_from(sorted(packed.iterdir())))
    original = file.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(original)
    changed[position] ^= flip
    check_change(packed, file, bytes(changed), content, expected)


def test_every_byte_that_is_not_tiles(packed):
    """Small files, headers, index tensors and norms are covered to the last byte."""
    rng = random.Random(0)
    for file in sorted(packed.iterdir()):
        original = file.read_bytes()
        tiles = []
        if file.suffix == ".safetensors":
            matrices = [m for m in open_directory(packed).matrices.values() if m.shard == file]
            tiles = [(m.base_offset, m.base_offset + m.n_bytes) for m in matrices]
        positions = [i for i in range(len(original)) if not any(begin <= i < end for begin, end in tiles)]
        for position in rng.sample(positions, min(len(positions), 300)):
            changed = bytearray(original)
            changed[position] ^= 1 << rng.randrange(8)
            file.write_bytes(bytes(changed))
            if file.name == "c3.json":
                # White space between the tokens carries nothing.
                if chr(original[position]) in " \n" and chr(changed[position]) in " \n\t\r":
                    continue
                with pytest.raises(TileFileError):
                    open_directory(packed)
            else:
                with pytest.raises(CorruptTileError, match=file.name):
                    open_directory(packed)
        file.write_bytes(original)
    open_directory(packed)


def test_every_tile_range_is_checked(packed):
    directory = open_directory(packed)
    for matrix in directory.matrices.values():
        for tile, row in enumerate(matrix.index.tolist()):
            for offset, n_bytes in ((row[0], row[2] & 0xFFFFFFFF), (row[1], row[2] >> 32)):
                if not n_bytes:
                    continue
                original = matrix.shard.read_bytes()
                changed = bytearray(original)
                changed[matrix.base_offset + offset + n_bytes - 1] ^= 4
                matrix.shard.write_bytes(bytes(changed))
                with pytest.raises(CorruptTileError) as caught:
                    inspect_directory(packed, verify=True)
                matrix.shard.write_bytes(original)
                assert (caught.value.tensor or "").removesuffix(".c3") == matrix.name
                assert caught.value.tile == tile
                assert caught.value.file == str(matrix.shard)


def test_padding_carries_nothing(packed, content, expected):
    matrix = next(iter(open_directory(packed).matrices.values()))
    end = int(matrix.tiles.prefix_offset[0] + matrix.tiles.prefix_bytes[0])
    assert end % 4096
    changed = bytearray(matrix.shard.read_bytes())
    changed[matrix.base_offset + end] = 255
    matrix.shard.write_bytes(bytes(changed))
    assert content(packed) == expected


@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
def test_files_that_became_longer_or_shorter_or_vanished(packed, change):
    for file in sorted(packed.iterdir()):
        original = file.read_bytes()
        if change == "gone":
            file.unlink()
        else:
            file.write_bytes(original[:-2] if change == "shorter" else original + b"}")
        with pytest.raises((CorruptTileError, ModelConfigError), match=file.name):
            open_directory(packed)
        file.write_bytes(original)


def test_swapped_shards(packed):
    shards = sorted(packed.glob("*.safetensors"))
    assert len(shards) > 1
    keep = packed / "keep"
    shutil.move(shards[0], keep)
    shutil.move(shards[1], shards[0])
    shutil.move(keep, shards[1])
    with pytest.raises(CorruptTileError):
        open_directory(packed)


def test_tensor_is_checked_again_when_it_is_read(packed):
    directory = open_directory(packed)
    tensor = directory.tensors["model.norm.weight"]
    changed = bytearray(tensor.shard.read_bytes())
    changed[tensor.offset] ^= 1
    tensor.shard.write_bytes(bytes(changed))
    with pytest.raises(CorruptTileError, match=r"model\.norm\.weight"):
        directory.tensor("model.norm.weight")
    with pytest.raises(ModelConfigError, match="no tensor"):
        directory.tensor("nothing")
