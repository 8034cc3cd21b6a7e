"""What a configuration may say, the text it names, and `vortex train` at the shell."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

from tests.train.tiny_runs import STEPS, tiny_settings, write_text

from vortex_engine.cli import main
from vortex_engine.errors import ModelConfigError
from vortex_engine.tok.hugging_face import HuggingFaceTokenizer
from vortex_engine.train.checkpoint import RunDirectory
from vortex_engine.train.codec import open_codec
from vortex_engine.train.config import TrainConfig, read_config
from vortex_engine.train.corpus import tokenise
from vortex_engine.train.registry import build_trainable
from vortex_engine.train.tokenizer import train_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_text(tmp_path)


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**tiny_settings(folder, "run"), **changes}))
    return path


def test_flags_override_the_file_in_order_and_a_resolved_file_reads_back(folder: Path) -> None:
    path = write_config(folder)
    # YAML reads 3e-3 as text; it means a number here.
    config = read_config(path, ["optim.lr=3e-3", "loop.steps=5", "data.valid=[a, b]"], {"loop.steps": 6, "seed": None})
    assert (config.optim.lr, config.loop.steps, config.seed) == (0.003, 6, 7)
    assert config.data.valid == [Path("a"), Path("b")]
    path.write_text(config.to_yaml())
    assert read_config(path) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"lrr": 1.0}}, r"optim\.lrr is no setting; did you mean optim\.lr\?"),
        ({"steps": 5}, r"steps is no setting; did you mean loop\.steps\?"),
        ({"lop": {}}, r"lop is no setting; did you mean loop\?"),
        ({"loop": {"steps": 0}}, r"loop\.steps: .*greater than or equal to 1, got 0"),
        ({"loop": {}}, "either steps or seconds"),
        ({"loop": {"steps": 1, "seconds": 1}}, "either steps or seconds"),
        ({"loop": {"steps": 1, "batch_tokens": 100}}, "multiple of 16 tokens, got 100"),
        ({"loop": {"steps": 1, "batch_tokens": 32, "micro_batch_tokens": 9}}, "multiple of data.seq_len = 16, got 9"),
        ({"data": {"train": []}}, r"data\.train: .*at least 1"),
        ({"optim": {"kind": "sgd"}}, r"optim\.kind: .*'adamw' or 'muon'"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_fix(
    changes: dict[str, Any], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(folder, **changes)
    with pytest.raises(ModelConfigError, match=message):
        read_config(path)
    assert main(["train", "--config", str(path)]) == 3
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("text", ["- 1", "a: [", "\xff\xfe"])
def test_what_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with pytest.raises(ModelConfigError, match="there is no configuration"):
        read_config(path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelConfigError, match=r"run\.yaml (must hold keys|is not YAML|cannot be read)"):
        read_config(path)


def test_a_wrong_override_is_bad_usage(folder: Path) -> None:
    path = write_config(folder)
    for override in ("optim.lr", "optim..lr=1", "seed.x=1", "optim.lr=[", "optim.lr=-1", "loop.stepz=1"):
        with pytest.raises(ValueError, match=r"\[train\]"):
            read_config(path, [override])
        assert main(["train", "--config", str(path), "--set", override]) == 2


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model_type": "lama"}, "did you mean llama"),
        ({"hidden_siz": 3}, r"model\.hidden_siz is no setting; did you mean model\.hidden_size\?"),
        ({"num_key_value_heads": 3}, "must divide 2 heads, got 3"),
        ({"hidden_size": 18}, "even multiple of num_attention_heads = 2"),
        ({"vocab_size": 100}, "must hold the tokenizer's 260 tokens, got 100"),
        ({"mtp_k": 99}, r"model\.mtp_k"),
    ],
)
def test_a_wrong_model_section_is_named(section: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ModelConfigError, match=message):
        build_trainable({**tiny_settings(folder, "run")["model"], **section}, 260)


def test_the_readme_s_configuration_is_one() -> None:
    block = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)[0]
    config = TrainConfig.model_validate(yaml.safe_load(block))
    assert build_trainable(config.model, 260).max_positions is not None


def test_text_of_files_and_directories_becomes_documents_behind_separators(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("ab\u00e9")
    with gzip.open(tmp_path / "texts" / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "one"}) + "\n" + json.dumps({"text": "<|fim_prefix|>x"}) + "\n")
    codec = open_codec("bytes", "<|endoftext|>")
    found = tokenise([tmp_path / "texts", tmp_path / "texts" / "a.txt"], codec, tmp_path / "cache")
    documents = [
        ("ab\u00e9".encode()),
        b"one",
        b"<|fim_prefix|>x",
        ("ab\u00e9".encode()),
    ]
    inner = [[int(i) for i in codec.encode([text.decode()])[0]] for text in documents]
    assert found.ids.tolist() == [token for ids in inner for token in (codec.end_of_text_id, *ids)]
    assert found.n_documents == 4 and found.text_bytes == sum(map(len, documents))
    lengths = codec.byte_lengths()
    assert lengths[found.ids].sum() == found.text_bytes - len(b"<|fim_prefix|>")
    # A special token is one id, as the tokenizer has it; other text is its bytes, by the fast way too.
    general = HuggingFaceTokenizer(codec.json_text, "it")
    assert inner == [general.encode_ordinary(text.decode()) for text in documents]


def test_tokens_are_made_once_and_again_when_something_changed(tmp_path: Path) -> None:
    text, cache = tmp_path / "a.txt", tmp_path / "cache"
    text.write_text("hello")
    codec = open_codec("bytes", "<|endoftext|>")
    read: list[str] = []
    first = tokenise([text], codec, cache, read.append)
    again = tokenise([text], codec, cache, read.append)
    assert read == ["a.txt"] and again.fingerprint == first.fingerprint
    os.utime(text, ns=(1, 1))
    assert tokenise([text], codec, cache, read.append).fingerprint == first.fingerprint
    text.write_text("hellO")
    assert tokenise([text], codec, cache, read.append).fingerprint != first.fingerprint
    for path in cache.glob("*.u16"):
        path.write_bytes(path.read_bytes()[:-2])
    assert len(tokenise([text], codec, cache, read.append).ids) == 6
    assert read == ["a.txt"] * 4
    other = open_codec("bytes", "<|fim_prefix|>")
    assert tokenise([text], other, cache).ids[0] == 1


def test_a_large_vocabulary_takes_four_bytes_and_a_missing_separator_is_named(tmp_path: Path) -> None:
    trained = json.loads(train_tokenizer(["def f(x): return x\n"] * 9, vocab_size=300).to_str())
    for i in range(300, 2**16 + 5):
        trained["model"]["vocab"][f"<{i}>"] = i
    (tmp_path / "tokenizer.json").write_text(json.dumps(trained))
    (tmp_path / "a.txt").write_text("def f(x): return x\n")
    codec = open_codec(str(tmp_path), "<|endoftext|>")
    found = tokenise([tmp_path / "a.txt"], codec, tmp_path / "cache")
    assert found.ids.dtype == np.uint32 and len(found.ids) < 15 and codec.vocab_size == 2**16 + 5
    with pytest.raises(ModelConfigError, match=r"no token '<s>' .* data\.end_of_text"):
        open_codec(str(tmp_path / "tokenizer.json"), "<s>")
    with pytest.raises(ModelConfigError, match=r"data\.tokenizer .* cannot be read"):
        open_codec(str(tmp_path / "none.json"), "<s>")


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("data.train=[missing]", 3, "there is no corpus missing"),
        ("data.tokenizer=missing", 3, "data.tokenizer missing"),
        ("loop.batch_tokens=160000", 3, "more than one step of 160000 tokens"),
        ("data.seq_len=128", 3, "at most the model's 64"),
        ("optim.lr=1e30", 1, r"step 2: .* not finite: first gradient of"),
    ],
)
def test_what_cannot_be_trained_has_its_exit_code(
    override: str, code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--config", str(write_config(folder)), "--set", "schedule.warmup_steps=0"]
    assert main([*arguments, "--set", "loop.micro_batch_tokens=null", "--set", override, "--json"]) == code
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert error["exit_code"] == code and re.search(message, error["message"])


def test_the_command_trains_reports_draws_and_does_not_overwrite(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vortex-engine[train]'")
    arguments = ["train", "--config", str(write_config(folder)), "--out", str(folder / "1"), "--set", "loop.plot=true"]
    assert main([*arguments, "--steps", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["step"] == 5 and report["n_tokens"] == 5 * 128 and report["out"] == str(folder / "1")
    assert report["best_bits_per_byte"] > 0 and report["precision"] == "fp32"
    assert (folder / "1" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--steps", "5"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--steps", "5", "--resume"]) == 0
    printed = capsys.readouterr()
    assert "bits a byte" in printed.out and "at step 5" in printed.err


def test_ctrl_c_saves_and_exits_with_130(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pause_file = folder / "pause"
    pause_file.touch()
    arguments = ["train", "--config", str(write_config(folder)), "--set", f"loop.pause_file={pause_file}"]

    def interrupt_when_paused() -> None:
        # The pause saves a checkpoint first, so its presence says that the loop is waiting.
        while not (folder / "run" / "last").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_paused, daemon=True)
    thread.start()
    assert main(arguments) == 130
    thread.join()
    printed = capsys.readouterr().err
    assert "paused at step 0" in printed and "is saved in" in printed and "--resume goes on" in printed
    linked = RunDirectory(folder / "run", keep=1).linked("last")
    assert linked is not None and linked < STEPS
