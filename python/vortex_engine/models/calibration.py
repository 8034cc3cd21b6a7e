"""Running a checkpoint on a text while it is packed: which codec each matrix gets, and what became of the model.

The checkpoint is packed losslessly, and for a choice also with every lossy codec, into the working directory; the
engine runs these from disk under a byte budget like any packed model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.files import write_atomically
from vortex_engine.c3.layout import INDEX_COLUMNS, LOSSY_CODECS, MIXED
from vortex_engine.c3.mixed import Option, assign, check_bits_per_weight, matrix_budget, raw_bytes, unreachable
from vortex_engine.c3.pack import pack as pack_directory
from vortex_engine.c3.plan import PackPlan
from vortex_engine.c3.report import Divergence
from vortex_engine.c3.source import Source
from vortex_engine.errors import ModelConfigError
from vortex_engine.models import parse_config
from vortex_engine.models.calibration_text import CalibrationText, read_calibration
from vortex_engine.models.divergence import DivergenceSum
from vortex_engine.models.variants import VariantModel, open_variants
from vortex_engine.tok import load_tokenizer

__all__ = ["ModelCalibrator"]

# A choice reads its tokens once for every matrix, a judgement once.
_CHOICE_TOKENS = 128
_JUDGEMENT_TOKENS = 4096
_REFERENCE = "exact"
_ROUNDED = tuple(sorted(LOSSY_CODECS))
# The codec whose effect on the model is measured; that of the others follows from their output errors.
_PROBE = "int4"

Progress = Callable[[int, int, str], None]


@dataclass
class ModelCalibrator:
    """The `Calibrator` of models that the engine runs; `bits_per_weight` is of codec `mixed`."""

    codec: str
    text: Path
    bits_per_weight: float | None = None
    activations: str = "float"
    threads: int | None = None
    ram_budget_bytes: int | None = None
    progress: Progress | None = None
    _text: CalibrationText | None = field(default=None, init=False)

    def check(self, source: Source, plan: PackPlan) -> None:
        """Refuse a model that the engine does not run, an unusable text and a bound that cannot be reached.

        Raises:
            ModelConfigError: the model or the text cannot be used.
            BudgetError: names the least bits a weight.
        """
        try:
            config = parse_config(source.config)
            tokenizer = load_tokenizer(source.path)
        except ModelConfigError as error:
            instead = "choose --codec int8 or int4" if self.codec == MIXED else "leave out --calibration"
            raise ModelConfigError(
                f"[pack] a calibration text needs a model that the engine itself runs; {instead}: {error}"
            ) from error
        self._text = read_calibration(
            self.text, tokenizer, vocab_size=config.vocab_size, context_length=config.max_position_embeddings
        )
        if self.bits_per_weight is not None:
            check_bits_per_weight(self.bits_per_weight, source, plan)

    def choose(self, source: Source, plan: PackPlan, work: Path) -> Mapping[str, str]:
        """Pack what is needed into `work`; the codec of every matrix of a `mixed` model.

        Raises:
            BudgetError: matrices with weights that are not finite leave no choice within `bits_per_weight`.
        """
        _keep_only_of({"source": source.fingerprint, "activations": self.activations}, work)
        wanted = (_REFERENCE, *_ROUNDED) if self.codec == MIXED else (_REFERENCE,)
        for codec in wanted:
            if not _packed(work, codec).is_dir():
                pack_directory(
                    source.path,
                    _packed(work, codec),
                    codec=codec,
                    activations=self.activations if codec in LOSSY_CODECS else "float",
                    threads=self.threads,
                    progress=self.progress,
                )
        if self.bits_per_weight is None:
            return {}
        budget_bytes = matrix_budget(self.bits_per_weight, source)
        sizes = {codec: _stored_sizes(_packed(work, codec)) for codec in wanted}
        lossless: dict[str, Option] = {}
        for name, exact_bytes in sizes[_REFERENCE].items():
            raw = raw_bytes(source.tensors[name], plan)
            lossless[name] = Option("raw", raw, 0.0) if raw < exact_bytes else Option(_REFERENCE, exact_bytes, 0.0)
        if sum(option.bytes for option in lossless.values()) <= budget_bytes:
            return {name: option.codec for name, option in lossless.items()}
        errors = self._errors(source, work)
        options = {
            name: [option, *(Option(codec, sizes[codec][name], error) for codec, error in errors.get(name, {}).items())]
            for name, option in lossless.items()
        }
        least = sum(min(option.bytes for option in choices) for choices in options.values())
        if least > budget_bytes:
            raise unreachable(self.bits_per_weight, least, source)
        return assign(options, budget_bytes)

    def judge(self, model: Path, work: Path) -> Divergence:
        """The divergence of the packed directory `model` from the checkpoint on the text."""
        assert self._text is not None
        total = DivergenceSum()
        with self._open(work, {"model": model}) as variants:
            for ids in self._text.windows(_JUDGEMENT_TOKENS):
                total.add(variants.logits(ids), variants.logits(ids, "model"))
        return total.mean()

    def _errors(self, source: Source, work: Path) -> dict[str, dict[str, float]]:
        """Nats a token that each lossy codec of each matrix costs, all other matrices being exact.

        Measured for one codec. For small errors the divergence grows with the square of what is added to a matrix's
        outputs, so the ratio of output errors gives it for the others.
        """
        assert self._text is not None
        windows = self._text.windows(_CHOICE_TOKENS)
        with self._open(work, {codec: _packed(work, codec) for codec in _ROUNDED}) as variants:
            outputs = variants.output_errors(windows)
            effects = {name: DivergenceSum() for name in outputs}
            n_done, n_trials = 0, len(windows) * len(outputs)
            for ids in windows:
                reference = variants.logits(ids)
                for name, effect in effects.items():
                    effect.add(reference, variants.logits(ids, {name: _PROBE}))
                    n_done += 1
                    if self.progress is not None:
                        self.progress(source.total_bytes * n_done // n_trials, source.total_bytes, name)
        return {name: _scaled(effects[name].mean().nats_per_token, ratios) for name, ratios in outputs.items()}

    def _open(self, work: Path, variants: Mapping[str, Path]) -> AbstractContextManager[VariantModel]:
        return open_variants(
            _packed(work, _REFERENCE), variants, threads=self.threads, ram_budget_bytes=self.ram_budget_bytes
        )


def _scaled(probe_nats: float, ratios: Mapping[str, float]) -> dict[str, float]:
    probe = ratios[_PROBE]
    return {codec: probe_nats * ratio / probe if probe else 0.0 for codec, ratio in ratios.items()}


def _packed(work: Path, codec: str) -> Path:
    return work / f"{codec}.c3"


def _stored_sizes(path: Path) -> dict[str, int]:
    matrices = open_directory(path).matrices.values()
    return {matrix.name: matrix.n_bytes + 8 * INDEX_COLUMNS * matrix.n_tiles for matrix in matrices}


def _keep_only_of(document: dict[str, object], work: Path) -> None:
    """Make `work`, emptied unless it was made for this very document by this version."""
    stamp = json.dumps({**document, "version": version("vortex-engine")}, sort_keys=True).encode("ascii")
    path = work / "source.json"
    if not path.is_file() or path.read_bytes() != stamp:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        write_atomically(path, stamp)
