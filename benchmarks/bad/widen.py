"""A large predictable model: a trained llama checkpoint grown by function-preserving widening with random dead weight.

`python -m benchmarks.bad.widen --out DIR` grows the embedded `nano` to 1.05 GB of bf16 and the same logits up to the
rounding of sums. Dead channels hold exact zeros between all layers, so whatever reads them may be random; only what
would carry live values into dead channels is zero.

- Hidden channels, heads and KV heads become `width` times as many, the first of each are the live ones. A norm over
  zeros besides divides by a root smaller by sqrt(width), a power of two: norm weights are divided by it, eps by width.
- Dead heads and dead inner channels put out zeros, because `v` and `up` of a dead row are zero where the input lives.
- Dead layers are dead in every row and stand before each live one; they add exact zeros.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.weights import Bits, unpacked
from benchmarks.make_model import to_bf16
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.source import copied_names
from vortex_engine.decode.load import model_path

# Their rows are channels of the residual stream, which must stay zero where they are dead.
_WRITES_HIDDEN = ("self_attn.o_proj", "mlp.down_proj")
# Without these a dead head or inner channel puts out zeros, whatever the other matrices say.
_MAKES_DEAD_ZERO = ("self_attn.v_proj", "mlp.up_proj")
_PROJECTIONS = tuple(f"self_attn.{name}_proj" for name in "qkvo") + tuple(
    f"mlp.{n}_proj" for n in ("gate", "up", "down")
)
_NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclass(frozen=True)
class Growth:
    """How much larger: `width` times the hidden channels and heads, a power of 4; layers and inner channels in all."""

    width: int = 4
    n_layers: int = 24
    intermediate_size: int = 4608
    seed: int = 0


@dataclass(frozen=True)
class Grown:
    """What was written: bytes of the weights, and the share of them that is zero."""

    n_bytes: int
    zero_share: float


def widen(source: Path, target: Path, growth: Growth) -> Grown:
    """Write the grown checkpoint of a losslessly packed bf16 llama model, a matrix at a time.

    Raises:
        ValueError: a growth that would not keep the function, or a model that is no llama without biases.
    """
    directory = open_directory(source)
    config = {key: value for key, value in directory.config.items() if key != "quantization_config"}
    _check(config, growth)
    live = {name: _bf16(values) for name, values in unpacked(directory)}
    live |= {name: _bf16(directory.tensor(name)) for name in directory.tensors}
    wide = grown_config(config, growth)
    target.mkdir(parents=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in _shapes(wide):
        n_bytes = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header).encode()
    n_zeros = 0
    with (target / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for i, (name, shape) in enumerate(_shapes(wide)):
            bits = _tensor(name, shape, live, config, growth, np.random.default_rng([growth.seed, i]))
            n_zeros += bits.size - int(np.count_nonzero(bits))
            out.write(bits.tobytes())
    for name in copied_names(source):
        shutil.copyfile(source / name, target / name)
    (target / "config.json").write_text(json.dumps(wide, indent=2) + "\n")
    return Grown(offset, n_zeros / (offset // 2))


def grown_config(config: dict[str, Any], growth: Growth) -> dict[str, Any]:
    """The grown model's config.json; KV groups and the size of a head stay."""
    return {
        **config,
        "head_dim": _head_dim(config),
        "hidden_size": growth.width * config["hidden_size"],
        "num_attention_heads": growth.width * config["num_attention_heads"],
        "num_key_value_heads": growth.width * config["num_key_value_heads"],
        "intermediate_size": growth.intermediate_size,
        "num_hidden_layers": growth.n_layers,
        "rms_norm_eps": config["rms_norm_eps"] / growth.width,
    }


def live_layers(n_live: int, n_layers: int) -> dict[int, int]:
    """Grown layer -> trained layer; the trained ones are spread evenly and the last stays last."""
    return {(i + 1) * n_layers // n_live - 1: i for i in range(n_live)}


def _shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a llama checkpoint in file order."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q_rows, kv_rows = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    shapes = dict(
        zip(
            _PROJECTIONS,
            (
                (q_rows, hidden),
                (kv_rows, hidden),
                (kv_rows, hidden),
                (hidden, q_rows),
                (inner, hidden),
                (inner, hidden),
                (hidden, inner),
            ),
            strict=True,
        )
    )
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        for norm in _NORMS:
            yield f"model.layers.{layer}.{norm}.weight", (hidden,)
        for name, shape in shapes.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _tensor(
    name: str,
    shape: tuple[int, ...],
    live: dict[str, Bits],
    config: dict[str, Any],
    growth: Growth,
    generator: np.random.Generator,
) -> Bits:
    """One grown tensor as bf16 bits."""
    parts = name.split(".")
    trained = live.get(name)
    kind = name
    is_live = True
    if parts[1] == "layers":
        layers = live_layers(config["num_hidden_layers"], growth.n_layers)
        layer = int(parts[2])
        is_live = layer in layers
        # A dead layer looks like the trained one that comes next.
        kind = ".".join(parts[3:-1])
        trained = live[f"model.layers.{layers[min(i for i in layers if i >= layer)]}.{kind}.weight"]
    assert trained is not None
    values = generator.standard_normal(shape, dtype=np.float32)
    values *= np.float32(_float32(trained).std())
    if len(shape) == 1:
        # Around the trained mean, at its scale.
        root = np.float32(math.isqrt(growth.width))
        values += np.float32(_float32(trained).mean())
        values /= root
        result = to_bf16(values)
        kept = _float32(trained)
        kept /= root
        result[: kept.size] = to_bf16(kept)
        return result
    result = to_bf16(values)
    rows, columns = trained.shape
    if kind == "model.embed_tokens.weight":
        result[:, columns:] = 0
    elif is_live and kind in _WRITES_HIDDEN + _MAKES_DEAD_ZERO:
        result[rows:, :columns] = 0
    elif kind in _MAKES_DEAD_ZERO:
        result[:, :columns] = 0
    if is_live:
        result[:rows, :columns] = trained
    return result


def _check(config: dict[str, Any], growth: Growth) -> None:
    if config.get("model_type") != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise ValueError(f"widening knows llama without biases, not {config.get('model_type')!r}")
    if growth.width < 1 or math.isqrt(growth.width) ** 2 != growth.width or growth.width & (growth.width - 1):
        raise ValueError(f"width must be a power of 4, or norms are not exact, got {growth.width}")
    if growth.intermediate_size < config["intermediate_size"] or growth.n_layers < config["num_hidden_layers"]:
        raise ValueError(f"{growth} is smaller than the model")


def _head_dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _bf16(values: NDArray[np.float32]) -> Bits:
    return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _float32(bits: Bits) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def main() -> None:
    """Parse the command line and grow the model."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bad.widen", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the grown checkpoint")
    parser.add_argument("--model", type=Path, default=None, help="packed model to grow (default: nano)")
    parser.add_argument("--width", type=int, default=Growth.width)
    parser.add_argument("--layers", type=int, default=Growth.n_layers)
    parser.add_argument("--inner", type=int, default=Growth.intermediate_size)
    parser.add_argument("--seed", type=int, default=Growth.seed)
    arguments = parser.parse_args()
    growth = Growth(arguments.width, arguments.layers, arguments.inner, arguments.seed)
    grown = widen(arguments.model or model_path("nano"), arguments.out, growth)
    print(f"{arguments.out}: {grown.n_bytes} bytes of bf16 weights, {100 * grown.zero_share:.2f} % of them zero")


if __name__ == "__main__":
    main()
