"""What a token costs outside the kernels, how soon the first token comes, and what the process holds besides weights.

Three measurements: the time per decoded token outside the native module on a model of 24 layers; the time from the
start of `vortex generate` to its first character; resident memory less budget and KV cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vortex_engine as vx
from benchmarks.machine import base_parser, measure, print_table, spread, write_result
from benchmarks.make_model import make_model
from vortex_engine import _native

# Runs alone in a fresh process: what it holds is what a user's process holds.
_HELD = """
import json, sys
import vortex_engine as vx
def rss():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
with vx.load(sys.argv[1]) as model:
    out = model.generate("def main():", max_new_tokens=32, ignore_eos=True, speculate="off")
print(json.dumps({"peak_rss_bytes": rss(), "kv_bytes": out.stats["kv_bytes"],
                  "held_bytes": out.stats["peak_bytes"], "torch_loaded": "torch" in sys.modules}))
"""


class NativeClock:
    """Adds up the time inside the native functions while it is entered."""

    def __init__(self) -> None:
        self.inside_s = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.inside_s += time.perf_counter() - start

        return timed


def time_outside_native(model: vx.Model, n_tokens: int) -> tuple[float, float]:
    """Seconds per token outside and inside the native functions; the clock's own cost counts as outside."""
    clock = NativeClock()
    parts = model._parts  # pyright: ignore[reportPrivateUsage] - what is timed lies inside
    original = parts.ctx.table
    table: dict[str, Callable[..., Any]] = dict(original)
    parts.ctx.table = {name: clock.wrap(function) for name, function in table.items()}
    try:
        pieces = model.stream("def main():", max_new_tokens=n_tokens, ignore_eos=True, speculate="off")
        next(pieces)  # the prompt's sweep is not decoding
        clock.inside_s = 0.0
        start = time.perf_counter()
        for _ in pieces:
            pass
        elapsed = time.perf_counter() - start
    finally:
        parts.ctx.table = original
    return (elapsed - clock.inside_s) / (n_tokens - 1), clock.inside_s / (n_tokens - 1)


def time_to_first_character(model: str) -> float:
    """Seconds from the start of the program to the first byte on its stdout."""
    command = [sys.executable, "-m", "vortex_engine", "generate", "def main():", "--model", model]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        if not running.stdout.read(1):
            raise SystemExit(f"vortex generate --model {model} printed nothing")
        elapsed = time.perf_counter() - start
        running.kill()
    return elapsed


def main() -> None:
    """Measure and write results/overhead.json."""
    parser = base_parser(__doc__)
    parser.add_argument("--model", default="nano", help="packed model for start-up and memory")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        folder = Path(work)
        machine = measure(folder)
        make_model(folder / "deep", "deep")
        vx.pack(folder / "deep", folder / "deep.c3")
        with vx.load(folder / "deep.c3", threads=1) as model:
            runs = [time_outside_native(model, arguments.tokens) for _ in range(arguments.repeats)]
    starts = [time_to_first_character(arguments.model) for _ in range(arguments.repeats)]
    done = subprocess.run([sys.executable, "-c", _HELD, arguments.model], capture_output=True, text=True, check=True)
    held: dict[str, Any] = json.loads(done.stdout)
    besides = held["peak_rss_bytes"] - held["kv_bytes"] - held["held_bytes"]
    document: dict[str, Any] = {
        "layers": 24,
        "simd": _native.simd_levels()[0],
        "outside_native_ms_per_token": spread([1e3 * outside for outside, _ in runs]),
        "inside_native_ms_per_token": spread([1e3 * inside for _, inside in runs]),
        "first_character_s": spread(starts),
        "first_character_model": arguments.model,
        "memory": {**held, "besides_budget_and_kv_bytes": besides},
    }
    print_table(
        ("measured", "median"),
        [
            ("ms per token outside native code, 24 layers", document["outside_native_ms_per_token"]["median"]),
            (f"s to the first character, {arguments.model}", document["first_character_s"]["median"]),
            ("MB held besides budget and KV", besides / 1e6),
            ("torch loaded", held["torch_loaded"]),
        ],
    )
    print(write_result("overhead", machine, document, arguments.results))


if __name__ == "__main__":
    main()
