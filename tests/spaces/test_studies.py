"""Each study's file is whole: its claim, its source, its numbers, and arms that can be built at every scale. Nothing is trained."""

from __future__ import annotations

import re

import pytest

from contray.config import RunConfig
from contray.config.registry import study_names
from contray.studies.form import load_study
from contray.studies.scales import SCALES

STUDIES = study_names()
ANSWERED = {"moco", "simclr", "simclr_v2", "infomin", "cpc", "cmc", "clip"}  # what is claimed of them has a study


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_whole(name: str) -> None:
    study = load_study(name)  # refuses what is missing, of another type, or names an arm that there is not
    assert not study.claim.endswith("."), "it stands in tables"
    assert ". " not in study.claim, "one sentence"
    assert re.search(r"https://(arxiv\.org/abs|doi\.org)/\S+$", study.source)
    assert bool(study.paper) <= bool(study.paper_metric), "numbers of what"
    assert "digits" in study.scales, "at which it can be answered anywhere"
    assert isinstance(study.cost["digits"], (int, float)), "measured minutes"


@pytest.mark.parametrize("name", STUDIES)
def test_its_arms_can_be_built(name: str) -> None:
    study = load_study(name)
    for scale in study.scales:
        arms = study.arms(scale)
        assert all(isinstance(config, RunConfig) for config in arms.values())
        flat = [{key: value for key, value in config.flat().items() if not key.startswith("track.")} for config in arms.values()]
        assert all(one != other for place, one in enumerate(flat) for other in flat[:place]), (
            f"{scale}: two arms are the same run"
        )


def test_the_methods_that_claims_are_made_of_have_studies() -> None:
    asked = {method for method in ANSWERED if any(name.startswith(f"{method}_") for name in STUDIES)}
    assert asked == ANSWERED
    assert set(SCALES) == {"digits", "cifar", "paper"}
    assert {scale for name in STUDIES for scale in load_study(name).scales} == {*SCALES}
