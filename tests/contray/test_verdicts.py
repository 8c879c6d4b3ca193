"""What seeds say of a study's claims: true ones are supported, planted false ones are not, and nothing that should not matter does."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from contray.errors import UserError
from contray.studies import Above, Agrees, At, Collapse, Mean, Minus, Order, Peak, Same
from contray.studies.page import HEAD
from contray.studies.verdict import CONTRADICTED, SUPPORTED, UNDECIDED, WORDS, judge
from tests.benchmarks.verdicts import PLANTED, rates, until_decided

ARMS = ("a", "b", "c", "d")
FORMS = (
    Above("a", "b"), Above(Minus("a", "b"), Minus("c", "d"), by=1), Above("a", Mean("b", "c")), Order(), Peak(), Peak("a", "c", "d"),
    Same("a", "b"),
)  # fmt: skip
POINTS = st.lists(
    st.lists(st.integers(0, 360), min_size=4, max_size=4), min_size=3, max_size=5
)  # of 360 test images, by seed and arm


def values(rows, **metrics) -> dict:
    """By arm and seed, from rows of arms' numbers of images that are right."""
    return {arm: {seed: {"linear_top1": row[i] / 360, **metrics} for seed, row in enumerate(rows)} for i, arm in enumerate(ARMS)}


def ps(verdict) -> list:
    return [number for each in verdict.claims for number in (each.p, each.p_against)]


def holm(rising: list[float]) -> list[float]:
    """Holm's correction of sorted p values, as his paper has it."""
    count = len(rising)
    return [max(min(1.0, (count - j) * rising[j]) for j in range(i + 1)) for i in range(count)]


# ---------------------------------------------------------------- error rates


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_not_there_is_seldom_supported(name: str) -> None:
    """Of a curve that levels off the arm inside is chosen among equals, which costs two of a hundred."""
    studies, most = 300 if name.startswith("Agrees") else 1500, 0.08 if "levelling" in name else 0.06
    assert max(rates(name, 0, seeds, studies)[SUPPORTED] for seeds in (3, 5)) <= most


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_there_is_found(name: str) -> None:
    found = [rates(name, effect, 5, studies=100) for effect in (1, 2, 4)]
    assert found[0][SUPPORTED] < found[1][SUPPORTED] < found[2][SUPPORTED] > 0.9
    assert found[2][CONTRADICTED] == 0


def test_seeds_added_until_decided_err_as_often_as_the_page_says() -> None:
    rate = 100 * until_decided("Above", 0, studies=1000)[SUPPORTED]
    assert rate == pytest.approx(13, abs=2.5)
    assert "in 13 of 100 studies" in HEAD


@pytest.mark.parametrize("form", [Above("a", "b"), Order(), Peak(), Collapse("a", "b"), Agrees("linear_top1", "linear_top1")])
def test_an_ablation_that_does_nothing_supports_nothing(form) -> None:
    """Each seed gives every arm the very same number."""
    rows = [[right] * 4 for right in (251, 260, 243)]
    made = values(rows, random_linear_top1=0.2, test_images=360)
    assert judge([form], made, "linear_top1").word in (UNDECIDED, CONTRADICTED)
    assert judge([Same("a", "b")], made, "linear_top1").word == SUPPORTED


def test_equal_differences_are_known_to_one_image() -> None:
    """Three seeds that give one image each may be chance; of 40 images each are not."""
    for more, word, low in ((1, UNDECIDED, -0.4123), (40, SUPPORTED, 10.421)):
        rows = [[200 + shift + more, 200 + shift, 0, 0] for shift in (0, 7, -4)]
        found = judge([Above("a", "b")], values(rows, test_images=360), "linear_top1")
        assert (found.word, found.claims[0].low) == (word, pytest.approx(low, abs=1e-3))
        assert found.text.endswith("equal in all 3 seeds")
        unknown = judge([Above("a", "b")], values(rows), "linear_top1").claims[0]
        assert (unknown.p, unknown.p_against, unknown.low) == (1 / 8, 7 / 8, None)
        assert "[" not in unknown.text
    whole = judge(
        [Above("a", "b")], values([[201, 200, 0, 0], [202, 200, 0, 0], [201, 200, 0, 0]], test_images=360), "linear_top1"
    )
    assert (whole.word, "equal" in whole.text) == (UNDECIDED, False), "spread of half an image"


def test_a_curve_that_levels_off_is_no_peak() -> None:
    rows = [[200 + shift, 290 + shift, 310 + shift, 310 + shift + up] for shift, up in ((0, 1), (7, 0), (-4, 2), (3, 0), (1, 1))]
    assert judge([Peak()], values(rows), "linear_top1").word != SUPPORTED
    assert judge([Peak()], values([[*row[:3], row[3] - 60] for row in rows]), "linear_top1").word == SUPPORTED


def test_unrelated_measures_of_few_arms_agree_by_chance_alone() -> None:
    """The same ranking in each seed is one ranking of the arms, not five."""
    rows = [[10, 20 + seed, 30, 25] for seed in range(5)]
    made = values(rows)
    for i, arm in enumerate(ARMS):
        for seed in range(5):
            made[arm][seed]["rankme"] = i  # tau 2/3 in each seed
    assert judge([Agrees("rankme")], made, "linear_top1").word == UNDECIDED
    with pytest.raises(UserError, match="3 arms"):
        Agrees("rankme").check("abc")


# ---------------------------------------------------------------- laws


@given(POINTS)
def test_the_test_is_students(rows) -> None:
    found = judge([Above("a", "b", by=2)], values(rows), "linear_top1").claims[0]
    gaps = [(row[0] - row[1]) / 3.6 for row in rows]
    assert found.estimate == pytest.approx(np.mean(gaps))
    if np.std(gaps) > 1e-6 and abs(np.mean(gaps) - 2) > 1e-6:
        theirs = ttest_1samp(gaps, 2, alternative="greater")
        assert (found.p, found.p_against) == pytest.approx((theirs.pvalue, 1 - theirs.pvalue))
        assert (found.low, found.high) == pytest.approx(tuple(ttest_1samp(gaps, 0).confidence_interval(0.95)))


@given(POINTS, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_seeds_may_come_in_any_order_and_differ_as_they_like(rows, turn) -> None:
    """Claims are of arms beside arms of the same seed: a seed that is better for all arms changes nothing."""
    shifted = [[right + 40 * seed for right in row] for seed, row in enumerate(rows)]
    turned = rows[turn:] + rows[:turn]
    for form in FORMS:
        made = [judge([form], values(each), "linear_top1") for each in (rows, turned, shifted)]
        for other in made[1:]:
            assert ps(other) == pytest.approx(ps(made[0]), abs=1e-6)


@given(POINTS)
def test_a_claim_and_its_opposite_mirror(rows) -> None:
    opposite = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED, UNDECIDED: UNDECIDED}
    for form, mirror in ((Above("a", "b"), Above("b", "a")), (Order(), Order("d", "c", "b", "a"))):
        one, other = (judge([each], values(rows), "linear_top1") for each in (form, mirror))
        assert one.word == opposite[other.word]
        assert ps(one) == pytest.approx(ps(other)[::-1], abs=1e-6)


@given(POINTS, st.lists(st.sampled_from(FORMS), min_size=1, max_size=4, unique=True))
def test_more_claims_are_harder_to_support_and_no_easier_to_contradict(rows, forms) -> None:
    """All must hold, each by its own test; the opposite of any is enough, so those are corrected for their number."""
    whole = judge(forms, values(rows), "linear_top1")
    words = [each.word for each in whole.claims]
    raw = sorted(judge([form], values(rows), "linear_top1").claims[0].p_against or 0.0 for form in forms)
    assert sorted(each.p_against or 0.0 for each in whole.claims) == pytest.approx(holm(raw))
    assert (whole.word == SUPPORTED) == (set(words) == {SUPPORTED})
    assert (whole.word == CONTRADICTED) == (CONTRADICTED in words)
    for form, together in zip(forms, whole.claims, strict=True):
        alone = judge([form], values(rows), "linear_top1").claims[0]
        assert together.p == alone.p
        assert together.word == alone.word or (alone.word, together.word) == (CONTRADICTED, UNDECIDED)
        assert f"{together.estimate:.3f}" in {f"{alone.estimate:.3f}"}


def test_claims_that_share_a_test_are_not_corrected_for_it() -> None:
    """Three collapses beside one healthy arm whose learning is the weakest part: what one of them supports, three do."""
    rows = [[137, 43, 43, 43], [187, 44, 42, 45], [162, 42, 44, 43]]
    made = values(rows, random_linear_top1=0.25, test_images=360)
    one, three = (judge([Collapse(arm, "a") for arm in arms], made, "linear_top1") for arms in ("b", "bcd"))
    assert (one.word, three.word) == (SUPPORTED, SUPPORTED)
    assert one.claims[0].p == three.claims[0].p == pytest.approx(0.026, abs=0.003)


@given(POINTS)
@settings(max_examples=30)
def test_every_verdict_has_words(rows) -> None:
    found = judge(FORMS, values(rows), "linear_top1")
    assert found.text.startswith(found.word)
    assert found.word in WORDS
    assert all(math.isfinite(number) for number in ps(found))
    assert (
        type(found).from_json({"word": found.word, "claims": [vars(each) for each in found.claims], "text": found.text}) == found
    )


# ---------------------------------------------------------------- runs that are not there


def test_two_seeds_decide_nothing() -> None:
    found = judge([Above("a", "b")], values([[300, 100, 0, 0], [301, 100, 0, 0]]), "linear_top1")
    assert found.word == UNDECIDED
    assert "2 seeds decide nothing" in found.text
    assert found.claims[0].estimate == pytest.approx(100 * 200.5 / 360)
    assert judge([Above("a", "b")], {}, "linear_top1").word == UNDECIDED


def test_a_diverged_run_counts_as_untrained() -> None:
    made = values([[300, 100, 0, 0]] * 4, random_linear_top1=0.2, test_images=360)
    made["b"][3]["linear_top1"] = None
    made["b"][2]["linear_top1"] = math.nan
    found = judge([Above("a", "b")], made, "linear_top1")
    assert (found.word, found.claims[0].seeds) == (SUPPORTED, 4)
    assert found.claims[0].estimate == pytest.approx(100 * (2 * 200 / 360 + 2 * (300 / 360 - 0.2)) / 4)
    assert found.text.endswith("b diverged in 2 of 4 seeds and counts as untrained there")
    assert judge([Order("b", "a")], made, "linear_top1").claims[0].seeds == 4
    found = judge([Collapse("b", "a", within=12)], made, "linear_top1")
    assert (found.word, found.claims[0].seeds) == (SUPPORTED, 4)
    del made["b"][3]["linear_top1"]  # it was never measured: no collapse
    assert judge([Collapse("b", "a", within=12)], made, "linear_top1").claims[0].seeds == 3
    assert judge([Above("a", "b")], made, "linear_top1").claims[0].seeds == 3


def test_what_makes_training_unstable_can_be_told() -> None:
    """All seeds of one arm diverged: that is what the claim says of it, not a lack of numbers."""
    made = values([[300, 290, 295, 280], [303, 291, 290, 285], [299, 294, 292, 281]], random_linear_top1=0.25, test_images=360)
    made["d"] = {seed: {"linear_top1": None} for seed in range(3)}  # all that a study keeps of a run that diverged
    assert judge([Above("a", "d")], made, "linear_top1").word == SUPPORTED
    assert judge([Peak("d", "a", "b")], made, "linear_top1").word == SUPPORTED
    assert judge([Above("d", "a")], made, "linear_top1").word == CONTRADICTED
    assert judge([Collapse("d", "a")], made, "linear_top1").word == SUPPORTED


def test_another_metric_without_a_number_is_no_collapse() -> None:
    made = values([[300, 100, 0, 0], [303, 101, 0, 0], [299, 98, 0, 0]], random_linear_top1=0.2, alignment=None)
    assert judge([Collapse("a", "b")], made, "linear_top1").word == CONTRADICTED
    made["a"] = {seed: {"knn_top1": None} for seed in range(3)}
    assert judge([Above("b", "a")], made, "knn_top1").text.endswith("a diverged in 3 of 3 seeds and is left out there")
    assert judge([Collapse("a", "b")], made, "linear_top1").word != CONTRADICTED


def test_a_healthy_arm_that_learns_nothing_says_nothing_of_the_other() -> None:
    made = values([[80, 75, 0, 0], [76, 70, 0, 0], [82, 77, 0, 0]], random_linear_top1=0.2)
    assert judge([Collapse("b", "a")], made, "linear_top1").word == UNDECIDED
    surely = values([[76, 30, 0, 0], [75, 32, 0, 0], [76, 31, 0, 0]], random_linear_top1=0.2)
    assert judge([Collapse("b", "a")], surely, "linear_top1").word == UNDECIDED
    for seed in range(3):
        surely["a"][seed] = {"linear_top1": None}
    assert judge([Collapse("b", "a")], surely, "linear_top1").word == UNDECIDED, "nor one that diverged"


def test_other_metrics_stand_in_their_own_unit() -> None:
    made = values([[300, 100, 0, 0], [303, 100, 0, 0], [301, 99, 0, 0]])
    for seed in range(3):
        for arm, memory in zip(ARMS, (1.0, 2.0, 3.0, 4.5), strict=True):
            made[arm][seed]["memory_gb"] = memory
    found = judge([Order(metric="memory_gb"), Above(At("d", "memory_gb"), At("a", "memory_gb"), by=3)], made, "linear_top1")
    assert [each.estimate for each in found.claims] == pytest.approx([3.45, 3.5])
    assert found.word == SUPPORTED
    assert "points" not in found.text


def test_a_form_names_arms_that_there_are() -> None:
    with pytest.raises(UserError, match=r"got arm 'colour'.*known"):
        Above(Mean("a", "colour"), "b").check(ARMS)
    with pytest.raises(UserError, match="2 arms, and it takes 3"):
        Peak("a", "b").check(ARMS)
    for form in FORMS:
        form.check(ARMS)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (Above("a", "a"), "a against itself"),
        (Order("a", "b", "a"), "a against itself"),
        (Above(Minus("a", "a"), "b"), "a against itself"),
        (Agrees("rankme", "rankme"), "rankme against itself"),
        (Above(Mean(), "b"), "of no arm"),
        (Above("a", Minus("b", Mean())), "of no arm"),
        (Same("a", "b", within=-3), "within: got -3, must be a number above 0"),
        (Same("a", "b", within=math.nan), "within: got nan"),
        (Above("a", "b", by="3"), "by: got '3', must be a number"),
        (Above("a", "b", by=True), "by: got True"),
        (Above("a", "b", metric=5), "got 5 for a metric"),
        (Above(At("a", 5), "b"), "got 5 for a metric"),
        (Collapse(At("a", "knn_top1"), "b"), "no untrained encoder"),
    ],
    ids=str,
)
def test_a_form_that_can_say_nothing_is_refused(form, said: str) -> None:
    with pytest.raises(UserError, match=said):
        form.check(ARMS)
    Above(At("a", "h_top1"), "a", by=-1).check(ARMS)


@pytest.mark.parametrize("form", [Above("a", "b", by=5), Same("a", "b"), Same("a", "b", within=40), Order(), Peak()])
def test_a_gain_is_judged_in_points_as_the_share_that_it_is_of(form) -> None:
    rows = [[200, 100, 150, 90], [205, 98, 149, 88], [202, 101, 152, 93]]
    share = judge([form], values(rows, test_images=360), "linear_top1")
    gained = {
        arm: {seed: {"linear_gain": row["linear_top1"], "test_images": 360} for seed, row in each.items()}
        for arm, each in values(rows).items()
    }
    gain = judge([form], gained, "linear_gain")
    assert gain == share
    assert gain.claims[0].unit == "points"
