"""Parts of a run are found by name, by path, or as entry points of installed packages: one loader, one law of what may run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from contray import RunConfig
from contray.config import registry
from contray.errors import ConfigError, UserError

from .parts import install


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_is_found_by_path_and_by_entry_point(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_named", {})
    (tmp_path / "others_part.py").write_text("ABOUT = 'theirs'")
    install(
        tmp_path,
        registry.KINDS[kind].group,
        monkeypatch,
        theirs="others_part",
        broken="others_gone",
        attribute="others_part:ABOUT",
    )
    assert registry.find(kind, "theirs").ABOUT == "theirs"
    assert {"theirs", "broken"} <= set(registry.names(kind))
    with pytest.raises(
        UserError, match=rf"{kind} broken \(others_gone\): it cannot be imported \(No module named 'others_gone'\)"
    ):
        registry.find(kind, "broken")
    with pytest.raises(UserError, match="leads to no module"):
        registry.find(kind, "attribute")
    with pytest.raises(UserError, match=rf"{kind} 'theirz' is not known; did you mean .*theirs"):
        registry.find(kind, "theirz")

    file = tmp_path / "my-part.v2.py"
    file.write_text("ABOUT = 'mine'")
    with pytest.raises(ConfigError, match="only code that you name yourself runs"):
        registry.find(kind, str(file))
    registry.name_code(str(file))
    found = registry.find(kind, str(file))
    assert (found.ABOUT, found.__package__) == ("mine", registry.KINDS[kind].package)
    assert registry.find(kind, str(file)) is found, "its classes are the same wherever they are met"
    file.write_text("ABOUT = 'mine, changed'")
    assert registry.find(kind, str(file)).ABOUT == "mine, changed"
    file.write_text("import os\nfrom nowhere_to_be_found import x")
    with pytest.raises(UserError, match=r"it cannot be imported \(line 2: No module named 'nowhere_to_be_found'\)"):
        registry.find(kind, str(file))


def test_old_names_of_ours_are_told_the_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the repository's root is on no path, as with a wheel."""
    monkeypatch.setattr(sys, "path", [word for word in sys.path if not (Path(word) / "methods").is_dir()])
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if type(each).__name__ != "_Alias"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "methods"]:
        monkeypatch.delitem(sys.modules, name)
    file = tmp_path / "mine.py"
    file.write_text("from methods._base import Method")
    with pytest.raises(UserError, match=r"No module named 'methods'; here its name is contray\.methods"):
        RunConfig.make(str(file))
