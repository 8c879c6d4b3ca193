"""Keys that plug-ins declare: in the config's text, its name and its checks they are keys like any other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import contray
from contray import RunConfig, model
from contray.config import parts
from contray.config.renamed import RENAMED
from contray.errors import ConfigError, UserError
from contray.methods._base import setting
from contray.model import encoder


@dataclass(frozen=True)
class Own:
    depth: int = setting(3, "blocks", ge=1)
    rates: tuple[float, ...] = setting((0.1, 1.0), "rates", gt=0)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone of its own keys, known to configs that name it."""
    monkeypatch.setattr(
        parts, "parts_of", lambda values: {"backbone.resnet18": Own} if values["backbone.name"] == "resnet18" else {}
    )


@pytest.mark.usefixtures("plugged")
def test_keys_of_a_plug_in_are_there_where_it_is_named() -> None:
    plain, named = RunConfig.make(), RunConfig.make(overrides={"backbone.name": "resnet18", "backbone.resnet18.depth": "5"})
    assert not any(key.startswith("backbone.resnet18.") for key in plain.flat())
    assert named.flat()["backbone.resnet18.depth"] == 5
    assert named.parts["backbone.resnet18"] == Own(depth=5)
    keys = list(named.flat())
    assert keys.index("backbone.resnet18.rates") == keys.index("data.source") - 1, "they follow their section's"
    again = RunConfig.from_yaml(named.to_yaml())
    assert again == named
    assert again.run_name == named.run_name != named.replace({"backbone.resnet18.depth": 4}).run_name
    assert "backbone.resnet18" not in named.replace({"backbone.name": "resnet34"}).parts
    assert named.replace({"backbone.resnet18.rates": "1 2"}).parts["backbone.resnet18"] == Own(5, (1.0, 2.0))


@pytest.mark.usefixtures("plugged")
def test_keys_of_a_plug_in_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.resnet18\.depth: unknown key"):
        RunConfig.make(overrides={"backbone.resnet18.depth": 5})
    for key, value, words in (("depth", 0, ">= 1"), ("rates", "1 x", "must be"), ("width", 1, "unknown key")):
        with pytest.raises(ConfigError, match=rf"backbone\.resnet18\.{key}: .*{words}"):
            RunConfig.make(overrides={"backbone.name": "resnet18", f"backbone.resnet18.{key}": value})


def test_a_config_that_cannot_serve_is_refused_by_its_name() -> None:
    @dataclass
    class Thawed:
        k: int = setting(1, "k")

    @dataclass(frozen=True)
    class Bare:
        k: int = 1

    for config, words in ((Thawed, "frozen"), (Bare, r"Config\.k must be made by setting"), (3, "frozen dataclass")):
        with pytest.raises(UserError, match=f"mine.py: .*{words}"):
            parts.add_part({}, "eval", "mine.py", config)
    with pytest.raises(UserError, match=r"eval\.crop: crop\.py has the name of a key of its section"):
        parts.add_part({}, "eval", "crop.py", Own)
    found: dict[str, type] = {"eval.knn": Bare}
    with pytest.raises(UserError, match=r"eval\.knn: knn\.py has the name of another one"):
        parts.add_part(found, "eval", "knn.py", Own)


# ---------------------------------------------------------------- keys as they were


BEFORE = (Path(__file__).parent / "config_before_plugins.yaml").read_text()


def test_a_config_that_a_run_wrote_before_is_read_under_todays_keys() -> None:
    config = RunConfig.from_yaml(BEFORE)
    assert config.eval.final == ("knn", "linear", "geometry")
    assert config.parts["eval.knn"].k == 20
    assert config.parts["eval.linear"].lrs == config.parts["eval.last_n"].lrs == (0.3, 3.0)
    assert config.parts["eval.last_n"].blocks == 2
    tuned = [config.parts[f"eval.{name}"].lrs for name in ("finetune", "supervised", "distill", "crd", "noisy_student")]
    assert tuned == [(1e-3, 3e-3)] * 5
    assert config.parts["eval.detection"].supervised_lrs == (1e-3, 3e-3)
    assert config.parts["eval.detection"].steps == config.parts["eval.segmentation"].steps == 4
    assert config.parts["eval.crd"].temperature == 0.07
    assert config.parts["eval.crd"].soft_temperature == 1.0
    assert RunConfig.from_yaml(BEFORE.replace("final: true", "final: false")).eval.final == ()
    assert RunConfig.from_yaml(config.to_yaml()) == config


def test_every_old_key_has_a_new_name_that_exists() -> None:
    old = {f"{section}.{key}" for section in ("eval", "data") for key in yaml.safe_load(BEFORE)[section]}
    now = RunConfig.make().flat()
    assert old - RENAMED.keys() <= now.keys()
    assert RENAMED.keys() <= old
    assert {new for names in RENAMED.values() for new in names} <= now.keys()


def test_old_keys_of_the_users_own_are_refused_by_their_new_name(tmp_path: Path) -> None:
    for given in ({"eval.finetune_lrs": 1}, {"eval.finetune_lrs": "1 2"}):
        with pytest.raises(
            ConfigError, match=r"^eval\.finetune_lrs: is called eval\.finetune\.lrs now \(and eval\.supervised\.lrs"
        ):
            RunConfig.make(overrides=given)
    with pytest.raises(ConfigError, match=r"^eval\.finetune_lrs: is called"):
        RunConfig.from_yaml(BEFORE, {"eval.finetune_lrs": 1})
    file = tmp_path / "mine.yaml"
    file.write_text("eval: {knn_k: 3}\n")
    with pytest.raises(ConfigError, match=r"^eval\.knn_k: is called eval\.knn\.k now$"):
        RunConfig.from_file(file)
    for value, words in (("true", "--eval.final knn linear geometry"), (False, "nothing after it")):
        with pytest.raises(ConfigError, match=rf"^eval\.final: got .*{words}"):
            RunConfig.make(overrides={"eval.final": value})


def test_an_encoder_from_before_is_measured(tmp_path: Path) -> None:
    config = RunConfig.from_yaml(BEFORE)
    encoder.export(config, model.build(config, 100), tmp_path / "old")
    (tmp_path / "old" / "config.yaml").write_text(BEFORE)
    found = contray.evaluate("knn", checkpoint=str(tmp_path / "old"))
    assert 0 < found["knn_top1"] < 1


def test_sections_may_be_nested_wherever_keys_are_given(tmp_path: Path) -> None:
    nested = {"data": {"source": tmp_path}, "train": {"epochs": 3}, "optim.lr": 0.5}
    dotted = {"data.source": str(tmp_path), "train.epochs": 3, "optim.lr": 0.5}
    assert RunConfig.make("moco", nested, preset="digits") == RunConfig.make("moco", dotted, preset="digits")
    assert RunConfig.make("moco", preset="digits").replace(nested) == RunConfig.make("moco", dotted, preset="digits")
    with pytest.raises(UserError, match=r"overrides: got 'photos/', must be a mapping of keys"):
        RunConfig.make("moco", "photos/")  # pyright: ignore[reportArgumentType]
