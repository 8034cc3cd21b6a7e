"""Packing a checkpoint, and saying whether this engine runs it or only transformers does."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from vortex_engine.c3.pack import pack as pack_directory
from vortex_engine.c3.report import PackReport
from vortex_engine.errors import ModelConfigError
from vortex_engine.models import check_config

__all__ = ["pack"]


def pack(src: str | os.PathLike[str], dst: str | os.PathLike[str], codec: str = "exact", **options: Any) -> PackReport:
    """Pack the Hugging Face checkpoint in `src` into the new directory `dst`.

    A model that the engine does not compute itself is packed all the same: `report.transformers_only` says why, and
    `transformers` runs it after `import vortex_engine.hf`.

    Args:
        src: directory with config.json and safetensors weights; tokenizer.json where the engine is to generate text.
        dst: must not exist; an interrupted packing of the same source goes on where it stopped.
        codec: "exact" (lossless, about 11.4 bits a bf16 weight), "exact12" (lossless, 12.03 bits, twice as fast to
            decode: for models that fit in RAM), "dense" (lossless, about 10.7 bits, slower to read), "lz4" (lossless,
            for sparse weights) or "raw".
        options: `threads`, `max_shard_bytes`, `progress`; see `vortex_engine.c3.pack.pack`.

    Raises:
        TargetExistsError: `dst` exists.
        ModelConfigError: the source cannot be packed; the message names file, tensor or key, and the fix.
        MachineError: the disk is full or failed.
    """
    reasons: list[str] = []

    def note_limits(config: dict[str, object]) -> None:
        try:
            check_config(config)
        except ModelConfigError as error:
            reasons.append(str(error))

    report = pack_directory(src, dst, codec=codec, check_config=note_limits, **options)
    return replace(report, transformers_only=reasons[0] if reasons else None)
