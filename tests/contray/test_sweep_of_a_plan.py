"""What a space cannot search on the data that there are: of a planned config the plan's value stands, and it is said."""

from __future__ import annotations

from typing import Any

import pytest
from ray import tune

from contray.config import RunConfig
from contray.errors import ConfigError
from contray.tuning.launch import _fitting

FEW = 24
KEYS = {"data.source": "photos/", "train.batch_size": 8, "train.steps": 20, "method.queue_size": 12, "scale.workers": (0, 0)}


def config(planned: tuple[str, ...]) -> RunConfig:
    return RunConfig.make("moco", {**KEYS, "train.planned": planned, "train.planned_for": "a test"}, preset="auto")


def space() -> dict[str, Any]:
    return {"method.queue_size": tune.choice([256, 512]), "method.temperature": tune.loguniform(0.1, 0.5)}


def test_a_key_of_which_no_value_fits_is_left_to_the_plan() -> None:
    left, said = _fitting(config(("method.queue_size",)), space(), FEW)
    assert list(left) == ["method.temperature"]
    assert said[0].startswith("method.queue_size: not searched, the plan's 12 stands (got 256, must be from 8")


def test_where_nobody_planned_it_or_nothing_is_left_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^method\.queue_size: this space cannot be searched here: got 256"):
        _fitting(config(()), space(), FEW)
    with pytest.raises(ConfigError, match="cannot be searched"):
        _fitting(config(("method.queue_size",)), {"method.queue_size": tune.choice([256])}, FEW)


def test_values_that_do_not_fit_are_left_out() -> None:
    left, said = _fitting(config(("method.queue_size",)), {"method.queue_size": tune.choice([12, 256])}, FEW)
    assert left["method.queue_size"].categories == [12]
    assert said == [word for word in said if word.startswith("method.queue_size: 256 left out")]
