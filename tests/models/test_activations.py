"""Activations of 8 bits in whole models: recorded or asked for, and the same bits however they are run."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import write_bf16_safetensors

import vortex_engine as vx
from vortex_engine import _native, ops
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.c3.inspect import inspect_directory, reseal
from vortex_engine.c3.repair import repair
from vortex_engine.cli import main
from vortex_engine.decode.load import model_path

IDS = np.random.default_rng(3).integers(0, 300, 70).tolist()


@pytest.fixture(scope="module")
def packed(tiny_hf_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-llama packed `int4` with activations of 8 bits recorded; read-only."""
    target = tmp_path_factory.mktemp("activations") / "int8"
    report = vx.pack(tiny_hf_dir, target, codec="int4", activations="int8")
    assert report.activations == "int8"
    return target


def logits(path: Path, **options: object) -> np.ndarray:
    with vx.load(path, **options) as model:
        assert model.stats["activations"] in ("float", "int8")
        return model.logits(IDS)


def test_what_is_recorded_is_the_default_and_what_is_asked_for_wins(packed, tiny_hf_dir, tmp_path):
    vx.pack(tiny_hf_dir, tmp_path / "plain", codec="int4")
    recorded, plain = logits(packed), logits(tmp_path / "plain")
    np.testing.assert_array_equal(logits(tmp_path / "plain", activations="int8"), recorded)
    np.testing.assert_array_equal(logits(packed, activations="float"), plain)
    assert 0.001 < relative_rms(recorded, plain) < 0.03
    documents = [json.loads((path / "c3.json").read_text()) for path in (packed, tmp_path / "plain")]
    assert [document.get("activations") for document in documents] == ["int8", None]
    assert documents[0]["shards"] == documents[1]["shards"]


def test_equal_bits_at_every_level_chunk_and_budget(packed, monkeypatch):
    with vx.load(packed, threads=1, prefill_chunk=70) as model:
        wanted, total = model.logits(IDS), model.stats["total_bytes"]
        text = model.generate(IDS, max_new_tokens=8, ignore_eos=True).token_ids
    for simd in _native.simd_levels():
        monkeypatch.setenv("VORTEX_SIMD", simd)
        for chunk, threads, budget in ((1, 1, total), (7, 2, total // 2), (64, 3, total // 4)):
            with vx.load(packed, threads=threads, prefill_chunk=chunk, ram_budget=budget) as model:
                np.testing.assert_array_equal(model.logits(IDS).view(np.uint32), wanted.view(np.uint32))
                assert model.generate(IDS, max_new_tokens=8, ignore_eos=True).token_ids == text


def relative_rms(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.square(got - wanted, dtype=np.float64).mean() / np.square(wanted, dtype=np.float64).mean()))


def test_the_reference_backend_rounds_too(packed, monkeypatch):
    """The first rows only: later a sum in float64 may fall on the other side of a rounding."""
    wanted = logits(packed)[:4]
    monkeypatch.setenv("VORTEX_BACKEND", "reference")
    np.testing.assert_allclose(logits(packed)[:4], wanted, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def nano_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the embedded model, made of its lossless tiles."""
    directory = open_directory(model_path("nano"))
    ctx = ops.make_context(threads=2, backend="cpu")
    pager = ops.make_pager(ctx, 1 << 26)
    handles = add_matrices(directory, pager)
    pager.start([])
    tensors = {name: directory.tensor(name) for name in directory.tensors}
    for name, handle in handles.items():
        tensors[name] = ops.embed_rows(ctx, pager, handle, np.arange(pager.shape(handle)[0]))
    pager.close()
    folder = tmp_path_factory.mktemp("nano")
    write_bf16_safetensors(folder / "model.safetensors", tensors)
    config = {key: value for key, value in directory.config.items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(directory.path / name, folder / name)
    return folder


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_a_trained_model_loses_little(nano_checkpoint, tmp_path, codec):
    vx.pack(nano_checkpoint, tmp_path / "packed", codec=codec)
    with vx.load(tmp_path / "packed") as model:
        ids = np.array(model.tokenizer.encode(inspect.getsource(json.JSONDecoder))[:256])
        plain = model.logits(ids.tolist()).astype(np.float64)
    with vx.load(tmp_path / "packed", activations="int8") as model:
        rounded = model.logits(ids.tolist()).astype(np.float64)

    def nats(values: np.ndarray) -> float:
        logs = values[:-1] - np.log(np.exp(values[:-1]).sum(axis=1, keepdims=True))
        return float(-logs[np.arange(len(ids) - 1), ids[1:]].mean())

    assert relative_rms(rounded, plain) < 0.012
    assert nats(rounded) < nats(plain) + 0.004


def test_other_codecs_refuse(tiny_hf_dir, tiny_c3_dir, tmp_path):
    with pytest.raises(ValueError, match=r"activations='int8' needs codec int8, int4 or mixed, got codec 'exact'"):
        vx.pack(tiny_hf_dir, tmp_path / "out", activations="int8")
    with pytest.raises(ValueError, match=r"activations must be one of float, int8, got 'int4'"):
        vx.pack(tiny_hf_dir, tmp_path / "out", codec="int4", activations="int4")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"activations='int8' is for int8 and int4 tiles, .* \(codec exact\) has none"):
        vx.load(tiny_c3_dir, activations="int8")
    with pytest.raises(ValueError, match=r"activations must be one of float, int8 or None, got 'bf16'"):
        vx.load(tiny_c3_dir, activations="bf16")
    vx.load(tiny_c3_dir, activations="float").close()


def test_it_survives_reseal_and_repair_and_cannot_be_edited_away(packed, tiny_hf_dir, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(packed, target)
    whole = (target / "config.json").read_bytes()
    (target / "config.json").write_bytes(whole[:-40])
    repair(target, source=tiny_hf_dir)
    assert (target / "config.json").read_bytes() == whole
    config = json.loads(whole)
    del config["quantization_config"]["activations"]
    (target / "config.json").write_text(json.dumps(config))
    with pytest.raises(vx.CorruptTileError, match="quantization_config must be"):
        reseal(target)
    config["quantization_config"]["activations"] = "int8"
    (target / "config.json").write_text(json.dumps(config))
    reseal(target)
    assert inspect_directory(target).activations == "int8"


def test_the_program_packs_shows_and_generates(tiny_hf_dir, tmp_path, capsys):
    target = str(tmp_path / "out")
    assert main(["pack", str(tiny_hf_dir), target, "--codec", "int8", "--activations", "int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["activations"] == "int8"
    assert main(["inspect", target]) == 0
    assert "codec int8, int8 activations" in capsys.readouterr().out
    for option, used in ([], "int8"), (["--activations", "float"], "float"):
        assert main(["generate", "def f", "--model", target, "--max-new-tokens", "2", "--json", *option]) == 0
        assert json.loads(capsys.readouterr().out)["stats"]["activations"] == used
    assert main(["generate", "def f", "--activations", "int8"]) == 2  # nano is exact
    assert "leave it out" in capsys.readouterr().err
