"""A packed model turned back into the checkpoint it was packed from, for measurements that must pack it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from benchmarks.c3.weights import Bits, unpacked, write_checkpoint
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.layout import CONFIG_NAME
from vortex_engine.c3.source import copied_names


def write_unpacked(packed: Path, folder: Path) -> Path:
    """The bf16 checkpoint `folder` of a losslessly packed bf16 model; made once."""
    if folder.is_dir():
        return folder
    directory = open_directory(packed)
    tensors: dict[str, Bits] = {}
    for name, values in unpacked(directory):
        tensors[name] = _bf16(values)
    for name in directory.tensors:
        tensors[name] = _bf16(directory.tensor(name))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_checkpoint(partial, tensors)
    for name in copied_names(packed):
        shutil.copyfile(packed / name, partial / name)
    config = {key: value for key, value in directory.config.items() if key != "quantization_config"}
    (partial / CONFIG_NAME).write_text(json.dumps(config))
    partial.rename(folder)
    return folder


def _bf16(values: np.ndarray) -> Bits:
    return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
