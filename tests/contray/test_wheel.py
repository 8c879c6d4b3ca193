"""What is installed: a wheel holds everything under `contray` and nothing beside it, and works where no repository is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from contray.config.registry import method_names
from contray.config.spaces import space_names

from .test_jobs import bare_python, build

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", REPO, tmp_path_factory.mktemp("wheel"))


def held(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        return sorted(name for name in opened.namelist() if ".dist-info/" not in name)


def test_a_wheel_holds_all_of_it_under_one_name(wheel: Path) -> None:
    names = held(wheel)
    assert {name.split("/")[0] for name in names} == {"contray"}
    engine = REPO / "platform" / "contray"
    tracked = [path.relative_to(REPO / "platform") for path in engine.rglob("*.py")]
    tracked += [path.relative_to(REPO / "platform") for path in (engine / "py.typed", engine / "reporting" / "page.html")]
    sciences = [
        Path("contray") / path.relative_to(REPO) for name in ("methods", "tune_spaces") for path in (REPO / name).rglob("*.py")
    ]
    examples = [Path("contray") / "examples" / path.name for path in (REPO / "docs" / "examples").iterdir() if path.is_file()]
    records = [Path("contray") / path.relative_to(REPO) for path in (REPO / "records").rglob("*") if path.is_file()]
    assert set(map(str, [*tracked, *sciences, *examples, *records])) == set(names)


def test_an_sdist_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", REPO, tmp_path / "sdist")) as opened:
        opened.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.glob("contray-*")
    assert held(build("wheel", tree, tmp_path / "wheel")) == held(wheel)


def test_it_works_where_no_repository_is(wheel: Path, tmp_path: Path) -> None:
    python = bare_python(tmp_path / "venv")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "installed")
    (tmp_path / "old.py").write_text("from methods._base import Method")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    words = (
        "import sys, contray.methods.simclr; from contray.cli import main; print(contray.__file__)\n"
        "codes = [main(['methods']), main(['tune', 'nothing']), main(['train', 'old.py'])]\n"
        "assert codes == [0, 2, 2] and not {'methods', 'tune_spaces'} & set(sys.modules), codes"
    )
    done = subprocess.run([python, "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
    assert all(name in done.stdout for name in method_names())
    nothing, old = (line for line in done.stderr.splitlines() if line.startswith("contray: "))
    assert all(name in nothing for name in space_names())
    assert "No module named 'methods'; here its name is contray.methods" in old


def test_a_checkout_whose_links_are_text_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "contray").mkdir()
    shutil.copy(REPO / "platform" / "contray" / "__init__.py", tmp_path / "contray")
    (tmp_path / "contray" / "methods").write_text("../../methods")
    done = subprocess.run(
        [sys.executable, "-c", "import contray"], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: contray: ")
    assert "git config core.symlinks true" in last
    assert "install the wheel" in last
