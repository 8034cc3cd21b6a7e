"""Traces to draft on without a model: a prompt's ids and the ids that are then chosen, from real code."""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.bad.ngram_edits import edit_file

_MAX_CHARS = 12_000
_LANGUAGES = ("Python", "JavaScript", "TypeScript", "Rust", "C", "C++", "Go")
_RANDOM_TOKENS = 2_000
# A repository is in one of these files only.
_FILES = {"tune": ("code_train.jsonl.gz",), "held-out": ("code_valid.jsonl.gz", "code_train_2b.jsonl.gz")}


@dataclass(frozen=True)
class Trace:
    """`kind` is edit, twin, fix, completion or random."""

    kind: str
    name: str
    prompt_ids: list[int]
    output_ids: list[int]


def build_traces(data: Path, split: str, n_files: int, seed: int = 0) -> list[Trace]:
    """Traces of a split, "tune" or "held-out"; their files are of different repositories.

    - edit: a file and an instruction, then the file with 2 to 12 edits of `ngram_edits`;
    - twin: a file, then another of its repository that shares 50 to 95 % of its lines (nobody made these edits up);
    - fix: QuixBugs, the buggy program, then the correct one;
    - completion: HumanEval and MBPP tasks, then what Qwen2.5-Coder-1.5B wrote, which mostly repeats the task;
    - random: ids without any structure.

    The evaluation sets are only in the held-out split.
    """
    tokenizer: Any = Tokenizer.from_file(str(data / "tokenizers" / "qwen2.5" / "tokenizer.json"))
    held_out = split == "held-out"
    rng = random.Random(f"{seed} {split}")
    files = [row for name in _FILES[split] for row in _code_files(data / "corpus" / name)]
    pairs = list(_edited(files, rng, n_files)) + list(_twins(files, rng, n_files // 2))
    if held_out:
        pairs += [*_fixes(data / "eval"), *_completions(data / "eval")]
    traces = [
        Trace(kind, name, tokenizer.encode(prompt, add_special_tokens=False).ids, _ids(tokenizer, output))
        for kind, name, prompt, output in pairs
    ]
    n_ids: int = tokenizer.get_vocab_size()
    ids = [rng.randrange(n_ids) for _ in range(2 * _RANDOM_TOKENS)]
    return [*traces, Trace("random", "uniform", ids[:_RANDOM_TOKENS], ids[_RANDOM_TOKENS:])]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _code_files(path: Path) -> Iterator[dict[str, Any]]:
    for row in _rows(path):
        if row["lang"] in _LANGUAGES and 1_000 <= len(row["text"]) <= _MAX_CHARS:
            yield row


def _prompt(instruction: str, name: str, text: str) -> str:
    return f"{instruction}\n\n`{name}`:\n```\n{text}\n```\n\nThe whole file after the change:\n```\n"


def _edited(files: list[dict[str, Any]], rng: random.Random, n: int) -> Iterator[tuple[str, str, str, str]]:
    for row in rng.sample(files, n):
        after = edit_file(row["text"], rng, rng.choice((2, 3, 4, 6, 8, 12)))
        prompt = _prompt("Make the changes that we talked about.", row["path"], row["text"])
        yield "edit", row["path"], prompt, after + "\n```\n"


def _twins(files: list[dict[str, Any]], rng: random.Random, n: int) -> Iterator[tuple[str, str, str, str]]:
    """Pairs by the lines that they share; each file in one pair at most."""
    holders: dict[tuple[str, str], list[int]] = defaultdict(list)
    lines = [{line.strip() for line in row["text"].split("\n") if len(line.strip()) > 8} for row in files]
    for i, row in enumerate(files):
        for line in lines[i]:
            holders[row["repo"], line].append(i)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for found in holders.values():
        if len(found) <= 8:
            for a in found:
                for b in found:
                    if a < b:
                        shared[a, b] += 1
    found_pairs = [
        (a, b) for (a, b), count in sorted(shared.items()) if 0.5 <= count / max(len(lines[a]), len(lines[b])) <= 0.95
    ]
    rng.shuffle(found_pairs)
    used: set[int] = set()
    for a, b in found_pairs:
        if n and a not in used and b not in used:
            used |= {a, b}
            n -= 1
            prompt = _prompt(f"Write {files[b]['path']} after this model.", files[a]["path"], files[a]["text"])
            yield "twin", files[b]["path"], prompt, files[b]["text"] + "\n```\n"


def _fixes(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    for row in _rows(folder / "quixbugs_python_shared.jsonl"):
        prompt = _prompt("This program has a bug in one line. Fix it.", f"{row['name']}.py", row["buggy"])
        yield "fix", row["name"], prompt, row["correct"] + "```\n"


def _completions(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    tasks = {row["task_id"]: row["prompt"] for row in _rows(folder / "humaneval_shared.jsonl")}
    tasks |= {
        f"Mbpp/{row['task_id']}": row["text"] + "\n" + "\n".join(row["test_list"]) + "\n"
        for row in _rows(folder / "mbpp_shared.jsonl")
    }
    for source in ("humaneval", "mbpp"):
        for row in _rows(folder / f"model_completions_qwen2.5-coder-1.5b-base_{source}_shared.jsonl"):
            if row["task_id"] in tasks:
                prompt = f"Complete this program.\n```\n{tasks[row['task_id']]}```\n\n```\n"
                yield "completion", row["task_id"], prompt, row["solution"] + "\n```\n"
