"""Triton's bad_verify against the reference, id for id."""

from __future__ import annotations

import math

import numpy as np
import pytest
from vortex_engine.kernels import support

from vortex_engine import ops
from vortex_engine.errors import VortexError
from vortex_engine.ops import SamplingLaw, reference

if reason := support.reason_against():
    pytest.skip(reason, allow_module_level=True)

import torch
from vortex_engine.kernels.bad_verify import bad_verify
from vortex_engine.kernels.tiles import device

verify = ops.select("bad_verify", "triton").bind(None)
NO_DRAFT = np.empty(0, np.int64)
LAWS = [
    SamplingLaw(),
    SamplingLaw(0.8),
    SamplingLaw(1.0, top_k=5),
    SamplingLaw(0.7, top_p=0.9),
    SamplingLaw(1.3, 40, 0.95, 0.02),
    SamplingLaw(1e-310, top_p=0.5),
    SamplingLaw(1e308, min_p=1.0),
]


def tokens_of(rows: np.ndarray, law: SamplingLaw, seed: int, position: int) -> list[int]:
    return [reference.bad_verify(NO_DRAFT, row[None], law, seed, position + i)[1] for i, row in enumerate(rows)]


def rows_of(rng: np.random.Generator, vocab: int) -> np.ndarray:
    """Gaussian of several spreads, tied, masked, with one finite entry, signed zeros and huge."""
    rows = (rng.standard_normal((7, vocab)) * np.array([[0.1, 1, 3, 3, 3, 0, 3]]).T).astype(np.float32)
    rows[2] = np.round(rows[2])
    rows[3, rng.random(vocab) < 0.5] = rows[4] = -np.inf
    rows[3:5, rng.integers(vocab)] = 0.5
    rows[5] *= np.where(rng.random(vocab) < 0.5, np.float32(1), np.float32(-1))
    rows[6] *= np.float32(1e37)
    return rows


@pytest.mark.parametrize(
    ("vocab", "n_rows", "law"),
    [*((67, 7, law) for law in LAWS), (1, 1, LAWS[4]), (1500, 2, LAWS[1]), (1500, 2, LAWS[4])],
)
def test_ids_are_those_of_the_reference(vocab, n_rows, law):
    rows = rows_of(np.random.default_rng(vocab), vocab)[:n_rows]
    tokens = tokens_of(rows, law, 2**64 - 5, 2**40)
    assert verify(np.array(tokens[:-1], np.int64), rows, law, 2**64 - 5, 2**40) == (n_rows - 1, tokens[-1])


@pytest.mark.parametrize("law", [SamplingLaw(), SamplingLaw(1.0)])
def test_a_draft_is_accepted_up_to_its_first_mistake(law):
    rows = np.random.default_rng(1).normal(0, 2, (6, 50)).astype(np.float32)
    tokens = tokens_of(rows, law, 4, 9)
    for n_right in (0, 3, 5):
        draft = np.array(tokens[:n_right] + [49 - token for token in tokens[n_right:5]])
        assert verify(draft, rows, law, 4, 9) == (n_right, tokens[n_right])


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_matters_only_when_it_is_reached(bad, temperature):
    law = SamplingLaw(temperature)
    rows = np.zeros((2, 70), np.float32)
    rows[:, 4] = 200.0
    rows[1, 66] = bad
    with pytest.raises(VortexError, match=r"at position 8 are not finite \((nan|inf) for id 66\)"):
        verify(np.array([4]), rows, law, 0, 7)
    assert verify(np.array([5]), rows, law, 0, 7) == (0, 4)
    with pytest.raises(VortexError, match=r"at position 7 are not finite \(-inf for id 0\)"):
        verify(NO_DRAFT, np.full((1, 5), -np.inf, np.float32), law, 0, 7)


def test_bad_arguments_are_named():
    rows, draft = torch.zeros((2, 4), device=device()), torch.zeros(1, dtype=torch.int64)
    cases = [
        (draft, rows[:1], r"target_logits must have one row more than draft_ids, got 1"),
        (draft, rows.double(), r"target_logits must be contiguous torch.float32"),
        (draft, rows.T.contiguous().T, r"target_logits must be contiguous"),
        (draft.int(), rows, r"draft_ids must be contiguous torch.int64"),
        (draft, rows[:, :0], r"the vocabulary must have from 1 to 4194304 ids, got 0"),
        (draft, rows.to("meta"), r"target_logits must be on a (cpu|cuda) device, got meta"),
    ]
    for drafted, logits, message in cases:
        with pytest.raises(ValueError, match=rf"\[bad_verify\] {message}"):
            bad_verify(drafted, logits, SamplingLaw(), 0, 0)
