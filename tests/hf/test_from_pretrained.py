"""Packed models in transformers against the plain ones, at several budgets and for both lossless codecs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[test]'")
pytest.importorskip("transformers", reason="transformers is not installed: pip install 'vortex-engine[test]'")

import torch
from transformers import AutoModel, AutoModelForCausalLM

import vortex_engine as vx
from vortex_engine import hf
from vortex_engine.c3.directory import open_directory

STACKED = ("qwen2_moe-stacked", "mixtral-stacked", "gpt_oss")
ARCHITECTURES = ("gpt2", "gemma2", "phi3", "bert", "qwen2_moe", "mixtral", *STACKED)
TOLERANCE = 1e-4
SMALL_BYTES = 160_000  # a few tiles
# transformers says so whenever options accompany a packed model.
pytestmark = pytest.mark.filterwarnings("ignore:You passed `quantization_config`")


def load(packed: Any, path: Path, **options: Any) -> Any:
    config = hf.C3Config(**{"threads": 1, **options})
    return packed.model_class.from_pretrained(path, dtype=torch.float32, quantization_config=config)


def ids(n: int = 13) -> Any:
    return torch.randint(1, 211, (2, n), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: Any) -> Any:
    return model(ids()).logits


def relative(found: Any, expected: Any) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in ARCHITECTURES),
        ("gpt2", "float16"),
        ("gemma2", "bfloat16"),
        ("mixtral", "bfloat16"),
    ],
)
def test_logits_of_plain_transformers_at_every_budget(packed: Any, name: str, dtype: str) -> None:
    model = packed(name, dtype)
    expected = logits(model.model_class.from_pretrained(model.source, dtype=torch.float32))
    first = None
    for path in (model.exact, model.raw):
        for options in ({"threads": 2}, {"ram_budget": SMALL_BYTES}, {"ram_budget": "200KB", "policy": "lru"}):
            loaded = load(model, path, **options)
            found = logits(loaded)
            first = found if first is None else first
            assert torch.equal(found, first)
            stats = hf.stats(loaded)
            assert 0 < stats["peak_bytes"] <= stats["budget_bytes"]
            assert "ram_budget" not in options or stats["budget_bytes"] < stats["total_bytes"]
    assert relative(first, expected) <= TOLERANCE


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_paged_matrix_is_a_parameter(packed: Any, name: str) -> None:
    model = packed(name)
    loaded, info = model.model_class.from_pretrained(model.exact, output_loading_info=True)
    assert not any(info.values())
    dense = hf.stats(loaded)["dense_bytes"]
    assert {n for n, p in loaded.named_parameters() if p.ndim > 1} == set(dense)
    routers = ("mlp.gate.weight", "shared_expert_gate.weight", "mlp.router.weight", "proj_bias")
    assert all(n.endswith(routers) for n in dense)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral"])
def test_greedy_generation_with_a_cache(packed: Any, name: str) -> None:
    model = packed(name)
    plain = model.model_class.from_pretrained(model.source)
    expected, found = (
        m.generate(ids(7), max_new_tokens=9, do_sample=False, pad_token_id=0)
        for m in (plain, load(model, model.exact, ram_budget=SMALL_BYTES))
    )
    assert torch.equal(expected, found)


def test_auto_classes_and_a_model_without_its_head(packed: Any) -> None:
    model = packed("phi3")
    causal = AutoModelForCausalLM.from_pretrained(model.exact)
    base = AutoModel.from_pretrained(model.exact)
    assert hf.stats(base)["unused"] == ["lm_head.weight"] and hf.stats(causal)["unused"] == []
    with torch.no_grad():
        hidden = causal(ids(), output_hidden_states=True).hidden_states[-1]
        assert torch.equal(base(ids()).last_hidden_state, hidden)


@pytest.mark.parametrize("name", ["mixtral", "mixtral-stacked", "gpt_oss"])
@pytest.mark.parametrize("codec", ["exact", "raw"])
def test_only_routed_experts_are_read(packed: Any, name: str, codec: str) -> None:
    path = getattr(packed(name), codec)
    loaded = load(packed(name), path, ram_budget="640KB")  # two experts
    assert hf.stats(loaded)["policy"] == "lru"
    experts = loaded.model.layers[0].mlp.experts
    assert isinstance(experts, hf.PagedExperts)

    def read_bytes(*routed: int) -> int:
        before = hf.stats(loaded)["bytes_compressed_read"]
        experts(torch.ones(1, 72), torch.tensor([routed]), torch.full((1, len(routed)), 0.5))
        return hf.stats(loaded)["bytes_compressed_read"] - before

    def stored_bytes(*routed: int) -> int:
        of_experts = [m for expert in routed for m in (*experts.paged_up[expert], experts.paged_down[expert])]
        assert len(of_experts) == len(routed) * (3 if name == "mixtral" else 2)
        matrices = open_directory(path).matrices
        return sum(int(matrices[matrix.name].tiles.stored_bytes.sum()) for matrix in of_experts)

    # 5 stands for no expert; what was used a moment ago is still there.
    assert read_bytes(5, 5) == 0
    assert read_bytes(2, 5) == stored_bytes(2) > 0
    assert read_bytes(2, 0) == stored_bytes(0)
    assert read_bytes(0, 2) == 0
    assert read_bytes(1, 3) == stored_bytes(1, 3)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi3", "bert"])
def test_matrices_are_prefetched_in_the_order_of_use(packed: Any, name: str) -> None:
    loaded = load(packed(name), packed(name).exact)
    used: list[str] = []
    for module in loaded.modules():
        if isinstance(module, (hf.PagedLinear, hf.PagedConv1D)):
            module.register_forward_pre_hook(lambda module, _: used.append(module.paged.name))
    logits(loaded)
    assert used == list(loaded.hf_quantizer.store.sweep)


@pytest.mark.parametrize("name", ["phi3", "gpt2"])
@pytest.mark.parametrize("codec", ["int8", "int4", "dense"])
def test_other_codecs_against_their_decoded_weights(packed: Any, tmp_path: Path, name: str, codec: str) -> None:
    model = packed(name)
    vx.pack(model.source, tmp_path / "c3", codec=codec)
    loaded = load(model, tmp_path / "c3")
    plain = model.model_class.from_pretrained(model.source)
    changed = 0
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if parameter.ndim == 2:
                decoded = loaded.hf_quantizer.store.dense(name)
                changed += not torch.equal(decoded, parameter)
                parameter.copy_(decoded)
    assert bool(changed) == (codec != "dense")
    found = logits(loaded)
    assert relative(found, logits(plain)) <= TOLERANCE
    assert torch.equal(found, logits(load(model, tmp_path / "c3", ram_budget=SMALL_BYTES, threads=2)))
    assert codec != "dense" or torch.equal(found, logits(load(model, model.raw)))


@pytest.mark.parametrize("kind", ["PagedLinear", "PagedConv1D"])
def test_products_of_any_shape_and_their_gradient(packed: Any, kind: str) -> None:
    model = packed("gpt2" if kind == "PagedConv1D" else "bert")
    loaded = load(model, model.exact)
    plain = model.model_class.from_pretrained(model.source)
    name = next(n for n, m in loaded.named_modules() if type(m).__name__ == kind)
    paged, dense = loaded.get_submodule(name), plain.get_submodule(name)
    width = dense.weight.shape[0 if kind == "PagedConv1D" else 1]
    x = torch.randn(3, 2, 11, width, generator=torch.Generator().manual_seed(5))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    paged(a).square().sum().backward()
    dense(b).square().sum().backward()
    assert relative(paged(x), dense(x)) <= TOLERANCE and relative(a.grad, b.grad) <= TOLERANCE
    with torch.no_grad():
        one = torch.cat([paged(row[None]) for row in x.reshape(-1, width)])
        assert torch.equal(paged(x).reshape(one.shape), one)
        assert paged(x.bfloat16()).dtype == torch.bfloat16
    assert paged(x[:0]).shape == (0, *dense(x).shape[1:])


def test_the_weight_of_a_paged_module_only_describes(packed: Any) -> None:
    layer = load(packed("bert"), packed("bert").exact).bert.encoder.layer[0].output.dense
    assert layer.weight.shape == (72, 93) and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
    with pytest.raises(vx.ModelConfigError, match=r"layer\.0\.output\.dense\.weight' is paged"):
        layer.weight + 1


def test_errors(packed: Any, tmp_path: Path) -> None:
    model = packed("phi3")
    with pytest.raises(vx.BudgetError):
        load(model, model.exact, ram_budget=10_000)
    with pytest.raises(vx.ModelConfigError, match="vortex pack"):
        load(model, model.source)
    with pytest.raises(ValueError, match="policy"):
        hf.C3Config(policy="belady")
    with pytest.raises(ValueError, match="'ram'"):
        hf.C3Config(ram=3)
    with pytest.raises(vx.BackendUnavailableError, match="device_map"):
        model.model_class.from_pretrained(model.exact, device_map={"": 0})
    with pytest.raises(vx.ModelConfigError, match=r"import vortex_engine\.hf"):
        vx.load(model.exact)
    with pytest.raises(ValueError, match="not serializable"):
        load(model, model.exact).save_pretrained(tmp_path)


def test_config_json_never_holds_run_time_options(packed: Any) -> None:
    model = packed("phi3")
    written = load(model, model.raw, ram_budget="64MiB", threads=1).config.to_dict()["quantization_config"]
    assert written == {"quant_method": "c3", "format": 1, "codec": "raw"}


@pytest.mark.parametrize("where", ["config.json", "norm", "tile"])
def test_changed_bytes_are_named(packed: Any, tmp_path: Path, where: str) -> None:
    import shutil

    model = packed("phi3")
    copy = tmp_path / "copy"
    shutil.copytree(model.exact, copy)
    directory = open_directory(copy)
    name = "model.layers.1.self_attn.o_proj.weight"
    offset = {
        "config.json": 0,
        "norm": directory.tensors["model.norm.weight"].offset + 2,
        "tile": directory.matrices[name].base_offset + 300,
    }[where]
    path = copy / "config.json" if where == "config.json" else directory.matrices[name].shard
    data = bytearray(path.read_bytes())
    if where == "config.json":
        data += b" "  # stays readable for transformers, which sees it first
    else:
        data[offset] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(vx.CorruptTileError) as caught:
        logits(load(model, copy))
    assert where != "tile" or caught.value.tensor == name


def test_packing_says_what_runs_the_model(packed: Any, tiny_hf_dir: Path, tmp_path: Path) -> None:
    assert "'gpt2' is not supported" in packed("gpt2").report.transformers_only
    assert vx.pack(tiny_hf_dir, tmp_path / "c3").transformers_only is None


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'transformers' else find(name, *rest)\n"
        "import vortex_engine.hf"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        run.returncode and "BackendUnavailableError" in run.stderr and 'pip install "vortex-engine[hf]"' in run.stderr
    )


def test_activations_are_the_recorded_ones_unless_asked_for(packed: Any, tmp_path: Path) -> None:
    model = packed("phi3")
    vx.pack(model.source, tmp_path / "int8", codec="int8", activations="int8")
    found: dict[str, Any] = {}
    for activations in (None, "float", "int8"):
        loaded = load(model, tmp_path / "int8", activations=activations)
        found[hf.stats(loaded)["activations"]] = logits(loaded)
        assert loaded.config.quantization_config.to_dict().get("activations") == (
            None if activations == "float" else "int8"
        )
    assert set(found) == {"float", "int8"}
    assert 1e-4 < relative(found["int8"], found["float"]) < 0.2
    with pytest.raises(ValueError, match="activations='int8' is for int8 and int4 tiles"):
        load(model, model.exact, activations="int8")
    with pytest.raises(ValueError, match="activations must be"):
        hf.C3Config(activations="int4")
