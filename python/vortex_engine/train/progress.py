"""What a run shows and records: a bar on stderr and one JSON line per report."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vortex_engine.train.files import write_text_atomically

Record = Mapping[str, float | int | str]


class Reporter:
    """Progress bar on a terminal, plain lines elsewhere, and every record appended to a JSON-lines file.

    Args:
        shown: False keeps stderr empty, as in processes that only help.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._file: IO[str] | None = None
        self._console = Console(file=sys.stderr, quiet=not shown)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=self._console, transient=True
        )
        self._task = self._progress.add_task("start", total=1.0)

    def keep(self, metrics_path: Path, *, last_step: int) -> None:
        """Append records to `metrics_path` from here on, dropping those that a resumed run is about to make again."""
        kept = [record for record in read_records(metrics_path) if int(record["step"]) <= last_step]
        write_text_atomically(metrics_path, "".join(json.dumps(dict(record)) + "\n" for record in kept))
        self._file = metrics_path.open("a", encoding="utf-8")

    def __enter__(self) -> "Reporter":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()
        if self._file is not None:
            self._file.close()

    def record(self, record: Record, *, completed: float) -> None:
        """Store `record` and show it; `completed` is the spent part of the budget (0 to 1)."""
        if self._file is not None:
            self._file.write(json.dumps(dict(record)) + "\n")
            self._file.flush()
        text = " ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in record.items()
        )
        self._progress.update(self._task, completed=completed, description=text)
        if not self._console.is_terminal:
            self.note(f"{100 * completed:5.1f}% {text}")

    def note(self, text: str) -> None:
        """Show one line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def read_records(path: Path) -> list[Record]:
    """Records of a JSON-lines file; none where it is absent. A last line cut short by a kill is dropped."""
    if not path.exists():
        return []
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(json.loads(line))
    return records
