"""The n-gram drafter: what it proposes, from where, and what it forgets."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from vortex_engine import _native
from vortex_engine.decode.drafters.ngram import NgramDrafter


def accepted_by_step(drafter: NgramDrafter, prompt: list[int], output: list[int], k: int = 16) -> list[int]:
    """Replays `output`: how many drafted ids each step accepted."""
    drafter.accept(prompt)
    accepted: list[int] = []
    place = 0
    while place < len(output):
        pairs = zip(itertools.islice(drafter.draft(), k), output[place:], strict=False)
        n = sum(1 for _ in itertools.takewhile(lambda pair: pair[0][0] == pair[1], pairs))
        drafter.accept(output[place : place + n + 1])
        place += n + 1
        accepted.append(n)
    return accepted


def random_ids(n: int, n_ids: int = 30_000, seed: int = 0) -> list[int]:
    """`n` ids without structure."""
    rng = random.Random(seed)
    return [rng.randrange(n_ids) for _ in range(n)]


def test_a_copy_is_drafted_whole() -> None:
    text = random_ids(200)
    drafter = NgramDrafter(max_draft=32)
    drafter.accept([*text, 50_000, *text[:5]])
    assert [token_id for token_id, _ in drafter.draft()] == text[5:37]


def test_later_tokens_of_a_long_match_are_surer() -> None:
    text = random_ids(200)
    short, long = NgramDrafter(), NgramDrafter()
    short.accept([*text, 50_000, text[100]])
    long.accept([*text, 50_000, *text[60:101]])
    (first_id, low), (same_id, high) = next(short.draft()), next(long.draft())
    assert first_id == same_id == text[101]
    assert 0 < low < high <= 1


def test_nothing_is_drafted_from_nothing() -> None:
    drafter = NgramDrafter()
    assert list(drafter.draft()) == []
    drafter.accept([1, 2, 3])
    assert list(drafter.draft()) == []


def test_periods_go_on_past_the_end() -> None:
    drafter = NgramDrafter(max_draft=12)
    drafter.accept([7, 8, 9, 7, 8, 9, 7])
    assert [token_id for token_id, _ in drafter.draft()] == [8, 9, 7] * 4


def test_replaced_tokens_cost_a_step_each_and_no_more() -> None:
    prompt = random_ids(340)
    output = list(prompt)
    for place in range(30, 340, 34):
        output[place] = 40_000 + place
    accepted = accepted_by_step(NgramDrafter(), prompt, output)
    # The first token has no match; a step of 17 tokens, and one more for each of ten replacements, do the rest.
    assert len(accepted) <= 340 // 17 + 10 + 2


def test_a_renaming_is_made_again() -> None:
    prompt = random_ids(400)
    for place in range(20, 400, 20):
        prompt[place] = 40_000
    output = [41_000 if token_id == 40_000 else token_id for token_id in prompt]
    accepted = accepted_by_step(NgramDrafter(), prompt, output)
    assert len(accepted) <= 400 // 17 + 8  # far from one more for each of 20 places


@pytest.mark.parametrize("change", ["insertion", "deletion"])
def test_the_copy_is_found_again(change: str) -> None:
    prompt = random_ids(400)
    if change == "insertion":
        output = [*prompt[:200], *random_ids(6, seed=1), *prompt[200:]]
        most = 400 // 17 + 1 + 6 + 2
    else:
        output = [*prompt[:200], *prompt[220:]]
        most = 400 // 17 + 1 + 2
    assert len(accepted_by_step(NgramDrafter(), prompt, output)) <= most


def test_prompt_only_drafts_spans_of_the_prompt() -> None:
    prompt, new = random_ids(100), random_ids(60, seed=1)
    output = [*new, *new, *prompt[:40], *new]
    drafter = NgramDrafter(source="prompt")
    drafter.accept(prompt)
    for token_id in output:
        drafted = [drafted_id for drafted_id, _ in drafter.draft()]
        assert all(b == prompt[prompt.index(a) + 1] for a, b in itertools.pairwise(drafted))
        drafter.accept([token_id])
    everywhere, prompt_only = NgramDrafter(), NgramDrafter(source="prompt")
    copied = [*prompt, *prompt]
    assert sum(accepted_by_step(prompt_only, prompt, copied)) > 150
    assert (
        sum(accepted_by_step(everywhere, prompt, output))
        > 100
        > sum(accepted_by_step(NgramDrafter(source="prompt"), prompt, output))
    )


def test_drafts_depend_on_verified_ids_only() -> None:
    text = random_ids(300, n_ids=20)
    one, other = NgramDrafter(), NgramDrafter()
    one.accept(text)
    for start in range(0, 300, 7):
        other.accept(text[start : start + 7])
    drafted = list(one.draft())
    assert drafted == list(other.draft()) == list(one.draft())
    # A draft of which nothing was asked, or which was left halfway, changes nothing.
    next(iter(one.draft()))
    assert list(one.draft()) == drafted


def test_memory_is_bounded_and_the_recent_half_stays() -> None:
    native = _native.NgramDrafter(1024)
    text = random_ids(600)
    native.push(random_ids(100_000, seed=1))
    before = native.bytes
    native.push(random_ids(100_000, seed=2))
    assert native.bytes <= before + 4096 < 1024 * 250 + 40_000
    native.push(text)
    native.push(text[300:310])
    assert native.draft(8)[0] == text[310:318]


def test_separate_keeps_and_restart_forgets() -> None:
    text = random_ids(100)
    native = _native.NgramDrafter(1 << 12)
    native.push(text)
    native.separate()
    assert native.draft(4)[0] == []
    assert native.step(text[10:14], 4)[0] == text[14:18]
    native.restart()
    assert native.step(text[10:14], 4)[0] == []


def test_hit_rates_adapt() -> None:
    native = _native.NgramDrafter(1 << 12)
    text = random_ids(500)
    native.push([*text, 50_000])
    before = native.rates()
    for place in range(0, 400, 2):  # a single match, always wrong
        native.step([text[place]], 4)
        native.push([60_000 + place])
    after = native.rates()
    assert len(before) == len(after)
    assert sum(after) < sum(before)


@pytest.mark.parametrize("ids", [[-1], [1 << 31], np.array([-5]), np.array([1 << 40])])
def test_impossible_ids_are_refused(ids: Sequence[int]) -> None:
    drafter = NgramDrafter()
    drafter.accept([1, 2, 3, 1, 2])
    drafted = list(drafter.draft())
    with pytest.raises(ValueError, match="ids must be from 0"):
        drafter.accept([*ids])
    assert list(drafter.draft()) == drafted


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="source must be"):
        NgramDrafter(source="output")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="max_draft must be at least 1"):
        NgramDrafter(max_draft=0)
    with pytest.raises(ValueError, match="max_tokens must be from 16"):
        NgramDrafter(max_tokens=3)
    with pytest.raises(TypeError):
        NgramDrafter().accept(["a"])  # pyright: ignore[reportArgumentType]


def test_arrays_and_lists_are_equal() -> None:
    text = random_ids(400, n_ids=50)
    one, other = _native.NgramDrafter(1 << 12), _native.NgramDrafter(1 << 12)
    one.push(text)
    other.push(np.array(text, dtype=np.int64))
    assert one.draft(16) == other.draft(16)


class _Table:
    """Knows one chain of ids."""

    def __init__(self, chain: dict[int, int], probability: float) -> None:
        self.chain, self.probability = chain, probability

    def next_ids(self, context: Sequence[int]) -> list[tuple[int, float]]:
        """The successor of the last id."""
        found = self.chain.get(context[-1]) if context else None
        return [] if found is None else [(found, self.probability)]


def test_tables_speak_where_the_sequence_is_silent() -> None:
    table = _Table({5: 6, 6: 7, 7: 8}, 0.25)
    drafter = NgramDrafter(tables=[_Table({}, 1.0), table], max_draft=8)
    drafter.accept([1, 2, 3, 4, 5])
    assert list(drafter.draft()) == [(6, 0.25), (7, 0.25), (8, 0.25)]
    text = random_ids(100)
    copying = NgramDrafter(tables=[_Table({text[19]: 1}, 0.9)], max_draft=8)
    copying.accept([*text, *text[:20]])
    assert [token_id for token_id, _ in copying.draft()] == text[20:28]  # a long match is surer than a table


def test_threads_take_turns() -> None:
    native = _native.NgramDrafter(1 << 16)
    text = random_ids(2_000, n_ids=500)

    def work() -> None:
        for _ in range(20):
            native.push(text)
            native.draft(32)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    native.push(text[:50])
    assert native.draft(8)[0] == text[50:58]
