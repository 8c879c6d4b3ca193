"""What views share, in nats, and which factors of the digits features keep."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from contray import RunConfig, data, model
from contray.errors import UserError
from contray.evaluation import factors
from contray.evaluation._base import Features, Parts
from contray.evaluation.information import information
from tests.contray.evaluations import evaluated, subject_of

TINY = {
    "data.size": 16,
    "data.renderings": 1,
    "data.workers": 0,
    "train.batch_size": 64,
    "train.precision": "fp32",
    "backbone.width": 4,
}
PROBE = {"eval.factors.lrs": 1.0, "eval.factors.decays": 0.0, "eval.factors.epochs": 2}


def config_of(method: str, **more) -> RunConfig:
    return RunConfig.make(method, {**TINY, **more}, preset="digits")


def test_information_is_what_pairs_tell_of_each_other() -> None:
    x = torch.eye(8)
    assert information(x, x, 0.01) == pytest.approx(math.log(8)), "all: each picks its partner out of eight"
    assert information(x, torch.ones(8, 8), 0.1) == pytest.approx(0.0), "nothing: every partner is alike"
    assert information(x, x.roll(1, 0), 0.1) < 0, "the critic is wrong"
    halves = torch.eye(4).repeat_interleave(2, 0)
    assert information(halves, halves, 0.01) == pytest.approx(math.log(4)), "which of four, not which of two alike"


def test_untrained_views_tell_as_much_as_untrained() -> None:
    config = config_of("simclr", **{"views.view.size": 16})
    source = data.open_source(config.data)
    found = evaluated("information", config, source, model.build(config, len(source.train)))
    assert found["information"] <= math.log(512)
    assert found["information"] == pytest.approx(found["random_information"])


def test_factors_are_those_of_the_images() -> None:
    """Features that say where a digit lies, and nothing else."""
    config = config_of("simclr", **PROBE)
    placed = data.open_source(config.replace({"data.label_column": "position"}).data)

    def where(split: data.Split | None, ids: np.ndarray) -> Features:
        assert split is not None
        labels = torch.as_tensor(split.labels)[ids]
        return Features(
            torch.nn.functional.one_hot(labels, 9).float(), torch.zeros(len(ids), dtype=torch.long), torch.as_tensor(ids)
        )

    subject = subject_of(config, data.open_source(config.data), torch.nn.Identity())  # pyright: ignore[reportArgumentType]
    fit, val = subject.held_out
    told = Parts(where(placed.train, fit), where(placed.train, val), where(placed.test, np.arange(len(placed.test or []))))
    vars(subject)["_features"] = {"": told, "random_": told}
    found = factors.evaluate(subject, factors.Config(lrs=(1.0,), decays=(0.0,), epochs=5))
    for which in ("", "_val"):
        assert found[f"factor_position{which}_top1"] == found[f"random_factor_position{which}_top1"] == 1
        assert found[f"factor_digit{which}_top1"] < 0.3
        assert found[f"factor_background{which}_top1"] < 0.3


def test_factors_of_listed_digits_are_their_own(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("".join(f"{i}\n" for i in range(0, 1400, 2)))
    linear = {key.replace("factors", "linear"): value for key, value in PROBE.items()}
    config = config_of("simclr", **PROBE, **linear, **{"data.subset": str(tmp_path / "some.txt")})
    source = data.open_source(config.data)
    found = evaluated("factors linear", config, source, model.build(config, len(source.train)))
    assert found["factor_digit_top1"] == found["linear_top1"]


def test_what_cannot_be_measured_is_said() -> None:
    config = config_of("vicreg")
    source = data.open_source(config.data)
    with pytest.raises(UserError, match="no pairs of views that a temperature compares"):
        evaluated("information", config, source, model.build(config, len(source.train)))
    config = config_of("simclr").replace({"data.source": "cifar10"})
    with pytest.raises(UserError, match="of the built-in digits alone"):
        evaluated("factors", config, source, model.build(config, len(source.train)))
