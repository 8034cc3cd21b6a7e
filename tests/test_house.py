"""Rules of the house that a machine can check."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vortex_engine

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON_LINES, NATIVE_LINES = 400, 500
NATIVE_SUFFIXES = {".cpp", ".h"}
OF_EXTRAS = ("vortex_engine.train", "vortex_engine.kernels.")

# Each pattern is written so that it does not match itself.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:work|root|home)/\w",
    "an open end without an issue": r"\b(?:FIX[M]E|XX[X]|TO[D]O(?!.*(?:#\d|https?://)))\b",
    "a word for the unfinished": r"(?i)\b(?:naiv[e]|mv[p]|moc[k]s?|placeholde[r])\b",
    "a catch-all without its reason": r"except Exceptio[n]\b(?!.*#)|except:\s*$",
    "unsafe deserialisation": r"\bimport pickl[e]\b|\btorch\.loa[d]\(",
}


def source_files() -> list[Path]:
    folders = ("python", "csrc", "kernels", "tests", "benchmarks", "docs", ".ci")
    files = [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*")) if path.is_file()]
    files += sorted(REPOSITORY.glob("*.md"))
    texts = {".py", ".pyi", ".md", ".txt", "", *NATIVE_SUFFIXES}
    return [path for path in files if path.suffix in texts and "__pycache__" not in path.parts]


def test_files_have_one_idea() -> None:
    caps = dict.fromkeys(NATIVE_SUFFIXES, NATIVE_LINES) | {".py": PYTHON_LINES, ".pyi": PYTHON_LINES}
    long = {
        str(path.relative_to(REPOSITORY)): n_lines
        for path in source_files()
        if path.suffix in caps and (n_lines := len(path.read_text().splitlines())) > caps[path.suffix]
    }
    assert not long, f"over the cap of {PYTHON_LINES} (C++ {NATIVE_LINES}) lines: {long}"


def test_no_forbidden_words() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {what}: {line.strip()}"
        for path in source_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for what, pattern in FORBIDDEN.items()
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


def test_license_is_the_whole_text() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(vortex_engine.__path__, "vortex_engine."):
        # Running the program is what importing __main__ does; training and GPU kernels need torch or triton, and their
        # own tests import them.
        if not module.name.endswith("__main__") and not module.name.startswith(OF_EXTRAS):
            yield module.name


@pytest.mark.parametrize("name", ["vortex_engine", *modules()])
def test_all_names_what_is_there(name: str) -> None:
    module = importlib.import_module(name)
    missing = [item for item in getattr(module, "__all__", []) if not hasattr(module, item)]
    assert not missing


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    heavy = ("numpy", "torch", "pydantic", "typer", "rich", "tokenizers", "safetensors")
    code = f"import sys, vortex_engine; print([name for name in {heavy!r} if name in sys.modules])"
    assert run_python(code) == "[]"


def test_the_program_loads_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys; from vortex_engine.cli import main; main(['--version']); "
        "print([name for name in ('torch', 'numpy', 'pydantic', 'rich') if name in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_tests_run_against_the_installed_package() -> None:
    assert REPOSITORY / "python" not in Path(str(vortex_engine.__file__)).parents


def readme_blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)


def test_readme_first_screen_sets_everything_up_in_two_lines() -> None:
    first, second = readme_blocks()[:2]
    assert first.splitlines() == ["pip install . && vortex demo"]
    assert second.splitlines() == ['pip install ".[test]" && pytest -n 2 --dist loadfile']


def test_readme_commands_exist() -> None:
    import typer.main

    from vortex_engine.cli.app import app

    program = typer.main.get_command(app)
    named = set(re.findall(r"(?:^|&& |`)vortex ([a-z]+)", (REPOSITORY / "README.md").read_text(), flags=re.MULTILINE))
    commands = set(getattr(program, "commands", {}))
    assert named == commands, "README names commands that do not exist, or leaves one out"
    # A group's options are those of the command that follows its name.
    named = re.findall(
        r"`?vortex ([a-z]+)(?: (build|show))?[^`\n]*?(--[a-z-]+)", (REPOSITORY / "README.md").read_text()
    )
    for name, member, option in named:
        command = getattr(program, "commands", {})[name]
        command = command.commands[member] if member else command
        options = {spelling for p in command.params for spelling in p.opts}
        assert option in options, f"README: vortex {name} {member} has no {option}"


def test_readme_python_example_runs(
    tiny_hf_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)[0]
    assert "path/to/checkpoint" in code
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code.replace("path/to/checkpoint", str(tiny_hf_dir)), names)
    assert "tokens_per_s" in code and capsys.readouterr().out
    model = names["model"]
    assert isinstance(model, vortex_engine.Model)
    model.close()


def test_readme_layout_names_every_room() -> None:
    text = (REPOSITORY / "README.md").read_text().split("## Layout")[1]
    package = REPOSITORY / "python" / "vortex_engine"
    rooms = {path.name + "/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    missing = sorted(room for room in rooms if f"`{room}`" not in text)
    assert not missing, f"README's layout leaves out {missing}"


def test_readme_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", (REPOSITORY / "README.md").read_text())
    missing = [link for link in links if not (REPOSITORY / link).exists()]
    assert not missing


def test_cli_page_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "docs" / "make_cli.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_readme_numbers_are_those_of_the_results() -> None:
    command = [sys.executable, "-m", "benchmarks.report", "--check"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_extra_keeps_torch_in_range() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    pins = re.findall(r'"(torch[^"]*)"', text)
    assert pins and set(pins) == {"torch>=2.6,<2.14"}
