"""Each study's file is whole: its claim, its source, its numbers, and arms that can be built at every scale. Nothing is trained."""

from __future__ import annotations

import re

import pytest

from contray.config.spaces import study_names
from contray.studies.form import load_study
from contray.studies.scales import SCALES

STUDIES = study_names()
ASKED = """
barlow_batch barlow_lambda barlow_width byol_batch byol_momentum byol_norm byol_predictor cae_alignment cae_decoupling clip_batch clip_temperature
cmc_graph cmc_views cpc_directions cpc_offsets deepcluster_k deepcluster_reassignment dino_attention dino_centring dino_crops dino_teacher
infomin_colour infomin_factors infomin_information infomin_patches infomin_strength label_free mae_decoder mae_finetune mae_mask mae_target
moco_ladder moco_momentum moco_queue moco_v2_steps moco_v3_batch_rate moco_v3_patches simclr_batch simclr_h_against_z simclr_head
simclr_normalisation simclr_pairs simclr_temperature simclr_v2_distil simclr_v2_head simclr_v2_labels simclr_width simsiam_em simsiam_predictor
simsiam_schedule simsiam_stop_gradient swav_multicrop swav_prototypes swav_sinkhorn transfer
"""


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
        assert len({str(config.flat()) for config in arms.values()}) == len(arms), f"{scale}: two arms are the same run"


def test_every_claim_of_the_list_has_a_study() -> None:
    assert {*ASKED.split()} <= {*STUDIES}
    assert {scale for name in STUDIES for scale in load_study(name).scales} == {*SCALES}


def test_a_crop_of_one_view_alone_is_beside_one_that_both_have() -> None:
    """Chen et al. 2020, §3.1: images are cropped first, then one of the two branches is augmented; else "colour alone" were crop and colour."""
    for scale in ("digits", "cifar", "paper"):
        for arm, config in load_study("simclr_pairs").arms(scale).items():
            first, second = (config.views[name] for name in ("view0", "view1"))
            shared = first.crop == (1.0, 1.0) == second.crop or (bool(first.geometry) and first.geometry == second.geometry)
            assert shared == ("crop" not in arm), (scale, arm)
