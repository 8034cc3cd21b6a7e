"""The whole proof that block speculation changes nothing: not one token, not one bit of the logits.

`python -m benchmarks.bad.proof --work DIR [--prompts 2000] [--jobs 2] [--every] [--quick]`

stories260K continues every prompt, nano every 21st, random llama, mistral, qwen2 and qwen3 models every 21st in turn:
with each drafter and each block size from 1 to 16, and with the size left to the engine, a fifth of them to a prompt.
Threads (1, 2), budgets (30 and 100 % of the weights) and laws (greedy, with penalties, sampled with fixed seeds) change
from case to case so that each meets each; `--every` runs every prompt with all drafters and block sizes in all four
settings, greedy and sampled, which takes forty times as long. Smaller budgets read the weights again and again, so DIR
should lie on a RAM disk. What is done is written to DIR/proof-*.jsonl and not done again; results/bad_proof.json is
written at the end. Exits with an error where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import vortex_engine
from benchmarks.bad.compare import LAWS, SETTINGS, compare_prompt, loaded_models
from benchmarks.bad.prompts import DATA, read_prompts
from benchmarks.bad.random_models import ARCHITECTURES, write_random_model
from benchmarks.bad.setting import is_available
from benchmarks.c3.report import Figure
from benchmarks.machine import RESULTS, measure
from vortex_engine.c3.pack import pack
from vortex_engine.decode.load import model_path
from vortex_engine.decode.options import DRAFTER_NAMES
from vortex_engine.tok import load_tokenizer

BLOCK_SIZES = (*range(1, 17), 0)  # 0: left to the engine
_QUICK_BLOCK_SIZES = (1, 3, 8, 16, 0)
# Coprime to each other and to the numbers of settings and of laws, so that every plan meets all of them.
_IN_TURN = 5
_EVERY_NTH = {"stories260K": 1, "nano": 21}
_RANDOM_NTH = 21
_CHUNK = 16
_PROMPT_TOKENS, _NEW_TOKENS = 48, 24


@dataclass(frozen=True)
class Task:
    """Some prompts through one model; `draft` is the second model."""

    name: str
    model: str
    draft: str
    indices: tuple[int, ...]
    n_prompts: int
    n_tokens: int
    data: str
    plans: tuple[tuple[str, int], ...]
    every: bool

    @property
    def key(self) -> str:
        """Names the task in the journal."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def run_task(task: Task) -> dict[str, int]:
    """Counts of `compare_prompt` over the task's prompts."""
    tokenizer = load_tokenizer(Path(task.model))
    prompts = read_prompts(task.n_prompts, data=Path(task.data))
    counts: Counter[str] = Counter()
    with loaded_models(Path(task.model), Path(task.draft)) as models:
        for index in task.indices:
            ids = tokenizer.encode(prompts[index].text)[-_PROMPT_TOKENS:]
            plans = task.plans if task.every else in_turn(task.plans, index)
            counts += compare_prompt(models, ids, index, task.n_tokens, plans, every=task.every)
    return counts


def in_turn(plans: tuple[tuple[str, int], ...], index: int) -> tuple[tuple[str, int], ...]:
    """The fifth of the plans that a prompt is run through."""
    return plans[-index % _IN_TURN :: _IN_TURN]


def drafter_plans(block_sizes: Sequence[int], *, has_heads: bool) -> tuple[tuple[str, int], ...]:
    """(drafter, block size): each drafter alone with each size, and those that are chosen together.

    Args:
        has_heads: the model has multi-token heads.
    """
    drafters = [name for name in DRAFTER_NAMES if has_heads or name != "mtp"]
    alone = [(drafter, size) for drafter in drafters for size in block_sizes]
    together = [names for names in ("auto", "ngram+prefix", "ngram+model") if is_available(names)]
    return (*alone, *((names, size) for names in together for size in (8, 0)))


def make_tasks(work: Path, data: Path, n_prompts: int, *, every: bool, quick: bool) -> list[Task]:
    """The whole proof, in an order in which every model comes early."""
    models = _models(work, data)
    steps = _EVERY_NTH | dict.fromkeys(ARCHITECTURES, _RANDOM_NTH)
    columns: list[list[Task]] = []
    for offset, (name, path) in enumerate(models.items()):
        step = steps[name]
        sizes = _QUICK_BLOCK_SIZES if quick else BLOCK_SIZES
        plans = drafter_plans(sizes, has_heads=name in ARCHITECTURES)
        indices = range(offset % step, n_prompts, step)
        # A second model with the same tokenizer, for nano one with another.
        draft = models["qwen3" if name == "llama" else "llama"] if name in ARCHITECTURES else models["stories260K"]
        chunks = [tuple(indices[start : start + _CHUNK]) for start in range(0, len(indices), _CHUNK)]
        columns.append(
            [
                Task(
                    name=name,
                    model=str(path),
                    draft=str(draft),
                    indices=chunk,
                    n_prompts=n_prompts,
                    n_tokens=_NEW_TOKENS,
                    data=str(data),
                    plans=plans,
                    every=every,
                )
                for chunk in chunks
            ]
        )
    tasks = [(row / len(column), task) for column in columns for row, task in enumerate(column)]
    return [task for _, task in sorted(tasks, key=lambda item: item[0])]


def _models(work: Path, data: Path) -> dict[str, Path]:
    """Packed models, made anew: they are small."""
    stories = data / "weights" / "stories260K" / "hf"
    if not stories.is_dir():
        raise SystemExit(f"no stories260K in {stories}; give the folder of the data with --data")
    folder = work / "proof-models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    models = {"stories260K": folder / "stories260K.c3", "nano": folder / "nano.c3"}
    pack(stories, models["stories260K"])
    shutil.copytree(model_path("nano"), models["nano"])
    for architecture in ARCHITECTURES:
        write_random_model(folder / architecture, architecture)
        models[architecture] = folder / f"{architecture}.c3"
        pack(folder / architecture, models[architecture])
    return models


def run_tasks(tasks: Sequence[Task], journal: Path, n_jobs: int) -> dict[str, Counter[str]]:
    """Counts of each model; tasks of the journal are taken from there."""
    wanted = {task.key: task for task in tasks}
    done: dict[str, dict[str, int]] = {}
    if journal.is_file():
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        done = {line["key"]: line["counts"] for line in lines if line["key"] in wanted}
    start, n_before = time.monotonic(), len(done)
    with ProcessPoolExecutor(n_jobs, get_context("spawn")) as pool, journal.open("a") as out:
        jobs = {pool.submit(run_task, task): key for key, task in wanted.items() if key not in done}
        for job in as_completed(jobs):
            key = jobs[job]
            done[key] = dict(job.result())
            out.write(json.dumps({"key": key, "counts": done[key]}) + "\n")
            out.flush()
            left_s = (time.monotonic() - start) / (len(done) - n_before) * (len(wanted) - len(done))
            total = sum((Counter(counts) for counts in done.values()), Counter[str]())
            print(
                f"{len(done)} of {len(wanted)} tasks, {total['all: runs']} runs, {total['all: tokens']} tokens, "
                f"{total['all: different_tokens']} and {total['all: different_bits']} logits bits differ, "
                f"{left_s / 60:.0f} min left",
                flush=True,
            )
    counts: dict[str, Counter[str]] = {}
    for key, task in wanted.items():
        counts.setdefault(task.name, Counter()).update(done[key])
    return counts


def figure_of(counts: dict[str, Counter[str]]) -> Figure:
    """The result: claims over all models, an entry for each model with the counts of its groups."""
    figure = Figure()
    total = sum(counts.values(), Counter[str]())
    what = (
        f"{total['all: runs']:,} generations, {total['all: tokens']:,} tokens, {total['all: accepted']:,} from drafts"
    )
    figure.claim("tokens unlike plain decoding", float(total["all: different_tokens"]), "<=", 0.0, detail=what)
    figure.claim("bits of logits unlike plain decoding", float(total["all: different_bits"]), "<=", 0.0)
    for name, counter in counts.items():
        groups: dict[str, dict[str, int]] = {}
        for key, value in sorted(counter.items()):
            group, kind = key.rsplit(": ", 1)
            groups.setdefault(group, {})[kind] = value
        figure.entries.append({"model": name, "groups": groups})
    return figure


def main() -> None:
    """Run what is left of the proof and write its result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bad.proof", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of models and of the journal")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--every", action="store_true", help="every prompt in every setting, not in turns")
    parser.add_argument("--quick", action="store_true", help="48 prompts, five block sizes, DIR/results")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of prompts and checkpoints")
    parser.add_argument("--results", type=Path, help="folder of the JSON result")
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    n_prompts: int = 48 if arguments.quick else arguments.prompts
    start = time.monotonic()
    tasks = make_tasks(work, arguments.data, n_prompts, every=arguments.every, quick=arguments.quick)
    # Another build of the package has everything to prove again.
    journal = work / f"proof-{_fingerprint()}.jsonl"
    figure = figure_of(run_tasks(tasks, journal, arguments.jobs))
    figure.facts |= {"n_prompts": n_prompts, "new_tokens": _NEW_TOKENS, "every_setting": arguments.every}
    figure.facts |= {"plans": tasks[0].plans, "laws": LAWS, "settings": SETTINGS}
    figure.facts["seconds"] = time.monotonic() - start
    folder = arguments.results or (work / "results" if arguments.quick else RESULTS)
    print(figure.write("proof", measure(Path(tempfile.gettempdir()), disk_bytes=64 << 20), folder, "bad"))
    for claim in figure.claims:
        print(f"{claim.what}: {claim.measured:.0f} ({claim.detail})")
    if not all(claim.met for claim in figure.claims):
        sys.exit("speculation changed the output")


def _fingerprint() -> str:
    """Of the installed package's programs."""
    folder = Path(vortex_engine.__file__).parent
    digest = hashlib.sha256()
    for file in sorted((*folder.rglob("*.py"), *folder.glob("*.so"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    main()
