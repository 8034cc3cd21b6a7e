"""Counting: exact against a Counter, whatever the memory, in any kind of file, and nothing left behind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vortex_engine.errors import BudgetError, MachineError, ModelConfigError, TargetExistsError
from vortex_engine.grams import GramTable, build_grams
from vortex_engine.grams.corpus import PIECE_CHARS
from vortex_engine.grams.runs import KeyCounter

SHA = "ab" * 32


def random_documents(seed: int, *, n_documents: int, length: int, letters: str = "abcdefg\n ") -> list[str]:
    generator = np.random.default_rng(seed)
    # A skewed choice has frequent n-grams and rare ones.
    weights = 1 / np.arange(1, len(letters) + 1)
    draw = lambda size: "".join(generator.choice(list(letters), size, p=weights / weights.sum()))  # noqa: E731
    return [draw(int(generator.integers(0, length))) for _ in range(n_documents)]


def write_lines(path: Path, documents: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def all_counts(table: GramTable) -> list[dict[tuple[int, ...], int]]:
    """What a table lists, read from its arrays."""
    grams: list[tuple[int, ...]] = [()]
    found: list[dict[tuple[int, ...], int]] = []
    for order in table.orders:
        contexts = np.repeat(np.arange(len(grams)), np.diff(order.starts))
        grams = [(*grams[context], token_id) for context, token_id in zip(contexts, order.ids.tolist(), strict=True)]
        found.append(dict(zip(grams, order.counts.tolist(), strict=True)))
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("memory", ["64KiB", "16MiB"])
def test_counts_are_exact_however_many_runs_are_spilled(
    n: int, memory: str, tmp_path: Path, build, count_slowly
) -> None:
    documents = random_documents(n, n_documents=300, length=150)
    report = build(write_lines(tmp_path / "c.jsonl", documents), n=n, memory=memory)
    expected = count_slowly([text.encode() for text in documents], n)
    table = GramTable.load(tmp_path / "table.json")
    assert all_counts(table) == [dict(counter) for counter in expected]
    assert report.n_grams == tuple(map(len, expected))
    assert report.n_tokens == table.facts.n_tokens == expected[0].total()
    assert report.n_documents == table.facts.n_documents == 300
    assert (report.n_runs > 16) == (memory == "64KiB")


@pytest.mark.parametrize("min_count", [2, 3, 50])
def test_min_count_leaves_out_the_rare_ones_alone(min_count: int, tmp_path: Path, build, count_slowly) -> None:
    documents = random_documents(min_count, n_documents=200, length=100)
    build(write_lines(tmp_path / "c.jsonl", documents), n=4, min_count=min_count, memory="64KiB")
    expected = count_slowly([text.encode() for text in documents], 4)
    kept = [{gram: count for gram, count in counter.items() if count >= min_count} for counter in expected]
    assert all_counts(GramTable.load(tmp_path / "table.json")) == kept


def test_keys_of_two_words_count_like_keys_of_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    keys = generator.integers(0, 6, (5000, 2)).astype(np.uint64)
    with KeyCounter(2, memory_bytes=4000, folder=tmp_path) as counter:
        for start in range(0, len(keys), 70):
            counter.add(keys[start : start + 70])
        rows = np.concatenate(list(counter.rows())).tolist()
        assert counter.n_runs > 150
    expected = Counter(map(tuple, keys.tolist()))
    assert [(tuple(key), count) for *key, count in rows] == sorted(expected.items())


def test_a_large_vocabulary(tmp_path: Path, count_slowly) -> None:
    class Wide:
        vocab_size = 150_000

        def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
            return [[149_999 - ord(c) * 600 for c in text] for text in texts]

    documents = random_documents(5, n_documents=40, length=200)
    corpus = write_lines(tmp_path / "c.jsonl", documents)
    build_grams(corpus, tmp_path / "t.json", tokenizer=Wide(), tokenizer_sha256=SHA, n=5, memory="64KiB")
    expected = count_slowly(Wide().encode_texts(documents), 5)
    assert all_counts(GramTable.load(tmp_path / "t.json")) == [dict(counter) for counter in expected]


def test_every_kind_of_file_counts_alike_and_gives_equal_bytes(tmp_path: Path, build) -> None:
    documents = random_documents(8, n_documents=9, length=4000)
    folder = tmp_path / "corpus"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".hidden").write_bytes(b"\xff")
    for i, text in enumerate(documents[:4]):
        (folder / "sub" / f"{i}.py").write_text(text)
    with gzip.open(folder / "sub" / "deep" / "4.txt.gz", "wt") as handle:
        handle.write(documents[4])
    write_lines(folder / "a.jsonl", documents[5:7])
    with gzip.open(folder / "b.jsonl.gz", "wt") as handle:
        handle.write("\n".join(json.dumps({"text": text, "lang": 1}) + "\n" for text in documents[7:]))
    build(folder, "many.json")
    build(write_lines(tmp_path / "c.jsonl", documents), "one.json", memory="64KiB")
    assert (tmp_path / "many.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_a_long_file_is_cut_without_losing_an_n_gram(tmp_path: Path, build, count_slowly) -> None:
    text = random_documents(9, n_documents=1, length=2)[0] + "é€" * (PIECE_CHARS * 3 // 4) + "ab\ncd" * 3_000
    (tmp_path / "c.txt").write_text(text)
    build(tmp_path / "c.txt", n=4)
    counts = count_slowly([text.encode()], 4)
    assert all_counts(GramTable.load(tmp_path / "table.json")) == [dict(counter) for counter in counts]


def test_long_files_are_cut_after_lines(tmp_path: Path) -> None:
    seen: list[str] = []

    class Recording:
        vocab_size = 256

        def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
            seen.extend(texts)
            return [list(text.encode()) for text in texts]

    text = "def f(x):\n    return x\n\n\n" * 20_000
    (tmp_path / "c.py").write_text(text)
    build_grams(tmp_path / "c.py", tmp_path / "t.json", tokenizer=Recording(), tokenizer_sha256=SHA)
    pieces = [piece for piece in seen if piece]
    assert "".join(pieces) == text and len(pieces) > 3
    assert max(map(len, pieces)) <= PIECE_CHARS
    # No line of this text ends between two characters that are no space.
    (tmp_path / "d.py").write_text("one\ntwo\n\n  three\n" * 20_000)
    seen.clear()
    build_grams(tmp_path / "d.py", tmp_path / "u.json", tokenizer=Recording(), tokenizer_sha256=SHA)
    assert all(piece.startswith(("one", "two")) for piece in seen if piece)


def test_memory_is_bounded(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    memory_bytes = 256 << 10

    def peak(n_keys: int) -> int:
        tracemalloc.start()
        with KeyCounter(1, memory_bytes=memory_bytes, folder=tmp_path) as counter:
            for _ in range(n_keys // 1000):
                counter.add(generator.integers(0, 1 << 62, (1000, 1)).astype(np.uint64))
            assert sum(int(rows[:, -1].sum()) for rows in counter.rows()) == n_keys
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    # 1.2 MB of keys in a quarter of a megabyte; buffers of the open files come on top.
    assert peak(150_000) < memory_bytes + 20 * 4096


def test_progress_reaches_the_size_of_the_corpus(tmp_path: Path, build) -> None:
    moves: list[tuple[int, int]] = []
    write_lines(tmp_path / "a.jsonl", ["abc"] * 1000)
    with gzip.open(tmp_path / "b.txt.gz", "wb") as handle:
        handle.write(os.urandom(300_000).hex().encode())
    n_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    build(tmp_path, progress=lambda done, total: moves.append((done, total)))
    assert moves == sorted(moves) and moves[-1] == (n_bytes, n_bytes)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b'\n\n["text"]\n', r"a\.jsonl, line 3: not an object with a string"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl, line 1: not an object with a string"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl, line 1: half of a surrogate"),
        ("a.jsonl", b"[" * 200_000, r"a\.jsonl, line 1: not JSON"),
        ("a.txt", b"x" * 200_000 + b"\xc3(", r"a\.txt is not UTF-8: byte 200000 is 0xc3"),
        ("a.txt", b"x\xe2\x82", r"a\.txt is not UTF-8: byte 1 is 0xe2"),
        ("a.txt.gz", b"plain", r"a\.txt\.gz is no whole gzip"),
        ("a.txt.gz", gzip.compress(b"x" * 10_000, mtime=0)[:-9], r"a\.txt\.gz is no whole gzip"),
        ("a.txt.gz", gzip.compress(b"x" * 10_000, mtime=0)[:-8] + bytes(8), r"a\.txt\.gz is no whole gzip"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n', mtime=0)[:15] + b"\xff" * 40, r"a\.jsonl\.gz is no whole"),
        ("a.txt", b"", r"has no tokens"),
        (".a.txt", b"hidden", r"has no files"),
    ],
)
def test_a_damaged_corpus_is_named(name: str, data: bytes, message: str, tmp_path: Path, build) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / name).write_bytes(data)
    with pytest.raises(ModelConfigError, match=message):
        build(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_wrong_arguments(tmp_path: Path, build) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text("abc")
    with pytest.raises(ModelConfigError, match="no corpus"):
        build(tmp_path / "missing")
    with pytest.raises(ModelConfigError, match="no directory"):
        build(corpus, "missing/t.json")
    with pytest.raises(ValueError, match=r"\.json or \.scxq2"):
        build(corpus, "t.txt")
    for n in (0, 9):
        with pytest.raises(ValueError, match="n must"):
            build(corpus, n=n)
    with pytest.raises(ValueError, match="min_count"):
        build(corpus, min_count=0)
    with pytest.raises(BudgetError, match="at least 65536"):
        build(corpus, memory="1KiB")
    (tmp_path / "table.json").write_text("precious")
    with pytest.raises(TargetExistsError, match=r"table\.json"):
        build(corpus)
    assert (tmp_path / "table.json").read_text() == "precious"


def test_an_interrupt_leaves_nothing(tmp_path: Path, build) -> None:
    write_lines(tmp_path / "c.jsonl", random_documents(2, n_documents=400, length=200))
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "c.jsonl", memory="64KiB", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


LIMITED = """
import resource
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import SHA, ByteTokenizer
from vortex_engine.errors import MachineError
from vortex_engine.grams import build_grams
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    build_grams(sys.argv[2], sys.argv[3], tokenizer=ByteTokenizer(), tokenizer_sha256=SHA, n=8, memory="64KiB")
except MachineError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [1000, 100_000, 600_000])
def test_a_full_disk_is_said_and_leaves_nothing(limit: int, tmp_path: Path) -> None:
    write_lines(tmp_path / "c.jsonl", random_documents(2, n_documents=400, length=100, letters="abcdefghijklmnopqrst"))
    command = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), tmp_path / "c.jsonl", tmp_path / "t.json"]
    done = subprocess.run([*command, str(limit)], capture_output=True, text=True, timeout=60, check=True)
    assert "the disk is full" in done.stdout and "t.json" in done.stdout, (done.stdout, done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_a_failing_rename_is_said(tmp_path: Path, build, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.txt").write_text("abc")

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(MachineError, match=r"table\.json: .*Input/output error"):
        build(tmp_path / "c.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["c.txt"]
