"""What packing reports: sizes, bits per weight by tensor class, speed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vortex_engine.c3.index import unpack_index
from vortex_engine.c3.journal import MatrixRecord
from vortex_engine.c3.layout import INDEX_COLUMNS
from vortex_engine.c3.plan import tensor_class
from vortex_engine.c3.source import Source
from vortex_engine.c3.weight_error import TensorError


@dataclass(frozen=True, slots=True)
class ClassSizes:
    """Weights of one class of tensors and the bytes they take in the packed model."""

    weights: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, alignment and index included; 0 for an empty class."""
        return 8 * self.bytes / self.weights if self.weights else 0.0

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"weights": self.weights, "bytes": self.bytes, "bits_per_weight": self.bits_per_weight}


def sum_classes(parts: Iterable[tuple[str, int, int]]) -> dict[str, ClassSizes]:
    """Sizes by class from (class, weights, bytes) of tensors."""
    classes = {name: ClassSizes(0, 0) for name in ("attention", "mlp", "embedding", "other")}
    for name, weights, n_bytes in parts:
        classes[name] = ClassSizes(classes[name].weights + weights, classes[name].bytes + n_bytes)
    return classes


@dataclass(frozen=True, slots=True)
class TileTotals:
    """Sums over the tiles of a packed model; `escape_share` is of the matrices' weights."""

    n_tiles: int
    tile_bytes_max: int
    escape_share: float
    classes: dict[str, ClassSizes]


def total_tiles(source: Source, records: Sequence[MatrixRecord]) -> TileTotals:
    """Sums over what was packed."""
    n_tiles = tile_bytes_max = 0
    parts = [("other", math.prod(t.shape), t.n_bytes) for t in source.tensors.values() if not t.is_matrix]
    matrix_weights = 0
    for record in records:
        index = np.reshape(np.frombuffer(record.index, dtype="<u8"), (-1, INDEX_COLUMNS))
        stored = unpack_index(index).stored_bytes
        n_tiles += len(stored)
        tile_bytes_max = max(tile_bytes_max, int(stored.max()))
        weights = math.prod(source.tensors[record.name].shape)
        matrix_weights += weights
        parts.append((tensor_class(record.name), weights, record.n_bytes + len(record.index)))
    n_escapes = sum(record.n_escapes for record in records)
    return TileTotals(n_tiles, tile_bytes_max, n_escapes / max(1, matrix_weights), sum_classes(parts))


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far the next-token distribution of a packed model is from the checkpoint's on a text."""

    nats_per_token: float  # Kullback-Leibler divergence of the packed model from the checkpoint, mean over the tokens
    top1_agreement: float  # share of tokens after which both have the same most likely next one
    n_tokens: int  # 0: the codec is lossless, nothing had to be measured


@dataclass(frozen=True, slots=True)
class PackReport:
    """What `pack` did.

    `gb_s` is source bytes per second of this run in 10**9; `packed_bytes` counts every file of the directory. The class
    `other` holds norms, biases and whatever is neither attention, mlp nor embedding.
    """

    target: str
    codec: str
    activations: str
    seconds: float
    gb_s: float
    source_bytes: int
    packed_bytes: int
    resumed_bytes: int  # source bytes that an earlier, interrupted run had packed
    n_shards: int
    n_tiles: int
    tile_bytes_max: int
    escape_share: float  # of the matrices' weights
    classes: dict[str, ClassSizes]
    dropped: dict[str, str] = field(default_factory=lambda: {})  # tensor -> why it is not in the packed model
    transformers_only: str | None = None  # why the engine itself does not run it; None when it does
    relative_rms: float = 0.0  # as in `TensorError`, of all matrices with rounded weights together
    tensors: dict[str, TensorError] = field(default_factory=lambda: {})  # of every matrix
    divergence: Divergence | None = None  # None without a calibration text

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        document = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {
            **document,
            "classes": {name: sizes.to_dict() for name, sizes in self.classes.items()},
            "tensors": {name: tensor.to_dict() for name, tensor in self.tensors.items()},
            "divergence": None if self.divergence is None else dataclasses.asdict(self.divergence),
        }
