"""Tables in memory and on disk: probabilities, round trips, hostile files."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vortex_engine.errors import ModelConfigError, TargetExistsError
from vortex_engine.grams import GramTable, build_grams, check_tokenizer, tokenizer_sha256

SHA = "ab" * 32
# The text `4 9 4`, as document.py shows it.
SMALL: dict[str, Any] = {
    "format": 1,
    "n": 2,
    "min_count": 1,
    "tokenizer_sha256": SHA,
    "vocab_size": 512,
    "n_tokens": 3,
    "n_documents": 1,
    "orders": [
        {"children": [2], "ids": [4, 9], "counts": [2, 1]},
        {"children": [1, 1], "ids": [9, 4], "counts": [1, 1]},
    ],
}


def packed(data: bytes) -> bytes:
    return base64.b64encode(zlib.compress(data))


def changed(**fields: object) -> bytes:
    return json.dumps({**SMALL, **fields}).encode()


def test_the_documented_example(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(SMALL, indent=1))
    table = GramTable.load(tmp_path / "t.json")
    assert (table.counts([]), table.counts([4]), table.counts([4, 9]), table.counts([9, 9])) == (3, 2, 1, 0)
    assert table.probability([4]) == 2 / 3 and table.probability([4, 9]) == 1 / 2
    # The last 4 ends the document: half of what follows 4.
    assert table.next_ids([4]) == [(9, 0.5)]


def test_counts_and_probabilities_are_those_of_a_counter(tmp_path: Path, build, count_slowly) -> None:
    text = "the cat sat on the mat; the rat sat on the cat" * 7
    (tmp_path / "c.txt").write_text(text)
    build(tmp_path / "c.txt", n=3)
    table = GramTable.load(tmp_path / "table.json")
    orders = [{(): len(text)}, *count_slowly([text.encode()], 3)]
    for order, shorter in zip(orders[1:], orders, strict=False):
        for gram, count in order.items():
            assert table.counts(gram) == count
            assert table.probability(gram) == count / shorter[gram[:-1]]
            following = {longer[-1]: n for longer, n in order.items() if longer[:-1] == gram[:-1]}
            expected = sorted(following, key=lambda token_id: (-following[token_id], token_id))
            assert table.next_ids(gram[:-1], 1000)[: len(expected)] == [
                (token_id, following[token_id] / shorter[gram[:-1]]) for token_id in expected
            ]
    assert table.counts(b"xyz") == table.counts([10**30]) == table.counts([-1]) == table.probability(b"tz") == 0
    for ids in ([1] * 4, []):
        with pytest.raises(ValueError, match="n-gram"):
            table.probability(ids)
    with pytest.raises(ValueError, match="up to 3"):
        table.counts([1] * 4)


def test_the_longest_known_context_wins(tmp_path: Path, build) -> None:
    (tmp_path / "c.txt").write_text("abcabdabcxbe")
    build(tmp_path / "c.txt", n=3)
    table = GramTable.load(tmp_path / "table.json")
    assert table.next_ids(b"zzzzab") == [(ord("c"), 2 / 3), (ord("d"), 1 / 3)]
    assert table.next_ids(b"zb") == [(ord("c"), 0.5), (ord("d"), 0.25), (ord("e"), 0.25)]
    assert table.next_ids(b"zb", 1) == [(ord("c"), 0.5)]
    # `e` is known, but nothing follows it.
    assert table.next_ids(b"be") == table.next_ids(b"zz") == table.next_ids([])
    assert table.next_ids([])[0] == (ord("b"), 4 / 12)


@given(
    documents=st.lists(st.binary(max_size=40).map(lambda b: bytes(c % 5 for c in b).decode()), min_size=1, max_size=6),
    n=st.integers(1, 5),
    suffix=st.sampled_from([".json", ".scxq2"]),
)
@settings(max_examples=40, deadline=None)
def test_round_trips(
    documents: list[str], n: int, suffix: str, tmp_path_factory: pytest.TempPathFactory, byte_tokenizer, count_slowly
) -> None:
    folder = tmp_path_factory.mktemp("round")
    documents[0] += "x"  # a corpus has at least one token
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    first, again, plain = folder / f"a{suffix}", folder / f"b{suffix}", folder / "c.json"
    build_grams(folder / "c.jsonl", first, tokenizer=byte_tokenizer, tokenizer_sha256=SHA, n=n)
    table = GramTable.load(first)
    table.save(again)
    table.save(plain)
    assert again.read_bytes() == first.read_bytes()
    if suffix == ".scxq2":
        assert zlib.decompress(base64.b64decode(first.read_bytes(), validate=True)) == plain.read_bytes()
    counts = count_slowly([text.encode() for text in documents], n)
    assert [dict(c) for c in counts] == [{g: table.counts(g) for g in c} for c in counts]
    assert [len(order.ids) for order in table.orders] == [len(c) for c in counts]
    with pytest.raises(TargetExistsError):
        table.save(again)


ORDER_1, ORDER_2 = SMALL["orders"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 200_000, "not JSON"),
        (b'{"format": 1e999}', "format"),
        (changed()[:-1], "not JSON"),
        (changed() + b"x", "not JSON"),
        (changed(format=2), "format 2, this version reads format 1"),
        (changed(format=True), "format True"),
        (changed(n=3), "3 entries"),
        (changed(n=9), "n must"),
        (changed(n=True), "n must"),
        (changed(vocab_size=9), "vocabulary of 9"),
        (changed(vocab_size=1 << 40), "vocab_size"),
        (changed(n_tokens=4), "do not add up"),
        (changed(n_tokens=2), "do not add up"),
        (changed(n_tokens="3"), "n_tokens"),
        (changed(n_documents=0), "n_documents"),
        (changed(min_count=2), "below min_count"),
        (changed(tokenizer_sha256="AB" * 32), "tokenizer_sha256"),
        (changed(orders=[ORDER_1, 5]), r"orders\[1\].children is not a list"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [9, 4.0]}]), r"orders\[1\].ids is not a list of integers"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [True, 4]}]), r"orders\[1\].ids is not a list of integers"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [9, 1 << 70]}]), "beyond 64 bits"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [9, 1 << 35]}]), "beyond the vocabulary"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [9, -4]}]), "below 0"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [9]}]), "do not fit"),
        (changed(orders=[ORDER_1, {**ORDER_2, "children": [2]}]), "do not fit"),
        (changed(orders=[ORDER_1, {**ORDER_2, "children": [2, 1]}]), "do not fit"),
        (changed(orders=[ORDER_1, {**ORDER_2, "children": [2, 0]}]), "do not ascend"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [9, 9]}]), "more often than what it ends with"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [7, 4]}]), "not listed"),
        (changed(orders=[ORDER_1, {**ORDER_2, "ids": [10, 4]}]), "not listed"),
        (changed(orders=[ORDER_1, {**ORDER_2, "counts": [1, 2]}]), "do not add up"),
        (changed(orders=[{**ORDER_1, "counts": [1, 1]}, ORDER_2]), "do not add up"),
        (changed(orders=[{**ORDER_1, "ids": [4, 4]}, ORDER_2]), "do not ascend"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".scxq2"])
def test_hostile_documents_are_refused_by_name(data: bytes, message: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(packed(data) if suffix == ".scxq2" else data)
    with pytest.raises(ModelConfigError, match=message) as caught:
        GramTable.load(path)
    assert str(path) in str(caught.value) and "build it again" in str(caught.value)


GOOD = packed(changed())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends early"),
        (GOOD[: len(GOOD) // 8 * 4], "ends early"),
        (packed(changed())[:-1], "not base64"),
        (b"!" + GOOD[1:], "not base64"),
        (GOOD + b"\n", "not base64"),
        (GOOD + b"AAAA", "not base64|bytes after"),
        (base64.b64encode(zlib.compress(changed()) + b"x"), "bytes after the zlib stream"),
        (base64.b64encode(zlib.compress(changed()) + bytes(1 << 20)), "bytes after the zlib stream"),
        (base64.b64encode(changed()), "not a zlib stream"),
        (base64.b64encode(zlib.compress(changed())[:-4] + bytes(4)), "not a zlib stream"),
        (packed(b" " * (50 << 20)), "more than max_bytes = 100000"),
    ],
)
def test_hostile_scxq2(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.scxq2").write_bytes(data)
    with pytest.raises(ModelConfigError, match=message) as caught:
        GramTable.load(tmp_path / "t.scxq2", max_bytes=100_000)
    assert "t.scxq2" in str(caught.value)


def test_a_bomb_is_never_unpacked(tmp_path: Path) -> None:
    (tmp_path / "t.scxq2").write_bytes(packed(b" " * (50 << 20)))
    tracemalloc.start()
    with pytest.raises(ModelConfigError, match="max_bytes"):
        GramTable.load(tmp_path / "t.scxq2", max_bytes=100_000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_every_single_byte_flip_of_a_packed_table_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.scxq2"
    for at in range(len(GOOD)):
        damaged = bytearray(GOOD)
        damaged[at] ^= 1 << (at % 7)
        path.write_bytes(damaged)
        with pytest.raises(ModelConfigError, match=r"t\.scxq2"):
            GramTable.load(path)


def test_limits_of_size(tmp_path: Path) -> None:
    for name, data in (("t.json", changed()), ("t.scxq2", GOOD)):
        (tmp_path / name).write_bytes(data)
        GramTable.load(tmp_path / name, max_bytes=len(changed()))
        with pytest.raises(ModelConfigError, match="max_bytes"):
            GramTable.load(tmp_path / name, max_bytes=len(changed()) - 1)
    with pytest.raises(ModelConfigError, match="cannot be opened"):
        GramTable.load(tmp_path / "missing.json")
    with pytest.raises(ModelConfigError, match="cannot be opened"):
        (tmp_path / "folder.json").mkdir()
        GramTable.load(tmp_path / "folder.json")
    with pytest.raises(ValueError, match="ends in"):
        GramTable.load(tmp_path / "t.txt")


def test_another_tokenizer_is_refused(tmp_path: Path, tiny_hf_dir: Path) -> None:
    (tmp_path / "t.json").write_bytes(changed(tokenizer_sha256=tokenizer_sha256(tiny_hf_dir)))
    check_tokenizer(GramTable.load(tmp_path / "t.json"), tiny_hf_dir)
    check_tokenizer(GramTable.load(tmp_path / "t.json"), tiny_hf_dir / "tokenizer.json")
    (tmp_path / "u.json").write_bytes(changed())
    with pytest.raises(ModelConfigError, match=r"another tokenizer.*--tokenizer DIR"):
        check_tokenizer(GramTable.load(tmp_path / "u.json"), tiny_hf_dir)
    with pytest.raises(ModelConfigError, match="cannot be read"):
        check_tokenizer(GramTable.load(tmp_path / "u.json"), tmp_path / "missing")
