"""What a training run is: one YAML file, checked key by key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vortex_engine.errors import ModelConfigError

__all__ = [
    "DataSection",
    "LoopSection",
    "OptimSection",
    "ScheduleSection",
    "Section",
    "TrainConfig",
    "check_section",
    "read_config",
]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
_S = TypeVar("_S", bound="Section")


class Section(BaseModel):
    """A part of the file; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """Text and how it is cut.

    Attributes:
        train: files or directories of UTF-8 text and of .jsonl with a `text` field, plain or .gz.
        valid: text held out for bits per byte, which choose `best`; without it nothing is evaluated.
        tokenizer: `bytes`, or a tokenizer.json or a directory that has one.
        end_of_text: the token in front of every document.
        seq_len: tokens of a sequence.
        block_tokens: unit of the shuffled order, a multiple of `seq_len`; default `seq_len`.
        cache: where tokenised text is kept for other runs too; default `data` in the run's directory.
    """

    train: list[Path] = Field(min_length=1)
    valid: list[Path] = []
    tokenizer: str = "bytes"
    end_of_text: str = "<|endoftext|>"
    seq_len: Positive = 256
    block_tokens: Positive | None = None
    cache: Path | None = None


class OptimSection(Section):
    """`adamw`, or `muon` for weight matrices with AdamW for the rest.

    Attributes:
        lr: peak rate of AdamW; matrix_lr, momentum: of Muon.
        weight_decay: pulls on tensors of two dimensions and more.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    matrix_lr: Annotated[float, Field(gt=0.0)] = 0.008
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0.0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1


class ScheduleSection(Section):
    """Linear warm-up, then `cosine` down to `min_scale`, or `stable`: constant, and a linear fall at the end.

    Attributes:
        min_scale: of a cosine's end; decay_fraction: the part of a stable run in which the rate falls to 0.
    """

    kind: Literal["cosine", "stable"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    min_scale: Share = 0.1
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4


class LoopSection(Section):
    """How steps are run. Only `steps`, `seconds`, `batch_tokens`, `micro_batch_tokens`, `grad_clip`, `mtp_weight` and
    `precision` can change the result beyond rounding.

    Attributes:
        steps, seconds: when the run ends, one of them; pauses are no part of the seconds.
        batch_tokens: tokens of a step, over all processes; a multiple of `data.block_tokens`.
        micro_batch_tokens: tokens of one forward pass, gradients are accumulated; default all of a process.
        grad_clip: largest norm of the gradient; 0 leaves it alone.
        mtp_weight: of the mean loss of multi-token heads beside the loss of the next token.
        precision: `auto` is bf16 autocast where the machine computes bf16, else fp32.
        device: `auto` is `cuda` where there is a GPU.
        parallel: what several processes do: `ddp` copies of the model, `fsdp` shards of it.
        threads: of this process; workers: micro-batches at once, each on threads / workers threads (one process, CPU).
        compile: `torch.compile`; recompute: forward again in backward instead of keeping activations of blocks.
        eval_every_steps: bits per byte over `eval_windows` sequences of `data.valid`.
        checkpoint_every_steps, checkpoint_every_s: whichever is due first; a stop, the end and a new best save too.
        keep_checkpoints: newest `step_*` kept besides those that `last`, `best` and `stable` name.
        pause_file: steps wait while this file exists.
    """

    steps: Positive | None = None
    seconds: Annotated[float, Field(gt=0.0)] | None = None
    batch_tokens: Positive = 8192
    micro_batch_tokens: Positive | None = None
    grad_clip: Annotated[float, Field(ge=0.0)] = 1.0
    mtp_weight: Annotated[float, Field(ge=0.0)] = 0.3
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    threads: Positive | None = None
    workers: Positive = 1
    compile: bool = False
    recompute: bool = False
    log_every_steps: Positive = 10
    eval_every_steps: Positive = 200
    eval_windows: Positive = 48
    checkpoint_every_steps: Positive | None = None
    checkpoint_every_s: Annotated[float, Field(gt=0.0)] = 300.0
    keep_checkpoints: Positive = 2
    plot: bool = True
    pause_file: Path | None = None

    @model_validator(mode="after")
    def _one_end(self) -> LoopSection:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(f"give either steps or seconds, got steps = {self.steps}, seconds = {self.seconds}")
        return self


class TrainConfig(Section):
    """A run: `out` is its directory; `model` holds `model_type` and what that kind of model asks for."""

    out: Path
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    model: dict[str, Any]
    data: DataSection
    optim: OptimSection = OptimSection()
    schedule: ScheduleSection = ScheduleSection()
    loop: LoopSection

    @model_validator(mode="after")
    def _sizes(self) -> TrainConfig:
        seq_len, block = self.data.seq_len, self.block_tokens
        if block % seq_len:
            raise ValueError(f"data.block_tokens must be a multiple of data.seq_len = {seq_len}, got {block}")
        if self.loop.batch_tokens % block:
            raise ValueError(f"loop.batch_tokens must be a multiple of {block} tokens, got {self.loop.batch_tokens}")
        micro = self.loop.micro_batch_tokens
        if micro is not None and micro % seq_len:
            raise ValueError(f"loop.micro_batch_tokens must be a multiple of data.seq_len = {seq_len}, got {micro}")
        return self

    @property
    def block_tokens(self) -> int:
        """Tokens of a block of the data order."""
        return self.data.block_tokens or self.data.seq_len

    def to_yaml(self) -> str:
        """The file that `read_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def read_config(path: Path, overrides: Sequence[str] = (), values: Mapping[str, object] | None = None) -> TrainConfig:
    """Read a YAML file.

    Args:
        overrides: such as `optim.lr=3e-4`, with values in YAML; they replace or add settings, in order.
        values: by key, as they are; None leaves a setting alone.

    Raises:
        ModelConfigError: the file is missing, no YAML, or says what cannot be.
        ValueError: an override does.
    """
    document = _document(path)
    given: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"[train] an override looks like optim.lr=3e-4, got {override!r}")
        try:
            value: object = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"[train] {override!r}: the value is no YAML: {_flat(error)}") from error
        _put(document, key, value)
        given.add(key)
    for key, value in (values or {}).items():
        if value is not None:
            _put(document, key, value)
            given.add(key)
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        from_override = any(_dotted(item["loc"]) in given for item in error.errors())
        message = f"[train] {path}: {_explain(error, TrainConfig, '')}"
        raise (ValueError(message) if from_override else ModelConfigError(message)) from error


def check_section(kind: type[_S], values: Mapping[str, Any], name: str) -> _S:
    """`values` as a `kind`, or a ModelConfigError that names `name.key` and, for an unknown key, a known one."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ModelConfigError(f"[train] {_explain(error, kind, name)}") from error


def suggestion(word: str, known: Sequence[str]) -> str:
    """` (did you mean …?)`, or the known words where none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelConfigError(f"[train] there is no configuration {path}; give the YAML file of a run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelConfigError(f"[train] {path} cannot be read as text: {error}") from error
    try:
        document: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelConfigError(f"[train] {path} is not YAML: {_flat(error)}") from error
    if not isinstance(document, dict):
        raise ModelConfigError(f"[train] {path} must hold keys such as out, model, data and loop")
    return cast("dict[str, Any]", document)


def _put(document: dict[str, Any], key: str, value: object) -> None:
    *sections, last = key.split(".")
    place = document
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"[train] {key}: {section} is a value, not a section")
        place = cast("dict[str, Any]", inner)
    place[last] = value


def _explain(error: ValidationError, kind: type[Section], prefix: str) -> str:
    parts: list[str] = []
    for item in error.errors(include_url=False):
        path = ".".join(part for part in (prefix, _dotted(item["loc"])) if part)
        if item["type"] == "extra_forbidden":
            known = sorted(".".join(part for part in (prefix, name) if part) for name in _keys(kind))
            parts.append(f"{path} is no setting; {suggestion(path, _near(path, known))}")
        elif item["type"] == "missing":
            parts.append(f"{path} is missing; give it")
        else:
            message = item["msg"].removeprefix("Value error, ")
            told = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
            parts.append(f"{path}: {message}{told}" if path else message)
    return "; ".join(parts)


def _near(path: str, known: Sequence[str]) -> Sequence[str]:
    """Known keys of the same section, unless another section has the very key."""
    section, _, last = path.rpartition(".")
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    return elsewhere or [name for name in known if name.rpartition(".")[0] == section] or known


def _keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place)


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())
