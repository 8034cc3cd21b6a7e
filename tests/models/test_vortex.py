"""The VORTEX model: the function that is trained in torch, bits that depend on nothing but the ids, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.decode.runs import Run, run
from tests.vortex_checkpoints import CONFIG, VARIANTS, write_vortex

import vortex_engine as vx
from vortex_engine import models
from vortex_engine.c3.directory import open_directory
from vortex_engine.errors import ModelConfigError
from vortex_engine.models.vortex_config import VortexConfig, config_json, parse_config
from vortex_engine.state import LavaState, find_part

N_IDS = 3 * LavaState.WINDOW + 70  # four windows and a part: two events see a bank that is full


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every variant, packed with codec exact; read-only."""
    folder = tmp_path_factory.mktemp("vortex")
    for name, changes in VARIANTS.items():
        write_vortex(folder / name, **changes)
        vx.pack(folder / name, folder / f"{name}.c3")
    return {name: folder / f"{name}.c3" for name in VARIANTS}


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return np.random.default_rng(4).integers(0, 300, N_IDS).tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_bits_depend_on_the_ids_alone(
    packed: dict[str, Path], ids: list[int], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vx.load(packed[variant], threads=1, prefill_chunk=len(ids)) as model:
        expected = model.logits(ids).view(np.uint32)
        n_bytes = model.stats["total_bytes"]
    for threads, budget, chunk, simd in ((1, 1.0, 1, None), (2, 0.5, 7, None), (3, 0.7, 100, "scalar")):
        if simd:
            monkeypatch.setenv("VORTEX_SIMD", simd)
        options: dict[str, Any] = {"threads": threads, "ram_budget": int(n_bytes * budget), "prefill_chunk": chunk}
        with vx.load(packed[variant], **options) as model:
            np.testing.assert_array_equal(model.logits(ids).view(np.uint32), expected)


LAWS: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.9, "top_p": 0.95, "seed": 5})
N_NEW = 20


@pytest.fixture(scope="module")
def prompts(ids: list[int]) -> tuple[list[int], list[int]]:
    """Of each law one; the text crosses an event at its 11th and at its 5th new token."""
    return ids[: 3 * LavaState.WINDOW - 10], [65, 66, 67, 68] * 31


@pytest.fixture(scope="module")
def plain_runs(packed: dict[str, Path], prompts: tuple[list[int], list[int]]) -> dict[str, list[Run]]:
    """Of every variant, what each law chooses without drafts."""
    runs: dict[str, list[Run]] = {}
    for variant, path in packed.items():
        with vx.load(path, threads=2) as model:
            runs[variant] = [
                run(model, prompt, N_NEW, speculate="off", **law) for prompt, law in zip(prompts, LAWS, strict=True)
            ]
    return runs


@pytest.mark.parametrize("drafter", ["prefix", "ngram", "early_exit", "mtp", "model", "auto"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_speculation_changes_nothing(
    packed: dict[str, Path],
    prompts: tuple[list[int], list[int]],
    plain_runs: dict[str, list[Run]],
    variant: str,
    drafter: str,
) -> None:
    if drafter == "mtp" and not (CONFIG | VARIANTS[variant])["mtp_k"]:
        drafter = "ngram+prefix"
    other = packed["surprise" if variant == "plain" else "plain"]  # a model with memories drafts for one
    with vx.load(packed[variant], threads=2, draft_model=other if drafter in ("model", "auto") else None) as model:
        for prompt, law, plain in zip(prompts, LAWS, plain_runs[variant], strict=True):
            for block_size in (3, None) if not law else (11,):
                assert run(model, prompt, N_NEW, speculate=drafter, block_size=block_size, **law) == plain, block_size


PARITY: dict[str, dict[str, Any]] = {
    "plain": {},
    "one-kind-each": {"num_hidden_layers": 5, "layer_parts": [["conv"], ["attention"], ["ssm"], ["lava"], ["mlp"]]},
    "cycles": {"lava_read_every": 3, "lava_write_every": 5, "tie_word_embeddings": True},
    "surprise": {"lava_write_every": 0, "lava_write_on_surprise": 6.0},
    "gated": VARIANTS["gated"] | {"lava_contents": "fp16"},
}


@pytest.mark.parametrize("case", PARITY)
def test_what_is_trained_in_torch_is_what_runs_packed(tmp_path: Path, ids: list[int], case: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    from vortex_engine.train.vortex_export import load_vortex

    # A bank that is read whole holds what the trained layer attends to.
    whole = {"lava_capacity": 1024, "lava_cluster_top": CONFIG["lava_clusters"], "lava_top_k": 1024}
    write_vortex(tmp_path / "hf", **whole, **PARITY[case])
    vx.pack(tmp_path / "hf", tmp_path / "c3")
    with torch.no_grad():
        expected = load_vortex(tmp_path / "hf")(torch.tensor([ids]))[0].numpy()
    with vx.load(tmp_path / "c3", threads=2) as model:
        found = model.logits(ids)
    # Memories hold fp16.
    assert np.abs(found - expected).max() / np.sqrt((expected**2).mean()) < 5e-3


@pytest.mark.parametrize("variant", ["plain", "cycles", "surprise"])
def test_the_reference_backend_agrees(
    packed: dict[str, Path], ids: list[int], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vx.load(packed[variant], threads=1) as model:
        expected = model.logits(ids[:140])
    monkeypatch.setenv("VORTEX_BACKEND", "reference")
    with vx.load(packed[variant], threads=1, prefill_chunk=77) as model:
        found = model.logits(ids[:140])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("codec", ["int8", "int4", "raw", "lz4", "exact12", "dense"])
def test_every_codec_leaves_what_is_no_matrix_alone(tmp_path: Path, ids: list[int], codec: str) -> None:
    write_vortex(tmp_path / "hf")
    vx.pack(tmp_path / "hf", tmp_path / "exact")
    vx.pack(tmp_path / "hf", tmp_path / codec, codec=codec)
    exact, other = open_directory(tmp_path / "exact"), open_directory(tmp_path / codec)
    for name in exact.tensors:
        np.testing.assert_array_equal(exact.tensor(name), other.tensor(name))
    assert {"model.layers.1.lava.log_scale", "model.layers.0.local.conv1d.weight"} <= set(exact.tensors)
    with vx.load(tmp_path / "exact", threads=1) as model, vx.load(tmp_path / codec, threads=1) as packed:
        found, expected = packed.logits(ids[:150]), model.logits(ids[:150])
    if codec in ("int8", "int4"):
        assert 0 < np.abs(found - expected).max() < 6 * expected.std()
    else:
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_calibration_runs_the_model(tmp_path: Path) -> None:
    write_vortex(tmp_path / "hf", **VARIANTS["surprise"])
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20)
    report = vx.pack(tmp_path / "hf", tmp_path / "c3", codec="int8", calibration=tmp_path / "text.txt")
    assert report.transformers_only is None
    assert report.divergence is not None and report.divergence.nats_per_token > 0


def test_the_sweep_is_the_order_of_the_file(packed: dict[str, Path]) -> None:
    for variant in ("plain", "surprise"):  # of untied and of tied embeddings, with two heads for later tokens
        with vx.load(packed[variant], threads=1) as model:
            handles = list(model._decoder.sweep)
        assert handles == sorted(handles)


def test_a_sequence_has_no_end_and_takes_no_memory(packed: dict[str, Path]) -> None:
    with vx.load(packed["cycles"], threads=1) as model:
        assert model.context_length == 2**31 - 1
        # 192 slots at one position in five are full after 960.
        prompt = np.random.default_rng(1).integers(0, 300, 1200).tolist()
        few, many = (model.generate(prompt, max_new_tokens=n, ignore_eos=True).stats["kv_bytes"] for n in (2, 200))
        assert few == many > 0


def test_drafts_are_accepted_and_refused(packed: dict[str, Path]) -> None:
    with vx.load(packed["plain"], threads=1) as model:
        prompt = [65, 66, 67, 68] * 40
        stats = model.generate(prompt, max_new_tokens=64, ignore_eos=True, speculate="prefix", block_size=4).stats
    assert stats["n_accepted"] > 8 and stats["n_rejected"] > 0


def test_a_gate_that_never_closes_changes_nothing(tmp_path: Path, packed: dict[str, Path], ids: list[int]) -> None:
    logits: list[np.ndarray] = []
    for name, entropy in (("never", 1e-9), ("always", 1e3), ("sometimes", 4.7)):
        gate = {"min_layers": 1, "max_layers": 3, "entropy": entropy}
        write_vortex(tmp_path / name, depth_gating=gate)
        vx.pack(tmp_path / name, tmp_path / f"{name}.c3")
        with vx.load(tmp_path / f"{name}.c3", threads=1) as model:
            logits.append(model.logits(ids))
    never, always, sometimes = logits
    with vx.load(packed["plain"], threads=1) as model:
        np.testing.assert_array_equal(never.view(np.uint32), model.logits(ids).view(np.uint32))
    # Rows that leave out MLPs differ; later rows read what those left behind.
    assert (np.abs(always - never).max(axis=1) > 1e-3).all()
    assert np.abs(sometimes - never).max() > 1e-3 and np.abs(sometimes - always).max() > 1e-3


def test_banks_hold_the_windows_before_the_last(packed: dict[str, Path], ids: list[int]) -> None:
    with vx.load(packed["plain"], threads=1) as model:
        state = model._decoder.new_state(1000)
        model._decoder.forward(np.asarray(ids), state, "none")
        lava = find_part(state, LavaState)
        assert lava is not None
        assert all(memory.bank.stats()["slots"] == 3 * LavaState.WINDOW for memory in lava.layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vortex2"}, "model_type = 'vortex2' is not supported"),
        ({"architectures": ["VortexModel"]}, r"architectures = \['VortexModel'\] is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_size": 0}, "hidden_size = 0 must be an integer"),
        ({"intermediate_size": None}, "intermediate_size = None must be an integer"),
        ({"layer_parts": [["conv"]]}, r"layer_parts = \[\['conv'\]\] must be 3 lists"),
        ({"layer_parts": [["ssm", "conv"], ["mlp"], ["mlp"]]}, "in this order"),
        ({"layer_parts": [["ssm"], [], ["mlp"]]}, "layer_parts"),
        ({"layer_parts": [["ssm"], ["rnn"], ["mlp"]]}, "layer_parts"),
        ({"layer_parts": "all"}, "layer_parts = 'all'"),
        ({"conv_kernel": 1}, "conv_kernel = 1 must be an integer between 2 and 16"),
        ({"num_attention_heads": 3}, "num_key_value_heads = 2 must divide num_attention_heads = 3"),
        ({"head_dim": 17}, "head_dim = 17 must be even"),
        ({"kv": {}}, r"kv\.window_size must be an integer|kv\.window_size = None must be an integer"),
        ({"kv": {"window_size": 0}}, r"kv\.window_size = 0 must be"),
        ({"kv": 5}, "kv = 5 must be an object"),
        ({"ssm_n_groups": 2}, "ssm_n_groups = 2 must divide ssm_num_heads = 3"),
        ({"ssm_state_size": 0}, "ssm_state_size = 0"),
        ({"lava_cluster_top": 5}, "lava_cluster_top = 5 must be at most lava_clusters = 4"),
        ({"lava_top_k": 0}, "lava_top_k = 0"),
        ({"lava_capacity": 10}, "lava_capacity = 10"),
        ({"lava_contents": "fp8"}, "lava_contents = 'fp8' is not supported; supported are fp16, int8, 2bit"),
        ({"lava_tail": 1}, "lava_tail = 1 must be true or false"),
        ({"lava_half_life": 0}, "lava_half_life = 0 must lie between"),
        ({"lava_read_every": 0}, "lava_read_every = 0"),
        ({"lava_write_every": 0}, "lava_write_every = 0 must be at least 1 where lava_write_on_surprise = 0"),
        ({"lava_write_on_surprise": -1.0}, "lava_write_on_surprise = -1.0 must lie between"),
        ({"depth_gating": {"min_layers": 0, "entropy": 1.0}}, r"depth_gating\.min_layers = 0"),
        ({"depth_gating": {"min_layers": 2, "max_layers": 1, "entropy": 1.0}}, r"depth_gating\.max_layers = 1"),
        ({"depth_gating": {"min_layers": 1}}, r"depth_gating\.entropy"),
        ({"depth_gating": {"min_layers": 1, "entropy": 1.0, "hysteresis": -0.1}}, r"depth_gating\.hysteresis = -0\.1"),
        ({"mtp_k": 9}, "mtp_k = 9 must be an integer between 0 and 8"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no'"),
    ],
)
def test_what_cannot_be_honoured_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        parse_config(CONFIG | changes)


def test_a_configuration_of_few_keys() -> None:
    config = models.parse_config(
        {"model_type": "vortex", "vocab_size": 10, "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 2}
    )
    assert isinstance(config, VortexConfig)
    assert config.layer_parts == (("conv", "ssm", "lava", "mlp"),) * 2
    assert config.attention is None and config.depth_gating is None and not config.mtp_k
    assert parse_config(config_json(config)) == config


@pytest.mark.parametrize("tensor", ["lava.log_scale", "local.conv1d.weight", "local.conv1d.bias", "ssm.A_log"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, tensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.vortex_checkpoints as checkpoints

    whole = checkpoints.random_tensors

    def damaged(config: dict[str, Any]) -> dict[str, np.ndarray]:
        tensors = whole(config)
        tensors[f"model.layers.1.{tensor}"].reshape(-1)[0] = np.nan
        return tensors

    monkeypatch.setattr(checkpoints, "random_tensors", damaged)
    write_vortex(tmp_path / "hf")
    vx.pack(tmp_path / "hf", tmp_path / "c3")
    with pytest.raises(ModelConfigError, match=rf"layers\.1\.{tensor}' must be finite, it has nan at \["):
        vx.load(tmp_path / "c3")


def test_a_configuration_that_is_not_the_checkpoints(tmp_path: Path) -> None:
    parts = [["conv", "ssm", "mlp"], ["conv", "attention", "ssm", "mlp"], ["attention", "lava", "mlp"]]
    write_vortex(tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text()) | {"layer_parts": parts}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    vx.pack(tmp_path / "hf", tmp_path / "c3")
    with pytest.raises(ModelConfigError, match=r"layers\.1\.lava\S* has no place in the model"):
        vx.load(tmp_path / "c3")
