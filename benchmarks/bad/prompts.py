"""Prompts of the benchmarks of block speculation: HumanEval, MBPP, and slices of code and prose."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_SLICE_CHARS, _SLICES_A_FILE = 400, 4


@dataclass(frozen=True)
class Prompt:
    """A text to continue, with the set it is from ("humaneval", "mbpp", "code", "prose") and its place there."""

    kind: str
    name: str
    text: str


def read_prompts(
    n: int, kinds: Sequence[str] = ("humaneval", "mbpp", "code", "prose"), data: Path = DATA
) -> list[Prompt]:
    """`n` prompts, the kinds in turn as long as they last; always the same ones.

    Raises:
        SystemExit: there are not as many; names the folder.
    """
    readers = {"humaneval": _humaneval, "mbpp": _mbpp, "code": _code, "prose": _prose}
    columns = (islice(readers[kind](data), n) for kind in kinds)
    try:
        found = list(islice((prompt for row in zip_longest(*columns) for prompt in row if prompt), n))
    except FileNotFoundError as error:
        raise SystemExit(f"no prompts: {error}; give the folder of the data with --data") from error
    if len(found) < n:
        raise SystemExit(f"{data} holds {len(found)} prompts, not {n}")
    return found


def _humaneval(data: Path) -> Iterator[Prompt]:
    for row in _rows(data / "eval" / "humaneval_shared.jsonl"):
        yield Prompt("humaneval", row["task_id"], row["prompt"])


def _mbpp(data: Path) -> Iterator[Prompt]:
    """As the set's authors ask: the task and its tests as a docstring, then code."""
    for row in _rows(data / "eval" / "mbpp_shared.jsonl"):
        tests = "\n".join(row["test_list"])
        yield Prompt("mbpp", str(row["task_id"]), f'"""\n{row["text"]}\n{tests}\n"""\n')


def _code(data: Path) -> Iterator[Prompt]:
    for row in _rows(data / "corpus" / "code_valid.jsonl.gz"):
        if row["lang"] not in ("markdown", "rst"):
            yield from islice(_slices("code", row["path"], row["text"]), _SLICES_A_FILE)


def _prose(data: Path) -> Iterator[Prompt]:
    folder = data / "text"
    names = ("tinyshakespeare", "wikitext2_valid")
    columns = [_slices("prose", name, (folder / f"{name}.txt").read_text()) for name in names]
    yield from (prompt for pair in zip(*columns, strict=False) for prompt in pair)


def _slices(kind: str, name: str, text: str) -> Iterator[Prompt]:
    """Slices that begin where a line begins, one after the other."""
    start = 0
    while len(text) - start >= _SLICE_CHARS:
        yield Prompt(kind, f"{name}:{start}", text[start : start + _SLICE_CHARS])
        start = text.find("\n", start + _SLICE_CHARS) + 1
        if start == 0:
            return


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            yield json.loads(line)
