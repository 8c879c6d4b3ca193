"""The example notebooks run, and what is committed of their outputs is what they give.

Each takes a minute, so one is run here and all of them with CONTRAY_NOTEBOOKS=all.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(HERE.glob("*.ipynb" if os.environ.get("CONTRAY_NOTEBOOKS") == "all" else "02_*.ipynb"))
STEPS = 10  # of each run: that all of it works, not what training gains


@pytest.fixture(scope="module")
def execute() -> Any:
    spec = importlib.util.spec_from_file_location("execute_examples", HERE / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_gives_what_is_committed(path: Path, execute: Any) -> None:
    import nbformat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's client
        book = execute.executed(path, STEPS)
    committed = nbformat.read(path, 4)
    assert any(execute.kinds(cell) for cell in committed.cells), "run python examples/execute.py"
    assert execute.complaints(path, book, committed) == []
    assert path.stat().st_size < 300_000
