"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

__all__ = [
    "Activations",
    "BlockSizeOption",
    "BudgetOption",
    "DraftModelOption",
    "JsonOption",
    "ModelOption",
    "SpeculateOption",
    "ThreadsOption",
]


class Activations(str, Enum):
    """What `--activations` accepts."""

    float = "float"
    int8 = "int8"


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]
ModelOption = Annotated[str, typer.Option("--model", help="Packed model directory, or `nano`, the embedded model.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--ram-budget",
        help="Bytes of weights held in RAM, such as 400000B, 64MiB or 1.5GiB. "
        "Default: all weights if they fit in half of the free RAM, else that half.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads that compute. Default: the cores this process may use.")
]
SpeculateOption = Annotated[
    str,
    typer.Option(
        "--speculate",
        help="`auto`, `off`, or drafters joined by `+`: prefix, ngram, early_exit, mtp, model. The text is the same; "
        "drafting that does not pay here is left alone.",
    ),
]
BlockSizeOption = Annotated[
    int | None, typer.Option("--block-size", help="Draft so many tokens in every block. Default: as measurements say.")
]
DraftModelOption = Annotated[
    str | None,
    typer.Option("--draft-model", help="A small packed model that drafts; all of it is in RAM, as part of the budget."),
]
