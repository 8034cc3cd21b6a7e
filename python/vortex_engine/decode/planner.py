"""How many tokens to draft, and by whom: survival probability against what drafting and verifying cost here.

A block of k drafts is worth 1 + sum of their survival probabilities in tokens, and costs k draft steps and one sweep
over k + 1 rows. The planner takes the best rate it sees, plain decoding included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from operator import mul
from typing import Literal

from vortex_engine.decode.acceptance import Acceptance
from vortex_engine.decode.block import Block, DrafterCounts, Sibling
from vortex_engine.decode.cost import CostModel
from vortex_engine.decode.drafters.protocol import BranchingDrafter, Drafter

__all__ = ["Planner", "Tree"]

Tree = Literal["auto", "always", "never"]

_N_PROFILED = 2  # plain sweeps at the beginning of a model's first generation
_SIBLINGS_A_DRAFT = 2
_PROBE_EVERY = 64  # blocks after which a drafter that did not pay is tried again


@dataclass
class _Record:
    """What is known of one drafter in this generation."""

    acceptance: Acceptance
    of_siblings: Acceptance
    counts: DrafterCounts = field(default_factory=DrafterCounts)
    n_passed_over: int = 0


class Planner:
    """Proposes blocks for one generation and learns from how they went.

    Args:
        drafters: the first that has something goes first where all else is equal.
        costs: of the model; shared by its generations.
        max_block: the most drafts in a block.
        fixed: draft `max_block` tokens every time, whatever it costs.
        min_confidence: a draft below it ends its block.
        tree: add siblings where they pay ("auto"), wherever there is one, or never.
        max_siblings: the most of them in a block.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        drafters: Sequence[Drafter],
        costs: CostModel,
        *,
        max_block: int,
        fixed: bool = False,
        min_confidence: float = 0.0,
        tree: Tree = "auto",
        max_siblings: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._drafters = tuple(drafters)
        self._costs = costs
        self._max_block = max_block
        self._fixed = fixed
        self._min_confidence = min_confidence
        self._tree: Tree = tree
        self._max_siblings = max_siblings
        self._clock = clock
        self._records = {
            drafter.name: _Record(costs.acceptance(drafter.name), costs.acceptance(f"{drafter.name}, siblings"))
            for drafter in drafters
        }
        self.draft_s = self.verify_s = 0.0

    @property
    def counts(self) -> dict[str, DrafterCounts]:
        """By drafter."""
        return {name: record.counts for name, record in self._records.items()}

    def propose(self, limit: int) -> Block:
        """Draft a block of at most `limit` tokens; it may be empty."""
        limit = min(limit, self._max_block)
        if not self._drafters or limit < 1:
            return Block(None)
        started = self._clock()
        block = self._fixed_block(limit) if self._fixed else self._best_block(limit)
        draft_s = self._clock() - started
        self.draft_s += draft_s
        return block.taking(draft_s)

    def observe(self, block: Block, n_accepted: int, verify_s: float, *, sibling_id: int | None = None) -> None:
        """Tell how the block went: drafts of the chain that were accepted, seconds of its sweep, and the sibling that
        was right where the next was not."""
        self._costs.sweep.observe(block.n_rows, verify_s)
        self.verify_s += verify_s
        if block.drafter is not None:
            record = self._records[block.drafter]
            record.counts.blocks += 1
            record.counts.drafted += len(block.token_ids)
            record.counts.accepted += n_accepted
            record.counts.siblings += len(block.siblings)
            record.counts.siblings_accepted += sibling_id is not None
            for i, confidence in enumerate(block.confidences[: n_accepted + 1]):
                record.acceptance.observe(confidence, i < n_accepted)
            for sibling in block.siblings:
                if sibling.depth == n_accepted + 1:
                    record.of_siblings.observe(sibling.confidence, sibling.token_id == sibling_id)
        spent, plain = block.draft_s + verify_s, self._costs.sweep.seconds(1)
        # A plain sweep loses nothing but what looking for drafts took, however long it was.
        loss = spent - (1 + n_accepted + (sibling_id is not None)) * plain if block.token_ids else block.draft_s
        self._costs.saldo.add(loss, spent, plain)

    def _fixed_block(self, limit: int) -> Block:
        for drafter in self._drafters:
            started = self._clock()
            with closing(drafter.draft()) as drafts:
                block = Block.of(drafter.name, list(islice(drafts, limit)))
            if block.token_ids:
                return self._with_siblings(drafter, block, self._clock() - started)
        return Block(None)

    def _best_block(self, limit: int) -> Block:
        sweep = self._costs.sweep
        if sweep.n_observed < _N_PROFILED or self._costs.saldo.is_overdrawn(sweep.seconds(1)):
            return Block(None)
        best, best_rate = Block(None), 1 / sweep.seconds(1)
        lazy: Drafter | None = None
        for drafter in self._drafters:
            record = self._records[drafter.name]
            if drafter.is_eager:
                block, rate = self._eager_block(drafter, record, limit)
                if rate > best_rate:
                    best, best_rate, lazy = block, rate, None
                continue
            rate = self._expected_rate(drafter, record, limit)
            probes = record.n_passed_over >= _PROBE_EVERY
            if rate > best_rate or (probes and not best.token_ids):
                best_rate, lazy = max(rate, best_rate), drafter
        for name, record in self._records.items():
            chosen = lazy.name if lazy is not None else best.drafter
            record.n_passed_over = 0 if name == chosen else record.n_passed_over + 1
        return best if lazy is None else self._lazy_block(lazy, limit)

    def _eager_block(self, drafter: Drafter, record: _Record, limit: int) -> tuple[Block, float]:
        """The stretch of a proposal with the best rate, and that rate."""
        with closing(drafter.draft()) as drafts:
            pairs = list(islice(drafts, limit))
        survival, tokens, best_rate, best_n = 1.0, 1.0, 0.0, 0
        for n, (_, confidence) in enumerate(pairs, 1):
            if confidence < self._min_confidence:
                break
            survival *= record.acceptance.probability(confidence)
            tokens += survival
            rate = tokens / self._costs.sweep.seconds(n + 1)
            if rate > best_rate:
                best_rate, best_n = rate, n
        return Block.of(drafter.name, pairs[:best_n]), best_rate

    def _draft_cost(self, drafter: Drafter) -> float:
        known = self._costs.draft_s(drafter.name)
        return 0.5 * self._costs.sweep.seconds(1) if known is None else known

    def _expected_rate(self, drafter: Drafter, record: _Record, limit: int) -> float:
        """Of the best block, going by the drafter's mean acceptance."""
        cost, acceptance, sweep = self._draft_cost(drafter), record.acceptance.mean, self._costs.sweep
        survival, tokens, best = 1.0, 1.0, 0.0
        for n in range(1, limit + 1):
            survival *= acceptance
            tokens += survival
            best = max(best, tokens / (n * cost + sweep.seconds(n + 1)))
        return best

    def _lazy_block(self, drafter: Drafter, limit: int) -> Block:
        """Ask for one more draft as long as it is expected to raise the rate."""
        record, sweep = self._records[drafter.name], self._costs.sweep
        pairs: list[tuple[int, float]] = []
        survival, tokens, seconds = 1.0, 1.0, sweep.seconds(1)
        began = self._clock()
        with closing(drafter.draft()) as drafts:
            while len(pairs) < limit:
                gain = survival * record.acceptance.mean
                if pairs and gain * seconds <= tokens * (self._draft_cost(drafter) + sweep.slope_s):
                    break
                started = self._clock()
                pair = next(drafts, None)
                elapsed = self._clock() - started
                if pair is None:
                    break
                self._costs.observe_draft(drafter.name, elapsed)
                if pair[1] < self._min_confidence:
                    break
                pairs.append(pair)
                survival *= record.acceptance.probability(pair[1])
                tokens += survival
                seconds += elapsed + sweep.slope_s
        return self._with_siblings(drafter, Block.of(drafter.name, pairs), self._clock() - began)

    def _with_siblings(self, drafter: Drafter, block: Block, draft_s: float) -> Block:
        """Add the second thoughts that raise the rate: one that is right where its draft is wrong is worth a token, and
        costs a row."""
        if self._tree == "never" or not isinstance(drafter, BranchingDrafter):
            return block
        record, sweep = self._records[drafter.name], self._costs.sweep
        accepted = [record.acceptance.probability(confidence) for confidence in block.confidences]
        reached = list(accumulate(accepted, mul, initial=1.0))  # the chance that a draft is judged, and of all
        rate = sum(reached) / max(draft_s + sweep.seconds(block.n_rows), 1e-9)
        worth = 0.0 if self._tree == "always" else rate * sweep.slope_s
        found: list[tuple[float, Sibling]] = []
        for depth, probability in enumerate(accepted, 1):
            wrong = reached[depth - 1] * (1 - probability)
            if wrong <= worth:
                continue
            for token_id, confidence in drafter.others(depth, _SIBLINGS_A_DRAFT):
                chance = wrong * record.of_siblings.probability(confidence)
                if chance > worth:
                    found.append((chance, Sibling(depth, token_id, confidence)))
        found.sort(key=lambda pair: -pair[0])
        return replace(block, siblings=tuple(sibling for _, sibling in found[: self._max_siblings]))
