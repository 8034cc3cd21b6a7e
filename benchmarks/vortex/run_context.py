"""A process that measures one contender at growing contexts: `run_context.py JOB`, JSON in, a line of JSON a context.

JOB: engine ("vortex" or "transformers"), model (its folder), contexts (growing), prefill (tokens of one chunk), decode
(the most tokens), threads. A KV cache is filled with random numbers up to a context; a recurrent state and a memory
cannot be made up, so such a model reads that many random ids.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vortex_engine.machine import peak_rss_bytes

_SECONDS, _LEAST = 3.0, 3  # a decode that is slow is measured for so long, but for so many tokens


def main() -> None:
    """Measure one job."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    engine = {"vortex": _ours, "transformers": _transformers}[job["engine"]]
    for found in engine(job):
        print(json.dumps(found), flush=True)


def _timed(job: dict[str, Any], prefill: Callable[[], object], step: Callable[[], object]) -> dict[str, float]:
    """Tokens a second of one chunk and of single tokens after it, the median of them."""
    began = time.perf_counter()
    prefill()
    prefill_s = time.perf_counter() - began
    step()
    taken: list[float] = []
    while len(taken) < job["decode"] and (len(taken) < _LEAST or sum(taken) < _SECONDS):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return {
        "prefill_tokens_per_s": job["prefill"] / prefill_s,
        "decode_tokens_per_s": 1.0 / statistics.median(taken),
    }


def _ours(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from vortex_engine.decode.load import load_parts

    parts = load_parts(
        job["model"],
        device="cpu",
        ram_budget=None,
        vram_budget=None,
        threads=job["threads"],
        profile=None,
        prefill_chunk=None,
        policy="stable",
        activations=None,
    )
    decoder, rng = parts.decoder, np.random.default_rng(0)
    extra = len(job["contexts"]) * (job["prefill"] + job["decode"] + 1)
    state = decoder.new_state(job["contexts"][-1] + extra)

    def read(n: int, wanted: Any = "none") -> Any:
        return decoder.forward(rng.integers(0, decoder.config.vocab_size, n), state, wanted)

    def step() -> None:
        mark = state.snapshot()
        read(1, "last")
        state.commit(mark, 1)

    read(job["prefill"])  # the weights are in RAM from here on
    for context in job["contexts"]:
        if state.kv.n_bytes:
            for cache in (cache for layer in state.kv.layers for cache in layer):
                part = cache[:, state.length : context]
                part[:] = rng.standard_normal(part.shape, np.float32)
            state.kv.length = max(state.length, context)
        while state.length < context:
            read(min(parts.prefill_chunk, context - state.length))
        n_bytes = state.kv_bytes
        rates = _timed(job, lambda: read(job["prefill"]), step)
        yield {"context": context, "state_bytes": n_bytes, **rates, "peak_rss_bytes": peak_rss_bytes()}
    parts.pager.close()


def _transformers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.set_num_threads(job["threads"])
    model = transformers.LlamaForCausalLM.from_pretrained(
        job["model"], dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    config = model.config
    heads, dim = config.num_key_value_heads, config.head_dim

    def of(n: int) -> Any:
        return torch.randint(0, config.vocab_size, (1, n))

    with torch.inference_mode():
        model(of(job["prefill"]))
        for context in job["contexts"]:
            cache: Any = transformers.DynamicCache(config=config)
            for layer in range(config.num_hidden_layers):
                cache.update(torch.randn(1, heads, context, dim), torch.randn(1, heads, context, dim), layer)
            n_bytes = config.num_hidden_layers * 2 * heads * context * dim * 4

            def read(n: int, cache: Any = cache) -> None:
                model(of(n), past_key_values=cache, use_cache=True, logits_to_keep=1)

            rates = _timed(job, lambda read=read: read(job["prefill"]), lambda read=read: read(1))
            yield {"context": context, "state_bytes": n_bytes, **rates, "peak_rss_bytes": peak_rss_bytes()}


if __name__ == "__main__":
    main()
