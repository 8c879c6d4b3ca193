"""What the documentation says to type can be typed: commands, options and keys are known, Python compiles and its names exist."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import shlex
from pathlib import Path

import pytest

import contray
from contray import RunConfig
from contray.cli.main import COMMANDS, command_of
from contray.cli.options import options_of, parse
from tests.docs.texts import DOCS, ROOT, TEXTS, blocks, lines

TYPED = sorted({shlex.join(words) for path in TEXTS for words in lines(path.read_text())})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the lines name."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "contray_runs" / "RUN").mkdir(parents=True)
    (folder / "contray_runs" / "RUN" / "config.yaml").write_text(RunConfig.make().to_yaml())
    method, *_ = (code for _, code in blocks((DOCS / "howto" / "method.md").read_text(), "python"))
    (folder / "mine.py").write_text(method)
    (folder / "eval").mkdir()
    (folder / "eval" / "mine.py").write_text((DOCS / "examples" / "nearest_centroid.py").read_text())
    return folder


def test_there_are_lines_to_check() -> None:
    assert len(TYPED) > 60
    assert {line.split()[0] for line in TYPED} >= {
        "train",
        "tune",
        "eval",
        "plot",
        "export",
        "embed",
        "compare",
        "report",
        "check",
    }


@pytest.mark.parametrize("line", TYPED)
def test_a_command_of_the_documentation_parses(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words, options and keys; what they name (runs, folders) need not be there."""
    words = shlex.split(line)
    monkeypatch.chdir(place / "eval" if words[0] == "eval" else place)  # what mine.py is depends on where it is named
    name = next(each for each in COMMANDS if words[: len(each.split())] == each.split())
    if {"--help", "--help-all"} & set(words):
        return
    rest = words[len(name.split()) :]
    if not rest and any(each.required for each in options_of(command_of(name).Options)):
        return  # a command that is only named
    options, dotted = parse(command_of(name), rest, name)
    if dotted:
        command_of(name).keys(options).replace(dotted)
        taken = command_of(name).takes(options) if hasattr(command_of(name), "takes") else ("*",)
        assert all(any(fnmatch.fnmatchcase(key, each) for each in taken) for key in dotted)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_compiles_and_what_it_names_exists(path: Path) -> None:
    for _, code in blocks(path.read_text(), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                assert all(importlib.util.find_spec(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module
                module = importlib.import_module(node.module)
                names = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                missing = [name for name in names if importlib.util.find_spec(f"{node.module}.{name}") is None]
                assert not missing, (node.module, missing)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "contray":
                assert hasattr(contray, node.attr), node.attr
