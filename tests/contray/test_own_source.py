"""A data source of one's own: by the path of a file, or as an entry point of somebody's package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contray
from contray import RunConfig, data
from contray.cli import main
from contray.config import registry
from contray.errors import ConfigError, UserError
from contray.model.encoder import read_checkpoint
from contray.storage.folder import Storage
from contray.training.loop import Listener, train
from contray.training.restore import DoesNotFit

from .parts import EXAMPLES, TINY, images, placed

EXAMPLE = EXAMPLES / "numpy_array.py"


@pytest.fixture(params=["path", "entry_point"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What data.source is given; its keys are data.numpy_array.*."""
    images(tmp_path / "set.npz")
    return placed(request.param, EXAMPLE, "contray.sources", "numpy_array", "others_arrays", tmp_path, monkeypatch)


def keys(source: str, file: str = "set.npz") -> dict[str, Any]:
    return TINY | {"data.source": source, "data.numpy_array.path": file}


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60


def test_it_is_previewed_trained_and_measured(
    source: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data.source", source, "--data.numpy_array.path", "set.npz"]
    assert main(["data", "preview", "simclr", *given, "--out", "views.png"]) == 0
    config = RunConfig.make("simclr", keys(source) | {"track.uri": store, "scale.storage": "runs"}, preset="digits")
    assert config.flat()["data.numpy_array.path"] == "set.npz"
    assert RunConfig.from_yaml(config.to_yaml()) == config
    assert config.run_name != config.replace({"data.numpy_array.path": "other.npz"}).run_name
    result = contray.train(config)
    assert result.finished
    assert {"linear_top1", "knn_top1", "pixels_linear_top1"} <= set(result.metrics)
    assert result.metrics["pixels_linear_top1"] == 1.0, "dark and light are told apart by their pixels"

    assert main(["eval", "knn", "--checkpoint", result.checkpoint, *given[:2]]) == 0, "its keys come with the checkpoint"
    own = registry.__dict__["_named"]
    own.clear()
    capsys.readouterr()
    encoder = read_checkpoint(result.checkpoint)  # the encoder needs no code of the data
    assert encoder.config.flat()["data.numpy_array.path"] == "set.npz"
    code = main(["eval", "knn", "--checkpoint", result.checkpoint])
    said = capsys.readouterr().err
    if source.endswith(".py"):
        assert code == 2
        assert (
            "data.source: the config names the code numpy_array.py, and only code that you name yourself runs: --data.source numpy_array.py"
            in said
        )
    else:
        assert code == 0


class Stops(Listener):
    def __init__(self) -> None:
        self.asked = 0

    def stop(self) -> bool:
        self.asked += 1
        return self.asked > 2


def test_a_run_goes_on_exactly_and_never_over_other_data(source: str, tmp_path: Path) -> None:
    config = RunConfig.make("simclr", keys(source) | {"eval.every_epochs": 0}, preset="digits")
    whole = train(config, data.open_source(config)).method.state_dict()
    storage = Storage(str(tmp_path / "run"))
    storage.create()
    assert train(config, data.open_source(config), storage, Stops()).step == 3
    resumed = train(config, data.open_source(config), storage)
    assert resumed.finished
    assert all((resumed.method.state_dict()[name] == value).all() for name, value in whole.items())

    arrays = dict(np.load("set.npz"))
    arrays["train_images"][5, 0, 0, 0] ^= 1  # one bit
    images(Path("set.npz"), **arrays)
    with pytest.raises(DoesNotFit, match="resuming would not be exact: data"):
        train(config, data.open_source(config), storage)


BAD = {
    "nowhere": ({}, r"path: there is no file 'gone\.npz'"),
    "floats": (
        {"train_images": np.zeros((40, 16, 16, 3))},
        r"train: images are float64 \(40, 16, 16, 3\), must be uint8 \(N, H, W, 3\)",
    ),
    "grey": ({"train_images": np.zeros((40, 16, 16), np.uint8)}, r"train: images are uint8 \(40, 16, 16\)"),
    "test": ({"test_images": np.zeros((10, 3, 16, 16), np.uint8)}, r"test: images are uint8 \(10, 3, 16, 16\)"),
    "without": ({"train_images": None}, "holds .*, but no train_images"),
    "few": (
        {"train_labels": np.zeros(39, int)},
        r"train: labels are int64 \(39,\), must be integers \(40,\), one for each image",
    ),
    "halves": ({"train_labels": np.full(40, 0.5)}, "train: labels are float64, must be integers"),
    "beyond": ({"test_labels": np.full(10, 2)}, "test: labels go from 2 to 2, must number the 2 classes from 0"),
    "pickled": ({"train_images": np.array([{}, None], object)}, "allow_pickle=False"),
    "empty": ({"train_images": np.zeros((0, 16, 16, 3), np.uint8), "train_labels": np.zeros(0, int)}, "train has no image"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_set_is_refused_before_anything_starts(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_named", {})
    monkeypatch.chdir(tmp_path)
    changed, words = BAD[bad]
    images(tmp_path / "set.npz", **changed)
    file = "gone.npz" if bad == "nowhere" else "set.npz"
    config = RunConfig.make("simclr", keys(str(EXAMPLE), file) | {"scale.workers": (1, 1)}, preset="digits")
    with pytest.raises(UserError, match=rf"^data\.source: \S*numpy_array\.py: .*{words}") as refused:
        contray.train(config)
    assert "\n" not in str(refused.value)
    assert sorted(os.listdir()) == ["set.npz"], "neither a storage nor a store is made"


OWN = "import numpy as np\nfrom contray.data import ArraySplit, BrokenImage, Source, Split\ndef open_source(config, own):\n    "
ZEROS = "ArraySplit('mine', np.zeros((40, 16, 16, 3), np.uint8), None, [])"


@pytest.mark.parametrize(
    ("text", "keys", "words"),
    [
        ("x = 1", {}, "must define open_source"),
        (OWN + "return 3", {}, "must give a Source, it gives int"),
        (OWN + "return Source('mine', 3, None)", {}, "train must be a Split, is int"),
        (OWN + "return {}['gone']", {}, r"line 4: KeyError: 'gone'"),
        (OWN + f"return Source('mine', {ZEROS}, None)", {"data.image_column": "picture"}, "mine.py has no columns"),
        (OWN + f"return Source('mine', {ZEROS}, None)", {"data.mine.path": "x"}, r"data\.mine\.path: unknown key"),
        (OWN + "return Source('mine', Mine(), None)\nclass Mine(Split):\n    __len__ = lambda self: 40\n"
         "    image = lambda self, i, rng: np.zeros((16, 16))", {}, r"train: an image is float64 \(16, 16\), must be uint8 \(H, W, 3\)"),
    ],
)  # fmt: skip
def test_a_source_that_is_none_is_told_why(text: str, keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=words):
        data.open_source(RunConfig.make("simclr", {"data.source": str(tmp_path / "mine.py"), **keys}, preset="digits"))


def test_a_split_of_its_own_needs_two_methods_alone(tmp_path: Path) -> None:
    """Broken images are replaced and named, and the content has a digest, without a word of its own on either."""
    (tmp_path / "mine.py").write_text(
        OWN + "return Source('mine', Mine(), None)\nclass Mine(Split):\n    def __len__(self):\n        return 40\n"
        "    def image(self, i, rng):\n        if i == 3:\n            raise BrokenImage(self.describe(i), 'torn')\n        return np.full((16, 16, 3), i, np.uint8)\n"
    )
    config = RunConfig.make("simclr", TINY | {"data.source": str(tmp_path / "mine.py"), "eval.every_epochs": 0}, preset="digits")
    source = data.open_source(config)
    before = data.fingerprint(source, config.data)["data"]
    assert train(config, source).broken == {3: "torn"}
    assert source.train.describe(3) == "sample 3"
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("(16, 16, 3), i,", "(16, 16, 3), i + 1,"))
    assert data.fingerprint(data.open_source(config), config.data)["data"] != before


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    given = keys(str(EXAMPLE), str(images(tmp_path / "set.npz"))) | {"data.label_column": ""}
    source = data.open_source(RunConfig.make("simclr", given, preset="digits"))
    assert (source.train.labels, source.train.classes) == (None, [])
    assert source.test is not None
    assert source.test.labels is None


def test_keys_that_nobody_here_can_read_stay_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_named", {})
    shutil.copy(EXAMPLE, tmp_path)
    config = RunConfig.make("simclr", keys(str(tmp_path / "numpy_array.py")), preset="digits")
    registry._named.clear()
    text = config.to_yaml()
    unread = RunConfig.from_yaml(text)
    assert unread.to_yaml() == text
    assert RunConfig.from_yaml(text) == unread
    assert unread.run_name == config.run_name
    with pytest.raises(ConfigError, match="only code that you name yourself runs"):
        data.open_source(unread)
    assert registry.code_of(unread) == (), "no process may be told of code that was not named here"
    assert registry.code_of(config.replace({"track.listeners": "theirs.py"})) == ()
    assert RunConfig.from_yaml(text, {"data.source": str(tmp_path / "numpy_array.py")}) == config
    assert not [prefix for prefix in unread.replace({"data.source": "digits"}).parts if prefix.startswith("data.")]
