"""A Hugging Face checkpoint directory as the packer sees it: its tensors, checked, and reads of a few rows."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from vortex_engine import _native
from vortex_engine.c3.files import ShortReadError, open_fd, read_into
from vortex_engine.c3.json_object import as_object
from vortex_engine.c3.layout import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    INDEX_SUFFIX,
    SAFETENSORS_DTYPES,
    TILES_SUFFIX,
    WEIGHT_MAP_NAME,
)
from vortex_engine.c3.safetensors_header import Header, HeaderError, read_header
from vortex_engine.errors import MachineError, ModelConfigError

SINGLE_FILE_NAME = "model.safetensors"
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
# Two-dimensional tables of positions and masks that some checkpoints carry; they are not weights.
_BUFFER_DTYPES = {"BOOL", "I64"}
# What a model directory needs besides weights and config.json, and the licences that must travel with it.
_COPIED_PATTERNS = (
    GENERATION_CONFIG_NAME,
    "tokenizer*.json",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*.json",
    "vocab.txt",
    "merges.txt",
    "chat_template*.jinja",
    "chat_template.json",
    "LICENSE*",
    "NOTICE*",
)


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of the checkpoint; `offset` is absolute in `file`."""

    name: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    file: Path
    offset: int
    n_bytes: int

    @property
    def is_matrix(self) -> bool:
        """Whether it is packed into tiles: not the decay rates of a recurrence, which no product reads."""
        return len(self.shape) == 2 and self.dtype in SAFETENSORS_DTYPES and not self.name.endswith(".A_log")


@dataclass(frozen=True, slots=True)
class Source:
    """A checked checkpoint directory."""

    path: Path
    config: dict[str, object]
    tensors: dict[str, SourceTensor]
    copied_files: tuple[str, ...]  # go along as they are, sorted
    fingerprint: dict[str, object]  # changes when any file does
    dropped: dict[str, str] = field(default_factory=lambda: {})  # tensor -> why it is not packed

    @property
    def total_bytes(self) -> int:
        """Bytes of the tensors to pack."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())


def open_source(path: Path) -> Source:
    """Read and check everything of a checkpoint directory except the tensors' data.

    Raises:
        ModelConfigError: what is wrong, in which file and tensor, and the fix.
    """
    if not path.is_dir():
        raise ModelConfigError(f"[pack] {path} is not a directory; give the directory of a Hugging Face checkpoint")
    shards = _shard_files(path)
    config = read_json_object(path / CONFIG_NAME, "download it from where the checkpoint came from")
    if "quantization_config" in config:
        raise ModelConfigError(
            f"[pack] {path / CONFIG_NAME} has a quantization_config: the weights are quantised or packed already; "
            "pack the original bf16, fp16 or fp32 checkpoint"
        )
    copied_files = copied_names(path)
    if GENERATION_CONFIG_NAME in copied_files:
        read_json_object(path / GENERATION_CONFIG_NAME, "repair or remove it")

    tensors: dict[str, SourceTensor] = {}
    dropped: dict[str, str] = {}
    fingerprint: dict[str, object] = {name: _stamp(path / name) for name in (CONFIG_NAME, *copied_files)}
    for file_name, wanted in shards.items():
        header, header_crc = _read_shard_header(path / file_name)
        fingerprint[file_name] = [*_stamp(path / file_name), header_crc]
        for name in sorted(wanted - set(header.tensors)):
            raise ModelConfigError(
                f"[pack] {path / file_name} has no tensor {name!r}, which {WEIGHT_MAP_NAME} says it holds; "
                "download both again"
            )
        for span in header.tensors.values():
            if wanted and span.name not in wanted:
                dropped[span.name] = f"in {file_name}, but not named by {WEIGHT_MAP_NAME}"
                continue
            offset = header.data_offset + span.begin
            tensor = SourceTensor(span.name, span.dtype, span.shape, path / file_name, offset, span.n_bytes)
            _check_tensor(tensor)
            tensors[span.name] = tensor
    if not tensors:
        raise ModelConfigError(f"[pack] {path} holds no tensor; download the checkpoint again")
    tensors = _with_experts_apart(tensors)
    if config.get("tie_word_embeddings") is True and _drop_tied_head(tensors):
        dropped["lm_head.weight"] = "tie_word_embeddings: the embedding's tiles are the head's"
    return Source(path, config, tensors, copied_files, fingerprint, dropped)


def copied_names(path: Path) -> tuple[str, ...]:
    """Names of the small files of a model directory that belong to the model, without `config.json`."""
    files = (file for pattern in _COPIED_PATTERNS for file in path.glob(pattern))
    return tuple(sorted({file.name for file in files if file.is_file()}))


class SourceReader:
    """Reads parts of a source's tensors into buffers of the caller; keeps its files open until closed."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._stack = contextlib.ExitStack()

    def read(self, tensor: SourceTensor, start: int, view: memoryview) -> None:
        """Fill `view` with the tensor's bytes from `start` on.

        Raises:
            ModelConfigError: the file became shorter since it was checked.
            MachineError: the disk failed.
        """
        try:
            fd = self._files.get(tensor.file)
            if fd is None:
                fd = self._files[tensor.file] = self._stack.enter_context(open_fd(tensor.file))
            read_into(fd, view, tensor.offset + start)
        except ShortReadError as error:
            raise ModelConfigError(
                f"[pack] {tensor.file}, tensor {tensor.name!r}: {error}; it changed while it was packed"
            ) from error
        except OSError as error:
            raise MachineError(f"[pack] cannot read {tensor.file}, tensor {tensor.name!r}: {error}") from error

    def close(self) -> None:
        """Close the files."""
        self._files.clear()
        self._stack.close()


def read_json_object(path: Path, fix: str) -> dict[str, object]:
    """The JSON object in a file of a checkpoint; ModelConfigError with the `fix` when there is none."""
    try:
        document = as_object(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise ModelConfigError(f"[pack] {path.parent} has no {path.name}; {fix}") from error
    except OSError as error:
        raise MachineError(f"[pack] cannot read {path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"[pack] {path} is not JSON: {error}; {fix}") from error
    if document is None:
        raise ModelConfigError(f"[pack] {path} does not hold a JSON object; {fix}")
    return document


def _shard_files(path: Path) -> dict[str, set[str]]:
    """Shard file names and the tensors each must hold; an empty set when there is no weight map to say so."""
    if (path / SINGLE_FILE_NAME).is_file():
        return {SINGLE_FILE_NAME: set()}
    if (path / WEIGHT_MAP_NAME).is_file():
        return _weight_map(path / WEIGHT_MAP_NAME)
    files = sorted(file.name for file in path.iterdir())
    pickles = [name for name in files if Path(name).suffix in _PICKLE_SUFFIXES]
    if pickles:
        source, target = os.fspath(path), os.fspath(path) + "-safetensors"
        raise ModelConfigError(
            f"[pack] {path / pickles[0]} is a pickle, which can run code when it is read; convert it with "
            f"AutoModelForCausalLM.from_pretrained({source!r}).save_pretrained({target!r}) and pack {target}"
        )
    raise ModelConfigError(
        f"[pack] {path} has neither {SINGLE_FILE_NAME} nor {WEIGHT_MAP_NAME}; download the safetensors weights"
    )


def _weight_map(path: Path) -> dict[str, set[str]]:
    fix = "download it again"
    weight_map = as_object(read_json_object(path, fix).get("weight_map"))
    if not weight_map:
        raise ModelConfigError(f"[pack] {path} has no weight_map; {fix}")
    shards: dict[str, set[str]] = {}
    for name, file_name in weight_map.items():
        if (
            not isinstance(file_name, str)
            or file_name != Path(file_name).name
            or not file_name.endswith(".safetensors")
        ):
            raise ModelConfigError(f"[pack] {path}, tensor {name!r}: {file_name!r} is not the name of a shard; {fix}")
        shards.setdefault(file_name, set()).add(name)
    for file_name, names in sorted(shards.items()):
        if not (path.parent / file_name).is_file():
            raise ModelConfigError(
                f"[pack] {path.parent / file_name} is missing, tensor {min(names)!r} should be in it; download it"
            )
    return dict(sorted(shards.items()))


def _read_shard_header(path: Path) -> tuple[Header, int]:
    try:
        with open_fd(path) as fd:
            header, raw = read_header(fd)
    except HeaderError as error:
        tensor = f", tensor {error.tensor!r}" if error.tensor is not None else ""
        raise ModelConfigError(f"[pack] {path}{tensor}: {error}; download the file again") from error
    except OSError as error:
        raise MachineError(f"[pack] cannot read {path}: {error}") from error
    return header, _native.crc32c(raw)


def _check_tensor(tensor: SourceTensor) -> None:
    where = f"[pack] {tensor.file}, tensor {tensor.name!r}"
    if tensor.name.endswith((TILES_SUFFIX, INDEX_SUFFIX)):
        raise ModelConfigError(f"{where}: the name is one of a packed model; pack the original checkpoint")
    if len(tensor.shape) != 2:
        return
    if tensor.dtype not in SAFETENSORS_DTYPES and tensor.dtype not in _BUFFER_DTYPES:
        raise ModelConfigError(
            f"{where}: a matrix of dtype {tensor.dtype} cannot be packed; save the checkpoint as bf16, fp16 or fp32"
        )
    if 0 in tensor.shape:
        raise ModelConfigError(
            f"{where}: the matrix is empty, shape {list(tensor.shape)}; remove it from the checkpoint"
        )


def _with_experts_apart(tensors: dict[str, SourceTensor]) -> dict[str, SourceTensor]:
    """Each matrix that a tensor [experts, rows, cols] stacks by itself, so that it is paged by itself."""
    apart: dict[str, SourceTensor] = {}
    for tensor in tensors.values():
        for part in _expert_matrices(tensor):
            if part.name in apart or (part is not tensor and part.name in tensors):
                raise ModelConfigError(
                    f"[pack] {tensor.file}: {part.name!r} names two tensors, a matrix of the experts "
                    f"{tensor.name!r} and one of its own; rename one of them"
                )
            apart[part.name] = part
    return apart


def _expert_matrices(tensor: SourceTensor) -> list[SourceTensor]:
    stacked = len(tensor.shape) == 3 and 0 not in tensor.shape and tensor.dtype in SAFETENSORS_DTYPES
    if not stacked or "experts" not in tensor.name.split("."):
        return [tensor]
    n, *shape = tensor.shape
    n_bytes = tensor.n_bytes // n
    return [
        SourceTensor(f"{tensor.name}.{i}", tensor.dtype, tuple(shape), tensor.file, tensor.offset + at, n_bytes)
        for i, at in enumerate(range(0, tensor.n_bytes, n_bytes))
    ]


def _drop_tied_head(tensors: dict[str, SourceTensor]) -> bool:
    """Remove a head that only repeats the embedding it is tied to.

    transformers does not tie a head whose weights differ, whatever the configuration says, so neither may we.
    """
    head = tensors.get("lm_head.weight")
    tied = next((t for t in tensors.values() if is_embedding(t.name) and head and t.shape == head.shape), None)
    if head is None or tied is None:
        return False
    if not _same_bytes(head, tied):
        raise ModelConfigError(
            f"[pack] {head.file}: tie_word_embeddings is true, but {head.name!r} and {tied.name!r} differ; set "
            "tie_word_embeddings to false in config.json, or remove one of the two tensors"
        )
    del tensors[head.name]
    return True


def _same_bytes(a: SourceTensor, b: SourceTensor) -> bool:
    if a.dtype != b.dtype:
        return False
    step = 1 << 20
    with contextlib.closing(SourceReader()) as reader:
        for start in range(0, a.n_bytes, step):
            parts = [bytearray(min(step, a.n_bytes - start)) for _ in range(2)]
            for tensor, part in zip((a, b), parts, strict=True):
                reader.read(tensor, start, memoryview(part))
            if parts[0] != parts[1]:
                return False
    return True


def is_embedding(name: str) -> bool:
    """Whether a tensor is the token embedding, by the names that checkpoints use."""
    return name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "backbone.embeddings.weight"))


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
