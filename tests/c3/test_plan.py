"""The order of matrices in the file is the order of a forward pass."""

import random

import pytest

from vortex_engine.c3.plan import sweep_key, tensor_class

IN_ORDER = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.mlp.experts.2.weight",
    "model.layers.0.mlp.experts.10.weight",
    "model.layers.2.self_attn.q_proj.weight",
    "model.layers.10.self_attn.q_proj.weight",
    "a_projector.weight",
    "z_projector.weight",
    "lm_head.weight",
]


def test_sweep_order():
    shuffled = random.Random(0).sample(IN_ORDER, len(IN_ORDER))
    assert sorted(shuffled, key=lambda name: sweep_key(name, tied_embedding=False)) == IN_ORDER


def test_a_tied_embedding_is_read_as_the_head():
    names = sorted(IN_ORDER[:-1], key=lambda name: sweep_key(name, tied_embedding=True))
    assert names == [*IN_ORDER[1:-1], IN_ORDER[0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "embedding"),
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.mlp.up_proj.weight", "mlp"),
        ("vision.patch.weight", "other"),
    ],
)
def test_classes(name, expected):
    assert tensor_class(name) == expected
