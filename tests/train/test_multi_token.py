"""The trainer of multi-token heads: a frozen trunk, heads that learn, and a directory that the engine runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

import torch
from safetensors.torch import load_file

import vortex_engine as vx
from vortex_engine import ops
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.errors import ModelConfigError, TargetExistsError
from vortex_engine.models import build_model
from vortex_engine.state import hidden_rows
from vortex_engine.train.export import export_hugging_face, import_hugging_face
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.multi_token import HeadsConfig, MultiTokenHeads, head_losses, main, train_heads
from vortex_engine.train.stop import StopSignal
from vortex_engine.train.tokenizer import train_tokenizer

SIZE = LlamaSize(
    vocab_size=300, hidden_size=32, intermediate_size=48, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16,
    max_positions=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    model = TinyLlama(SIZE)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("heads") / "hf"
    export_hugging_face(model, train_tokenizer(["def f(x): return x\n"] * 9, vocab_size=300), folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "c.jsonl.gz"
    rows = [{"path": str(i), "lang": "Python", "repo": "r", "text": f"def f(x): return {i}\n" * 8} for i in range(60)]
    with gzip.open(path, "wt") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def counting_batches(rows: int = 4, length: int = 24):
    """Ids that count up: what follows two places on is certain."""
    generator = torch.Generator().manual_seed(1)
    while True:
        start = torch.randint(0, 40, (rows, 1), generator=generator)
        yield (start + torch.arange(length + 1)) % 40


def test_heads_of_zeros_predict_as_the_model(checkpoint: Path) -> None:
    model = import_hugging_face(checkpoint)
    ids = next(counting_batches())
    with torch.no_grad():
        h = model.hidden(ids[:, :-1])
        results = head_losses(MultiTokenHeads(2, SIZE.hidden_size), model.model.embed_tokens.weight, h, ids)
        for i, (nats, _) in enumerate(results):
            logits = model(ids[:, :-1])[:, : ids.shape[1] - i - 2]
            expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, i + 2 :].flatten())
            torch.testing.assert_close(nats, expected)


def test_every_head_learns_its_place_and_the_trunk_stays(checkpoint: Path) -> None:
    model = import_hugging_face(checkpoint).requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    heads = train_heads(model, counting_batches(), HeadsConfig(k=2, steps=60, lr=0.1))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    ids = next(counting_batches(rows=8))
    with torch.no_grad():
        for i, state in enumerate(heads(model.hidden(ids))):
            found = (state @ model.model.embed_tokens.weight.T).argmax(-1)
            # By chance one in forty.
            assert float((found == (ids + i + 2) % 40).float().mean()) > 0.12


def test_the_command_writes_what_the_engine_runs(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(checkpoint), str(out), "--corpus", str(corpus), "--work-dir", str(tmp_path / "work")]
    arguments += ["--k", "2", "--steps", "12", "--rows", "2", "--seq-len", "16", "--lr", "0.05"]
    assert main(arguments) == 0
    config = json.loads((out / "config.json").read_text())
    assert config.pop("mtp_k") == 2 and config == json.loads((checkpoint / "config.json").read_text())
    assert (out / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    tensors, source = load_file(out / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    weights = [tensors.pop(f"mtp.{i}.weight") for i in range(2)]
    assert tensors.keys() == source.keys() and all(torch.equal(tensors[name], source[name]) for name in source)
    assert all(weight.dtype == torch.bfloat16 and bool(weight.any()) for weight in weights)

    vx.pack(out, tmp_path / "c3")
    ids = [5, 60, 7, 8]
    heads = MultiTokenHeads(2, SIZE.hidden_size)
    heads.load_state_dict({f"heads.{i}.state_proj.weight": weight.float() for i, weight in enumerate(weights)})
    with torch.no_grad():
        model = import_hugging_face(checkpoint)
        h = model.hidden(torch.tensor([ids]))[:, -1]
        expected = torch.stack([state[0] @ model.model.embed_tokens.weight.T for state in heads(h)])
    directory, ctx = open_directory(tmp_path / "c3"), ops.make_context(threads=1)
    pager = ops.make_pager(ctx, 1 << 22)
    try:
        decoder = build_model(directory, pager, add_matrices(directory, pager), ctx, "float")
        pager.start(list(decoder.sweep))
        state = decoder.new_state(8)
        decoder.forward(np.asarray(ids, np.int64), state)
        kept = hidden_rows(state)
        assert kept is not None and decoder.multi_token is not None
        np.testing.assert_allclose(decoder.multi_token.logits(kept.last), expected.numpy(), rtol=1e-3, atol=1e-3)
    finally:
        pager.close()

    with pytest.raises(TargetExistsError, match="out exists"):
        main(arguments)


def test_a_stop_request_keeps_what_is_trained(checkpoint: Path) -> None:
    stop = StopSignal()

    def batches():
        for i, batch in enumerate(counting_batches()):
            stop.requested = i == 2
            yield batch

    heads = train_heads(
        import_hugging_face(checkpoint).requires_grad_(False), batches(), HeadsConfig(k=1, steps=99), stop=stop
    )
    assert bool(heads.weights[0].any())


def test_wrong_arguments(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = [str(checkpoint), str(tmp_path / "out"), "--corpus", str(corpus), "--work-dir", str(tmp_path / "w")]
    for k in ("0", "9"):
        with pytest.raises(ValueError, match="k must lie"):
            main([*arguments, "--k", k])
    with pytest.raises(ModelConfigError, match="unpacked checkpoint"):
        main([str(tmp_path), *arguments[1:]])
    assert not (tmp_path / "out").exists()
