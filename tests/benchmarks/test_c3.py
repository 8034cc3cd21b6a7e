"""The harness of packed models against their peers: its bounds, its formats, and one tiny run of it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.c3.disk import missing_ranges, read_seconds_per_byte
from benchmarks.c3.report import Figure
from benchmarks.c3.size import dfloat11_bytes, entropy_bytes, huffman_lengths
from benchmarks.c3.weights import read_bf16_bits, unpacked, write_checkpoint

import vortex_engine as vx
from vortex_engine.c3.directory import open_directory

REPOSITORY = Path(__file__).resolve().parents[2]


def run_harness(work: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "benchmarks.c3", "--quick", "--work", str(work), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_huffman_lengths_are_a_complete_code_near_the_entropy() -> None:
    assert huffman_lengths([5, 0, 2, 1, 1]) == [1, 0, 2, 3, 3]
    assert huffman_lengths([0, 7]) == [0, 1]
    counts = [int(count) for count in np.random.default_rng(2).geometric(0.01, 200)]
    lengths = huffman_lengths(counts)
    assert sum(2.0**-length for length in lengths) == 1
    share = np.array(counts) / sum(counts)
    entropy = -float(np.dot(share, np.log2(share)))
    assert entropy <= float(np.dot(share, lengths)) < entropy + 1


def test_computed_sizes_stand_above_the_entropy() -> None:
    values = np.random.default_rng(3).standard_normal((256, 512), dtype=np.float32)
    matrices = {f"layers.{i}.w": (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16) for i in range(2)}
    floor, size = entropy_bytes(matrices), dfloat11_bytes(matrices)
    # Gaussian exponents hold 2.5 to 2.7 bits; DFloat11 publishes about 11 bits a weight.
    assert 10.4 < floor * 8 / (2 * values.size) < 10.8 and 10.6 < size * 8 / (2 * values.size) < 11.2


def test_weights_come_back_from_a_packed_model(tmp_path: Path) -> None:
    bits = np.random.default_rng(4).integers(0, 1 << 16, (70, 96), dtype=np.uint16)
    source = write_checkpoint(tmp_path / "source", {"w": bits})
    assert [name for name, read in read_bf16_bits(source / "model.safetensors") if np.array_equal(read, bits)] == ["w"]
    from vortex_engine.c3.pack import pack

    pack(source, tmp_path / "packed", codec="exact")
    ((name, values),) = unpacked(open_directory(tmp_path / "packed"))
    assert name == "w" and np.array_equal(values.view(np.uint32) >> np.uint32(16), bits)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_reads_without_an_engine_are_as_many_bytes(share: float, tiny_c3_dir: Path) -> None:
    directory = open_directory(tiny_c3_dir)
    wanted = directory.compressed_bytes * share
    path, ranges = missing_ranges(directory, wanted)
    assert all(offset % 4096 == 0 and size % 4096 == 0 for offset, size in ranges)
    assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(ranges))
    largest = max(matrix.n_bytes for matrix in directory.matrices.values())
    assert abs(sum(size for _, size in ranges) - wanted) <= largest
    assert read_seconds_per_byte(path, ranges) > 0


def test_a_claim_is_met_on_its_own_side() -> None:
    figure = Figure()
    figure.claim("fast", 1.4, ">=", 1.35)
    figure.claim("small", 1.03, "<=", 1.02)
    figure.claim("not measured", None, ">=", 1.0)
    assert [(claim.what, claim.met) for claim in figure.claims] == [("fast", True), ("small", False)]


def test_a_tiny_run_writes_results_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--only", "resident", "paging", "--llama-bin", str(tmp_path / "empty")]
    page = run_harness(tmp_path / "work", *arguments)
    assert "skipped: llama.cpp: no llama-bench" in page and "bytes read a token, budgets 25/50/75/90 %" in page
    resident = json.loads((tmp_path / "work" / "results" / "c3_resident.json").read_text())
    assert resident["machine"]["n_cores"] >= 1 and "llama-bench" in resident["skipped"][0]
    assert {entry["weights"] for entry in resident["entries"]} >= {"exact", "raw"}
    assert all(entry["decode_tokens_per_s"]["median"] > 0 for entry in resident["entries"])
    paging = json.loads((tmp_path / "work" / "results" / "c3_paging.json").read_text())
    for entry in paging["entries"]:
        assert entry["bytes_per_token"] >= entry["missing_bytes"] > 0


def test_a_figure_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    run_harness(tmp_path, "--only", "curve")
    for shard in tmp_path.glob("small-exact-*.c3/*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:5000])
    page = run_harness(tmp_path, "--only", "curve", "gemv", code=1)
    assert "failed: curve: " in page and "not measured: curve: " in page
    assert (tmp_path / "results" / "c3_gemv.json").is_file()


def test_the_random_model_becomes_a_gguf_file(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'vortex-engine[test]'")
    from benchmarks.c3.gguf_convert import convert
    from benchmarks.make_model import make_model

    make_model(tmp_path / "source", "deep")
    convert(tmp_path / "source", tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    wanted = dict(read_bf16_bits(tmp_path / "source" / "model.safetensors"))
    assert len(found) == len(wanted)
    data = np.ascontiguousarray(found["blk.3.ffn_down.weight"].data).view(np.uint16)
    assert np.array_equal(data, wanted["model.layers.3.mlp.down_proj.weight"])


def test_packed_models_of_the_harness_run(tmp_path: Path) -> None:
    from benchmarks.make_model import make_model

    make_model(tmp_path / "source", "deep")
    vx.pack(tmp_path / "source", tmp_path / "model.c3")
    job = {"model": str(tmp_path / "model.c3"), "budget_bytes": 1 << 24, "threads": 1, "warm_up_tokens": 1}
    job |= {"decode_tokens": 4, "prefill_tokens": 32}
    script = REPOSITORY / "benchmarks" / "c3" / "run_ours.py"
    done = subprocess.run([sys.executable, script, json.dumps(job)], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert len(result["token_ids"]) == 4 and result["prefill_tokens_per_s"] > 0


def test_a_llama_becomes_a_gguf_file_with_its_tokenizer(tiny_hf_dir: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'vortex-engine[test]'")
    from benchmarks.c3.gguf_convert import convert

    convert(tiny_hf_dir, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    config = json.loads((tiny_hf_dir / "config.json").read_text())
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    name = "model.layers.1.self_attn.q_proj.weight"
    wanted = dict(read_bf16_bits(tiny_hf_dir / "model.safetensors"))[name].reshape(heads, -1, hidden)
    (tensor,) = (tensor for tensor in reader.tensors if tensor.name == "blk.1.attn_q.weight")
    found = np.ascontiguousarray(tensor.data).view(np.uint16).reshape(wanted.shape)
    # ggml turns channels 2i and 2i + 1 of a head together, transformers i and i + half.
    half = wanted.shape[1] // 2
    assert np.array_equal(found[:, 0::2], wanted[:, :half]) and np.array_equal(found[:, 1::2], wanted[:, half:])
    tokens = reader.fields["tokenizer.ggml.tokens"]
    assert len(tokens.data) == config["vocab_size"]
