"""Opens a packed model directory: everything in it is checked but the tiles, which are checked when they are read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vortex_engine import _native
from vortex_engine.c3.files import ShortReadError, crc_of_range, open_fd, read_exactly
from vortex_engine.c3.index import TileColumns, TileIndexError, check_index
from vortex_engine.c3.json_object import as_object
from vortex_engine.c3.layout import (
    ALIGNMENT,
    CONFIG_NAME,
    DTYPE_NAMES,
    FORMAT,
    GENERATION_CONFIG_NAME,
    INDEX_SUFFIX,
    TILES_SUFFIX,
    TOKENIZER_NAME,
    quantization_config,
)
from vortex_engine.c3.manifest import Manifest, ShardSeal, check_file, read_manifest
from vortex_engine.c3.safetensors_header import Header, HeaderError, TensorSpan, read_header
from vortex_engine.errors import CorruptTileError, MachineError, ModelConfigError, TileVersionError


@dataclass(frozen=True, slots=True)
class C3Matrix:
    """A matrix of tiles: where its tiles tensor lies and the checked index that `Pager.add_matrix` takes."""

    name: str
    shard: Path
    base_offset: int  # of the tiles tensor in the shard file
    n_bytes: int  # of the tiles tensor: its compressed size
    index: npt.NDArray[np.uint64]  # [n_tiles, 8]
    tiles: TileColumns
    rows: int
    cols: int
    dtype: str  # of the checkpoint: bf16, f16 or f32

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.index)


@dataclass(frozen=True, slots=True)
class C3Tensor:
    """An ordinary tensor; `offset` is absolute in the shard file."""

    name: str
    shard: Path
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class C3Directory:
    """An open packed model; holds no file open."""

    path: Path
    codec: str
    activations: str  # "float" or "int8": what products with int8 and int4 tiles take
    config: dict[str, object]
    generation_config: dict[str, object] | None
    tokenizer_path: Path | None  # None: the checkpoint had no tokenizer.json
    matrices: dict[str, C3Matrix]  # in file order, which is the order of a forward pass
    tensors: dict[str, C3Tensor]
    packed_bytes: int  # of every file the manifest names
    weights_crc32c: int  # see `Manifest.weights_crc32c`

    @property
    def compressed_bytes(self) -> int:
        """Bytes of all tiles."""
        return sum(matrix.n_bytes for matrix in self.matrices.values())

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """An ordinary tensor's values, widened to float32.

        Raises:
            ModelConfigError: there is no such tensor, or it does not hold bf16, fp16 or fp32.
            CorruptTileError: its bytes changed since the directory was opened.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelConfigError(f"[open] {self.path} has no tensor {name!r}; pack a complete checkpoint")
        if tensor.dtype not in {"BF16", "F16", "F32"}:
            raise ModelConfigError(
                f"[open] {tensor.shard}, tensor {name!r}: dtype {tensor.dtype}, expected BF16, F16 or F32; "
                "save the checkpoint in one of them"
            )
        data = _read_sealed(tensor)
        if tensor.dtype == "BF16":
            data = (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).tobytes()
        values = np.frombuffer(data, dtype="<f2" if tensor.dtype == "F16" else "<f4").astype(np.float32)
        return np.reshape(values, tensor.shape)


def open_directory(path: str | os.PathLike[str]) -> C3Directory:
    """Open a packed model and check its manifest, files, headers, indices and ordinary tensors.

    Raises:
        ModelConfigError: it is not a packed model, or lacks its configuration.
        TileVersionError: an unknown format number.
        CorruptTileError: something is not what was packed; names file and tensor.
        MachineError: it cannot be read.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    for name, seal in manifest.files.items():
        check_file(directory / name, seal)
    config = read_config(directory, manifest)
    generation_config = None
    if GENERATION_CONFIG_NAME in manifest.files:
        generation_config = _read_object(directory / GENERATION_CONFIG_NAME)

    matrices: dict[str, C3Matrix] = {}
    tensors: dict[str, C3Tensor] = {}
    for name, seal in manifest.shards.items():
        for entry in read_shard(directory / name, seal):
            if entry.name in matrices or entry.name in tensors:
                raise _corrupt(directory / name, "it is there twice", entry.name)
            if isinstance(entry, C3Matrix):
                matrices[entry.name] = entry
            else:
                tensors[entry.name] = entry
    packed_bytes = sum(seal.n_bytes for seal in (*manifest.files.values(), *manifest.shards.values()))
    return C3Directory(
        path=directory,
        codec=manifest.codec,
        activations=manifest.activations,
        config=config,
        generation_config=generation_config,
        tokenizer_path=directory / TOKENIZER_NAME if TOKENIZER_NAME in manifest.files else None,
        matrices=matrices,
        tensors=tensors,
        packed_bytes=packed_bytes,
        weights_crc32c=manifest.weights_crc32c,
    )


def add_matrices(directory: C3Directory, pager: Any) -> dict[str, int]:
    """Make every matrix known to a pager that is not started yet; name -> handle."""
    files: dict[Path, int] = {}
    handles: dict[str, int] = {}
    for name, matrix in directory.matrices.items():
        if matrix.shard not in files:
            files[matrix.shard] = pager.add_file(str(matrix.shard))
        handles[name] = pager.add_matrix(name, files[matrix.shard], matrix.base_offset, matrix.index)
    return handles


def read_config(directory: Path, manifest: Manifest) -> dict[str, object]:
    """`config.json`, which must describe the same format, codec and activations as the manifest."""
    path = directory / CONFIG_NAME
    if CONFIG_NAME not in manifest.files:
        raise ModelConfigError(f"[open] {directory} has no {CONFIG_NAME}; put it back and use: vortex inspect --reseal")
    config = _read_object(path)
    found = as_object(config.get("quantization_config"))
    if found is not None and found.get("quant_method") == "c3" and found.get("format") != FORMAT:
        raise TileVersionError(
            f"[open] {path}: format {found.get('format')!r}, this version reads format {FORMAT}", file=str(path)
        )
    expected = quantization_config(manifest.codec, manifest.activations)
    if found != expected:
        raise _corrupt(path, f"quantization_config must be {expected}, got {found!r}")
    return config


def read_shard(path: Path, seal: ShardSeal) -> list[C3Matrix | C3Tensor]:
    """Check a shard, except its tiles, against its seal; its matrices and ordinary tensors in file order."""
    try:
        with open_fd(path) as fd:
            file_bytes = os.fstat(fd).st_size
            if file_bytes != seal.n_bytes:
                raise _corrupt(path, f"it has {file_bytes} bytes, {seal.n_bytes} were packed")
            header, raw = read_header(fd)
            if _native.crc32c(raw) != seal.header_crc32c:
                raise _corrupt(path, "its header's checksum does not match")
            return _read_entries(fd, path, header, seal)
    except FileNotFoundError as error:
        raise CorruptTileError(f"[open] {path} is missing", file=str(path)) from error
    except HeaderError as error:
        raise _corrupt(path, str(error), error.tensor) from error
    except ShortReadError as error:
        raise _corrupt(path, str(error)) from error
    except OSError as error:
        if isinstance(error, MachineError):
            raise
        raise MachineError(f"[open] cannot read {path}: {error}") from error


def _read_entries(fd: int, path: Path, header: Header, seal: ShardSeal) -> list[C3Matrix | C3Tensor]:
    sealed = {name for name in header.tensors if not name.endswith(TILES_SUFFIX)}
    if sealed != set(seal.tensor_crcs):
        names = sorted(sealed ^ set(seal.tensor_crcs))
        raise _corrupt(path, "it is in only one of header and manifest", names[0])
    entries: list[C3Matrix | C3Tensor] = []
    for name, span in header.tensors.items():
        offset = header.data_offset + span.begin
        if name.endswith(TILES_SUFFIX):
            entries.append(_read_matrix(fd, path, header, name.removesuffix(TILES_SUFFIX), seal))
            continue
        if crc_of_range(fd, offset, span.n_bytes) != seal.tensor_crcs[name]:
            raise _corrupt(path, "its checksum does not match", name, offset)
        if not name.endswith(INDEX_SUFFIX):
            entries.append(C3Tensor(name, path, span.dtype, span.shape, offset, span.n_bytes, seal.tensor_crcs[name]))
        elif name.removesuffix(INDEX_SUFFIX) + TILES_SUFFIX not in header.tensors:
            raise _corrupt(path, "it is the index of tiles that are not there", name, offset)
    return entries


def _read_matrix(fd: int, path: Path, header: Header, name: str, seal: ShardSeal) -> C3Matrix:
    tiles_span = header.tensors[name + TILES_SUFFIX]
    index_span = header.tensors.get(name + INDEX_SUFFIX)
    base_offset = header.data_offset + tiles_span.begin
    if tiles_span.dtype != "U8" or len(tiles_span.shape) != 1 or base_offset % ALIGNMENT:
        raise _corrupt(
            path, "tiles must be U8, one-dimensional and at a multiple of 4096", tiles_span.name, base_offset
        )
    if index_span is None or index_span.dtype != "U64" or len(index_span.shape) != 2:
        raise _corrupt(path, "its tiles have no index tensor U64 [n_tiles, 8]", name, base_offset)
    index = _read_index(fd, path, header, index_span, seal)
    try:
        rows, cols, tiles = check_index(index, tiles_span.n_bytes)
    except TileIndexError as error:
        at = "" if error.tile is None else f"tile {error.tile}: "
        raise CorruptTileError(
            f"[open] {path}, tensor {index_span.name!r}: {at}{error}",
            file=str(path),
            tensor=name,
            tile=error.tile,
            offset=header.data_offset + index_span.begin,
        ) from error
    dtype = DTYPE_NAMES[int(tiles.source_dtype[0])]
    return C3Matrix(name, path, base_offset, tiles_span.n_bytes, index, tiles, rows, cols, dtype)


def _read_index(fd: int, path: Path, header: Header, span: TensorSpan, seal: ShardSeal) -> npt.NDArray[np.uint64]:
    offset = header.data_offset + span.begin
    data = read_exactly(fd, span.n_bytes, offset)
    if _native.crc32c(data) != seal.tensor_crcs[span.name]:
        raise _corrupt(path, "its checksum does not match", span.name, offset)
    return np.reshape(np.frombuffer(data, dtype="<u8").astype(np.uint64), span.shape)


def _read_sealed(tensor: C3Tensor) -> bytes:
    try:
        with open_fd(tensor.shard) as fd:
            data = read_exactly(fd, tensor.n_bytes, tensor.offset)
    except ShortReadError as error:
        raise _corrupt(tensor.shard, str(error), tensor.name, tensor.offset) from error
    except OSError as error:
        raise MachineError(f"[open] cannot read {tensor.shard}, tensor {tensor.name!r}: {error}") from error
    if _native.crc32c(data) != tensor.crc32c:
        raise _corrupt(tensor.shard, "its checksum does not match", tensor.name, tensor.offset)
    return data


def _read_object(path: Path) -> dict[str, object]:
    try:
        document = as_object(json.loads(path.read_bytes()))
    except OSError as error:
        raise MachineError(f"[open] cannot read {path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"[open] {path} is not JSON: {error}") from error
    if document is None:
        raise ModelConfigError(f"[open] {path} does not hold a JSON object")
    return document


def _corrupt(path: Path, what: str, tensor: str | None = None, offset: int | None = None) -> CorruptTileError:
    where = f"{path}, tensor {tensor!r}" if tensor is not None else str(path)
    return CorruptTileError(f"[open] {where}: {what}", file=str(path), tensor=tensor, offset=offset)
