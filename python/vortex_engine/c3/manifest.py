"""`c3.json`: length and crc32c of everything in a packed model that tile checksums do not cover, itself included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vortex_engine import _native
from vortex_engine.c3.files import crc_of_range, open_fd
from vortex_engine.c3.json_object import as_count, as_object
from vortex_engine.c3.layout import ACTIVATIONS, CODEC_IDS, FORMAT, MANIFEST_NAME, MIXED, recorded_activations
from vortex_engine.c3.shard_writer import ShardSummary
from vortex_engine.errors import CorruptTileError, MachineError, ModelConfigError, TileVersionError

_MAX_MANIFEST_BYTES = 1 << 30
_CRC = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class FileSeal:
    """Length and checksum of a whole file."""

    n_bytes: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class ShardSeal:
    """Length of a shard, checksum of its header, and of each of its tensors that is not tiles."""

    n_bytes: int
    header_crc32c: int
    tensor_crcs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of `c3.json`."""

    codec: str
    files: dict[str, FileSeal]
    shards: dict[str, ShardSeal]
    activations: str = "float"

    @property
    def weights_crc32c(self) -> int:
        """Of all that is sealed of the shards, checksums of the tiles included: it tells weights and packings apart."""
        return _canonical_crc(self._shards())

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        document: dict[str, object] = {
            "format": FORMAT,
            "codec": self.codec,
            **recorded_activations(self.activations),
            "files": {name: {"bytes": seal.n_bytes, "crc32c": _hex(seal.crc32c)} for name, seal in self.files.items()},
            "shards": self._shards(),
        }
        document["crc32c"] = _hex(_canonical_crc(document))
        return json.dumps(document, indent=1, sort_keys=True).encode("ascii") + b"\n"

    def _shards(self) -> dict[str, object]:
        return {
            name: {
                "bytes": seal.n_bytes,
                "header_crc32c": _hex(seal.header_crc32c),
                "tensors": {tensor: _hex(crc) for tensor, crc in seal.tensor_crcs.items()},
            }
            for name, seal in self.shards.items()
        }


def build_manifest(
    directory: Path, codec: str, activations: str, shards: Iterable[ShardSummary], files: Iterable[str]
) -> Manifest:
    """Seal the named `files` of the directory, as they are now, with its finished shards."""
    seals = {shard.name: ShardSeal(shard.n_bytes, shard.header_crc32c, shard.tensor_crcs) for shard in shards}
    return Manifest(codec, {name: seal_file(directory / name) for name in sorted(files)}, seals, activations)


def seal_file(path: Path) -> FileSeal:
    """Length and checksum of a file as it is now."""
    with open_fd(path) as fd:
        n_bytes = path.stat().st_size
        return FileSeal(n_bytes, crc_of_range(fd, 0, n_bytes))


def read_manifest(directory: Path) -> Manifest:
    """Read and check `c3.json`, not yet what it seals.

    Raises:
        ModelConfigError: the directory holds no packed model.
        TileVersionError: an unknown format number.
        CorruptTileError: the manifest is damaged.
        MachineError: it cannot be read.
    """
    path = directory / MANIFEST_NAME
    if not directory.is_dir():
        raise ModelConfigError(f"[open] {directory} is not a directory; give the directory of a packed model")
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise _corrupt(path, f"it is larger than {_MAX_MANIFEST_BYTES} bytes")
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelConfigError(
            f"[open] {directory} has no {MANIFEST_NAME}, so it is not a packed model; "
            f"make one of a checkpoint with: vortex pack {directory} {directory}.c3"
        ) from error
    except OSError as error:
        raise MachineError(f"[open] cannot read {path}: {error}") from error
    try:
        document = as_object(json.loads(text.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"not JSON: {error}") from error
    if document is None:
        raise _corrupt(path, "not a JSON object")
    number = document.get("format")
    if as_count(number) != FORMAT:
        raise TileVersionError(
            f"[open] {path}: format {number!r}, this version reads format {FORMAT}; update vortex-engine or pack again",
            file=str(path),
        )
    seal = document.pop("crc32c", None)
    try:
        intact = seal == _hex(_canonical_crc(document))
    except RecursionError:
        intact = False
    if not intact:
        raise _corrupt(path, "its own checksum does not match; after editing other files use: vortex inspect --reseal")
    return _parse(path, document)


def check_file(path: Path, seal: FileSeal) -> None:
    """CorruptTileError when a sealed file is not what was sealed."""
    try:
        found = seal_file(path)
    except FileNotFoundError as error:
        raise CorruptTileError(f"[open] {path} is missing", file=str(path)) from error
    except OSError as error:
        raise MachineError(f"[open] cannot read {path}: {error}") from error
    if found != seal:
        what = "length" if found.n_bytes != seal.n_bytes else "checksum"
        raise _corrupt(
            path,
            f"its {what} is not the one in {MANIFEST_NAME}; restore it, or after a deliberate edit use: "
            f"vortex inspect --reseal {path.parent}",
        )


def _parse(path: Path, document: dict[str, object]) -> Manifest:
    """The manifest of a document whose checksum matches; whoever wrote it may still have lied about the structure."""
    codec = document.get("codec")
    activations = document.get("activations", "float")
    if codec not in {*CODEC_IDS, MIXED} or set(document) - {"activations"} != {"format", "codec", "files", "shards"}:
        raise _corrupt(path, "unknown codec or keys")
    if activations not in ACTIVATIONS:
        raise _corrupt(path, f"unknown activations {activations!r}")
    files = {
        name: FileSeal(_count(path, entry, "bytes"), _crc(path, entry.get("crc32c")))
        for name, entry in _entries(path, document["files"])
    }
    shards = {
        name: ShardSeal(
            _count(path, entry, "bytes"),
            _crc(path, entry.get("header_crc32c")),
            {tensor: _crc(path, crc) for tensor, crc in _mapping(path, entry.get("tensors")).items()},
        )
        for name, entry in _entries(path, document["shards"])
    }
    return Manifest(str(codec), files, shards, str(activations))


def _entries(path: Path, value: object) -> list[tuple[str, dict[str, object]]]:
    entries: list[tuple[str, dict[str, object]]] = []
    for name, entry in _mapping(path, value).items():
        # A name with a separator would reach out of the directory.
        if name != Path(name).name or name in {"", ".", "..", MANIFEST_NAME} or "\0" in name:
            raise _corrupt(path, f"{name!r} is not a file name")
        entries.append((name, _mapping(path, entry)))
    return entries


def _mapping(path: Path, value: object) -> dict[str, object]:
    mapping = as_object(value)
    if mapping is None:
        raise _corrupt(path, f"expected an object, got {value!r}")
    return mapping


def _count(path: Path, entry: dict[str, object], key: str) -> int:
    count = as_count(entry.get(key))
    if count is None:
        raise _corrupt(path, f"{key} is not a count: {entry.get(key)!r}")
    return count


def _crc(path: Path, value: object) -> int:
    if not isinstance(value, str) or not _CRC.fullmatch(value):
        raise _corrupt(path, f"not a checksum: {value!r}")
    return int(value, 16)


def _canonical_crc(document: dict[str, object]) -> int:
    return _native.crc32c(json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii"))


def _hex(crc: int) -> str:
    return f"{crc:08x}"


def _corrupt(path: Path, what: str) -> CorruptTileError:
    return CorruptTileError(f"[open] {path}: {what}", file=str(path))
