"""Keys that plug-ins declare: in the config's text, its name and its checks they are keys like any other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from contray import RunConfig
from contray.config import parts
from contray.errors import ConfigError, UserError
from contray.methods._base import setting


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
