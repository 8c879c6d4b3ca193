"""A method or a space of one's own, in a file that lies anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray import RunConfig, model
from contray.config import registry, spaces
from contray.errors import UserError
from contray.methods._base import Method

METHODS = Path(__file__).parents[2] / "methods"
SPACES = Path(__file__).parents[2] / "tune_spaces"


@pytest.mark.parametrize("name", registry.method_names())
def test_a_copy_of_any_built_in_method_works_as_it_stands(name: str, tmp_path: Path) -> None:
    file = tmp_path / "my.own copy.py"
    file.write_bytes((METHODS / f"{name}.py").read_bytes())
    registry.name_code(str(file))
    found = registry.load_method(str(file))
    assert issubclass(found.method, Method), "of the interface itself, not of a second copy of it"
    assert found.recipe == registry.load_method(name).recipe


def test_a_copy_is_built_and_its_space_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_bytes((METHODS / "simclr.py").read_bytes())
    built = model.build(RunConfig.make(str(file), {"backbone.width": 4}, preset="digits"), 100)
    assert type(built).__module__ == "contray.methods.contray_user_mine"
    space = tmp_path / "space.py"
    space.write_bytes((SPACES / "moco.py").read_bytes())
    assert spaces.load_space(str(space)).METHOD == "moco"


BROKEN = {
    "x = 1\nundefined": "line 2: NameError: name 'undefined' is not defined",
    "def f(:\n": "invalid syntax",
    "import nowhere_to_be_found": "line 1: No module named 'nowhere_to_be_found'",
    "from contray.methods._base import Methd": "line 1: cannot import name 'Methd'",
    "raise ValueError('two\\nlines')": "line 1: ValueError: two lines",
    "\x00": "null bytes",
}


@pytest.mark.parametrize(("text", "said"), BROKEN.items())
def test_a_file_that_cannot_be_imported_is_one_line_with_the_place(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    registry.name_code(str(file))
    for load in (registry.load_method, spaces.load_space):
        with pytest.raises(UserError, match="it cannot be imported") as refused:
            load(str(file))
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=40))
def test_bytes_that_are_no_method_are_refused_in_one_line(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("any") / "mine.py"
    file.write_bytes(b"# -*- coding: utf-8 -*-\n0\n#" + content.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n)")
    registry.name_code(str(file))
    with pytest.raises(UserError, match="it cannot be imported") as refused:
        registry.load_method(str(file))
    assert "\n" not in str(refused.value)
