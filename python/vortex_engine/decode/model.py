"""`load` and the `Model` it returns: text in, text out, over a paged decoder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from vortex_engine.decode.constraints import Constraint, Utf8Constraint
from vortex_engine.decode.cost import CostModel
from vortex_engine.decode.engine import prefill_spans
from vortex_engine.decode.generation import Generation, Loaded
from vortex_engine.decode.load import LoadedParts, load_parts
from vortex_engine.decode.memory import check_memory, keep_memory, open_memory, recall_memory
from vortex_engine.decode.options import GenerateArguments, GenerationOptions, prompt_token_ids, split_arguments
from vortex_engine.decode.output import OutputText
from vortex_engine.decode.result import GenerationResult, Piece
from vortex_engine.decode.sampling import SamplingParams
from vortex_engine.decode.second_model import SecondModel, budget_beside, load_second_model
from vortex_engine.decode.speculation import check_drafters
from vortex_engine.decode.stats import counter_deltas, generation_stats, machine_stats
from vortex_engine.errors import BackendUnavailableError, VortexError
from vortex_engine.grams import GramTable, check_tokenizer
from vortex_engine.models.config import eos_token_ids
from vortex_engine.models.effort import FULL, Effort
from vortex_engine.tok import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from vortex_engine.state import SequenceState
    from vortex_engine.state.lava_file import MemoryFile

__all__ = ["Model", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    ram_budget: int | str | None = None,
    vram_budget: int | str | None = None,
    threads: int | None = None,
    profile: str | None = None,
    prefill_chunk: int | None = None,
    policy: str = "stable",
    activations: str | None = None,
    draft_model: str | os.PathLike[str] | None = None,
    grams: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a packed model; its weights are paged under a hard byte budget.

    Args:
        path: a C3 directory, or "nano" for the model inside this package.
        device: "auto" or "cpu".
        ram_budget: bytes for compressed weights, an int or a string such as "2GiB"; None: all weights if they fit in
            half of the free RAM, else that half.
        vram_budget: None; there is no GPU tier in this version.
        threads: of the computation; None for every core this process may use. Results do not depend on it.
        profile: None; there are no profiles in this version.
        prefill_chunk: prompt tokens a sweep; None chooses by the size of the activations. Results do not depend on it.
        policy: "stable" keeps a fixed subset and streams the rest; "lru" is there for comparison.
        activations: what products with int8 and int4 tiles take: "float", or "int8" for activations rounded to 8 bits
            in groups of 32, which is faster and less exact; None for what the model was packed with. Other tiles always
            take floats.
        draft_model: a small packed model that drafts where `speculate` names "model" or is "auto". All its weights are
            in RAM and count as part of `ram_budget`. Its tokenizer may be another one.
        grams: a table made by `vortex grams build` with the model's tokenizer; the drafter "ngram" asks it where the
            text itself says little.

    Raises:
        BudgetError: `ram_budget` is below the minimum, which the message names.
        ModelConfigError: it is no packed model, or one this engine cannot run.
        CorruptTileError, TileVersionError: its files are not what was packed.
        BackendUnavailableError: a device or a forced backend that is not here.
        ValueError: a wrong argument.
    """
    if draft_model is not None and ram_budget is not None:
        ram_budget = budget_beside(draft_model, ram_budget)
    table = None if grams is None else GramTable.load(grams)
    parts = load_parts(
        path,
        device=device,
        ram_budget=ram_budget,
        vram_budget=vram_budget,
        threads=threads,
        profile=profile,
        prefill_chunk=prefill_chunk,
        policy=policy,
        activations=activations,
    )
    try:
        tokenizer = load_tokenizer(parts.directory.path)
        if table is not None:
            check_tokenizer(table, parts.directory.path)
        second = None if draft_model is None else load_second_model(draft_model, threads)
        return Model(parts, tokenizer, second, table)
    except BaseException:
        parts.pager.close()
        raise


class Model:
    """A packed model, ready to generate; close it, or use it as a context manager.

    Several generations and streams may be open at once, from any thread: each has its own state, and a lock lets one
    sweep over the weights run at a time. An interrupted or abandoned one leaves the model as it was.
    """

    def __init__(
        self,
        parts: LoadedParts,
        tokenizer: Tokenizer,
        second: SecondModel | None = None,
        table: GramTable | None = None,
    ) -> None:
        self._parts = parts
        self._second = second
        self._decoder = parts.decoder
        self._tokenizer = tokenizer
        directory, config = parts.directory, parts.decoder.config
        self._eos = eos_token_ids(directory.config, directory.generation_config or {}, config.vocab_size)
        tables = () if table is None else (table,)
        self._loaded = Loaded(parts, self._forward, tokenizer, CostModel(), second, tables, self._multi_token)
        self._utf8: Utf8Constraint | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""
        return self._tokenizer

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's `config.json`."""
        return self._parts.directory.config

    @property
    def vocab_size(self) -> int:
        """Number of ids the model knows, and of logits per position."""
        return self._decoder.config.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and output together."""
        return self._decoder.config.max_position_embeddings

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end a text."""
        return self._eos

    @property
    def stats(self) -> Mapping[str, Any]:
        """The pager's counters since loading, and how this model runs."""
        return machine_stats(self._parts)

    def generate(self, prompt: str | Sequence[int], **options: Unpack[GenerateArguments]) -> GenerationResult:
        """Continue a prompt.

        Args:
            prompt: text, or ids (nothing is added to those).
            max_new_tokens: the most tokens to choose; 128 by default.
            temperature: 0, the default, takes the most likely token; otherwise logits are divided by it and a token is
                drawn.
            top_k, top_p, min_p: keep the k most likely tokens; the smallest set with this much probability; those with
                at least this fraction of the largest probability. Applied in this order after the temperature.
            repetition_penalty: divides positive and multiplies negative logits of tokens seen so far; 1 is off.
            presence_penalty, frequency_penalty: taken off the logits of generated tokens, once and as often as they
                occurred; 0 is off.
            penalty_window: penalties look at the last so many tokens only.
            no_repeat_ngram: no run of so many tokens occurs twice.
            seed: randomness of a token depends only on it and the token's position.
            stop: strings that end the text and are not part of it.
            ignore_eos: go on after an EOS.
            escape_restrict: the output's bytes are valid UTF-8: a token that would break a character is not chosen.
            speculate: "auto", the default, "off", or drafters joined by "+": prefix, ngram, early_exit, mtp, model. The
                output is the same bit for bit, and a drafter that does not pay on this machine is left alone.
            block_size: draft so many tokens in every block, whatever it costs; by default measurements decide.
            min_confidence: a draft whose estimated probability is lower ends its block.
            entropy_top_k: drafters estimate that probability among so many of the most likely tokens.
            exact_copy_mode: for a text that copies from its prompt: spans are drafted from the prompt alone.
            memory: a file of `memorize`; the text begins with what the model's LAVA layers remember.

        Returns:
            Text, ids, why it ended, and stats: speeds (tokens_per_s, prefill_tokens_per_s, ttft_s, tokens_per_sweep),
            counts, bytes (ram_budget_bytes, peak_ram_bytes, kv_bytes), the pager's counters during this generation, and
            of speculation n_drafted, n_accepted, n_rejected, drafters (counts by name), draft_s and verify_s.

        Raises:
            PromptError: an empty prompt, or one longer than the context.
            CorruptTileError: a weight's bytes on disk changed.
            StateFileError: `memory` is missing, damaged or was written by another model.
            ValueError: a wrong argument.
        """
        text: list[str] = []
        token_ids: list[int] = []
        for piece in self.stream(prompt, **options):
            text.append(piece.text)
            token_ids.extend(piece.token_ids)
            if piece.finish_reason is not None and piece.stats is not None:
                return GenerationResult("".join(text), tuple(token_ids), piece.finish_reason, piece.stats)
        raise AssertionError("a stream ends with a piece that has a finish_reason")

    def stream(self, prompt: str | Sequence[int], **options: Unpack[GenerateArguments]) -> Iterator[Piece]:
        """As `generate`, a `Piece` at a time; arguments are checked at once, work begins with the first piece."""
        params, rules = split_arguments(options)
        check_drafters(rules, self._second, has_heads=self._decoder.multi_token is not None)
        self._check_open()
        prompt_ids = prompt_token_ids(prompt, self._tokenizer, self.vocab_size, self.context_length)
        memory = None if rules.memory is None else open_memory(self._parts, rules.memory)
        return self._pieces(prompt_ids, params, rules, memory)

    def memorize(
        self,
        prompt: str | Sequence[int],
        path: str | os.PathLike[str],
        *,
        memory: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Read a text and write what the LAVA layers remember of it to a safetensors file.

        What recurrence and window attention carry is no part of it. The file is for this model, packed as it is.

        Args:
            prompt: text or ids, of any length the model takes.
            path: of the file, replaced whole or not at all.
            memory: such a file to begin with, perhaps `path` itself: the new one remembers both texts.
            progress: told the tokens read so far and of the whole text, after every chunk.

        Returns:
            Slots in use, over all layers.

        Raises:
            PromptError: an empty prompt, or one longer than the context.
            StateFileError: `memory` is missing, damaged or was written by another model.
            MachineError: the file cannot be written; what was there is as it was.
            ValueError: the model has no LAVA layers.
        """
        self._check_open()
        ids = np.asarray(prompt_token_ids(prompt, self._tokenizer, self.vocab_size, self.context_length), np.int64)
        state = self._decoder.new_state(len(ids))
        check_memory(self._parts, state)
        if memory is not None:
            recall_memory(self._parts, state, open_memory(self._parts, memory))
        for start, end in prefill_spans(len(ids), self._parts.prefill_chunk):
            self._forward(ids[start:end], state, "none")
            if progress is not None:
                progress(end, len(ids))
        return keep_memory(self._parts, state, path)

    @overload
    def logits(self, prompt: str | Sequence[int], framework: Literal["numpy"] = "numpy") -> NDArray[np.float32]: ...
    @overload
    def logits(self, prompt: str | Sequence[int], framework: Literal["torch"]) -> torch.Tensor: ...
    def logits(self, prompt: str | Sequence[int], framework: str = "numpy") -> Any:
        """Logits after every token of a prompt, float32 [T, vocab]; bit for bit the same for every budget and chunk.

        Args:
            prompt: text or ids.
            framework: "numpy" for an ndarray, "torch" for a tensor.
        """
        if framework not in ("numpy", "torch"):
            raise ValueError(f"framework must be 'numpy' or 'torch', got {framework!r}")
        ids = np.asarray(prompt_token_ids(prompt, self._tokenizer, self.vocab_size, self.context_length), np.int64)
        state = self._decoder.new_state(len(ids))
        result = np.empty((len(ids), self.vocab_size), np.float32)
        for start, end in prefill_spans(len(ids), self._parts.prefill_chunk):
            result[start:end] = self._forward(ids[start:end], state, "all")
        if framework == "numpy":
            return result
        try:
            import torch
        except ImportError as error:
            raise BackendUnavailableError("framework='torch' needs torch: pip install 'vortex-engine[gpu]'") from error
        return torch.from_numpy(result)

    def close(self) -> None:
        """Free the weights; open streams end with an error. Closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._parts.pager.close()
                if self._second is not None:
                    self._second.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise VortexError("the model is closed; load it again")

    def _constraint(self, rules: GenerationOptions) -> Constraint | None:
        if not rules.escape_restrict:
            return None
        if self._utf8 is None:
            self._utf8 = Utf8Constraint(self._tokenizer.token_bytes, self.vocab_size)
        return self._utf8

    def _forward(
        self,
        token_ids: NDArray[np.int64],
        state: SequenceState,
        logits: Literal["last", "all", "none"],
        effort: Effort = FULL,
        depths: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        with self._lock:
            self._check_open()
            return self._decoder.forward(token_ids, state, logits, effort, depths)

    def _multi_token(self, h: NDArray[np.float32]) -> NDArray[np.float32]:
        heads = self._decoder.multi_token
        assert heads is not None
        with self._lock:
            self._check_open()
            # Drafts: what residuals would add is not worth reading them.
            return heads.logits(h, "prefix")

    def _generation(
        self, prompt_ids: Sequence[int], params: SamplingParams, rules: GenerationOptions, n_allowed: int
    ) -> Generation:
        return Generation(self._loaded, prompt_ids, params, rules, n_allowed, self._constraint(rules))

    def _pieces(
        self, prompt_ids: list[int], params: SamplingParams, rules: GenerationOptions, memory: MemoryFile | None
    ) -> Iterator[Piece]:
        before = self._parts.pager.counters()
        n_allowed = min(rules.max_new_tokens, self.context_length - len(prompt_ids))
        generation = self._generation(prompt_ids, params, rules, n_allowed)
        if memory is not None:
            recall_memory(self._parts, generation.state, memory)
        output = OutputText(
            self._tokenizer.stream(prompt_ids), rules.stops, frozenset() if rules.ignore_eos else self._eos, n_allowed
        )
        text, token_ids = "", ()
        if output.finish is None:
            for block in generation.blocks():
                text, token_ids = output.push(block.token_ids)
                if output.finish is not None:
                    break
                yield Piece(text, token_ids)
        used = counter_deltas(before, self._parts.pager.counters())
        stats = generation_stats(self._parts, generation, output, used, len(prompt_ids))
        yield Piece(text + output.end(), token_ids, output.finish, stats)
