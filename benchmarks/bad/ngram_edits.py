"""A seeded mutator that edits a source file as a programmer would: renames, insertions, deletions, rewordings."""

from __future__ import annotations

import keyword
import random
import re
from collections import Counter
from collections.abc import Callable

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,}")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
_STRING = re.compile(r"(\"|')([^\"'\\\n]{3,40})\1")
_COMMENT = re.compile(r"^\s*(#|//|\*|\"\"\"|[A-Z][a-z]+ .*[.:]$)")
_CALL = re.compile(r"\w\(([^()\n]*)\)")
_COMMON = {
    *keyword.kwlist,
    "self",
    "const",
    "return",
    "function",
    "impl",
    "match",
    "async",
    "await",
    "export",
    "static",
}
_PARTS = re.findall(
    r"\w+",
    "new old next last item value result data count index total current state name path size key entry node buffer "
    "config option handler request response context source target limit offset cache parent child base local remote",
)
_ARGUMENTS = ("timeout=30", "strict=True", "default=None", "verbose=False", "limit=10", 'encoding="utf-8"', "retry=3")
_WORDS = re.findall(r"\w+", "given optional current the first each whether returns used only when value internal new")

# Lines of a file, and the chance that drives an edit of them.
Edit = Callable[[list[str], random.Random], None]


def edit_file(text: str, rng: random.Random, n_edits: int) -> str:
    """`text` after `n_edits` edits drawn by `rng`."""
    lines = text.split("\n")
    for edit in rng.choices(list(_EDITS), weights=list(_EDITS.values()), k=n_edits):
        if len(lines) > 4:
            edit(lines, rng)
    return "\n".join(lines)


def _rename(lines: list[str], rng: random.Random) -> None:
    """One identifier everywhere."""
    counts = Counter(word for line in lines for word in _WORD.findall(line) if word not in _COMMON)
    names = [word for word, n in counts.items() if 2 <= n <= 40]
    if not names:
        return
    old = rng.choice(names)
    parts = old.split("_")
    if len(parts) > 1 and rng.random() < 0.6:
        parts[rng.randrange(len(parts))] = rng.choice(_PARTS)
        new = "_".join(parts)
    elif rng.random() < 0.5:
        new = f"{old}_{rng.choice(_PARTS)}"
    else:
        new = f"{rng.choice(_PARTS)}_{rng.choice(_PARTS)}"
    pattern = re.compile(rf"\b{re.escape(old)}\b")
    lines[:] = [pattern.sub(new, line) for line in lines]


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _some_code(lines: list[str], rng: random.Random) -> int:
    """The number of a line that is not blank."""
    return rng.choice([i for i, line in enumerate(lines) if line.strip()] or [0])


def _insert_lines(lines: list[str], rng: random.Random) -> None:
    """A few new lines made of the file's own names."""
    at = _some_code(lines, rng)
    indent = _indent(lines[at])
    names = [word for line in lines[max(0, at - 30) : at + 1] for word in _WORD.findall(line)] or ["value"]
    made: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        a, b, part = rng.choice(names), rng.choice(names), rng.choice(_PARTS)
        made.append(
            indent
            + rng.choice(
                (
                    f"{part} = {a}({b})",
                    f"if {a} is None:\n{indent}    return {part}",
                    f'logger.debug("{a} %s", {b})',
                    f"{a}.{part} = {b}",
                    f"assert {a} != {rng.randrange(100)}",
                    f"# {rng.choice(_WORDS).capitalize()} {part} of {a} {rng.choice(_WORDS)} {b}",
                )
            )
        )
    lines[at:at] = "\n".join(made).split("\n")


def _delete_lines(lines: list[str], rng: random.Random) -> None:
    at = _some_code(lines, rng)
    del lines[at : at + rng.choice((1, 1, 1, 2, 3, 5, 8))]


def _change_constant(lines: list[str], rng: random.Random) -> None:
    found = [i for i, line in enumerate(lines) if _NUMBER.search(line) or _STRING.search(line)]
    if not found:
        return
    at = rng.choice(found)
    if _NUMBER.search(lines[at]):
        lines[at] = _NUMBER.sub(str(rng.choice((0, 1, 2, 5, 16, 64, 100, 255, 1024))), lines[at], count=1)
    else:
        lines[at] = _STRING.sub(lambda m: f"{m[1]}{rng.choice(_PARTS)} {m[2].split(' ')[-1]}{m[1]}", lines[at], count=1)


def _reword(lines: list[str], rng: random.Random) -> None:
    """Words of a comment or docstring."""
    found = [i for i, line in enumerate(lines) if _COMMENT.match(line) and len(line.split()) > 3]
    if not found:
        return
    at = rng.choice(found)
    words = lines[at].split(" ")
    for _ in range(rng.choice((1, 2, 3))):
        place = rng.randrange(len(words) // 2, len(words))
        if rng.random() < 0.5:
            words[place] = rng.choice(_WORDS)
        else:
            words.insert(place, rng.choice(_WORDS))
    lines[at] = " ".join(words)


def _change_arguments(lines: list[str], rng: random.Random) -> None:
    """An argument added to one call, or to all calls of that function."""
    found = [i for i, line in enumerate(lines) if _CALL.search(line)]
    if not found:
        return
    call = _CALL.search(lines[rng.choice(found)])
    assert call is not None
    argument = rng.choice(_ARGUMENTS)
    head = call[0][: call[0].index("(") + 1]
    new = f"{head}{call[1]}{', ' if call[1] else ''}{argument})"
    once = rng.random() < 0.5
    for at in found:
        if call[0] in lines[at]:
            lines[at] = lines[at].replace(call[0], new)
            if once:
                return


def _wrap(lines: list[str], rng: random.Random) -> None:
    """A block moves into a condition: its lines are indented."""
    at = _some_code(lines, rng)
    indent = _indent(lines[at])
    end = at
    while end < len(lines) and end < at + 12 and lines[end].strip() and _indent(lines[end]).startswith(indent):
        end += 1
    block = [f"    {line}" for line in lines[at:end]]
    opening = rng.choice(("if enabled:", "with lock:", f"for {rng.choice(_PARTS)} in items:"))
    lines[at:end] = [f"{indent}{opening}", *block]


def _replace_line(lines: list[str], rng: random.Random) -> None:
    """The right side of an assignment or a return."""
    found = [i for i, line in enumerate(lines) if re.search(r" = |return ", line)]
    if not found:
        return
    at = rng.choice(found)
    cut = re.search(r" = |return ", lines[at])
    assert cut is not None
    names = _WORD.findall(lines[at]) or ["value"]
    new = rng.choice(
        (f"{rng.choice(_PARTS)}({rng.choice(names)})", f"{rng.choice(names)} or {rng.choice(_PARTS)}", "None")
    )
    lines[at] = lines[at][: cut.end()] + new


def _move_block(lines: list[str], rng: random.Random) -> None:
    """A paragraph swaps its place with the next one."""
    blanks = [i for i, line in enumerate(lines) if not line.strip()]
    if len(blanks) < 4:
        return
    first = rng.randrange(len(blanks) - 2)
    a, b, c = blanks[first : first + 3]
    lines[a:c] = [*lines[b:c], *lines[a:b]]


_EDITS: dict[Edit, float] = {
    _rename: 3,
    _insert_lines: 3,
    _delete_lines: 2,
    _change_constant: 2,
    _reword: 2,
    _change_arguments: 2,
    _wrap: 1,
    _replace_line: 2,
    _move_block: 0.5,
}
