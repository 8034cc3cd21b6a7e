"""Who drafts in the benchmark of n-grams: ours, arctic-inference's suffix decoding, transformers' prompt lookup."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmarks.c3.report import MissingPeerError
from vortex_engine import _native
from vortex_engine.decode.drafters.ngram import NgramDrafter

# Context that arctic-inference looks at: the depth of its trees, its default.
_TREE_DEPTH = 64
_INDEX_TOKENS = 1 << 18


class Contender(Protocol):
    """Drafts on one sequence. `push` gets the prompt first."""

    def push(self, ids: list[int]) -> None:
        """Verified ids follow."""
        ...

    def propose(self) -> Sequence[int]:
        """At most as many ids as it was made for."""
        ...


# Makes a contender that proposes at most so many tokens.
Maker = Callable[[int], Contender]


class _Ours:
    """The drafter as the engine uses it, its iterator read to the end or until it is not worth it."""

    def __init__(self, max_tokens: int, min_probability: float = 0.0) -> None:
        self._drafter = NgramDrafter(max_draft=max_tokens)
        self._min_probability = min_probability

    def push(self, ids: list[int]) -> None:
        self._drafter.accept(ids)

    def propose(self) -> Sequence[int]:
        ids: list[int] = []
        together = 1.0
        for token_id, probability in self._drafter.draft():
            together *= probability
            if together < self._min_probability:
                break
            ids.append(token_id)
        return ids


class Native:
    """The native index alone."""

    def __init__(self, max_tokens: int, native: _native.NgramDrafter | None = None) -> None:
        self._native = native or _native.NgramDrafter(_INDEX_TOKENS)
        self._max_tokens = max_tokens
        self.push = self._native.push

    def propose(self) -> Sequence[int]:
        return self._native.draft(self._max_tokens)[0]


class _Arctic:
    """SuffixDecodingCache with the tree of prompt and output that a request has to itself."""

    def __init__(self, module: Any, max_tokens: int, factor: float) -> None:
        self._cache = module.SuffixDecodingCache(max_tree_depth=_TREE_DEPTH, max_cached_requests=0)
        self._limits = {"max_spec_tokens": max_tokens, "max_spec_factor": factor}
        self._ids: list[int] = []

    def push(self, ids: list[int]) -> None:
        if self._ids:
            self._cache.add_active_response(0, ids)
        else:
            self._cache.start_request(0, ids)
        self._ids.extend(ids)

    def propose(self) -> Sequence[int]:
        return self._cache.speculate(0, self._ids[-_TREE_DEPTH:], **self._limits).token_ids


class _PromptLookup:
    """What `generate(prompt_lookup_num_tokens=…)` drafts with, at its default size of n-grams."""

    def __init__(self, torch: Any, generator: Any) -> None:
        self._torch, self._generator = torch, generator
        self._ids = torch.empty((1, 0), dtype=torch.int64)

    def push(self, ids: list[int]) -> None:
        self._ids = self._torch.cat([self._ids, self._torch.tensor([ids])], dim=1)

    def propose(self) -> Sequence[int]:
        found, _ = self._generator.get_candidates(self._ids)
        return found[0, self._ids.shape[1] :].tolist()


OURS, SURE, NATIVE = "ours", "ours, probability >= 0.1", "ours, native calls alone"
ARCTIC, ARCTIC_LONG = "arctic-inference", "arctic-inference, any length"
LOOKUP = "prompt lookup"


def ours() -> dict[str, Maker]:
    """Ours, in the forms that are measured."""
    return {OURS: _Ours, SURE: lambda k: _Ours(k, 0.1), NATIVE: Native}


def arctic() -> dict[str, Maker]:
    """With its default, as many tokens as the match is long, and with no other limit than the benchmark's.

    Raises:
        MissingPeerError: arctic-inference is not installed.
    """
    try:
        module = importlib.import_module("arctic_inference.suffix_decoding")
    except ImportError as error:
        raise MissingPeerError(
            f"arctic-inference: {error}; pip install nanobind grpcio-tools, then "
            "CMAKE_ARGS=-DPython_EXECUTABLE=$(which python) pip install --no-deps --no-build-isolation arctic-inference"
        ) from error
    return {ARCTIC: lambda k: _Arctic(module, k, 1.0), ARCTIC_LONG: lambda k: _Arctic(module, k, 1e6)}


def prompt_lookup() -> dict[str, Maker]:
    """transformers' candidate generator.

    Raises:
        MissingPeerError: transformers is not installed.
    """
    try:
        torch = importlib.import_module("torch")
        module = importlib.import_module("transformers.generation.candidate_generator")
    except ImportError as error:
        raise MissingPeerError(f"prompt lookup: {error}; pip install 'vortex-engine[peers]'") from error
    generator = module.PromptLookupCandidateGenerator
    return {LOOKUP: lambda k: _PromptLookup(torch, generator(num_output_tokens=k, max_length=1 << 30))}
