"""Write docs/cli.md from the program itself: `python docs/make_cli.py`; with `--check`, fail when the page is old."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer
import typer.models

from vortex_engine.cli.app import app

_KINDS = {str: "TEXT", list: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}

PAGE = Path(__file__).resolve().parent / "cli.md"


def render() -> str:
    """The page: every command with its arguments, options and defaults."""
    lines = [
        "# The program `vortex`",
        "",
        "Written by `python docs/make_cli.py` from the program; edits here are lost.",
        "",
        "Data goes to stdout, messages and progress to stderr. With `--json`, stdout holds one JSON document, errors",
        'included: `{"error": {"type", "message", "exit_code"}}`. `VORTEX_DEBUG=1` adds the traceback of an error.',
        "",
        str(app.info.epilog),
    ]
    for name, function in _commands(app):
        parameters = [_Parameter(parameter) for parameter in _signature(function)]
        arguments = [parameter for parameter in parameters if parameter.is_argument]
        options = [parameter for parameter in parameters if not parameter.is_argument]
        usage = " ".join([f"vortex {name}", *(argument.usage for argument in arguments), "[OPTIONS]"])
        lines += ["", f"## {name}", "", f"`{usage}`", "", " ".join(inspect.getdoc(function).split()), ""]
        lines += ["| | |", "|---|---|"]
        lines += [f"| `{parameter.usage}` | {parameter.help} |" for parameter in [*arguments, *options]]
    return "\n".join(lines) + "\n"


def _commands(program: typer.Typer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups after the others."""
    for command in program.registered_commands:
        assert command.callback is not None
        yield f"{prefix}{command.callback.__name__}", command.callback
    for group in program.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{prefix}{group.typer_instance.info.name} ")


def _signature(function: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    return [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]


class _Parameter:
    """One argument or option, read from its annotation."""

    def __init__(self, parameter: inspect.Parameter) -> None:
        self._kind, info = get_args(parameter.annotation)[:2]
        self._default = parameter.default
        self.is_argument = isinstance(info, typer.models.ArgumentInfo)
        self._required = parameter.default is inspect.Parameter.empty
        self._name = info.metavar or parameter.name.upper()
        # In an annotation, typer keeps the first declared flag where a default would stand.
        flags = [flag for flag in (info.default, *(info.param_decls or ())) if isinstance(flag, str)]
        self._flags = ", ".join(flags or [f"--{parameter.name.replace('_', '-')}"])
        self._help = " ".join(info.help.split())

    @property
    def usage(self) -> str:
        """How it is typed."""
        if self.is_argument:
            return self._name if self._required else f"[{self._name}]"
        kinds = [kind for kind in (get_args(self._kind) or (self._kind,)) if kind is not type(None)]
        kind = get_origin(kinds[0]) or kinds[0]
        if kind is bool:
            return self._flags
        if issubclass(kind, Enum):
            # A bar inside a table's cell needs the backslash.
            return f"{self._flags} " + "\\|".join(choice.value for choice in kind)
        return f"{self._flags} {_KINDS[kind]}"

    @property
    def help(self) -> str:
        """What it means, and its default."""
        default = getattr(self._default, "value", self._default)
        if self._required or default is None or default is False or "Default:" in self._help:
            return self._help
        return f"{self._help} Default: `{default}`."


def main() -> int:
    """Write the page, or compare it."""
    page = render()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() != page:
            print("docs/cli.md is old: run `python docs/make_cli.py`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
