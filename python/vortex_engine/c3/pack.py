"""Packs a checkpoint directory into a C3 directory: streaming, resumable, published by one rename."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vortex_engine import _native
from vortex_engine.c3.activations import check_activations
from vortex_engine.c3.calibrator import Calibrator
from vortex_engine.c3.files import COPY_BYTES, copy_file, write_atomically
from vortex_engine.c3.geometry import Group, groups
from vortex_engine.c3.journal import Journal, MatrixRecord
from vortex_engine.c3.layout import (
    CODEC_IDS,
    CONFIG_NAME,
    DTYPE_IDS,
    FORMAT,
    MANIFEST_NAME,
    MIXED,
    WEIGHT_MAP_NAME,
    quantization_config,
    split_cols,
)
from vortex_engine.c3.manifest import build_manifest
from vortex_engine.c3.partial import PartialDirectory
from vortex_engine.c3.plan import PackPlan, ShardPlan, check_codec, matrix_dtype, plan_packing
from vortex_engine.c3.report import Divergence, PackReport, total_tiles
from vortex_engine.c3.shard_writer import ShardSummary, ShardWriter
from vortex_engine.c3.slabs import read_slabs
from vortex_engine.c3.source import Source, SourceReader, SourceTensor, open_source
from vortex_engine.c3.weight_error import TensorError, measure_weights, total_relative_rms
from vortex_engine.c3.write_behind import WriteBehind
from vortex_engine.errors import MachineError, ModelConfigError, TargetExistsError, VortexError
from vortex_engine.profile import n_cores

DEFAULT_SHARD_BYTES = 2 << 30
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Progress = Callable[[int, int, str], None]


def pack(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    codec: str = "exact",
    activations: str = "float",
    threads: int | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: Progress | None = None,
    check_config: Callable[[dict[str, object]], None] | None = None,
    calibrator: Calibrator | None = None,
) -> PackReport:
    """Pack the Hugging Face checkpoint in `src` into the new directory `dst`.

    Work happens in `dst` + ".partial", which an interruption leaves for the next call to go on with; a full disk or a
    bad source removes it.

    Args:
        codec: "exact" (lossless, about 11.5 bits a bf16 weight), "exact12" (lossless, about 12.1 bits, faster to
            decode: for models that fit in RAM), "dense" (lossless, about 10.7 bits, slower to read), "lz4" (lossless,
            for sparse weights), "raw", the lossy "int8" (8.3) and "int4" (4.5), or "mixed": of every matrix the
            one that `calibrator` chooses.
        activations: "float", or "int8" to record that products with int8 and int4 tiles take activations of 8 bits.
        threads: of the encoder; None for every core this process may use. The bytes written do not depend on it.
        max_shard_bytes: source bytes a shard file holds at most, unless one tensor has more.
        progress: called with (bytes done, bytes in all, tensor name) after every few tiles.
        check_config: called with `config.json` before anything is written; what it raises ends the packing.
        calibrator: chooses codecs and judges the result, see `Calibrator`; "mixed" needs one.

    Raises:
        TargetExistsError: `dst` exists.
        ModelConfigError: the source cannot be packed; the message names file, tensor and fix.
        MachineError: the disk is full or failed, or another process packs into `dst`.
    """
    check_codec(codec)
    check_activations(activations, codec)
    if codec == MIXED and calibrator is None:
        raise ValueError("[pack] codec 'mixed' needs a calibrator, which chooses the codec of every matrix")
    n_threads = n_cores() if threads is None else threads
    if n_threads < 1:
        raise ValueError(f"[pack] threads must be at least 1, got {threads}")
    if max_shard_bytes < 1:
        raise ValueError(f"[pack] max_shard_bytes must be at least 1, got {max_shard_bytes}")
    source_path, target = Path(src), Path(os.path.abspath(dst))
    partial = PartialDirectory(target)
    _check_target(source_path, target, partial)

    source = open_source(source_path)
    if check_config is not None:
        check_config(source.config)
    plan = plan_packing(source, codec, max_shard_bytes)
    if calibrator is not None:
        calibrator.check(source, plan)
    fingerprint: dict[str, object] = {
        "source": source.fingerprint,
        "codec": codec,
        "format": FORMAT,
        "max_shard_bytes": max_shard_bytes,
        "version": version("vortex-engine"),
    }
    pool = _native.Pool(n_threads, _native.simd_levels()[0])
    packer = _Packer(source, plan, codec, pool, progress, activations)
    start = time.perf_counter()
    try:
        packed = _pack_partial(packer, partial, fingerprint, calibrator, n_threads)
    except VortexError:
        raise
    except OSError as error:
        if not _is_full(error):
            raise MachineError(f"[pack] cannot write {partial.path}: {error}") from error
        free_bytes = shutil.disk_usage(target.parent).free
        raise MachineError(
            f"[pack] the disk is full: packing needs at least {plan.least_bytes} bytes in {target.parent}, which has "
            f"{free_bytes} bytes free now that {partial.path} is removed ({error})"
        ) from error

    seconds = time.perf_counter() - start
    totals = total_tiles(source, packed.records)
    return PackReport(
        target=os.fspath(target),
        codec=codec,
        activations=activations,
        seconds=seconds,
        gb_s=(source.total_bytes - packed.resumed_bytes) / seconds / 1e9,
        source_bytes=source.total_bytes,
        packed_bytes=packed.packed_bytes,
        resumed_bytes=packed.resumed_bytes,
        n_shards=len(plan.shards),
        n_tiles=totals.n_tiles,
        tile_bytes_max=totals.tile_bytes_max,
        escape_share=totals.escape_share,
        classes=totals.classes,
        dropped=source.dropped,
        relative_rms=total_relative_rms(packed.errors.values()),
        tensors=packed.errors,
        divergence=packed.divergence,
    )


@dataclass(frozen=True, slots=True)
class _Packed:
    resumed_bytes: int  # source bytes found packed
    packed_bytes: int  # of the directory
    records: list[MatrixRecord]  # of every matrix
    errors: dict[str, TensorError]
    divergence: Divergence | None


def _pack_partial(
    packer: _Packer,
    partial: PartialDirectory,
    fingerprint: dict[str, object],
    calibrator: Calibrator | None,
    threads: int,
) -> _Packed:
    """Pack, measure and publish."""
    with partial.locked():
        try:
            if calibrator is not None:
                packer.codecs = calibrator.choose(packer.source, packer.plan, partial.work)
                fingerprint = {**fingerprint, "codecs": dict(packer.codecs)}
            found = partial.resume(fingerprint, packer.plan)
            _check_space(partial.path, packer.plan, found)
            with contextlib.closing(Journal(partial.journal, fingerprint, found)) as journal:
                records = packer.write(partial.model, journal, found)
            errors = measure_weights(packer.source, partial.model, records, threads)
            divergence = None if calibrator is None else calibrator.judge(partial.model, partial.work)
            packed_bytes = sum(entry.stat().st_size for entry in partial.model.iterdir())
            partial.publish()
        except ModelConfigError:
            partial.discard()
            raise
        except OSError as error:
            if _is_full(error):
                partial.discard()
            raise
    resumed_bytes = sum(packer.source.tensors[record.name].n_bytes for record in found)
    return _Packed(resumed_bytes, packed_bytes, records, errors, divergence)


def _is_full(error: OSError) -> bool:
    """Whether the disk is full, also where a packing inside this one has said so already."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno in _DISK_FULL for cause in causes)


def matrix_record(source: Source, plan: PackPlan, codec: str, pool: _native.Pool, tensor: SourceTensor) -> MatrixRecord:
    """The record that packing a matrix ends with, its index above all; the tiles themselves are thrown away."""
    return _Packer(source, plan, codec, pool, None).record(tensor)


def packed_config(source: Source, codec: str, activations: str) -> bytes:
    """The `config.json` of a packed model."""
    return _json_bytes({**source.config, "quantization_config": quantization_config(codec, activations)})


def packed_weight_map(shards: Iterable[tuple[str, int, Iterable[str]]]) -> bytes:
    """The weight map of (shard name, bytes of its data, names of its tensors)."""
    shards = list(shards)
    weight_map = {name: shard for shard, _, names in shards for name in names}
    metadata = {"total_size": sum(data_bytes for _, data_bytes, _ in shards)}
    return _json_bytes({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})


class _Packer:
    """Writes the files of one packed model, going on after the matrices that are there already.

    `codecs` names the matrices that do not have the codec of all others.
    """

    codecs: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        source: Source,
        plan: PackPlan,
        codec: str,
        pool: _native.Pool,
        progress: Progress | None,
        activations: str = "float",
    ) -> None:
        self.source = source
        self.plan = plan
        self._codec = codec
        self._activations = activations
        self._pool = pool
        self._progress = progress
        self._done_bytes = 0
        self._spare: list[_native.EncodedGroup] = []  # memory of groups that are written

    def write(self, directory: Path, journal: Journal, finished: list[MatrixRecord]) -> list[MatrixRecord]:
        """Write every file of the model; returns the record of every matrix."""
        known = {record.name: record for record in finished}
        records: list[MatrixRecord] = []
        shards: list[ShardSummary] = []
        work = (
            (tensor, group)
            for shard in self.plan.shards
            for tensor in shard.matrices
            if tensor.name not in known
            for group in self._groups(tensor)
        )
        with (
            contextlib.closing(SourceReader()) as reader,
            contextlib.closing(read_slabs(reader, work)) as slabs,
        ):
            for shard in self.plan.shards:
                with (
                    contextlib.closing(ShardWriter(directory / shard.name, shard.data_offset)) as writer,
                    WriteBehind() as behind,
                ):
                    for tensor in shard.matrices:
                        record = known.get(tensor.name)
                        if record is None:
                            record = self._write_matrix(writer, behind, shard, tensor, slabs)
                            behind.run(functools.partial(journal.append, record))
                        else:
                            self._advance(tensor.n_bytes, tensor.name)
                        writer.add_matrix(record)
                        records.append(record)
                    behind.drain()
                    others = ((tensor, self._pieces(reader, tensor)) for tensor in shard.others)
                    shards.append(writer.finish(others))
        self._write_other_files(directory, shards)
        return records

    def record(self, tensor: SourceTensor) -> MatrixRecord:
        """Encode a matrix and keep only its record."""
        with (
            contextlib.closing(SourceReader()) as reader,
            contextlib.closing(read_slabs(reader, ((tensor, group) for group in self._groups(tensor)))) as slabs,
            contextlib.closing(ShardWriter(Path(os.devnull), 0)) as writer,
            WriteBehind() as behind,
        ):
            return self._write_matrix(writer, behind, ShardPlan(os.devnull, (tensor,), (), 0), tensor, slabs)

    def _groups(self, tensor: SourceTensor) -> Iterator[Group]:
        rows, cols = tensor.shape
        limit_bytes = self.plan.tile_limit_bytes
        return groups(rows, cols, matrix_dtype(tensor), limit_bytes, split_cols=split_cols(self._codec_of(tensor)))

    def _codec_of(self, tensor: SourceTensor) -> str:
        return self.codecs.get(tensor.name, self._codec)

    def _write_matrix(
        self,
        writer: ShardWriter,
        behind: WriteBehind,
        shard: ShardPlan,
        tensor: SourceTensor,
        slabs: Iterator[tuple[Group, npt.NDArray[np.uint8]]],
    ) -> MatrixRecord:
        dtype = matrix_dtype(tensor)
        matrix = writer.start_matrix(dtype, behind)
        for _ in self._groups(tensor):
            group, slab = next(slabs)
            encoded = self._spare.pop() if self._spare else _native.EncodedGroup()
            encoded.encode(
                self._pool,
                slab,
                group.n_rows,
                group.n_cols,
                DTYPE_IDS[dtype],
                CODEC_IDS[self._codec_of(tensor)],
                group.relative_tiles(),
            )
            matrix.append(group, encoded, self._spare.append)
            self._advance(len(slab), tensor.name)
        return matrix.finish(tensor.name, shard.name)

    def _pieces(self, reader: SourceReader, tensor: SourceTensor) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(COPY_BYTES, tensor.n_bytes)))
        for start in range(0, tensor.n_bytes, COPY_BYTES):
            piece = buffer[: min(COPY_BYTES, tensor.n_bytes - start)]
            reader.read(tensor, start, piece)
            yield piece
            self._advance(len(piece), tensor.name)

    def _write_other_files(self, directory: Path, shards: list[ShardSummary]) -> None:
        source = self.source
        for name in source.copied_files:
            copy_file(source.path / name, directory / name)
        write_atomically(directory / CONFIG_NAME, packed_config(source, self._codec, self._activations))
        summaries = ((shard.name, shard.data_bytes, shard.tensor_names) for shard in shards)
        write_atomically(directory / WEIGHT_MAP_NAME, packed_weight_map(summaries))
        files = [CONFIG_NAME, WEIGHT_MAP_NAME, *source.copied_files]
        manifest = build_manifest(directory, self._codec, self._activations, shards, files)
        write_atomically(directory / MANIFEST_NAME, manifest.to_bytes())

    def _advance(self, n_bytes: int, name: str) -> None:
        self._done_bytes += n_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self.source.total_bytes, name)


def _check_target(source: Path, target: Path, partial: PartialDirectory) -> None:
    if os.path.lexists(target):
        raise TargetExistsError(f"[pack] {target} exists already; remove it or choose another target")
    if not target.parent.is_dir():
        raise ValueError(f"[pack] the directory of the target must exist, got {target.parent}")
    # Discarding the working directory must never discard the source.
    inside = {source.resolve(), *source.resolve().parents}
    if inside & {target.resolve(), partial.path.resolve()}:
        raise ValueError(f"[pack] the source must lie outside {target} and {partial.path}, got {source}")


def _check_space(directory: Path, plan: PackPlan, records: list[MatrixRecord]) -> None:
    """Fail before hours of work where the disk is too small whatever the weights are."""
    needed_bytes = plan.least_bytes - sum(record.n_bytes + len(record.index) for record in records)
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise OSError(errno.ENOSPC, f"{needed_bytes} bytes more are needed, {free_bytes} are free")


def _json_bytes(document: object) -> bytes:
    return json.dumps(document, indent=2).encode("ascii") + b"\n"
