"""Packing a checkpoint that this engine can run."""

from __future__ import annotations

import os
from typing import Any

from vortex_engine.c3.pack import pack as pack_directory
from vortex_engine.c3.report import PackReport
from vortex_engine.models import check_config

__all__ = ["pack"]


def pack(src: str | os.PathLike[str], dst: str | os.PathLike[str], codec: str = "exact", **options: Any) -> PackReport:
    """Pack the Hugging Face checkpoint in `src` into the new directory `dst`, if its architecture is supported.

    Args:
        src: directory with config.json, tokenizer.json and safetensors weights.
        dst: must not exist; an interrupted packing of the same source goes on where it stopped.
        codec: "exact" (lossless, about 11.4 bits a bf16 weight), "dense" (lossless, about 10.7 bits, slower to read),
            "lz4" (lossless, for sparse weights) or "raw".
        options: `threads`, `max_shard_bytes`, `progress`; see `vortex_engine.c3.pack.pack`.

    Raises:
        TargetExistsError: `dst` exists.
        ModelConfigError: the source cannot be packed or run; the message names file, tensor or key, and the fix.
        MachineError: the disk is full or failed.
    """
    return pack_directory(src, dst, codec=codec, check_config=check_config, **options)
