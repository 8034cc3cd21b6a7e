"""Mamba and Mamba-2: parity with transformers, bits that depend on nothing but the ids, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.decode.runs import run
from tests.mamba_checkpoints import CONFIGS, write_mamba
from tests.models.conftest import write_byte_tokenizer

import vortex_engine as vx
from vortex_engine import models
from vortex_engine.c3.directory import open_directory
from vortex_engine.errors import ModelConfigError, VortexError
from vortex_engine.models.mamba_config import ARCHITECTURES

FAMILIES = tuple(CONFIGS)
TOLERANCE = 1e-3

CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("mamba", "mamba", "float32", {}),
    ("mamba-bf16", "mamba", "bfloat16", {"use_bias": True}),
    ("mamba-odd", "mamba", "float32", {"hidden_size": 50, "state_size": 5, "conv_kernel": 3, "time_step_rank": 3}),
    ("mamba-no-conv-bias", "mamba", "bfloat16", {"use_conv_bias": False, "tie_word_embeddings": False}),
    ("mamba-wide", "mamba", "float32", {"expand": 3, "state_size": 33, "num_hidden_layers": 1}),
    ("mamba2", "mamba2", "float32", {"num_heads": 9, "head_dim": 16, "n_groups": 3}),
    ("mamba2-bf16", "mamba2", "bfloat16", {"num_heads": 9, "head_dim": 16, "n_groups": 1, "use_bias": True}),
    ("mamba2-odd", "mamba2", "float32", {"num_heads": 8, "head_dim": 18, "n_groups": 2, "state_size": 21}),
    ("mamba2-tied", "mamba2", "bfloat16", {"num_heads": 2, "head_dim": 72, "n_groups": 2, "tie_word_embeddings": True}),
    ("mamba2-no-conv-bias", "mamba2", "float32", {"num_heads": 144, "head_dim": 1, "use_conv_bias": False}),
]


@pytest.mark.parametrize(("family", "dtype", "changes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_logits_and_greedy_ids_of_transformers(
    tmp_path: Path, family: str, dtype: str, changes: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"vocab_size": 1003, "hidden_size": 72, "num_hidden_layers": 2, "state_size": 16, **changes}
    name = ARCHITECTURES[family]
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))(**sizes, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(7)
    made = getattr(transformers, name)(config)
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if key.endswith((".bias", ".D", "conv1d.weight")):
                parameter.normal_(0.0, 0.4)
            elif "norm" in key:
                parameter.normal_(1.0, 0.2)
            elif parameter.ndim == 2 and not key.endswith("A_log"):
                parameter.normal_(0.0, 0.8 / parameter.shape[1] ** 0.5)
    made = made.to(getattr(torch, dtype)).eval()
    made.save_pretrained(tmp_path / "hf")
    write_byte_tokenizer(tmp_path / "hf")
    reference = getattr(transformers, name)(config).eval()
    reference.load_state_dict({key: values.float() for key, values in made.state_dict().items()})

    vx.pack(tmp_path / "hf", tmp_path / "c3")
    prompt = np.random.default_rng(3).integers(0, 1003, 37).tolist()
    with vx.load(tmp_path / "c3", threads=1) as model, torch.no_grad():
        generated = model.generate(prompt, max_new_tokens=12, ignore_eos=True).token_ids
        ids = [*prompt, *generated]
        found = model.logits(ids)
        expected = reference(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    assert np.abs(found - expected).max() / np.sqrt((expected**2).mean()) <= TOLERANCE
    np.testing.assert_array_equal(found[len(prompt) - 1 : -1].argmax(axis=1), generated)


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return np.random.default_rng(4).integers(0, 300, 75).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_bits_depend_on_the_ids_alone(
    tiny_mamba_dirs: dict[str, Path], ids: list[int], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vx.load(tiny_mamba_dirs[family], threads=1, prefill_chunk=len(ids)) as model:
        expected = model.logits(ids).view(np.uint32)
        n_bytes = model.stats["total_bytes"]
    for threads, budget, chunk, simd in ((1, 1.0, 1, None), (2, 0.4, 7, None), (3, 0.7, 33, "scalar")):
        if simd:
            monkeypatch.setenv("VORTEX_SIMD", simd)
        options = {"threads": threads, "ram_budget": int(n_bytes * budget), "prefill_chunk": chunk}
        with vx.load(tiny_mamba_dirs[family], **options) as model:
            np.testing.assert_array_equal(model.logits(ids).view(np.uint32), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_backend_agrees(
    tiny_mamba_dirs: dict[str, Path], ids: list[int], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vx.load(tiny_mamba_dirs[family], threads=1) as model:
        expected = model.logits(ids[:9])
    monkeypatch.setenv("VORTEX_BACKEND", "reference")
    with vx.load(tiny_mamba_dirs[family], threads=1, prefill_chunk=4) as model:
        found = model.logits(ids[:9])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("drafter", ["prefix", "ngram", "early_exit", "ngram+prefix", "model", "auto"])
@pytest.mark.parametrize("family", FAMILIES)
def test_speculation_changes_nothing(tiny_mamba_dirs: dict[str, Path], family: str, drafter: str) -> None:
    other = tiny_mamba_dirs[FAMILIES[1 - FAMILIES.index(family)]]  # a recurrent model drafts for a recurrent model
    laws: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.9, "top_p": 0.95, "seed": 5}, {"repetition_penalty": 1.2})
    with vx.load(tiny_mamba_dirs[family], threads=2, draft_model=other) as model:
        for prompt, law in zip(([65, 66, 67, 68] * 6, [7, 300, 12, 12, 12, 45], list(range(40))), laws, strict=True):
            plain = run(model, prompt, 24, speculate="off", **law)
            for block_size in (1, 4, 11, None):
                drafted = run(model, prompt, 24, speculate=drafter, block_size=block_size, **law)
                assert drafted == plain, (prompt[:3], block_size, law)


def test_drafts_are_accepted_and_refused(tiny_mamba_dirs: dict[str, Path]) -> None:
    with vx.load(tiny_mamba_dirs["mamba"], threads=1) as model:
        prompt = [65, 66, 67, 68] * 8
        stats = model.generate(prompt, max_new_tokens=48, ignore_eos=True, speculate="prefix", block_size=4).stats
    assert stats["n_accepted"] > 8 and stats["n_rejected"] > 0


def test_a_sequence_has_no_end_and_takes_no_memory(tiny_mamba_dirs: dict[str, Path]) -> None:
    with vx.load(tiny_mamba_dirs["mamba"], threads=1) as model:
        assert model.context_length == 2**31 - 1
        few, many = (model.generate([1, 2, 3], max_new_tokens=n, ignore_eos=True).stats["kv_bytes"] for n in (10, 300))
        assert few == many > 0


@pytest.mark.parametrize("codec", ["int8", "int4", "raw", "lz4", "exact12", "dense"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_codec_leaves_the_recurrence_alone(tmp_path: Path, ids: list[int], family: str, codec: str) -> None:
    write_mamba(tmp_path / "hf", family)
    vx.pack(tmp_path / "hf", tmp_path / "exact")
    vx.pack(tmp_path / "hf", tmp_path / codec, codec=codec)
    exact, other = open_directory(tmp_path / "exact"), open_directory(tmp_path / codec)
    for name in exact.tensors:
        np.testing.assert_array_equal(exact.tensor(name), other.tensor(name))
    assert "backbone.layers.0.mixer.A_log" in exact.tensors
    with vx.load(tmp_path / "exact", threads=1) as model, vx.load(tmp_path / codec, threads=1) as packed:
        found, expected = packed.logits(ids), model.logits(ids)
    if codec in ("int8", "int4"):
        assert 0 < np.abs(found - expected).max() < 6 * expected.std()
    else:
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_the_sweep_is_the_order_of_the_file(tiny_mamba_dirs: dict[str, Path]) -> None:
    for path in tiny_mamba_dirs.values():
        with vx.load(path, threads=1) as model:
            handles = list(model._decoder.sweep)
        tied = json.loads((path / "config.json").read_text())["tie_word_embeddings"]
        # Handles count the matrices in file order; an embedding that is not the head comes first and is only looked up.
        assert handles == sorted(handles) == list(range(0 if tied else 1, len(handles) + (0 if tied else 1)))


def test_calibration_runs_the_model(tmp_path: Path) -> None:
    write_mamba(tmp_path / "hf", "mamba2")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    report = vx.pack(tmp_path / "hf", tmp_path / "c3", codec="int8", calibration=tmp_path / "text.txt")
    assert report.divergence is not None and report.divergence.nats_per_token > 0
    with vx.load(tmp_path / "c3", threads=1) as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaModel"]}, r"architectures = \['MambaModel'\] is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"hidden_size": 0}, "hidden_size = 0 must be an integer"),
        ({"state_size": -1}, "state_size = -1"),
        ({"conv_kernel": 2.5}, "conv_kernel = 2.5"),
        ({"expand": "2"}, "expand = '2'"),
        ({"layer_norm_epsilon": "x"}, "layer_norm_epsilon = 'x' must be a number"),
        ({"use_conv_bias": 1}, "use_conv_bias = 1 must be true or false"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ],
)
def test_what_cannot_be_honoured_is_named(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        models.parse_config(CONFIGS[family] | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "num_heads = 5 times head_dim = 16 must be hidden_size times expand = 192"),
        ({"n_groups": 5}, "n_groups = 5 must divide num_heads = 12"),
        ({"time_step_limit": [0.001, 0.1]}, r"time_step_limit = \[0.001, 0.1\] is not supported"),
    ],
)
def test_what_mamba2_cannot_honour_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        models.parse_config(CONFIGS["mamba2"] | changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_transformers_takes_for_missing_keys(family: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = getattr(transformers, ARCHITECTURES[family].replace("ForCausalLM", "Config"))()
    ours: Any = models.parse_config({"model_type": family})
    assert (ours.vocab_size, ours.hidden_size, ours.num_hidden_layers) == (
        theirs.vocab_size,
        theirs.hidden_size,
        theirs.num_hidden_layers,
    )
    assert (ours.n_state, ours.conv_width, ours.norm_eps) == (
        theirs.state_size,
        theirs.conv_kernel,
        theirs.layer_norm_epsilon,
    )
    assert (ours.use_bias, ours.use_conv_bias, ours.tie_word_embeddings) == (
        theirs.use_bias,
        theirs.use_conv_bias,
        theirs.tie_word_embeddings,
    )
    if family == "mamba":
        assert ours.step_rank == theirs.time_step_rank
    else:
        assert (ours.heads.n_heads, ours.heads.head_dim, ours.heads.n_groups) == (
            theirs.num_heads,
            theirs.head_dim,
            theirs.n_groups,
        )


@pytest.mark.parametrize("tensor", ["A_log", "D", "conv1d.weight", "conv1d.bias", "dt_bias"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, tensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.mamba_checkpoints as checkpoints

    whole = checkpoints.random_tensors

    def damaged(config: dict[str, Any]) -> dict[str, np.ndarray]:
        tensors = whole(config)
        tensors[f"backbone.layers.1.mixer.{tensor}"].reshape(-1)[3] = np.nan
        return tensors

    monkeypatch.setattr(checkpoints, "random_tensors", damaged)
    write_mamba(tmp_path / "hf", "mamba2")
    vx.pack(tmp_path / "hf", tmp_path / "c3")
    with pytest.raises(ModelConfigError, match=rf"layers\.1\.mixer\.{tensor}' must be finite, it has nan at \["):
        vx.load(tmp_path / "c3")


def test_a_nan_among_the_products_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.mamba_checkpoints as checkpoints

    whole = checkpoints.random_tensors

    def damaged(config: dict[str, Any]) -> dict[str, np.ndarray]:
        tensors = whole(config)
        tensors["backbone.layers.2.mixer.in_proj.weight"][0, 0] = np.inf
        return tensors

    monkeypatch.setattr(checkpoints, "random_tensors", damaged)
    write_mamba(tmp_path / "hf", "mamba")
    vx.pack(tmp_path / "hf", tmp_path / "c3")
    with vx.load(tmp_path / "c3") as model, pytest.raises(VortexError, match=r"\[causal_conv1d\] x must be finite"):
        model.generate([1, 2, 3], max_new_tokens=3)


def test_siblings_are_refused(tiny_mamba_dirs: dict[str, Path]) -> None:
    with vx.load(tiny_mamba_dirs["mamba"], threads=1) as model:
        state = model._decoder.new_state(8)
        with pytest.raises(ValueError, match="depths must be None"):
            model._decoder.forward(np.array([1, 2, 3]), state, "all", depths=np.array([1]))


def test_a_missing_tensor_and_one_too_many_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.mamba_checkpoints as checkpoints

    whole = checkpoints.random_tensors
    changed: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
        r"'backbone\.layers\.0\.mixer\.D' is missing": lambda t: t.pop("backbone.layers.0.mixer.D"),
        r"'backbone\.extra' has no place": lambda t: t.update({"backbone.extra": np.zeros(3, np.float32)}),
    }
    for number, (message, change) in enumerate(changed.items()):

        def damaged(config: dict[str, Any], change: Any = change) -> dict[str, np.ndarray]:
            tensors = whole(config)
            change(tensors)
            return tensors

        monkeypatch.setattr(checkpoints, "random_tensors", damaged)
        write_mamba(tmp_path / f"hf{number}", "mamba")
        vx.pack(tmp_path / f"hf{number}", tmp_path / f"c3{number}")
        with pytest.raises(ModelConfigError, match=message):
            vx.load(tmp_path / f"c3{number}")
