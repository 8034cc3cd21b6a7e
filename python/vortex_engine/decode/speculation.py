"""Which drafters a generation runs, and their planner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vortex_engine.decode.cost import CostModel
from vortex_engine.decode.drafters.early_exit import early_exit_drafter
from vortex_engine.decode.drafters.model import ModelDrafter
from vortex_engine.decode.drafters.mtp import HeadsFn, MultiTokenDrafter
from vortex_engine.decode.drafters.ngram import NgramDrafter
from vortex_engine.decode.drafters.prefix import prefix_drafter
from vortex_engine.decode.drafters.retokenise import RetokenisingDrafter
from vortex_engine.decode.planner import Planner, Tree
from vortex_engine.models.decoder import MAX_SIBLINGS
from vortex_engine.state import HiddenRows, hidden_rows

if TYPE_CHECKING:
    from vortex_engine.decode.drafters.protocol import Drafter, DraftSweep
    from vortex_engine.decode.load import LoadedParts
    from vortex_engine.decode.options import GenerationOptions
    from vortex_engine.decode.sampler import Sampler
    from vortex_engine.decode.second_model import SecondModel
    from vortex_engine.grams import GramTable
    from vortex_engine.state import SequenceState
    from vortex_engine.tok import Tokenizer

__all__ = ["DraftSource", "check_drafters", "make_drafters", "make_planner"]

_MAX_BLOCK = 16  # drafts of a block whose size is not given


@dataclass(frozen=True)
class DraftSource:
    """What the drafters of one generation draft from."""

    parts: LoadedParts
    sweep: DraftSweep
    state: SequenceState
    sampler: Sampler
    options: GenerationOptions
    tokenizer: Tokenizer
    second: SecondModel | None
    tables: tuple[GramTable, ...]
    heads: HeadsFn

    @property
    def max_block(self) -> int:
        """The most drafts of a block."""
        return self.options.block_size or _MAX_BLOCK


def _prefix(source: DraftSource) -> Drafter:
    return prefix_drafter(source.sweep, source.state, source.sampler)


def _early_exit(source: DraftSource) -> Drafter:
    n_layers = source.parts.decoder.config.num_hidden_layers
    return early_exit_drafter(source.sweep, source.state, source.sampler, n_layers)


def _ngram(source: DraftSource) -> Drafter:
    return NgramDrafter(source.tables, "prompt" if source.options.exact_copy_mode else "all", source.max_block)


def _mtp(source: DraftSource) -> Drafter:
    rows = hidden_rows(source.state)
    assert rows is not None  # checked with the arguments
    return MultiTokenDrafter(source.heads, rows, source.sampler)


def _model(source: DraftSource) -> Drafter:
    assert source.second is not None  # checked with the arguments
    path = source.parts.directory.tokenizer_path
    if path is not None and path.read_bytes() == source.second.tokenizer_bytes:
        return ModelDrafter(source.second, source.sampler, source.parts.decoder.config.vocab_size)
    return RetokenisingDrafter(source.second, source.second.tokenizer, source.tokenizer)


_MAKERS: dict[str, Callable[[DraftSource], Drafter]] = {
    "ngram": _ngram,
    "prefix": _prefix,
    "early_exit": _early_exit,
    "mtp": _mtp,
    "model": _model,
}


def check_drafters(options: GenerationOptions, second: SecondModel | None, *, has_heads: bool) -> None:
    """Refuse a drafter that this model does not have.

    Raises:
        ValueError: names it and what it needs.
    """
    if "model" in options.drafters and second is None:
        raise ValueError("speculate names the drafter 'model': load the model with draft_model=DIR to have one")
    if "mtp" in options.drafters and not has_heads:
        raise ValueError(
            "speculate names the drafter 'mtp': this model has no multi-token heads (mtp_k in its config.json); "
            "python -m vortex_engine.train.multi_token trains some"
        )


def make_drafters(source: DraftSource) -> list[Drafter]:
    """The drafters that the options name; for "auto" all that this model has and that can pay."""
    names = source.options.drafters
    if source.options.speculate == "auto":
        # Prefixes that are the whole weights draft at the price of the model itself.
        decoder = source.parts.decoder
        available = {
            "ngram": True,
            "model": source.second is not None,
            "mtp": decoder.multi_token is not None,
            "prefix": decoder.has_residuals,
        }
        names = tuple(name for name, is_there in available.items() if is_there)
    return [_MAKERS[name](source) for name in names]


def make_planner(
    drafters: Sequence[Drafter], costs: CostModel, options: GenerationOptions, state: SequenceState, tree: Tree = "auto"
) -> Planner:
    """A planner for one generation."""
    if not all(isinstance(part, HiddenRows) for part in state.parts):
        tree = "never"  # keys, values and hidden rows can take a sibling over, no other part
    return Planner(
        drafters,
        costs,
        max_block=options.block_size or _MAX_BLOCK,
        fixed=options.block_size is not None,
        min_confidence=options.min_confidence,
        tree=tree,
        max_siblings=MAX_SIBLINGS,
    )
