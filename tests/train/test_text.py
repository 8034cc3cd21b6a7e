"""Text side of the trainer: tokenizer, corpus selection, packing, n-grams and the sliding-window protocol."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'vortex-engine[train]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vortex_engine.train.baselines import byte_stream
from vortex_engine.train.bits import token_byte_lengths
from vortex_engine.train.data import (
    Document,
    counts_path,
    open_packed,
    pack_documents,
    read_corpus,
    select_documents,
)
from vortex_engine.train.evaluate import model_bits, sliding_windows
from vortex_engine.train.model import LlamaSize, TinyLlama
from vortex_engine.train.ngram import KneserNeyNgram
from vortex_engine.train.objective import Objective
from vortex_engine.train.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, train_tokenizer

CODE = "def add(a, b):\n    return a + b\n\n\nclass Point:\n    def norm(self):\n        return self.x ** 2\n"
TOKENIZER = train_tokenizer([CODE, CODE.replace("add", "sub"), "x = 10\n"], vocab_size=320)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    if any(special in text for special in SPECIAL_TOKENS):
        return
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


@pytest.mark.parametrize(
    "text", ["", "\n\n\n", "\r\n\tx", "    ", "a\n        b", "\u00a0 \u2003ñ☃🙂\0", "if x:\n\treturn  1"]
)
def test_awkward_texts_survive_the_tokenizer(text: str) -> None:
    encoding = TOKENIZER.encode(text)
    assert TOKENIZER.decode(encoding.ids) == text
    assert token_byte_lengths(TOKENIZER)[encoding.ids].sum() == len(text.encode())


def test_training_is_deterministic_and_special_tokens_come_first() -> None:
    again = train_tokenizer([CODE, CODE.replace("add", "sub"), "x = 10\n"], vocab_size=320)
    assert again.to_str() == TOKENIZER.to_str()
    assert [TOKENIZER.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert TOKENIZER.encode(f"a{END_OF_TEXT}").ids[-1] == 0
    with pytest.raises(ValueError, match="vocab_size"):
        train_tokenizer([CODE], vocab_size=100)


@pytest.mark.parametrize("cut", ["def add(a, b):", "def add(a, b):\n", "def add(a, b):\n    "])
def test_a_prompt_cut_at_a_line_break_or_indentation_is_a_prefix_of_the_text(cut: str) -> None:
    assert CODE.startswith(cut)
    ids = TOKENIZER.encode(cut).ids
    assert TOKENIZER.encode(CODE).ids[: len(ids)] == ids


def write_corpus(path: Path, documents: list[Document]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for document in documents:
            row = {"path": document.path, "lang": document.lang, "repo": document.repo, "text": document.text}
            file.write(json.dumps(row) + "\n")
    return path


def make_documents() -> list[Document]:
    return [
        Document(path=f"src/{number}.py", lang=("Python", "Go")[number % 2], repo="a/b", text=f"x = {number}\n{CODE}")
        for number in range(300)
    ]


def test_selection_keeps_the_asked_fraction_and_ignores_the_order_of_files(tmp_path: Path) -> None:
    documents = make_documents()
    first = write_corpus(tmp_path / "1.jsonl.gz", documents[:150])
    second = write_corpus(tmp_path / "2.jsonl.gz", documents[150:])

    def select(*paths: Path) -> list[Document]:
        return select_documents(read_corpus(paths), keep_by_lang={"Python": 1.0}, default_keep=0.3, seed=1)

    chosen = select(first, second)
    assert chosen == select(second, first)
    languages = [document.lang for document in chosen]
    assert languages.count("Python") == 150
    assert 25 <= languages.count("Go") <= 70
    assert languages != sorted(languages)


def test_packed_tokens_give_the_documents_back(tmp_path: Path) -> None:
    documents = make_documents()
    path = tmp_path / "tokens.u16"
    counts = pack_documents(documents, TOKENIZER, path=path)
    tokens = open_packed(path)
    assert json.loads(counts_path(path).read_text()) == counts
    assert counts["n_tokens"] == len(tokens)
    assert counts["text_bytes"] == sum(len(document.text.encode()) for document in documents)
    text = byte_stream(np.asarray(tokens), TOKENIZER).tobytes().decode()
    assert text.split("\0") == ["", *(document.text for document in documents)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_probabilities_sum_to_one_after_any_context(order: int) -> None:
    stream = np.random.default_rng(2).choice(6, size=400, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]).astype(np.uint8)
    model = KneserNeyNgram(stream, n_symbols=8, order=order)
    for context in ([0, 0], [5, 4], [7, 7]):
        costs = [model.bits(np.array([*context, symbol], dtype=np.uint8))[-1] for symbol in range(8)]
        assert math.fsum(2.0**-cost for cost in costs) == pytest.approx(1.0)


def test_ngram_learns_and_longer_contexts_help() -> None:
    stream = np.frombuffer((CODE * 20).encode(), dtype=np.uint8)
    held_out = np.frombuffer(CODE.encode(), dtype=np.uint8)
    bits = [KneserNeyNgram(stream, n_symbols=256, order=order).bits(held_out).mean() for order in (1, 2, 4)]
    assert bits[0] > bits[1] > bits[2]
    with pytest.raises(ValueError, match="64"):
        KneserNeyNgram(stream, n_symbols=256, order=9)


@pytest.mark.parametrize("length", [1, 2, 5, 16, 17, 18, 24, 25, 100])
def test_windows_score_every_target_once(length: int) -> None:
    windows = sliding_windows(length, document=0, context=16, stride=8)
    scored = [target for window in windows for target in range(window.first_target, window.stop + 1)]
    assert scored == list(range(1, length))
    assert all(window.stop - window.start <= 16 for window in windows)
    assert all(window.first_target - window.start > 8 or window.start == 0 for window in windows)


def test_model_bits_equal_the_plain_sum_when_one_window_holds_the_document() -> None:
    size = LlamaSize(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        n_layers=1,
        n_heads=2,
        n_kv_heads=1,
        head_dim=8,
        max_positions=64,
    )
    torch.manual_seed(0)
    model = TinyLlama(size)
    documents = [np.array([0, *np.arange(5, 5 + n)], dtype=np.uint16) for n in (3, 40, 1)]
    windows = [
        window
        for index, document in enumerate(documents)
        for window in sliding_windows(len(document), document=index, context=64, stride=32)
    ]
    bits = model_bits(model, documents, windows, tick=lambda text: None)
    for index, document in enumerate(documents):
        ids = torch.from_numpy(document.astype(np.int64))[None]
        with torch.no_grad():
            expected = float(Objective(model)(ids)[0]) * (len(document) - 1) / math.log(2)
        assert bits[index] == pytest.approx(expected, rel=1e-5)
