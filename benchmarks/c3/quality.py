"""What rounding does to a model's predictions: codec `mixed` beside other choices of the same size, int4 beside ggml.

The model is the embedded one; the divergence is that of next-token distributions on unseen code, half of whose
documents are the calibration text of `mixed`, the other half what everything is judged on. All runs are the engine's
own: weights that ggml has rounded are packed losslessly as fp32.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType] - its arrays are untyped

import vortex_engine as vx
from benchmarks.c3.quant_error import ggml_quantised
from benchmarks.c3.report import Figure, MissingPeerError
from benchmarks.c3.setting import Setting
from benchmarks.c3.unpacked_checkpoint import write_unpacked
from benchmarks.c3.weights import unpacked
from benchmarks.machine import print_table
from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.layout import CONFIG_NAME, LOSSY_CODECS
from vortex_engine.c3.mixed import Option, assign, matrix_budget
from vortex_engine.c3.report import Divergence, PackReport
from vortex_engine.c3.source import open_source
from vortex_engine.decode.load import model_path
from vortex_engine.models.calibration_text import read_calibration
from vortex_engine.models.divergence import DivergenceSum
from vortex_engine.models.variants import VariantModel, open_variants
from vortex_engine.tok import load_tokenizer

_CORPUS = Path("corpus") / "code_valid.jsonl.gz"  # beside the folder of trained weights
_BOUNDS = (5.25, 6.0, 7.5)
_N_RANDOM = 8
_GGML = ("Q8_0", "Q4_0", "Q4_K")
_BUDGET_BYTES = 256 << 20
_BY_WEIGHTS = "least error of the weights"


def measure(setting: Setting) -> Figure:
    """Every choice and every ggml type, on the same text."""
    figure = Figure()
    folder = setting.work / "quality"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        calibration, judged = _write_texts(setting, folder)
    except MissingPeerError as error:
        figure.skip(error)
        return figure
    source = write_unpacked(model_path("nano"), folder / "nano")
    codecs = ("exact", *sorted(LOSSY_CODECS))
    uniform = {codec: vx.pack(source, folder / codec, codec) for codec in codecs}
    mixed = {
        bits: vx.pack(source, folder / f"mixed-{bits}", "mixed", calibration=calibration, bits_per_weight=bits)
        for bits in _BOUNDS[: setting.rounds(len(_BOUNDS))]
    }
    ggml = _pack_ggml(setting, figure, source, folder)
    config: Any = open_directory(folder / "exact").config
    text = read_calibration(
        judged,
        load_tokenizer(source),
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
    )
    choices = _choices(source, uniform, mixed) | {
        (kind, bits): dict.fromkeys(uniform["exact"].tensors, kind) for kind, bits in ggml.items()
    }
    variants = {codec: folder / codec for codec in LOSSY_CODECS} | {kind: folder / kind for kind in ggml}
    with open_variants(folder / "exact", variants, threads=setting.threads, ram_budget_bytes=_BUDGET_BYTES) as model:
        found = _judge(model, text.windows(256 if setting.quick else 2048), choices)
    for (name, bits), divergence in found.items():
        figure.entries.append({"choice": name, "bits_per_weight": bits, **dataclasses.asdict(divergence)})
    figure.facts |= {"model": "nano", "text": _CORPUS.name}
    _claim(figure, {key: divergence.nats_per_token for key, divergence in found.items()}, list(mixed))
    shutil.rmtree(folder)
    print_table(
        ("choice", "bits a weight", "nats a token", "same top token"),
        [
            [e["choice"], f"{e['bits_per_weight']:.3f}", f"{e['nats_per_token']:.6f}", f"{e['top1_agreement']:.2%}"]
            for e in figure.entries
        ],
    )
    return figure


Choices = dict[tuple[str, float], Mapping[str, str]]  # (name, bits a weight) -> matrix -> codec


def _choices(source: Path, uniform: Mapping[str, PackReport], mixed: Mapping[float, PackReport]) -> Choices:
    sizes = {
        codec: {name: tensor.bytes for name, tensor in report.tensors.items()} for codec, report in uniform.items()
    }
    choices: Choices = {}
    for bits, report in mixed.items():
        budget_bytes = matrix_budget(bits, open_source(source))
        choices["mixed", bits] = {name: tensor.codec for name, tensor in report.tensors.items()}
        choices[_BY_WEIGHTS, bits] = assign(_weight_options(uniform), budget_bytes)
        for seed in range(_N_RANDOM):
            choices[f"random {seed}", bits] = random_choice(sizes, budget_bytes, seed)
    for codec in sorted(LOSSY_CODECS):
        choices[codec, _bits(uniform[codec])] = dict.fromkeys(uniform[codec].tensors, codec)
    return choices


def _judge(
    model: VariantModel, windows: list[NDArray[np.int64]], choices: Choices
) -> dict[tuple[str, float], Divergence]:
    sums = {key: DivergenceSum() for key in choices}
    for ids in windows:
        reference = model.logits(ids)
        for key, codecs in choices.items():
            rounded = {matrix: codec for matrix, codec in codecs.items() if codec not in ("exact", "raw")}
            sums[key].add(reference, model.logits(ids, rounded))
    return {key: total.mean() for key, total in sums.items()}


def _claim(figure: Figure, nats: Mapping[tuple[str, float], float], bounds: list[float]) -> None:
    for bits in bounds:
        ours = nats["mixed", bits]
        random = min(value for (name, at), value in nats.items() if name.startswith("random") and at == bits)
        what = f"`mixed` divergence (KL) on unseen code, {bits} bits a weight, nano"
        figure.claim(what, ours / random, "<=", 1.0, peer=f"the best of {_N_RANDOM} random choices")
        figure.claim(what, ours / nats[_BY_WEIGHTS, bits], "<=", 1.0, peer=f"the {_BY_WEIGHTS}")
    uniform = {name: value for (name, _), value in nats.items()}
    for ours, peer, target in (("int4", "Q4_0", 1.0), ("int4", "Q4_K", 1.1)):
        if peer in uniform:
            what = f"`{ours}` divergence (KL) on unseen code, nano"
            figure.claim(what, uniform[ours] / uniform[peer], "<=", target, peer=f"ggml {peer}")


def _write_texts(setting: Setting, folder: Path) -> tuple[Path, Path]:
    found = [path for weights in setting.weights if (path := weights.parent / _CORPUS).is_file()]
    if not found:
        raise MissingPeerError(f"text: no {_CORPUS} beside the folders of --weights")
    with gzip.open(found[0], "rt", encoding="utf-8") as lines:
        documents: list[str] = [json.loads(line)["text"] for line in lines]
    paths = folder / "calibration.txt", folder / "judged.txt"
    for first, path in enumerate(paths):
        path.write_text("\n".join(documents[first::2]), encoding="utf-8")
    return paths


def _pack_ggml(setting: Setting, figure: Figure, source: Path, folder: Path) -> dict[str, float]:
    """Pack the checkpoint as ggml rounds it, once for each type; bits a weight of those that are here."""
    directory = open_directory(folder / "exact")
    exact = dict(unpacked(directory))
    others = {name: directory.tensor(name) for name in directory.tensors}
    bits: dict[str, float] = {}
    (setting.work / "quant").mkdir(exist_ok=True)
    for kind in _GGML:
        try:
            quantised = list(ggml_quantised(setting, kind, exact))
        except MissingPeerError as error:
            figure.skip(f"{kind}: {error}")
            continue
        rounded = folder / f"{kind}-source"
        rounded.mkdir()
        tensors = {name: np.ascontiguousarray(values, np.float32) for name, values, _ in quantised}
        save_file({**others, **tensors}, rounded / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(source / CONFIG_NAME, rounded / CONFIG_NAME)
        vx.pack(rounded, folder / kind, "exact")
        bits[kind] = 8 * sum(size for *_, size in quantised) / sum(values.size for values in exact.values())
    shutil.rmtree(setting.work / "quant")
    return bits


def _weight_options(uniform: Mapping[str, PackReport]) -> dict[str, list[Option]]:
    """What a choice has to go by that never runs the model: how much of a matrix is lost, weighted by its size."""
    return {
        name: [
            Option(
                codec, report.tensors[name].bytes, report.tensors[name].relative_rms ** 2 * report.tensors[name].weights
            )
            for codec, report in uniform.items()
        ]
        for name in uniform["exact"].tensors
    }


def random_choice(sizes: Mapping[str, Mapping[str, int]], budget_bytes: int, seed: int) -> dict[str, str]:
    """int4 everywhere, then in random order as many steps to int8 or exact as the budget allows."""
    chosen = dict.fromkeys(sizes["int4"], "int4")
    left = budget_bytes - sum(sizes["int4"].values())
    rng = np.random.default_rng(seed)
    for name in rng.permutation(list(chosen)).tolist():
        for codec in rng.permutation(["int8", "exact"]).tolist():
            more = sizes[codec][name] - sizes["int4"][name]
            if more <= left:
                chosen[name], left = codec, left - more
                break
    return chosen


def _bits(report: PackReport) -> float:
    classes = report.classes.values()
    return 8 * sum(sizes.bytes for sizes in classes) / sum(sizes.weights for sizes in classes)
