"""llama.cpp's greedy continuation of prompts, plain and with its n-gram lookups, through its own llama-server.

`python -m benchmarks.bad.run_llama --gguf FILE --tokenizer DIR --prompt TEXT` tries every lookup once; with --limit-mb
inside a memory cgroup with a cold page cache. Prompts are token ids, so every engine reads the same ones.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.c3.isolation import MemoryGroup, drop_page_cache, memory_group
from benchmarks.c3.report import MissingPeerError
from benchmarks.machine import print_table
from vortex_engine.tok import load_tokenizer

# What llama.cpp offers without a second model. Its defaults wait for 12 to 24 equal tokens; the short ones find more.
LOOKUPS: dict[str, tuple[str, ...]] = {
    "off": (),
    "ngram-simple": ("--spec-type", "ngram-simple"),
    "ngram-simple 3": (
        *("--spec-type", "ngram-simple", "--spec-draft-n-max", "16"),
        *("--spec-ngram-simple-size-n", "3", "--spec-ngram-simple-size-m", "16"),
    ),
    "ngram-map-k 3": (
        *("--spec-type", "ngram-map-k", "--spec-draft-n-max", "16"),
        *("--spec-ngram-map-k-size-n", "3", "--spec-ngram-map-k-size-m", "16"),
    ),
    "ngram-mod 3": (
        *("--spec-type", "ngram-mod", "--spec-ngram-mod-n-match", "3"),
        *("--spec-ngram-mod-n-min", "1", "--spec-ngram-mod-n-max", "16"),
    ),
    "ngram-cache": ("--spec-type", "ngram-cache", "--spec-draft-n-max", "16"),
}
_READY_S, _ANSWER_S = 180.0, 900.0


def continuations(
    program: Path,
    model: Path,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    threads: int,
    lookup: str = "off",
    group: MemoryGroup | None = None,
) -> list[dict[str, Any]]:
    """Continue each prompt greedily in one server, after a short answer that warms it up.

    Returns:
        For each prompt: token_ids, text, decode_s from the first token to the last, n_drafted and n_accepted.

    Raises:
        MissingPeerError: the server ended, was killed for its memory, or took too long.
    """
    n_context = max(len(prompt) for prompt in prompts) + max_new_tokens + 8
    options = ["-m", str(model), "-t", str(threads), "-tb", str(threads), "-c", str(n_context), "-np", "1"]
    # No copies of old prompts: they would take memory from the weights.
    options += ["-lm", "mmap", "--cache-ram", "0", "--ctx-checkpoints", "0", "--no-webui", *LOOKUPS[lookup]]
    with _server([str(program), *options], group) as (process, port, log):
        _wait_until_ready(process, port, log)
        _complete(process, port, log, prompts[0][:16], 3)
        return [_complete(process, port, log, prompt, max_new_tokens) for prompt in prompts]


@contextlib.contextmanager
def _server(command: list[str], group: MemoryGroup | None) -> Generator[tuple[subprocess.Popen[bytes], int, IO[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.enter), *command]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process, port, log
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    start = time.monotonic()
    while True:
        try:
            if _request(port, "GET", "/health", None, 5.0)[0] == 200:
                return
        except OSError:
            pass  # it does not listen yet
        _check_alive(process, log)
        if time.monotonic() - start > _READY_S:
            raise MissingPeerError(f"llama-server: not ready after {_READY_S:.0f} s")
        time.sleep(0.1)


def _complete(
    process: subprocess.Popen[bytes], port: int, log: IO[bytes], prompt: Sequence[int], max_new_tokens: int
) -> dict[str, Any]:
    job: dict[str, Any] = {
        "prompt": list(prompt),
        "n_predict": max_new_tokens,
        "temperature": 0.0,
        "samplers": ["top_k"],
    }
    job |= {"top_k": 1, "ignore_eos": True, "return_tokens": True, "cache_prompt": False}
    try:
        status, answer = _request(port, "POST", "/completion", job, _ANSWER_S)
    except (OSError, http.client.HTTPException) as error:
        time.sleep(0.5)  # a killed process is not gone at once
        _check_alive(process, log)
        raise MissingPeerError(f"llama-server: no answer: {error}") from error
    if status != 200:
        raise MissingPeerError(f"llama-server: status {status}: {answer}")
    timings = answer["timings"]
    return {
        "token_ids": answer["tokens"],
        "text": answer["content"],
        "decode_s": timings["predicted_ms"] / 1e3,
        "n_drafted": timings.get("draft_n", 0),
        "n_accepted": timings.get("draft_n_accepted", 0),
    }


def _request(port: int, method: str, path: str, body: object, timeout_s: float) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")
    finally:
        connection.close()


def _check_alive(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    if process.poll() is None:
        return
    log.seek(0)
    last = (log.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    why = "killed, out of memory" if process.returncode in (-9, 137) else f"exit code {process.returncode}"
    raise MissingPeerError(f"llama-server: {why}: {last}")


def main() -> None:
    """Try every lookup on one prompt."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bad.run_llama", description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the packed model or checkpoint")
    parser.add_argument("--llama-bin", type=Path, help="folder of llama-server (default: PATH)")
    parser.add_argument("--prompt", default="def fibonacci(n):\n")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--limit-mb", type=float, help="size of the memory cgroup")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    program = shutil.which("llama-server", path=arguments.llama_bin)
    if program is None:
        raise SystemExit("no llama-server: give --llama-bin")
    ids = load_tokenizer(arguments.tokenizer).encode(arguments.prompt)
    rows: list[list[object]] = []
    for lookup in LOOKUPS:
        with contextlib.ExitStack() as stack:
            group = None
            if arguments.limit_mb is not None:
                group = stack.enter_context(memory_group(int(1e6 * arguments.limit_mb)))
                drop_page_cache()
            (answer,) = continuations(
                Path(program),
                arguments.gguf,
                [ids],
                max_new_tokens=arguments.tokens,
                threads=arguments.threads,
                lookup=lookup,
                group=group,
            )
        print(repr(answer["text"]), flush=True)
        n_tokens = len(answer["token_ids"])
        speed = (n_tokens - 1) / answer["decode_s"]
        rows.append([lookup, speed, answer["n_drafted"], answer["n_accepted"], n_tokens])
    print_table(("lookup", "tokens/s", "drafted", "accepted", "tokens"), rows)


if __name__ == "__main__":
    main()
