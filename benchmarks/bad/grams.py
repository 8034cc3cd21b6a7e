"""Counting n-grams: speed and memory of `build_grams` beside a Counter of tuples, and a lookup while drafting.

    python -m benchmarks.bad.grams CORPUS [--memory 64MiB] [--tokenizer DIR]

Each way of counting runs in a process of its own, whose peak memory is reported; both read the same ids of a file, so
that the tokenizer, which takes most of the time of a build, is timed apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import base_parser, print_table, write_result
from vortex_engine.decode.load import model_path
from vortex_engine.grams import GramTable, build_grams, tokenizer_sha256
from vortex_engine.grams.corpus import corpus_files, read_pieces
from vortex_engine.machine import describe_machine
from vortex_engine.tok import load_tokenizer

_N = 3

# argv: ids as .npy, memory. Prints seconds, peak bytes before and after, and the number of distinct n-grams.
_PEAK = """
import json, sys, time
from pathlib import Path
import numpy as np
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
"""
_COUNTER = """
from collections import Counter
ids = np.load(sys.argv[1])
before, start = peak(), time.perf_counter()
listed = ids.tolist()
counts = [Counter(zip(*(listed[i:] for i in range(n)))) for n in range(1, 4)]
print(json.dumps([time.perf_counter() - start, before, peak(), [len(c) for c in counts]]))
"""
_OURS = """
from vortex_engine.grams.keys import WindowKeys
from vortex_engine.grams.orders import OrderBuilder
from vortex_engine.grams.runs import KeyCounter
ids = np.load(sys.argv[1])
before, start = peak(), time.perf_counter()
keys, folder = WindowKeys(3, int(ids.max()) + 2), Path(sys.argv[1]).parent
with KeyCounter(keys.n_words, memory_bytes=int(sys.argv[2]), folder=folder) as counter:
    for at in range(0, len(ids), 1 << 16):
        part = ids[at : at + (1 << 16) + 2] + np.uint32(1)
        part = part if at + (1 << 16) < len(ids) else np.append(part, np.zeros(2, np.uint32))
        counter.add(keys.pack(part))
    with OrderBuilder(3, min_count=1, folder=folder) as builder:
        for rows in counter.rows():
            builder.push(keys.unpack(rows[:, :-1]), rows[:, -1].astype(np.int64))
        builder.finish()
        print(json.dumps([time.perf_counter() - start, before, peak(), [o.n_grams for o in builder.orders]]))
"""


def count_apart(code: str, ids_path: Path, memory_bytes: int) -> dict[str, Any]:
    """Run one way of counting in a fresh process."""
    command = [sys.executable, "-c", _PEAK + code, str(ids_path), str(memory_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, before_bytes, peak_bytes, n_grams = json.loads(done.stdout)
    return {"seconds": seconds, "extra_peak_bytes": peak_bytes - before_bytes, "n_grams": n_grams}


def lookup_us(table: GramTable, ids: list[int]) -> float:
    """Microseconds of `next_ids` on running text, four ids asked for."""
    start = time.perf_counter()
    for at in range(2, len(ids)):
        table.next_ids(ids[at - 2 : at], 4)
    return (time.perf_counter() - start) / (len(ids) - 2) * 1e6


def main() -> None:
    """Measure, print and write results/bad_grams.json."""
    parser = base_parser(__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--memory", type=int, default=64 << 20, help="bytes")
    parser.add_argument("--tokenizer", default="nano")
    arguments = parser.parse_args()
    folder = model_path(arguments.tokenizer)
    tokenizer = load_tokenizer(folder)
    texts = [piece.text for path in corpus_files(arguments.corpus) for piece in read_pieces(path, lambda _: None)]
    start = time.perf_counter()
    listed = [ids for text in texts for ids in tokenizer.encode_texts([text])]
    tokenize_s = time.perf_counter() - start
    ids = np.concatenate([np.asarray(part, np.uint32) for part in listed])
    text_bytes = sum(len(text.encode()) for text in texts)

    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        ids_path = Path(work, "ids.npy")
        np.save(ids_path, ids)
        counts = {
            name: count_apart(code, ids_path, arguments.memory)
            for name, code in (("sorted_runs", _OURS), ("counter", _COUNTER))
        }
        assert counts["sorted_runs"]["n_grams"] == counts["counter"]["n_grams"]
        target = Path(work, "table.scxq2")
        report = build_grams(
            arguments.corpus,
            target,
            tokenizer=tokenizer,
            tokenizer_sha256=tokenizer_sha256(folder),
            n=_N,
            memory=arguments.memory,
        )
        start = time.perf_counter()
        table = GramTable.load(target)
        load_s = time.perf_counter() - start
    document = {
        "text_bytes": text_bytes,
        "n_tokens": len(ids),
        "memory_bytes": arguments.memory,
        "tokenize_s": tokenize_s,
        "count": counts,
        "build_mb_s": text_bytes / report.seconds / 1e6,
        "table_bytes": report.table_bytes,
        "load_s": load_s,
        "next_ids_us": lookup_us(table, ids[:200_000].tolist()),
    }
    rows = [
        (name, c["seconds"], len(ids) / c["seconds"] / 1e6, c["extra_peak_bytes"] / 1e6) for name, c in counts.items()
    ]
    print_table(("counting", "seconds", "million tokens/s", "extra peak MB"), rows)
    print(json.dumps({key: value for key, value in document.items() if key != "count"}, indent=2))
    print(write_result("bad_grams", describe_machine(), document, arguments.results))


if __name__ == "__main__":
    main()
