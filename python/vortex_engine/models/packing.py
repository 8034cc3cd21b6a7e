"""Packing a checkpoint, and saying whether this engine runs it or only transformers does."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from vortex_engine.c3.layout import LOSSY_CODECS, MIXED
from vortex_engine.c3.pack import pack as pack_directory
from vortex_engine.c3.report import Divergence, PackReport
from vortex_engine.errors import ModelConfigError
from vortex_engine.models import parse_config
from vortex_engine.profile import parse_bytes

__all__ = ["pack"]


def pack(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    codec: str = "exact",
    *,
    calibration: str | os.PathLike[str] | None = None,
    bits_per_weight: float | None = None,
    ram_budget: int | str | None = None,
    **options: Any,
) -> PackReport:
    """Pack the Hugging Face checkpoint in `src` into the new directory `dst`.

    A model that the engine does not compute itself is packed all the same: `report.transformers_only` says why, and
    `transformers` runs it after `import vortex_engine.hf`.

    Args:
        src: directory with config.json and safetensors weights; tokenizer.json where the engine is to generate text.
        dst: must not exist; an interrupted packing of the same source goes on where it stopped.
        codec: "exact" (lossless, about 11.5 bits a bf16 weight), "exact12" (lossless, about 12.1 bits, faster to
            decode: for models that fit in RAM), "dense" (lossless, about 10.7 bits, slower to read), "lz4" (lossless,
            for sparse weights), "raw", the lossy "int8" (8.3 bits) and "int4" (4.5), or "mixed": of every matrix int4,
            int8 or lossless, whichever does the model least harm within `bits_per_weight`.
        calibration: a UTF-8 text file like what the model will read. On it the packed model is compared with the
            checkpoint (`report.divergence`), and "mixed", which needs it, measures what rounding a matrix does. That
            takes disk space for a lossless packing besides `dst`, and for "mixed" one of every lossy codec.
        bits_per_weight: of "mixed", which needs it: the most stored bits a weight, alignment, indices and all other
            tensors included, as `vortex inspect` counts them.
        ram_budget: bytes of weights in RAM while the model runs on the text, as of `load`.
        options: `activations`, `threads`, `max_shard_bytes`, `progress`; see `vortex_engine.c3.pack.pack`. With a
            calibration text `progress` starts again with each of its phases.

    Raises:
        TargetExistsError: `dst` exists.
        ModelConfigError: the source or the text cannot be used; the message names file, tensor or key, and the fix.
        BudgetError: `bits_per_weight` or `ram_budget` is below the minimum, which the message names.
        MachineError: the disk is full or failed.
        ValueError: a wrong argument.
    """
    reasons: list[str] = []

    def note_limits(config: dict[str, object]) -> None:
        try:
            parse_config(config)
        except ModelConfigError as error:
            reasons.append(str(error))

    _check_arguments(codec, calibration, bits_per_weight, ram_budget)
    calibrator = None
    if calibration is not None and codec in (*LOSSY_CODECS, MIXED):
        # Imported here: running a model is more than packing one needs.
        from vortex_engine.models.calibration import ModelCalibrator

        calibrator = ModelCalibrator(
            codec=codec,
            text=Path(calibration),
            bits_per_weight=bits_per_weight,
            activations=options.get("activations", "float"),
            threads=options.get("threads"),
            ram_budget_bytes=None if ram_budget is None else parse_bytes(ram_budget, "ram_budget"),
            progress=options.get("progress"),
        )
    elif calibration is not None:
        from vortex_engine.models.calibration_text import read_text

        read_text(Path(calibration))
    report = pack_directory(src, dst, codec=codec, check_config=note_limits, calibrator=calibrator, **options)
    if calibration is not None and calibrator is None:
        report = replace(report, divergence=Divergence(0.0, 1.0, 0))
    return replace(report, transformers_only=reasons[0] if reasons else None)


def _check_arguments(codec: str, calibration: object, bits_per_weight: float | None, ram_budget: object) -> None:
    if ram_budget is not None and calibration is None:
        raise ValueError("[pack] ram_budget is of the run on a calibration text; give one, or leave ram_budget out")
    if bits_per_weight is not None and codec != MIXED:
        raise ValueError(f"[pack] bits_per_weight is of codec 'mixed', got codec {codec!r}; leave it out")
    if codec != MIXED:
        return
    if bits_per_weight is None or not math.isfinite(bits_per_weight) or bits_per_weight <= 0:
        raise ValueError(f"[pack] codec 'mixed' needs bits_per_weight, a positive number, got {bits_per_weight!r}")
    if calibration is None:
        raise ValueError(
            "[pack] codec 'mixed' needs a calibration text: give a file with some pages of what the model will read"
        )
