"""Packing with a calibration text: what is chosen, what is reported, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import vortex_engine as vx
from vortex_engine import ops
from vortex_engine.c3.directory import add_matrices, open_directory
from vortex_engine.c3.inspect import inspect_directory
from vortex_engine.c3.plan import plan_packing
from vortex_engine.c3.source import open_source
from vortex_engine.models.calibration import ModelCalibrator
from vortex_engine.models.calibration_text import read_calibration
from vortex_engine.models.divergence import DivergenceSum
from vortex_engine.models.variants import open_variants
from vortex_engine.tok import load_tokenizer

TEXT = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n" * 8


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "code.txt"
    path.write_text(TEXT)
    return path


def tree(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_mixed_keeps_its_bound_and_spends_it(tiny_hf_dir: Path, text: Path, tmp_path: Path) -> None:
    divergences: list[float] = []
    for bits in (9.0, 11.0, 14.0):
        target = tmp_path / f"{bits}.c3"
        report = vx.pack(tiny_hf_dir, target, "mixed", calibration=text, bits_per_weight=bits)
        seen = inspect_directory(target, verify=True)
        # The largest matrix of this model is a tenth of it.
        assert 0.9 * bits < seen.bits_per_weight <= bits
        assert report.codec == seen.codec == "mixed" and report.divergence is not None
        divergences.append(report.divergence.nats_per_token)
        with vx.load(target) as model:
            assert model.generate("def f", max_new_tokens=4).token_ids
    assert divergences[0] > divergences[1] > divergences[2] >= 0
    assert not list(tmp_path.glob("*.partial"))


def test_bits_for_all_make_all_lossless(tiny_hf_dir: Path, tiny_c3_dir: Path, text: Path, tmp_path: Path) -> None:
    report = vx.pack(tiny_hf_dir, tmp_path / "out.c3", "mixed", calibration=text, bits_per_weight=64.0)
    assert report.relative_rms == 0.0 and report.divergence is not None
    assert report.divergence.nats_per_token == 0.0 and report.divergence.top1_agreement == 1.0
    with vx.load(tmp_path / "out.c3") as ours, vx.load(tiny_c3_dir) as exact:
        np.testing.assert_array_equal(ours.logits("abc"), exact.logits("abc"))


def test_bytes_depend_neither_on_threads_nor_on_the_budget(tiny_hf_dir: Path, text: Path, tmp_path: Path) -> None:
    reports = [
        vx.pack(tiny_hf_dir, tmp_path / name, "mixed", calibration=text, bits_per_weight=10.0, **options)
        for name, options in (("a", {"threads": 1}), ("b", {"threads": 3, "ram_budget": "300KiB"}))
    ]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert reports[0].divergence == reports[1].divergence and reports[0].tensors == reports[1].tensors
    assert len({tensor.codec for tensor in reports[0].tensors.values()}) > 1


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_divergence_is_that_of_the_logits(
    codec: str, tiny_hf_dir: Path, tiny_c3_dir: Path, text: Path, tmp_path: Path
) -> None:
    report = vx.pack(tiny_hf_dir, tmp_path / "out.c3", codec, calibration=text)
    with vx.load(tiny_c3_dir) as exact, vx.load(tmp_path / "out.c3") as rounded:
        ids = exact.tokenizer.encode(TEXT)
        windows = [ids[start : start + 256] for start in range(0, len(ids), 256)]
        p, q = (
            np.concatenate([model.logits(window) for window in windows]).astype(np.float64)
            for model in (exact, rounded)
        )
    log_p, log_q = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True) for logits in (p, q))
    assert report.divergence is not None and report.divergence.n_tokens == len(ids)
    wanted = float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())
    assert report.divergence.nats_per_token == pytest.approx(wanted, rel=1e-6) and wanted > 0
    assert report.divergence.top1_agreement == pytest.approx(float((p.argmax(1) == q.argmax(1)).mean()))


def test_lossless_codecs_diverge_by_nothing_and_run_nothing(tiny_hf_dir: Path, text: Path, tmp_path: Path) -> None:
    for codec in ("exact", "dense", "raw", "lz4"):
        report = vx.pack(tiny_hf_dir, tmp_path / codec, codec, calibration=text)
        assert report.divergence is not None
        assert (report.divergence.nats_per_token, report.divergence.n_tokens) == (0.0, 0)
    assert vx.pack(tiny_hf_dir, tmp_path / "plain", "int4").divergence is None


def matrix(path: Path, name: str) -> np.ndarray:
    """A matrix as the engine reads it, float64."""
    directory, ctx = open_directory(path), ops.make_context()
    pager = ops.make_pager(ctx, 1 << 26)
    handles = add_matrices(directory, pager)
    pager.start(list(handles.values()))
    rows = ops.embed_rows(ctx, pager, handles[name], np.arange(directory.matrices[name].rows))
    pager.close()
    return rows.astype(np.float64)


def test_output_errors_are_those_of_the_products(tiny_hf_dir: Path, tiny_c3_dir: Path, tmp_path: Path) -> None:
    """The first layer's inputs are known without running the model: normed rows of the embedding."""
    packings = {"int4": tmp_path / "int4", "int8": tmp_path / "int8"}
    for codec, target in packings.items():
        vx.pack(tiny_hf_dir, target, codec)
    ids = np.arange(40, 90)
    with open_variants(tiny_c3_dir, packings, threads=1, ram_budget_bytes=None) as model:
        errors = model.output_errors([ids[:20], ids[20:]])
    embedding, q_proj = "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"
    h = matrix(tiny_c3_dir, embedding)[ids]
    norm = open_directory(tiny_c3_dir).tensor("model.layers.0.input_layernorm.weight")
    x = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-5) * norm
    for codec, target in packings.items():
        off = matrix(target, embedding)[ids] - h
        assert errors[embedding][codec] == pytest.approx((off**2).sum() / (h**2).sum(), rel=1e-4)
        w = matrix(tiny_c3_dir, q_proj)
        off = x @ (matrix(target, q_proj) - w).T
        assert errors[q_proj][codec] == pytest.approx((off**2).sum() / ((x @ w.T) ** 2).sum(), rel=1e-3)
    assert next(iter(errors)) == embedding and "lm_head.weight" in errors
    assert all(0 < error["int8"] < error["int4"] for error in errors.values())


def test_a_replaced_matrix_changes_the_logits_and_only_while_it_is_replaced(
    tiny_hf_dir: Path, tiny_c3_dir: Path, tmp_path: Path
) -> None:
    vx.pack(tiny_hf_dir, tmp_path / "int4", "int4")
    ids = np.arange(40, 60)
    with open_variants(tiny_c3_dir, {"int4": tmp_path / "int4"}, threads=1, ram_budget_bytes=None) as model:
        exact = model.logits(ids)
        one = model.logits(ids, {"model.layers.1.mlp.down_proj.weight": "int4"})
        every = model.logits(ids, "int4")
        np.testing.assert_array_equal(model.logits(ids), exact)
    with vx.load(tmp_path / "int4") as rounded:
        np.testing.assert_array_equal(every, rounded.logits(ids.tolist()))
    assert not np.array_equal(one, exact) and not np.array_equal(one, every)


def test_an_interrupted_choice_goes_on_and_leaves_no_target(tiny_hf_dir: Path, text: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "whole"
    options = {"codec": "mixed", "calibration": text, "bits_per_weight": 10.0}
    calls: list[int] = []
    vx.pack(tiny_hf_dir, wanted, progress=lambda done, *_: calls.append(done), **options)
    for stop_at in (1, len(calls) // 3, len(calls) * 2 // 3, len(calls)):
        count = itertools.count(1)
        target = tmp_path / f"out{stop_at}"

        def progress(*_: object, count: itertools.count[int] = count, stop_at: int = stop_at) -> None:
            if next(count) == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            vx.pack(tiny_hf_dir, target, progress=progress, **options)
        assert not target.exists() and target.with_name(target.name + ".partial").exists()
        vx.pack(tiny_hf_dir, target, **options)
        assert tree(target) == tree(wanted)
        assert not target.with_name(target.name + ".partial").exists()


def test_copies_of_another_source_are_made_again(tiny_hf_dir: Path, text: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_hf_dir, source)
    # What an earlier run of a source that has changed since would have left.
    work = tmp_path / "out.c3.partial" / "work"
    work.mkdir(parents=True)
    (work / "source.json").write_text("{}")
    (work / "int8.c3").mkdir()
    vx.pack(source, tmp_path / "out.c3", "mixed", calibration=text, bits_per_weight=10.0)
    vx.pack(source, tmp_path / "clean.c3", "mixed", calibration=text, bits_per_weight=10.0)
    assert tree(tmp_path / "out.c3") == tree(tmp_path / "clean.c3")


def test_a_choice_is_measured_with_the_activations_that_are_recorded(
    tiny_hf_dir: Path, text: Path, tmp_path: Path
) -> None:
    source = open_source(tiny_hf_dir)
    plan = plan_packing(source, "mixed", 1 << 30)
    for activations in ("float", "int8"):
        calibrator = ModelCalibrator("mixed", text, 10.0, activations)
        calibrator.check(source, plan)
        assert set(calibrator.choose(source, plan, tmp_path / "work").values()) > {"int4"}
        # The folder is the same: what was made for other activations is made again.
        found = {codec: open_directory(tmp_path / "work" / f"{codec}.c3").activations for codec in ("exact", "int8")}
        assert found == {"exact": "float", "int8": activations}


def changed(source: Path, folder: Path, **config: object) -> Path:
    shutil.copytree(source, folder)
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **config}))
    return folder


def test_refusals_say_what_to_do(tiny_hf_dir: Path, text: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, source: Path = tiny_hf_dir, **options: object) -> None:
        given = {"codec": "mixed", "calibration": text, "bits_per_weight": 10.0, **options}
        with pytest.raises(error, match=match):
            vx.pack(source, tmp_path / "out.c3", **given)
        assert not (tmp_path / "out.c3").exists() and not (tmp_path / "out.c3.partial").exists()

    refused(ValueError, "needs a calibration text", calibration=None)
    refused(ValueError, "needs bits_per_weight", bits_per_weight=None)
    refused(ValueError, "positive number, got nan", bits_per_weight=float("nan"))
    refused(ValueError, "of codec 'mixed', got codec 'int4'", codec="int4")
    refused(ValueError, "give one, or leave", codec="int4", calibration=None, bits_per_weight=None, ram_budget="1GiB")
    refused(vx.BudgetError, r"bits_per_weight must be at least \d\.\d\d\d .* got 3", bits_per_weight=3)
    refused(vx.ModelConfigError, r"missing\.txt cannot be opened: No such file", calibration=tmp_path / "missing.txt")
    refused(vx.ModelConfigError, "cannot be opened: Is a directory", calibration=tmp_path)
    empty, bad = tmp_path / "empty.txt", tmp_path / "bad.txt"
    empty.write_text(" \n")
    bad.write_bytes(b"abc\xff")
    refused(vx.ModelConfigError, r"empty\.txt is empty; give some pages", calibration=empty)
    refused(vx.ModelConfigError, "is not UTF-8: byte 3 is 0xff", calibration=bad)
    refused(vx.ModelConfigError, "is empty", calibration=empty, codec="exact", bits_per_weight=None)
    other = changed(tiny_hf_dir, tmp_path / "other", model_type="gpt_neox")
    refused(vx.ModelConfigError, "choose --codec int8 or int4: .*gpt_neox", source=other)
    refused(
        vx.ModelConfigError, "leave out --calibration: .*gpt_neox", source=other, codec="int4", bits_per_weight=None
    )
    small = changed(tiny_hf_dir, tmp_path / "small", vocab_size=40)
    refused(vx.ModelConfigError, "the model knows ids below 40", source=small)
    (tmp_path / "other" / "tokenizer.json").unlink()
    shutil.copyfile(tiny_hf_dir / "config.json", tmp_path / "other" / "config.json")
    refused(vx.ModelConfigError, r"no tokenizer\.json", source=other)


def test_a_ram_budget_below_the_minimum(tiny_hf_dir: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(vx.BudgetError):
        vx.pack(tiny_hf_dir, tmp_path / "out.c3", "int4", calibration=text, ram_budget="4KiB")
    assert not (tmp_path / "out.c3").exists()
    # What was packed until then is kept for a larger budget.
    assert vx.pack(tiny_hf_dir, tmp_path / "out.c3", "int4", calibration=text).resumed_bytes > 0


def test_windows_are_spread_over_the_text(tiny_hf_dir: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_hf_dir)
    path = tmp_path / "long.txt"
    path.write_text("abcdefghijklmnopqrstuvwxyz0123456789\n" * 200)
    text = read_calibration(path, tokenizer, vocab_size=323, context_length=100)
    windows = text.windows(450)
    assert [len(window) for window in windows] == [100] * 5
    assert np.array_equal(windows[0], text.ids[:100])
    last = len(text.ids) // 100 * 100
    assert np.array_equal(windows[-1], text.ids[last - 100 : last])
    assert np.array_equal(np.concatenate(text.windows(1 << 20)), text.ids)
    assert [len(window) for window in text.windows(7)] == [7]
    # Logits of 2^20 ids leave room for few rows.
    assert read_calibration(path, tokenizer, vocab_size=1 << 20, context_length=100).window_tokens == 16


def test_a_cut_character_at_the_limit_is_left_out(tiny_hf_dir: Path, tmp_path: Path) -> None:
    from vortex_engine.models.calibration_text import read_text

    path = tmp_path / "long.txt"
    path.write_bytes(b"a" + "é".encode() * (3 << 20))
    read = read_text(path)
    assert read[0] == "a" and set(read[1:]) == {"é"} and len(read.encode()) == (4 << 20) - 1


def test_divergence_sums() -> None:
    rng = np.random.default_rng(1)
    p, q = (rng.standard_normal((40, 9), dtype=np.float32) * 30 for _ in range(2))
    total = DivergenceSum()
    total.add(p, p)
    assert total.mean().nats_per_token == 0.0 and total.mean().top1_agreement == 1.0
    total = DivergenceSum()
    total.add(p[:17], q[:17])
    total.add(p[17:], q[17:])
    assert total.mean().n_tokens == 40 and total.mean().nats_per_token > 1
