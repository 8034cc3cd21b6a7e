"""The JSON document of an n-gram table.

    {"format": 1, "n": 2, "min_count": 1, "tokenizer_sha256": "…", "vocab_size": 512, "n_tokens": 3, "n_documents": 1,
     "orders": [{"children": [2], "ids": [4, 9], "counts": [2, 1]},
                {"children": [1, 1], "ids": [9, 4], "counts": [1, 1]}]}

This is the text `4 9 4`. `orders[n - 1]` lists the n-grams that occur at least `min_count` times in documents, sorted:
`children[i]` of them are n-gram i of the order before, followed by the token in `ids`, ascending; order 1 has one
entry in `children`. `counts` are exact. `tokenizer_sha256` is that of the tokenizer.json which made the ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vortex_engine.errors import ModelConfigError

__all__ = ["MAX_N", "MAX_VOCAB_SIZE", "Order", "OrderBlocks", "TableFacts", "parse_document", "write_document"]

FORMAT = 1
MAX_N = 8
MAX_VOCAB_SIZE = (1 << 32) - 2  # ids + 1 fit 32 bits
_MAX_TOKENS = 1 << 53  # sums of counts up to here are exact in float64
_BLOCK = 1 << 14

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What a table says of itself besides its counts."""

    n: int
    min_count: int
    tokenizer_sha256: str
    vocab_size: int
    n_tokens: int
    n_documents: int


class Order(NamedTuple):
    """The M n-grams of one n, sorted."""

    ids: NDArray[np.uint32]  # [M], the last ids
    counts: Integers  # [M]
    starts: Integers  # [contexts + 1], where the n-grams of each context begin


class OrderBlocks(NamedTuple):
    """The three lists of an order, in blocks."""

    children: Iterable[NDArray[Any]]
    ids: Iterable[NDArray[Any]]
    counts: Iterable[NDArray[Any]]

    @staticmethod
    def of(order: Order) -> OrderBlocks:
        """Of an order in memory."""
        return OrderBlocks([np.diff(order.starts)], [order.ids], [order.counts])


def write_document(facts: TableFacts, orders: Iterable[OrderBlocks]) -> Iterator[bytes]:
    """The document in parts, ASCII."""
    fields = {"format": FORMAT, **{name: getattr(facts, name) for name in TableFacts.__slots__}}
    yield json.dumps(fields, separators=(",", ":")).removesuffix("}").encode() + b',"orders":['
    for i, order in enumerate(orders):
        yield b"," if i else b""
        for j, (name, blocks) in enumerate(zip(order._fields, order, strict=True)):
            yield f'{"," if j else "{"}"{name}":['.encode()
            yield from _numbers(blocks)
            yield b"]"
        yield b"}"
    yield b"]}"


def _numbers(blocks: Iterable[NDArray[Any]]) -> Iterator[bytes]:
    comma = b""
    for block in blocks:
        for start in range(0, len(block), _BLOCK):
            yield comma + ",".join(map(str, block[start : start + _BLOCK].tolist())).encode()
            comma = b","


def parse_document(data: bytes, name: str) -> tuple[TableFacts, list[Order]]:
    """Read a document and check that its counts add up.

    Args:
        name: the file, for errors.

    Raises:
        ModelConfigError: it is not such a document, of another format, or contradicts itself.
    """
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"[grams] {name} is not JSON: {error}; build it again (vortex grams build)") from error
    if not isinstance(document, dict):
        raise _damaged(name, "not a JSON object")
    fields = cast("dict[str, object]", document)
    if fields.get("format") != FORMAT or isinstance(fields["format"], bool):
        raise ModelConfigError(
            f"[grams] {name} has format {fields.get('format')!r}, this version reads format {FORMAT}; "
            "build it again with this version"
        )
    facts = _facts(fields, name)
    listed = fields.get("orders")
    if not isinstance(listed, list) or len(cast("list[object]", listed)) != facts.n:
        raise _damaged(name, f"orders is not a list of n = {facts.n} entries")
    orders: list[Order] = []
    totals = np.asarray([facts.n_tokens])
    for i, item in enumerate(cast("list[object]", listed)):
        order = _order(item, n_contexts=len(totals), where=f"orders[{i}]", name=name)
        _check_order(order, totals, facts, where=f"orders[{i}]", name=name)
        orders.append(order)
        totals = order.counts
    _check_suffixes(orders, facts.vocab_size, name)
    return facts, orders


def _damaged(name: str, what: str) -> ModelConfigError:
    return ModelConfigError(f"[grams] {name} is damaged: {what}; build it again (vortex grams build)")


def _facts(fields: dict[str, object], name: str) -> TableFacts:
    def integer(key: str, low: int, high: int) -> int:
        value = fields.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _damaged(name, f"{key} must lie between {low} and {high}, got {value!r}")
        return value

    fingerprint = fields.get("tokenizer_sha256")
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise _damaged(name, "tokenizer_sha256 is not 64 hexadecimal digits")
    return TableFacts(
        n=integer("n", 1, MAX_N),
        min_count=integer("min_count", 1, _MAX_TOKENS),
        tokenizer_sha256=fingerprint,
        vocab_size=integer("vocab_size", 1, MAX_VOCAB_SIZE),
        n_tokens=integer("n_tokens", 1, _MAX_TOKENS),
        n_documents=integer("n_documents", 1, _MAX_TOKENS),
    )


def _order(item: object, *, n_contexts: int, where: str, name: str) -> Order:
    fields: dict[str, object] = cast("dict[str, object]", item) if isinstance(item, dict) else {}

    def integers(key: str) -> Integers:
        values = fields.get(key)
        # The type of every item: a float or a true would slip through a conversion.
        if not isinstance(values, list) or not set(map(type, cast("list[object]", values))) <= {int}:
            raise _damaged(name, f"{where}.{key} is not a list of integers")
        try:
            array = np.asarray(values, np.int64)
        except OverflowError as error:
            raise _damaged(name, f"{where}.{key} has a number beyond 64 bits") from error
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) <= _MAX_TOKENS:
            raise _damaged(name, f"{where}.{key} has a number below 0 or beyond {_MAX_TOKENS}")
        return array

    children, ids, counts = integers("children"), integers("ids"), integers("counts")
    if len(children) != n_contexts or len(counts) != len(ids) or float(children.sum(dtype=np.float64)) != len(ids):
        raise _damaged(name, f"the lists of {where} do not fit each other or the order before")
    if len(ids) and int(ids.max()) > MAX_VOCAB_SIZE:
        raise _damaged(name, f"{where}.ids has an id beyond the vocabulary")
    return Order(ids.astype(np.uint32), counts, np.concatenate(([0], np.cumsum(children))))


def _check_order(order: Order, totals: Integers, facts: TableFacts, *, where: str, name: str) -> None:
    """Ids are known and ascend within a context, which was seen at least as often as what follows it."""
    if not len(order.ids):
        return
    if int(order.ids.max()) >= facts.vocab_size:
        raise _damaged(name, f"{where}.ids has an id beyond the vocabulary of {facts.vocab_size}")
    is_first = np.zeros(len(order.ids) + 1, np.bool_)
    is_first[order.starts] = True
    if not bool(np.all(is_first[1:-1] | (order.ids[1:] > order.ids[:-1]))):
        raise _damaged(name, f"{where}.ids do not ascend")
    if int(order.counts.min()) < facts.min_count:
        raise _damaged(name, f"{where}.counts has a count below min_count = {facts.min_count}")
    followed = np.bincount(contexts_of(order), weights=order.counts, minlength=len(totals))
    unigrams_missing = where == "orders[0]" and facts.min_count == 1 and followed[0] != facts.n_tokens
    if unigrams_missing or not bool(np.all(followed <= totals)):
        raise _damaged(name, f"{where}.counts do not add up to the counts before")


def contexts_of(order: Order) -> Integers:
    """The number of the context of every n-gram, [M]."""
    return np.repeat(np.arange(len(order.starts) - 1), np.diff(order.starts))


def _check_suffixes(orders: Sequence[Order], vocab_size: int, name: str) -> None:
    """What an n-gram ends with is listed in the order before, seen at least as often as all n-grams that end so."""
    # Of every n-gram the number of its last n - 1 tokens in the order before.
    suffixes = np.zeros(len(orders[0].ids), np.int64)
    for shorter, order in pairwise(orders):
        keys = contexts_of(shorter) * vocab_size + shorter.ids
        wanted = suffixes[contexts_of(order)] * vocab_size + order.ids
        suffixes = np.searchsorted(keys, wanted)
        known = suffixes < len(keys)
        if not bool(np.all(known)) or not np.array_equal(keys[suffixes], wanted):
            raise _damaged(name, "the end of an n-gram is not listed as an n-gram of its own")
        ends = np.bincount(suffixes, weights=order.counts, minlength=len(keys))
        if not bool(np.all(ends <= shorter.counts)):
            raise _damaged(name, "an n-gram was seen more often than what it ends with")
