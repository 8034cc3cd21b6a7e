"""llama.cpp as a peer, through its own llama-bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.c3.isolation import MemoryGroup, run_alone


def llama_bench(
    program: Path,
    model: Path,
    *,
    threads: int,
    prefill_tokens: int,
    decode_tokens: int,
    depth: int = 0,
    load_mode: str = "auto",
    group: MemoryGroup | None = None,
) -> dict[str, Any]:
    """Tokens per second of llama-bench after its own warm-up, with `depth` tokens in the cache before.

    Returns:
        decode_tokens_per_s and prefill_tokens_per_s, each only where it was asked for, and llama.cpp's build.
    """
    command = [str(program), "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json"]
    command += ["-p", str(prefill_tokens), "-n", str(decode_tokens), "-d", str(depth), "-lm", load_mode]
    tests: list[dict[str, Any]] = json.loads(run_alone(command, group))
    result: dict[str, Any] = {"build": f"{tests[0]['build_commit']} ({tests[0]['build_number']})"}
    for test in tests:
        kind = "decode" if test["n_gen"] else "prefill"
        result[f"{kind}_tokens_per_s"] = test["avg_ts"]
    return result
