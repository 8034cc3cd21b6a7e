"""The error that packing reports is that of the weights as they are stored."""

import json

import numpy as np
import pytest

from vortex_engine import ops
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.c3.pack import pack


def stored(path):
    """Every matrix as the engine reads it, by name."""
    directory, ctx = open_directory(path), ops.make_context()
    pager = ops.make_pager(ctx, 1 << 26)
    handles = add_matrices(directory, pager)
    pager.start(list(handles.values()))
    rows = {name: np.arange(matrix.rows) for name, matrix in directory.matrices.items()}
    found = {
        name: ops.embed_rows(ctx, pager, handle, rows[name]).astype(np.float64) for name, handle in handles.items()
    }
    pager.close()
    return found


def values(dtype, bits):
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(np.float16 if dtype == "F16" else np.float32).astype(np.float64)


def gaussian(rng, dtype, shape):
    wide = rng.standard_normal(shape).astype(np.float32)
    if dtype == "BF16":
        return (wide.view(np.uint32) >> 16).astype(np.uint16)
    return wide.astype(np.float16).view(np.uint16) if dtype == "F16" else wide.view(np.uint32)


@pytest.mark.parametrize("codec", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_relative_rms_of_every_matrix(write_source, tmp_path, dtype, codec):
    rng = np.random.default_rng(1)
    shapes = [(1, 1), (63, 65), (300, 8), (64, 9000), (130, 500)]
    tensors = {f"layers.{i}.w": (dtype, gaussian(rng, dtype, shape)) for i, shape in enumerate(shapes)}
    report = pack(write_source(tensors), tmp_path / "out", codec=codec, threads=3)
    found = stored(tmp_path / "out")
    errors, squares = [], []
    for name, (_, bits) in tensors.items():
        exact = values(dtype, bits)
        errors.append(((found[name] - exact) ** 2).sum())
        squares.append((exact**2).sum())
        tensor = report.tensors[name]
        assert tensor.relative_rms == pytest.approx(np.sqrt(errors[-1] / squares[-1]), rel=1e-9)
        assert tensor.codec == codec and tensor.weights == bits.size
    assert report.relative_rms == pytest.approx(np.sqrt(sum(errors) / sum(squares)), rel=1e-9)
    assert 0.0 < report.relative_rms < (0.01 if codec == "int8" else 0.1)
    alone = pack(tmp_path / "source", tmp_path / "alone", codec=codec, threads=1)
    assert alone.tensors == report.tensors
    document = json.loads(json.dumps(report.to_dict()))
    assert document["relative_rms"] == report.relative_rms
    assert document["tensors"]["layers.3.w"]["relative_rms"] == report.tensors["layers.3.w"].relative_rms


@pytest.mark.parametrize("codec", ["exact", "dense", "lz4", "raw"])
def test_lossless_codecs_are_not_measured(write_source, small_model, tmp_path, codec):
    report = pack(write_source(small_model), tmp_path / "out", codec=codec)
    assert report.relative_rms == 0.0
    assert {name for name, (_, array) in small_model.items() if array.ndim == 2} == set(report.tensors)
    # Sums of squares would have been needed to measure anything.
    assert all((t.relative_rms, t.square_sum) == (0.0, 0.0) for t in report.tensors.values())


def test_weights_that_are_not_finite_do_not_count(write_source, tmp_path):
    bits = gaussian(np.random.default_rng(2), "F32", (640, 64))
    bits[70, 3], bits[600, 0] = 0x7F800000, 0x7FC00001
    report = pack(write_source({"w": ("F32", bits), "zero": ("F32", 0 * bits)}), tmp_path / "out", codec="int4")
    finite = np.isfinite(bits.view(np.float32))
    exact = np.where(finite, values("F32", bits), 0)
    found = np.where(finite, stored(tmp_path / "out")["w"], 0)
    wanted = np.sqrt(((found - exact) ** 2).sum() / (exact**2).sum())
    assert report.tensors["w"].relative_rms == pytest.approx(wanted, rel=1e-9) and wanted > 0
    assert report.tensors["zero"].relative_rms == 0.0
