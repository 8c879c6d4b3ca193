"""Mistakes in parts of one's own: each is refused before anything starts, in one line that names the file and how to mend it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from contray import RunConfig, data, model
from contray.config import sources
from contray.config.registry import find, known_code, name_files, own_code
from contray.errors import UserError
from contray.evaluation import Subject
from contray.training.restore import check_fits

from .parts import EXAMPLES, install

BACKBONE = """
from dataclasses import dataclass
from typing import Literal
from torch import nn
from contray.methods import setting
ABOUT = "features of a linear layer"

@dataclass(frozen=True)
class Config:
    width: int = setting(8, "features", ge=1)

class Net(nn.Module):
    out_dim = 8
    def __init__(self, config, channels, side):
        super().__init__()
        self.layer = nn.Linear(channels * side * side, 8)
    def forward(self, x):
        return self.layer(x.flatten(1))

def build(config, channels, side):
    return Net(config, channels, side)
"""
SOURCE = """
import numpy as np
from contray.data import ArraySplit, Source
READS = ()
def open_source(config, own):
    return Source("noise", ArraySplit("train", np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2, ["a", "b"]), None)
"""


def _checked(overrides: dict[str, Any]) -> None:
    config = RunConfig.make("simclr", overrides)
    data.open_source(config)
    model.check(config, 64)


def _refused(tmp_path: Path, key: str, text: str, words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        _checked({key: str(file), "views.view.size": 8, "train.batch_size": 8})
    assert "mine" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("width: int", "width: dict", "Config.width is a dict, must be bool"),
        ("width: int", "width: int | None", "Config.width is a int | None, must be".replace("|", r"\|")),
        ("width: int", "width: Literal[1, 8]", "a Literal of texts"),
        ("width: int", 'width: "Nowhere"', "types of its Config cannot be read"),
        ('width: int = setting(8, "features"', 'width: str = setting("a", "features"', "bounds .*only numbers"),
        (
            "\n\nclass Net",
            "\n    def __post_init__(self):\n        raise ValueError('odd')\n\nclass Net",
            r"backbone\.mine: ValueError: odd",
        ),
        ("    return Net", "    raise ValueError('no')\n    return Net", "line 21: ValueError: no"),
        ("    return Net", "    raise SystemExit(3)\n    return Net", "line 21: SystemExit: 3"),
        ("ABOUT =", "raise SystemExit(3)\nABOUT =", "line 6: SystemExit: 3"),
        ("def build(config, channels, side)", "def build(config, channels)", "takes 2 positional arguments"),
        ("out_dim = 8", "out_dim = 7", r"gives \(2, 8\), must give .*\(2, 7\)"),
        ("self.layer(x.flatten(1))", "(self.layer(x.flatten(1)),)", "gives tuple"),
        ("nn.Linear(channels * side * side, 8)", "nn.LazyLinear(8)", "Lazy layer"),
    ],
)
def test_a_backbone(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in BACKBONE
    _refused(tmp_path, "backbone.name", BACKBONE.replace(old, new), words)


def test_the_backbone_without_mistakes_serves(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BACKBONE)
    _checked({"backbone.name": str(tmp_path / "mine.py"), "views.view.size": 8, "train.batch_size": 8})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["a", "b"]', "[1, 2]", "classes are .* must be texts"),
        ('["a", "b"]', '["a", "a"]', "twice"),
        ('"noise"', "None", "Source.name must be a text"),
        ("READS = ()", 'READS = ("labels",)', "READS"),
        ("    return Source", "    raise SystemExit(3)\n    return Source", "SystemExit: 3"),
    ],
)
def test_a_source(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in SOURCE
    _refused(tmp_path, "data.source", SOURCE.replace(old, new), words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('NEEDS = ("labels",)', "NEEDS = (3,)", r"NEEDS is \(3,\)"),
        (
            "evaluate(subject: Subject, options: Config)",
            "evaluate(subject: Subject)",
            r"must define evaluate\(subject, options\)",
        ),
    ],
)
def test_an_evaluation(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (EXAMPLES / "nearest_centroid.py").read_text()
    assert old in text
    _refused(tmp_path, "eval.final", text.replace(old, new), words)


def test_a_method(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "methods" / "simclr.py").read_text()
    file = tmp_path / "mine.py"
    file.write_text(text.replace("temperature: float", "temperature: dict"))
    assert file.read_text() != text
    with pytest.raises(UserError, match=r"mine\.py: Config\.temperature is a dict"):
        RunConfig.make(str(file))


def test_a_name_that_two_packages_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("one", "two"):
        folder = tmp_path / package
        install(folder, "contray.sources", monkeypatch, noise=f"{package}_noise")
        (folder / f"{package}_noise.py").write_text(SOURCE)
        (folder / "contray_sources-1.0.dist-info").rename(folder / f"{package}-1.0.dist-info")
    with pytest.raises(UserError, match="source noise is the name of one_noise and of two_noise"):
        find("source", "noise")


def test_a_picture_has_a_folder(tmp_path: Path) -> None:
    subject = Subject(RunConfig.make(), None, None, out=tmp_path / "new" / "pictures")  # pyright: ignore[reportArgumentType]
    path = subject.picture("a.png")
    assert path
    assert path.parent.is_dir()


def test_an_encoder_may_be_of_several_files(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("own_method.py", "own_backbone.py")]
    for file in files:
        Path(file).touch()
    name_files(files)
    assert [known_code(Path(file).name) for file in files] == files
    with pytest.raises(UserError, match="--code: got simclr, takes paths"):
        name_files([files[0], "simclr"])


def test_a_run_does_not_go_on_with_other_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(BACKBONE)
    config = RunConfig.make("simclr", {"backbone.name": str(file)})
    state = {"config": config.to_yaml(), "fingerprint": own_code(config)}
    assert own_code(RunConfig.make()) == {}
    check_fits(state, config, own_code(config))
    file.write_text(BACKBONE.replace("self.layer(x.flatten(1))", "self.layer(x.flatten(1)).relu()"))
    with pytest.raises(
        UserError, match=r"the code of backbone\.name \(.*\) changed since the checkpoint; --train\.allow_changes"
    ):
        check_fits(state, config, own_code(config))
    check_fits(state, config.replace({"train.allow_changes": True}), own_code(config))


def test_nor_with_other_code_that_its_file_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of one's own beside it counts, and what that imports in its turn; Python's and installed packages' do not."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in {
        "own_heads": "import math\nimport numpy\nfrom own_sizes import WIDTH",
        "own_sizes": "WIDTH = 8",
        "own_others": "WIDTH = 9",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "mine.py").write_text("import own_heads\n" + BACKBONE)
    module = find_own(tmp_path / "mine.py")
    assert [path.name for path in sources.files(module).values()] == ["mine.py", "own_heads.py", "own_sizes.py"]
    before = sources.digest(module)
    (tmp_path / "own_others.py").write_text("WIDTH = 10")
    assert sources.digest(module) == before
    (tmp_path / "own_sizes.py").write_text("WIDTH = 7")
    assert sources.digest(module) != before
    (tmp_path / "alone.py").write_text(BACKBONE)
    assert sources.digest(find_own(tmp_path / "alone.py")) == hashlib.sha256(BACKBONE.encode()).hexdigest()[:24]


def find_own(path: Path) -> ModuleType:
    """A backbone's file that the user named."""
    name_files(str(path))
    return find("backbone", str(path))
