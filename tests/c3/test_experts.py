"""Experts that a checkpoint stacks in one tensor become matrices of their own, which is what paging needs."""

import numpy as np
import pytest

from vortex_engine.c3.pack import pack
from vortex_engine.c3.repair import repair
from vortex_engine.errors import ModelConfigError

EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


def bits(rng, *shape, dtype="BF16"):
    values = rng.standard_normal(shape).astype(np.float32).view(np.uint32)
    return dtype, values if dtype == "F32" else (values >> 16).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("codec", ["exact", "raw"])
def test_each_expert_is_a_matrix(write_source, decode_matrix, assert_holds, tmp_path, dtype, codec):
    rng = np.random.default_rng(1)
    stacked = bits(rng, 11, 67, 24, dtype=dtype)
    ordinary = {
        "model.layers.0.conv1d.weight": bits(rng, 8, 1, 4, dtype=dtype),
        "model.layers.0.mlp.experts.gate_up_proj_bias": bits(rng, 11, 67, dtype=dtype),
        "model.layers.0.mlp.experts.table": ("I64", np.arange(8).reshape(2, 2, 2)),
        "model.layers.0.experts_norm.scale": bits(rng, 2, 3, 4, dtype=dtype),
    }
    source = write_source({**ordinary, EXPERTS: stacked})
    report = pack(source, tmp_path / "out", codec=codec)
    directory = assert_holds(tmp_path / "out", ordinary)
    experts = [f"{EXPERTS}.{i}" for i in range(11)]
    assert [name for name in directory.matrices if EXPERTS + "." in name] == experts
    for i, name in enumerate(experts):
        np.testing.assert_array_equal(decode_matrix(directory, name), stacked[1][i])
    assert report.source_bytes == sum(array.nbytes for _, array in (*ordinary.values(), stacked))


def test_an_expert_is_repaired_from_the_stack(write_source, tmp_path, tree):
    source = write_source({EXPERTS: bits(np.random.default_rng(2), 3, 65, 24)})
    pack(source, tmp_path / "out")
    before = tree(tmp_path / "out")
    shard = tmp_path / "out" / "model-00001-of-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[4096 + 200] ^= 1
    shard.write_bytes(data)
    report = repair(tmp_path / "out", source)
    assert [damage.tensor for damage in report.repaired] == [f"{EXPERTS}.0"] and not report.unrepaired
    assert tree(tmp_path / "out") == before


def test_a_name_that_an_expert_needs_is_refused(write_source, tmp_path):
    rng = np.random.default_rng(3)
    source = write_source({EXPERTS: bits(rng, 2, 4, 8), f"{EXPERTS}.1": bits(rng, 4, 8)})
    with pytest.raises(ModelConfigError, match=r"gate_up_proj\.1'.*two tensors"):
        pack(source, tmp_path / "out")
