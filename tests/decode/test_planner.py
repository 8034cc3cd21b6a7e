"""The planner against simulated machines: it drafts where that pays, as far as it pays, and otherwise costs next to
nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from vortex_engine.decode.block import Block
from vortex_engine.decode.cost import CostModel, SweepCost
from vortex_engine.decode.planner import Planner


class Machine:
    """A clock that moves as drafters and sweeps cost, and a text in which drafts are right with some probability."""

    def __init__(self, base_s: float, slope_s: float, noise: float = 0.0, seed: int = 0) -> None:
        self.now_s = 0.0
        self.base_s, self.slope_s, self.noise = base_s, slope_s, noise
        self.random = np.random.default_rng(seed)

    def clock(self) -> float:
        return self.now_s

    def sweep(self, n_rows: int) -> float:
        seconds = (self.base_s + self.slope_s * (n_rows - 1)) * (1 + self.noise * self.random.random())
        self.now_s += seconds
        return seconds


class SimulatedDrafter:
    """Its drafts cost `cost_s` each; it says that they are right with `confidence`."""

    def __init__(
        self, machine: Machine, name: str, cost_s: float, confidence: Callable[[], float], is_eager: bool = False
    ) -> None:
        self.name, self.is_eager = name, is_eager
        self._machine, self._cost_s, self._confidence = machine, cost_s, confidence
        self.n_open = 0

    def draft(self) -> Iterator[tuple[int, float]]:
        self.n_open += 1
        try:
            while True:
                self._machine.now_s += self._cost_s
                yield 0, self._confidence()
        finally:
            self.n_open -= 1

    def accept(self, token_ids: Sequence[int]) -> None:
        pass


def generate(
    machine: Machine, planner: Planner, n_tokens: int, acceptance: Callable[[Block, int], float]
) -> list[Block]:
    """Run blocks until so many tokens were made."""
    blocks: list[Block] = []
    made = 0
    while made < n_tokens:
        block = planner.propose(n_tokens - made)
        n_accepted = 0
        while n_accepted < len(block.token_ids) and machine.random.random() < acceptance(block, n_accepted):
            n_accepted += 1
        planner.observe(block, n_accepted, machine.sweep(block.n_rows))
        blocks.append(block)
        made += 1 + n_accepted
    return blocks


def test_a_good_drafter_is_used_in_long_blocks_where_sweeps_are_dear() -> None:
    machine = Machine(base_s=1.0, slope_s=0.005)
    drafter = SimulatedDrafter(machine, "prefix", 0.04, lambda: 0.9)
    planner = Planner([drafter], CostModel(), max_block=16, clock=machine.clock)
    blocks = generate(machine, planner, 400, lambda *_: 0.92)
    lengths = [len(block.token_ids) for block in blocks[10:-1]]
    assert np.mean(lengths) > 6
    assert machine.now_s < 400 / 3
    assert drafter.n_open == 0


def test_blocks_are_short_where_rows_are_dear() -> None:
    machine = Machine(base_s=1.0, slope_s=0.4)
    drafter = SimulatedDrafter(machine, "prefix", 0.1, lambda: 0.8)
    planner = Planner([drafter], CostModel(), max_block=16, clock=machine.clock)
    blocks = generate(machine, planner, 400, lambda *_: 0.8)
    assert 0 < np.mean([len(block.token_ids) for block in blocks]) < 4
    assert machine.now_s < 400


@pytest.mark.parametrize("cost_s", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("is_eager", [False, True])
@pytest.mark.parametrize("confidence", [0.3, 0.99])
def test_useless_drafts_cost_two_percent_at_most(cost_s: float, is_eager: bool, confidence: float) -> None:
    """However sure of itself the drafter is."""
    machine = Machine(base_s=1.0, slope_s=0.1, noise=0.1)
    cost_s = 1e-4 if is_eager else cost_s
    drafter = SimulatedDrafter(machine, "bad", cost_s, lambda: confidence, is_eager)
    planner = Planner([drafter], CostModel(), max_block=16, clock=machine.clock)
    generate(machine, planner, 1000, lambda *_: 0.0)
    plain = Machine(base_s=1.0, slope_s=0.1, noise=0.1)
    for _ in range(1000):
        plain.sweep(1)
    assert machine.now_s <= 1.02 * plain.now_s


def test_a_text_that_turns_incompressible_does_not_live_on_past_gains() -> None:
    machine = Machine(base_s=1.0, slope_s=0.05)
    drafter = SimulatedDrafter(machine, "ngram", 1e-4, lambda: 0.9, is_eager=True)
    planner = Planner([drafter], CostModel(), max_block=16, clock=machine.clock)
    generate(machine, planner, 500, lambda *_: 0.95)
    before = machine.now_s
    generate(machine, planner, 500, lambda *_: 0.0)
    assert machine.now_s - before <= 1.02 * 500


def test_the_better_of_two_drafters_is_chosen() -> None:
    machine = Machine(base_s=1.0, slope_s=0.01)
    ngram = SimulatedDrafter(machine, "ngram", 1e-5, lambda: 0.2, is_eager=True)
    prefix = SimulatedDrafter(machine, "prefix", 0.03, lambda: 0.9)
    planner = Planner([ngram, prefix], CostModel(), max_block=16, clock=machine.clock)
    generate(machine, planner, 500, lambda block, _: 0.9 if block.drafter == "prefix" else 0.1)
    counts = planner.counts
    assert counts["prefix"].accepted > 10 * counts["ngram"].accepted
    assert counts["prefix"].drafted >= counts["prefix"].accepted


class BranchingSimulation(SimulatedDrafter):
    """With two second thoughts about each draft."""

    def others(self, depth: int, n: int) -> list[tuple[int, float]]:
        return [(1, 0.6), (2, 0.3)][:n]


@pytest.mark.parametrize("fixed", [False, True])
def test_siblings_stand_where_they_are_likely_to_be_needed_and_rows_are_cheap(fixed: bool) -> None:
    def siblings(slope_s: float, confidence: float) -> list[int]:
        machine = Machine(base_s=1.0, slope_s=slope_s)
        drafter = BranchingSimulation(machine, "prefix", 0.01, lambda: confidence)
        planner = Planner([drafter], CostModel(), max_block=4, max_siblings=5, fixed=fixed, clock=machine.clock)
        blocks = generate(machine, planner, 200, lambda *_: confidence)
        return [sibling.depth for block in blocks[20:] for sibling in block.siblings if len(block.token_ids) == 4]

    cheap = siblings(0.001, 0.7)
    assert cheap.count(1) > cheap.count(4)  # the chain holds less and less often
    assert len(siblings(0.3, 0.7)) < 5 < len(cheap)
    assert not siblings(0.02, 0.999)


def test_siblings_are_calibrated_one_by_one() -> None:
    machine = Machine(base_s=1.0, slope_s=0.001)
    drafter = BranchingSimulation(machine, "prefix", 0.01, lambda: 0.5)
    costs = CostModel()
    planner = Planner([drafter], costs, max_block=1, max_siblings=2, fixed=True, clock=machine.clock)
    for _ in range(60):
        block = planner.propose(1)
        assert {sibling.token_id for sibling in block.siblings} <= {1, 2}
        planner.observe(block, 0, machine.sweep(block.n_rows), sibling_id=2)
    of_siblings = costs.acceptance("prefix, siblings")
    assert of_siblings.probability(0.3) > 0.8 > 0.2 > of_siblings.probability(0.6)


def test_a_block_size_that_is_given_is_kept() -> None:
    machine = Machine(base_s=1.0, slope_s=1.0)
    drafter = SimulatedDrafter(machine, "bad", 1.0, lambda: 0.01)
    planner = Planner([drafter], CostModel(), max_block=5, fixed=True, clock=machine.clock)
    blocks = generate(machine, planner, 50, lambda *_: 0.5)
    assert {len(block.token_ids) for block in blocks[:-5]} == {5}


def test_a_limit_and_a_confidence_bound_a_block() -> None:
    machine = Machine(base_s=1.0, slope_s=0.0)
    planner = Planner([], CostModel(), max_block=16, clock=machine.clock)
    assert planner.propose(8) == Block(None)
    sure = iter([0.9, 0.9, 0.1])
    drafter = SimulatedDrafter(machine, "prefix", 1e-3, lambda: next(sure, 0.9))
    planner = Planner([drafter], CostModel(), max_block=16, min_confidence=0.5, clock=machine.clock)
    for _ in range(2):
        planner.observe(planner.propose(0), 0, 1.0)
    assert len(planner.propose(8).token_ids) == 2
    assert len(planner.propose(3).token_ids) == 3


def test_the_cost_of_a_sweep_is_followed() -> None:
    cost = SweepCost()
    random = np.random.default_rng(3)
    for _ in range(200):
        n_rows = int(random.integers(1, 12))
        cost.observe(n_rows, (2.0 + 0.3 * (n_rows - 1)) * (1 + 0.1 * random.standard_normal()))
    assert cost.seconds(1) == pytest.approx(2.0, rel=0.15)
    assert cost.slope_s == pytest.approx(0.3, rel=0.3)
    cost.observe(1, 1000.0)
    assert cost.seconds(1) < 6.0
    for _ in range(200):
        cost.observe(1, 1.0)
    assert cost.seconds(1) == pytest.approx(1.0, rel=0.1)
