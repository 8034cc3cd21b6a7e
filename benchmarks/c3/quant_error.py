"""Error of our lossy codecs beside ggml's Q8_0, Q4_0 and Q4_K on the same trained weights.

The error of a tensor is ||W' - W|| / ||W|| with W in bf16; of a model, the same over all its tensors together. Ours is
of the weights as the engine itself unpacks them. Q4_K's blocks are 256 weights long, so a tensor is quantised as rows
of 256, the same order of weights whatever its width; Q4_0 and Q8_0 have blocks of 32, which divide every row here.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.gguf_convert import import_gguf
from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import LOSSY, Setting, present
from benchmarks.c3.weights import Bits, trained_weights, unpacked, write_checkpoint
from benchmarks.machine import print_table
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.pack import pack

_SUPER_BLOCK = 256
_IN_PYTHON, _BY_PROGRAM = ("Q8_0", "Q4_0", "Q4_1"), ("Q4_K",)
_TARGETS = (("int4", "Q4_0", 1.0), ("int4", "Q4_K", 1.1))

Values = NDArray[np.float32]
# Name, weights after quantisation, and bytes for each tensor.
Quantised = Iterator[tuple[str, Values, int]]


def measure(setting: Setting) -> Figure:
    """Every lossy codec and ggml type on every trained model at hand."""
    figure = Figure()
    for model, bits in trained_weights(setting.weights, figure).items():
        # Tensors of whole super-blocks, so that every contender sees the same weights.
        matrices = {name: b for name, b in bits.items() if b.size % _SUPER_BLOCK == 0 and b.shape[1] % 32 == 0}
        exact = {name: (b.astype(np.uint32) << np.uint32(16)).view(np.float32) for name, b in matrices.items()}
        errors: dict[str, float] = {}
        for name, quantised in _contenders(setting, figure, matrices, exact):
            errors[name] = _add_entry(figure, model, name, exact, quantised)
        for ours, peer, target in _TARGETS:
            if ours in errors and peer in errors:
                detail = f"{errors[ours]:.4f} over {errors[peer]:.4f}"
                what = f"`{ours}` relative RMS error, {model}"
                figure.claim(what, errors[ours] / errors[peer], "<=", target, peer=f"ggml {peer}", detail=detail)
    print_table(
        ("model", "format", "bits a weight", "relative RMS error"),
        [[e["model"], e["format"], f"{e['bits_per_weight']:.3f}", f"{e['relative_rms']:.5f}"] for e in figure.entries],
    )
    return figure


def _add_entry(figure: Figure, model: str, name: str, exact: dict[str, Values], quantised: Quantised) -> float:
    tensors: dict[str, float] = {}
    off = norm = 0.0
    n_bytes = n_weights = 0
    for tensor, values, size in quantised:
        weights = exact[tensor].astype(np.float64)
        tensor_off, tensor_norm = float(((values - weights) ** 2).sum()), float((weights**2).sum())
        tensors[tensor] = math.sqrt(tensor_off / tensor_norm) if tensor_norm else 0.0
        off, norm, n_bytes, n_weights = off + tensor_off, norm + tensor_norm, n_bytes + size, n_weights + weights.size
    error = math.sqrt(off / norm)
    entry: dict[str, Any] = {"model": model, "format": name, "weights": n_weights, "relative_rms": error}
    figure.entries.append({**entry, "bits_per_weight": n_bytes * 8 / n_weights, "tensors": tensors})
    return error


def _contenders(
    setting: Setting, figure: Figure, matrices: dict[str, Bits], exact: dict[str, Values]
) -> Iterator[tuple[str, Quantised]]:
    folder = setting.work / "quant"
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder / "source", matrices)
    for codec in present(LOSSY):
        pack(folder / "source", folder / codec, codec=codec)
        yield codec, _ours(setting, codec)
    for kind in (*_IN_PYTHON, *_BY_PROGRAM):
        try:
            yield kind, ggml_quantised(setting, kind, exact)
        except MissingPeerError as error:
            figure.skip(f"{kind}: {error}")
    shutil.rmtree(folder)


def _ours(setting: Setting, codec: str) -> Quantised:
    directory = open_directory(setting.work / "quant" / codec)
    for name, values in unpacked(directory):
        tiles = directory.matrices[name].tiles
        yield name, values, int(tiles.prefix_bytes.sum() + tiles.residual_bytes.sum())


def ggml_quantised(setting: Setting, kind: str, exact: dict[str, Values]) -> Quantised:
    """The tensors after ggml's quantisation, by the gguf package or by llama-quantize in the folder work/quant.

    Raises:
        MissingPeerError: what it needs is not here.
    """
    gguf = import_gguf()
    return _in_python(gguf, kind, exact) if kind in _IN_PYTHON else _by_program(setting, kind, exact)


def _in_python(gguf: Any, kind: str, exact: dict[str, Values]) -> Quantised:
    quant_type = gguf.GGMLQuantizationType[kind]
    for name, weights in exact.items():
        packed = gguf.quants.quantize(weights, quant_type)
        yield name, gguf.quants.dequantize(packed, quant_type), packed.nbytes


def _by_program(setting: Setting, kind: str, exact: dict[str, Values]) -> Quantised:
    """llama-quantize on a file that holds the tensors as rows of one super-block."""
    gguf = import_gguf()
    folder = setting.work / "quant"
    writer = gguf.GGUFWriter(str(folder / "all.gguf"), "llama")
    writer.add_block_count(len(exact))
    writer.add_context_length(_SUPER_BLOCK)
    writer.add_embedding_length(_SUPER_BLOCK)
    writer.add_feed_forward_length(_SUPER_BLOCK)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(_SUPER_BLOCK)
    names = {f"blk.{i}.ffn_down.weight": name for i, name in enumerate(exact)}
    for tensor, name in names.items():
        writer.add_tensor(tensor, exact[name].reshape(-1, _SUPER_BLOCK))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    setting.quantize(folder / "all.gguf", folder / f"{kind}.gguf", "--pure", kind)
    for tensor in gguf.GGUFReader(folder / f"{kind}.gguf").tensors:
        name = names[tensor.name]
        if tensor.tensor_type.name != kind:
            raise MissingPeerError(f"llama.cpp: llama-quantize made {tensor.tensor_type.name} of {name}")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        yield name, values.reshape(exact[name].shape), int(tensor.n_bytes)
