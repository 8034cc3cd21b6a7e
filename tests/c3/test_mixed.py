"""A model whose matrices have codecs of their own: the choice, the files, and what may happen on the way."""

import errno
import itertools
import json

import numpy as np
import pytest

from vortex_engine.c3.directory import open_directory
from vortex_engine.c3.inspect import inspect_directory
from vortex_engine.c3.layout import CODEC_IDS
from vortex_engine.c3.mixed import Option, assign, check_bits_per_weight, matrix_budget, raw_bytes
from vortex_engine.c3.pack import pack
from vortex_engine.c3.plan import plan_packing
from vortex_engine.c3.repair import repair
from vortex_engine.c3.report import Divergence
from vortex_engine.c3.source import open_source
from vortex_engine.c3.survey import survey_directory
from vortex_engine.errors import BudgetError, MachineError, ModelConfigError

CODECS = {
    "model.embed_tokens.weight": "int8",
    "model.layers.0.self_attn.q_proj.weight": "int4",
    "model.layers.0.mlp.down_proj.weight": "raw",
    "model.layers.1.self_attn.q_proj.weight": "exact",
    "model.layers.1.mlp.down_proj.weight": "int8",
    "lm_head.weight": "int4",
}


class Given:
    """A calibrator that knows the answers; `refusal` is raised where it is told to."""

    def __init__(self, codecs=CODECS, refuse_in="", refusal=None):
        self.codecs, self.refuse_in, self.refusal = codecs, refuse_in, refusal

    def _maybe_refuse(self, where):
        if where == self.refuse_in:
            raise self.refusal

    def check(self, source, plan):
        self._maybe_refuse("check")

    def choose(self, source, plan, work):
        assert work.parent.name.endswith(".partial")
        work.mkdir(exist_ok=True)
        (work / "big").write_bytes(b"something that must not stay")
        self._maybe_refuse("choose")
        return self.codecs

    def judge(self, model, work):
        open_directory(model)
        assert (work / "big").is_file()
        self._maybe_refuse("judge")
        return Divergence(0.5, 0.25, 7)


def test_every_matrix_has_its_codec(write_source, small_model, tmp_path):
    report = pack(write_source(small_model), tmp_path / "out", codec="mixed", calibrator=Given())
    directory = open_directory(tmp_path / "out")
    for name, codec in CODECS.items():
        assert set(directory.matrices[name].tiles.codec.tolist()) == {CODEC_IDS[codec]}
        assert report.tensors[name].codec == codec
        assert (report.tensors[name].relative_rms == 0) == (codec in ("raw", "exact"))
    assert report.codec == directory.codec == "mixed"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["codec"] == "mixed"
    assert report.divergence == Divergence(0.5, 0.25, 7)
    assert json.loads(json.dumps(report.to_dict()))["divergence"] == {
        "nats_per_token": 0.5,
        "top1_agreement": 0.25,
        "n_tokens": 7,
    }
    assert not (tmp_path / "out.partial").exists()


def test_stopped_anywhere_it_goes_on_and_leaves_no_target(write_source, small_model, tmp_path, tree):
    source = write_source(small_model)
    calls = []
    settings = {"codec": "mixed", "calibrator": Given(), "threads": 1, "max_shard_bytes": 12_000}
    pack(source, tmp_path / "whole", progress=lambda *call: calls.append(call), **settings)
    for stop_at in range(1, len(calls) + 1, 3):
        target = tmp_path / f"out{stop_at}"
        count = itertools.count(1)

        def progress(*call, count=count, stop_at=stop_at):
            if next(count) == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack(source, target, progress=progress, **settings)
        assert not target.exists()
        pack(source, target, **settings)
        assert tree(target) == tree(tmp_path / "whole")
        assert not (tmp_path / f"out{stop_at}.partial").exists()


@pytest.mark.parametrize("where", ["choose", "judge"])
def test_an_interrupted_calibration_leaves_no_target(write_source, small_model, tmp_path, where):
    source = write_source(small_model)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "out", codec="mixed", calibrator=Given(refuse_in=where, refusal=KeyboardInterrupt))
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial" / "work" / "big").exists()
    report = pack(source, tmp_path / "out", codec="mixed", calibrator=Given())
    assert (report.resumed_bytes > 0) == (where == "judge")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("where", ["check", "choose", "judge"])
def test_a_refusal_leaves_nothing(write_source, small_model, tmp_path, where):
    calibrator = Given(refuse_in=where, refusal=ModelConfigError("no"))
    with pytest.raises(ModelConfigError):
        pack(write_source(small_model), tmp_path / "out", codec="mixed", calibrator=calibrator)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("number", "kept"), [(errno.ENOSPC, False), (errno.EIO, True)])
def test_a_disk_that_fails_while_calibrating(write_source, small_model, tmp_path, number, kept):
    refusal = MachineError("a packing inside this one failed")
    refusal.__cause__ = OSError(number, "of the disk")
    with pytest.raises(MachineError, match="inside"):
        pack(write_source(small_model), tmp_path / "out", codec="mixed", calibrator=Given(CODECS, "choose", refusal))
    assert (tmp_path / "out.partial").exists() == kept and not (tmp_path / "out").exists()


def test_another_choice_starts_anew(write_source, small_model, tmp_path):
    source = write_source(small_model)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "out", codec="mixed", calibrator=Given(refuse_in="judge", refusal=KeyboardInterrupt))
    with pytest.warns(UserWarning, match="starts anew"):
        report = pack(source, tmp_path / "out", codec="mixed", calibrator=Given(dict.fromkeys(CODECS, "raw")))
    assert report.resumed_bytes == 0 and report.relative_rms == 0


def test_mixed_needs_a_calibrator(write_source, small_model, tmp_path):
    with pytest.raises(ValueError, match="calibrator"):
        pack(write_source(small_model), tmp_path / "out", codec="mixed")


def test_repair_knows_mixed_models(write_source, small_model, tmp_path, tree):
    source = write_source(small_model)
    pack(source, tmp_path / "out", codec="mixed", calibrator=Given())
    whole = tree(tmp_path / "out")
    shard = next((tmp_path / "out").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    for matrix in open_directory(tmp_path / "out").matrices.values():
        data[matrix.base_offset] ^= 1
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    (tmp_path / "out" / "config.json").write_text("{}")
    assert survey_directory(tmp_path / "out").damage
    assert repair(tmp_path / "out", source).unrepaired == ()
    assert tree(tmp_path / "out") == whole


def best(options, budget_bytes):
    """The least error that any choice within the budget has, by trying them all."""
    choices = itertools.product(*options.values())
    return min(sum(o.error for o in choice) for choice in choices if sum(o.bytes for o in choice) <= budget_bytes)


def random_options(seed):
    rng = np.random.default_rng(seed)
    options = {}
    for i in range(6):
        scale, n = float(rng.lognormal(0, 2)), int(rng.integers(1, 20))
        sizes = {"int4": 4096 * n, "int8": 8192 * n, "exact": 12288 * n}
        errors = {"int4": scale, "int8": scale / 200, "exact": 0.0}
        options[f"w{i}"] = [Option(codec, sizes[codec], errors[codec]) for codec in sizes]
    return options


@pytest.mark.parametrize("seed", range(8))
def test_choices_keep_the_budget_and_are_close_to_the_best(seed):
    options = random_options(seed)
    least = sum(min(o.bytes for o in choices) for choices in options.values())
    most = sum(max(o.bytes for o in choices) for choices in options.values())
    step = max(o.bytes for choices in options.values() for o in choices)
    found = []
    for budget_bytes in np.linspace(least, most, 12).astype(int).tolist():
        chosen = assign(options, budget_bytes)
        picked = {name: next(o for o in options[name] if o.codec == codec) for name, codec in chosen.items()}
        assert sum(option.bytes for option in picked.values()) <= budget_bytes
        found.append(sum(option.error for option in picked.values()))
        # Spending greedily loses no more than the last matrix that did not fit.
        assert found[-1] <= best(options, max(budget_bytes - step, least)) + 1e-12
        shuffled = dict(reversed(list(options.items())))
        assert assign(shuffled, budget_bytes) == chosen
    assert set(assign(options, most).values()) == {"exact"}
    assert set(assign(options, least).values()) == {"int4"}


def test_an_option_that_no_mix_of_others_needs_stands_in_nobodys_way():
    options = {"w": [Option("int4", 100, 10.0), Option("int8", 150, 9.9), Option("exact", 200, 0.0)]}
    assert [assign(options, n_bytes)["w"] for n_bytes in (199, 200)] == ["int4", "exact"]


def test_what_costs_nothing_is_lossless():
    options = {"tiny": [Option("raw", 4160, 0.0), Option("int4", 4160, 0.1), Option("int8", 8256, 0.01)]}
    assert assign(options, 4160) == {"tiny": "raw"}


def test_the_least_bits_that_an_error_names_can_be_reached(write_source, small_model, tmp_path):
    small_model["model.layers.0.mlp.up_proj.weight"] = (
        "F32",
        np.random.default_rng(3).standard_normal((2000, 320)).astype(np.float32).view(np.uint32),
    )
    # Eight columns of 16 bits take less than a group of 32 columns of 4.
    small_model["model.layers.1.mlp.up_proj.weight"] = ("BF16", np.arange(8000, dtype=np.uint16).reshape(1000, 8))
    source = open_source(write_source(small_model))
    plan = plan_packing(source, "mixed", 1 << 30)
    with pytest.raises(BudgetError, match="at least") as caught:
        check_bits_per_weight(2.0, source, plan)
    named = float(str(caught.value).split("at least ")[1].split()[0])
    check_bits_per_weight(named, source, plan)
    with pytest.raises(BudgetError):
        check_bits_per_weight(named - 0.002, source, plan)
    uniform = {codec: pack(tmp_path / "source", tmp_path / codec, codec=codec) for codec in ("int4", "int8", "raw")}
    codecs = {
        name: min(uniform, key=lambda codec, name=name: uniform[codec].tensors[name].bytes)
        for name in uniform["raw"].tensors
    }
    assert len(set(codecs.values())) > 1
    pack(tmp_path / "source", tmp_path / "out", codec="mixed", calibrator=Given(codecs))
    assert named - 0.002 < inspect_directory(tmp_path / "out").bits_per_weight <= named


def test_raw_bytes_are_those_that_raw_tiles_take(write_source, small_model, tmp_path):
    path = write_source(small_model)
    source = open_source(path)
    plan = plan_packing(source, "mixed", 1 << 30)
    report = pack(path, tmp_path / "out", codec="raw")
    assert {name: tensor.bytes for name, tensor in report.tensors.items()} == {
        name: raw_bytes(source.tensors[name], plan) for name in report.tensors
    }
    total = sum(tensor.bytes for tensor in report.tensors.values())
    bits = inspect_directory(tmp_path / "out").bits_per_weight
    assert total - 1 <= matrix_budget(bits, source) <= total
