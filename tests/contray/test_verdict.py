"""The verdict in words: sure where the numbers are, doubtful where they are not, and silent of what was not measured."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from contray.evaluation import Measured
from contray.evaluation.common.protocol import report
from contray.evaluation.common.verdict import Told, chance_of, over_seeds, trend_of, words
from contray.training.result import Result, Results

TOLD = Told(
    tested="a held-out tenth of photos/", counts=(40, 30), longer="LONGER", next="NEXT", seeds="SEEDS", labels="LABELS"
)  # fmt: skip


def labelled(trained: float, untrained: float, error: float, count: int, **more: float) -> Measured:
    scores = {f"{prefix}knn_top1": value for prefix, value in {"": trained, "random_": untrained, "pixels_": 0.2}.items()}
    return Measured({**scores, "random_knn_gain_error": error, "test_images": count, "val_images": count, **more})


@settings(max_examples=60, deadline=None)
@given(better=st.integers(0, 60), worse=st.integers(0, 60), alike=st.integers(0, 400))
def test_chance_is_mcnemars_exact_test(better: int, worse: int, alike: int) -> None:
    count = better + worse + alike
    if not better + worse:
        assert chance_of(0.0, 0.0, max(count, 1)) == 1.0
        return
    gain = (better - worse) / count
    error = math.sqrt(((better + worse) / count - gain**2) / count)
    exact = binomtest(max(better, worse), better + worse, 0.5, alternative="greater").pvalue
    assert chance_of(gain, error, count) == pytest.approx(min(1.0, 2 * exact), rel=1e-9)


def test_a_sure_gain_a_doubtful_one_and_a_loss() -> None:
    sure = words(labelled(0.61, 0.48, 0.02, 1000), told=TOLD)
    assert (
        "On a held-out tenth of photos/ (1,000 images) training changed k-NN top-1 by +13.0 ± 2.0 points (beyond chance)" in sure
    )
    assert "It learnt what serves these classes." in sure
    assert "raw pixels k-NN +41.0" in sure
    assert "`NEXT`" in sure
    doubtful = words(labelled(0.55, 0.5, 0.11, 20), told=TOLD)
    assert "no proof of a gain: so many images tell apart about 22 points and more" in doubtful
    assert "luck alone gives as much in" in doubtful
    assert "`SEEDS`" in doubtful
    loss = words(labelled(0.4, 0.5, 0.02, 1000), told=TOLD)
    assert "-10.0 ± 2.0 points (beyond chance)" in loss
    assert "unlearnt" in loss
    same = words(labelled(1.0, 1.0, 0.0, 20), told=TOLD)
    assert "training changed k-NN top-1 not at all over" in same


def test_of_two_scores_chance_shows_a_gain_as_seldom_as_of_one() -> None:
    """Equal encoders, whose hits of both scores go together as such scores' do: what either of two shows at 5 % comes in 8 of 100."""
    drawn, count, gains, studies = np.random.default_rng(0), 400, 0, 1500
    for _ in range(studies):
        about: dict[str, float] = {"test_images": count}
        hits = [drawn.random(count) < 0.6 for _ in range(2)]
        for score, anew in (("knn", 0.0), ("linear", 0.5)):
            hits = [np.where(drawn.random(count) < anew, drawn.random(count) < 0.6, before) for before in hits]
            gain = np.mean(hits[0]) - np.mean(hits[1])
            differ = np.mean(hits[0] != hits[1])
            about |= {f"{score}_top1": float(np.mean(hits[0])), f"random_{score}_top1": float(np.mean(hits[1])),
                      f"random_{score}_gain_error": math.sqrt(max(differ - gain**2, 0) / count)}  # fmt: skip
        gains += "no proof" not in words(Measured(about), told=TOLD)
    assert gains / studies <= 0.055


def test_held_out_training_images_and_a_score_without_anything_beside_it() -> None:
    held = words(
        Measured({"knn_val_top1": 0.5, "random_knn_val_top1": 0.4, "random_knn_gain_error": 0.01, "val_images": 400}), told=TOLD
    )
    assert "On 400 held-out training images training changed k-NN top-1 by +10.0" in held
    assert "nothing was measured beside it" in words(Measured({"knn_top1": 0.5, "test_images": 10}))
    assert words(Measured({"detection_ap": 0.2})) == words(Measured({})) == ""


def test_classes_with_few_labels_are_named() -> None:
    said = words(labelled(0.6, 0.4, 0.02, 500), told=Told(counts=(40, 5, 3, 1)))
    assert "2 of 4 classes have fewer than 5 labelled training images, 1 of them a single one" in said
    assert "fewer than" not in words(labelled(0.6, 0.4, 0.02, 500), told=TOLD)


def test_a_rising_curve_asks_for_more_and_a_flat_one_does_not() -> None:
    metrics = labelled(0.61, 0.48, 0.02, 1000)
    rising = words(metrics, [(float(e), 0.3 + 0.02 * e) for e in range(12)], TOLD)
    assert "still rising at the end, by 2 points per epoch: train longer: `LONGER`" in rising
    assert "NEXT" not in rising
    flat = words(metrics, [(float(e), min(0.3 + 0.06 * e, 0.5)) for e in range(14)], TOLD)
    assert "flat since about epoch 4" in flat
    assert "LONGER" not in flat
    late = words(metrics, [(float(e), min(0.3 + 0.02 * e, 0.5)) for e in range(20)], dataclasses.replace(TOLD, epochs=16.0))
    assert "settled as the learning rate fell" in late
    assert "LONGER" in late
    short = words(metrics, [(1.0, 0.3), (2.0, 0.4)], TOLD)
    assert "too few points" in short
    assert "twice as long tells: `LONGER`" in short
    falling = words(metrics, [(float(e), 0.6 - 0.03 * e) for e in range(10)], TOLD)
    assert "fell at the end" in falling
    assert "LONGER" not in falling


def test_noise_is_rarely_taken_for_a_slope() -> None:
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(400):
        hits = rng.binomial(200, 0.6, 12) / 200
        found = trend_of(list(enumerate(hits)), 200)
        assert found is not None
        kinds.append(found.kind)
    assert kinds.count("rising") < 0.08 * 400
    assert (
        trend_of([(0, 0.1), (0, 0.2), (1, math.nan), (2, 0.4), (3, 0.4), (4, 0.4)]) is None
    )  # three epochs are left and one nan


def geometry(rank: float, before: float, apart: float, apart_before: float, std: float = 0.9) -> Measured:
    return Measured({
        "rankme": rank, "random_rankme": before, "feature_std": std, "random_feature_std": 0.5, "positive_similarity": 0.2 + apart,
        "negative_similarity": 0.2, "random_positive_similarity": 0.9, "random_negative_similarity": 0.9 - apart_before,
    })  # fmt: skip


def test_without_labels_the_geometry_speaks_and_says_that_it_is_no_accuracy() -> None:
    said = words(geometry(40, 10, 0.6, 0.05), told=TOLD)
    assert "not how right they are" in said
    assert "in about 40 independent directions (RankMe), the untrained encoder's in 10 (richer)" in said
    assert "alike to 0.80, two images to 0.20 (untrained: 0.90 and 0.85): it has learnt to tell images apart" in said
    assert "neighbours.png" in said
    assert "`LABELS`" in said
    assert "no better than before" in words(geometry(10, 10, 0.05, 0.05), told=TOLD)
    collapsed = words(geometry(1.1, 10, 0.0, 0.05, std=0.01), told=TOLD)
    assert "have collapsed" in collapsed
    assert "`NEXT`" in collapsed
    assert "LABELS" not in collapsed


def test_a_collapse_is_said_first() -> None:
    said = words(
        labelled(0.2, 0.4, 0.02, 500), told=Told(collapse="collapse: all images have nearly the same features; at 2 evaluations")
    )
    assert said.startswith("The features collapsed while it trained: collapse: all images have nearly the same features.")


def test_seeds_say_whether_the_gain_is_more_than_they_differ_by() -> None:
    seeds = [labelled(trained, 0.4, 0.02, 500) for trained in (0.5, 0.51, 0.52)]
    assert (
        "Over 3 seeds training gains 11.0 ± 0.6 points of k-NN top-1 over the untrained encoder (+10.0 to +12.0), beyond"
        in over_seeds(seeds)
    )
    doubtful = [labelled(trained, 0.4, 0.02, 500) for trained in (0.3, 0.41, 0.6)]
    assert "the sign is not known" in over_seeds(doubtful)
    assert over_seeds(seeds[:1]) == over_seeds([]) == ""
    alike = [labelled(0.4 + 1 / 500, 0.4, 0.02, 500) for _ in range(3)]
    assert "the sign is not known" in over_seeds(alike), "one test image more in each"


def test_seeds_without_labels_tell_their_ranks() -> None:
    seeds = [{"rankme": rank, "random_rankme": 6.8} for rank in (13.87, 14.2)]
    said = over_seeds(seeds)
    assert said.startswith(
        "Over 2 seeds the features vary in 13.9 to 14.2 independent directions (RankMe), the untrained encoder's in 6.8 to 6.8."
    )
    assert over_seeds(seeds[:1]) == ""
    results = Results(Result(f"moco-seeds-s{i}", each, "", "", "", 1, True) for i, each in enumerate(seeds))
    shown = str(results)
    assert "moco-seeds: 2 seeds, geometry of the features" in shown
    assert "14.035 ± 0.233" in shown


def test_the_title_says_what_was_set_aside() -> None:
    table = report({**labelled(0.6, 0.4, 0.02, 120), "test_images": 120}, tested_on="a held-out tenth of photos/")
    assert table.title == "top-1 on a held-out tenth of photos/ (120 images)"
    assert report({"knn_val_top1": 0.4, "val_images": 8}, tested_on="a tenth").title == "top-1 on 8 held-out training images"
