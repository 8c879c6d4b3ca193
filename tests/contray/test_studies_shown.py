"""A study's picture, the list of studies and the page: what MLflow keeps of one stands in all three."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contray import track
from contray.cli import main
from contray.errors import UserError
from contray.studies import Above, Agrees, At, Collapse, Order, Peak, listing, page
from contray.studies.form import Study
from contray.studies.page import compact, write
from contray.studies.picture import draw, figure
from contray.studies.result import StudyResult
from contray.studies.verdict import Judged, Verdict, judge, lasting

CURVE = Study(
    "planted", "an intermediate value is best", "Doe 2020, table 5, https://example.org/abs/1", "simclr", {"method.temperature": [0.1, 0.2, 0.5]},
    "linear_top1", (Peak(),), {0.1: 59.7, 0.2: 64.4}, "ImageNet linear top-1 %", {}, {"digits": {}, "cifar": {}}, 3, {"digits": 6}, "too small to tell",
)  # fmt: skip


def result(study: Study, means: dict, seeds: int = 3, **more) -> StudyResult:
    """Runs by hand: accuracies of these arms in per cent, half a point apart over seeds, in another order for each arm."""
    values = {
        arm: {
            seed: {
                "linear_top1": (mean + 0.5 * (seed + place % 2)) / 100, "random_linear_top1": 0.3, "knn_top1": mean / 200, "memory_gb": 1 + place,
                "rankme": mean + seed, "not_kept": 1.0, "seconds": 20.0, "test_images": 360,
            }
            for seed in range(seeds)
        }
        for place, (arm, mean) in enumerate(means.items())
    }  # fmt: skip
    runs = {arm: {seed: f"{place}{seed}" * 16 for seed in range(seeds)} for place, arm in enumerate(means)}
    return StudyResult(study, "digits", values, {}, judge(study.expect, values, study.metric), runs, 3.0, **more)


def plant(store: str, given: StudyResult, folder: Path, seeds: int = 3, **more: str) -> str:
    """A study's run in MLflow, as the end of one leaves it; more: tags."""
    tags = {
        "contray.kind": "study",
        "contray.study": given.study.name,
        "contray.scale": given.scale,
        "contray.verdict": given.verdict.word,
        "contray.seeds": str(seeds),
        "contray.left": str(given.left),
        "contray.declared": CURVE.digest("digits"),
    } | more
    run = track.begin(store, "contray", "study", params={}, tags=tags)
    (folder / "study.json").write_text(json.dumps(given.as_json()))
    run.log_artifact(folder / "study.json")
    run.finish("FINISHED")
    return run.run_id


# ---------------------------------------------------------------- the picture


def words(drawn) -> str:
    axes = drawn.axes
    ticks = [label.get_text() for axis in axes for side in (axis.xaxis, axis.yaxis) for label in side.get_ticklabels()]
    texts = [text.get_text() for axis in axes for text in axis.texts]
    labels = [text for axis in axes for text in (axis.get_xlabel(), axis.get_ylabel(), axis.get_title())]
    legends = [text.get_text() for legend in drawn.legends for text in legend.get_texts()]
    return " | ".join([drawn.get_suptitle(), *ticks, *texts, *labels, *legends])


def test_a_grid_is_a_curve_beside_the_papers(tmp_path: Path) -> None:
    found = result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55})
    drawn = figure(CURVE, found)
    ours, theirs = drawn.axes
    assert [list(line.get_ydata()) for line in theirs.lines] == [[59.7, 64.4]]
    assert list(ours.containers[0].lines[0].get_ydata()) == pytest.approx([60.5, 71.0, 55.5])
    assert all(
        told in words(drawn)
        for told in ("intermediate value", "supported", "method.temperature", "0.5", "linear top-1 %", "ImageNet")
    )
    assert draw(CURVE, found, tmp_path / "new" / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("study", "means", "axes", "said"),
    [
        (replace(CURVE, expect=(Collapse("none", "all"),), paper={}), {"all": 70, "none": 31}, 1, "none"),
        (replace(CURVE, expect=(Above(At("a b", "knn_top1"), "c"),), paper={"c": 1.0}), {"a b": 70, "c": 31}, 2, "knn top-1 %"),
        (replace(CURVE, expect=(Order(metric="memory_gb"),), paper={}), {1: 60, 2: 61}, 2, "memory gb"),
        (replace(CURVE, expect=(Agrees("rankme"),)), {"a": 1, "b": 2, "c": 3, "d": 4}, 1, "rankme"),
        (replace(CURVE, expect=(Above(("a", "b"), ("a", "a")),), paper={}), {("a", "a"): 40, ("a", "b"): 70, ("b", "b"): 50}, 1, "71.0"),
    ],
    ids=["named", "two metrics", "two units", "agreement", "matrix"],
)  # fmt: skip
def test_other_studies_are_drawn_as_they_are(study: Study, means: dict, axes: int, said: str, tmp_path: Path) -> None:
    drawn = figure(study, result(study, means))
    drawn.savefig(tmp_path / "a.png")
    assert (len(drawn.axes), said in words(drawn)) == (axes, True)
    if said == "71.0":
        assert words(drawn).count("71.0") == 2  # a pair is one in either order


def test_what_has_no_value_is_said() -> None:
    study = replace(CURVE, expect=(Collapse("none", "all"),), paper={})
    found = result(study, {"all": 70, "none": 31})
    values = {**found.values, "none": {seed: {"linear_top1": None} for seed in range(3)}}
    assert "no value" in words(figure(study, replace(found, values=values)))
    assert "none\n3 of 3 diverged" in words(figure(study, replace(found, values=values)))
    values = {**found.values, "none": {**found.values["none"], 1: {"linear_top1": None}}}
    assert "none\n1 of 3 diverged" in words(figure(study, replace(found, values=values)))


@pytest.mark.parametrize("space", [{"method.temperature": [0.1, 0.2]}, {"a": {}, "b": {}}])
def test_untrained_encoders_are_one_line_where_they_are_alike(space: dict) -> None:
    arms = space.get("method.temperature") or list(space)
    study = replace(CURVE, space=space, paper={}, expect=(Above(*arms),))
    found = result(study, dict(zip(arms, (40, 70), strict=True)))
    for apart, value in ((0.02, 1), (0.3, 2)):
        values = {
            arm: {seed: {**each, "random_linear_top1": 0.3 + apart * place} for seed, each in found.values[arm].items()}
            for place, arm in enumerate(arms)
        }
        (axis,) = figure(study, replace(found, values=values)).axes
        (line,) = [line for line in axis.lines if line.get_label() == "untrained"]
        drawn = sorted({round(float(number), 6) for number in [*line.get_xdata(), *line.get_ydata()]} - {0.0, 1.0})
        assert drawn == ([31.0] if value == 1 else [30.0, 60.0])


def test_each_metric_has_its_own_untrained_encoder() -> None:
    study = replace(CURVE, paper={}, expect=(Above(At("a", "knn_top1"), "b"),))
    found = result(study, {"a": 40, "b": 70})
    values = {
        arm: {seed: {**each, "random_knn_top1": 0.25} for seed, each in seeds.items()} for arm, seeds in found.values.items()
    }
    drawn = figure(study, replace(found, values=values))
    lines = {line.get_label(): line for line in drawn.axes[0].lines}
    linear, knn = (lines[f"untrained: {name} top-1 %"] for name in ("linear", "knn"))
    assert [round(float(each.get_xdata()[0]), 6) for each in (linear, knn)] == [30.0, 25.0]
    assert linear.get_color() != knn.get_color()
    drawn.canvas.draw()
    (legend,) = drawn.legends
    inside, whole = legend.get_window_extent(), drawn.bbox
    assert whole.x0 <= inside.x0
    assert inside.x1 <= whole.x1


def test_each_panel_has_a_legend_of_its_own_beside_the_other() -> None:
    study = replace(CURVE, paper={}, expect=(Peak(), Order(metric="rankme")))
    found = result(study, {0.1: 40, 0.2: 50, 0.5: 35})
    values = {arm: {seed: {**each, "random_rankme": 30.0} for seed, each in seeds.items()} for arm, seeds in found.values.items()}
    drawn = figure(study, replace(found, values=values))
    drawn.canvas.draw()
    left, right = (legend.get_window_extent() for legend in drawn.legends)
    assert left.x1 < right.x0


# ---------------------------------------------------------------- the list


def test_the_list_has_the_latest_verdicts(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(listing, "study_names", lambda: ["planted", "new"])
    monkeypatch.setattr(listing, "load_study", lambda name: replace(CURVE, name=name))
    mine = replace(result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55}), study=replace(CURVE, name="mine"))
    plant(store, mine, tmp_path, **{"contray.claim": "what I think"})
    first = result(CURVE, {0.1: 70, 0.2: 65, 0.5: 60}, left=2)
    plant(store, first, tmp_path)
    capsys.readouterr()
    assert main(["studies", "--track.uri", store]) == 0
    assert first.verdict.word == "contradicted"
    assert "(contradicted)" in capsys.readouterr().out
    last = plant(store, result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55}), tmp_path)
    assert main(["studies", "--track.uri", store, "--json"]) == 0
    planted, new, own = json.loads(capsys.readouterr().out)
    assert (own["study"], own["claim"], own["verdicts"]["digits"]["verdict"]) == ("mine", "what I think", "supported"), (
        "a file of one's own"
    )
    assert planted["verdicts"]["digits"] | {"url": ""} == {
        "verdict": "supported",
        "seeds": 3,
        "left": 0,
        "data": "",
        "run_id": last,
        "url": "",
    }
    assert (new["verdicts"], new["cost"]) == ({}, {"digits": 6, "cifar": None})
    assert listing.judged(f"sqlite:///{tmp_path}/none.db", "contray", [CURVE]) == {}


def test_only_a_run_of_the_files_own_arms_counts_and_more_seeds_count_more(store: str, tmp_path: Path) -> None:
    """Of a toy run, a file of one's own and an older claim nothing is shown; fewer seeds do not hide more."""
    found = result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55})
    foreign = replace(CURVE, space={"method.temperature": [0.1, 0.2, 0.4]})
    for digest in ("", foreign.digest("digits"), replace(CURVE, expect=(Order(),)).digest("digits")):
        plant(store, found, tmp_path, **{"contray.declared": digest})
    assert listing.judged(store, "contray", [CURVE]) == {}
    many = plant(store, found, tmp_path, seeds=5)
    plant(store, found, tmp_path, seeds=1)
    plant(store, replace(found, left=2), tmp_path, seeds=8)
    (run,) = listing.judged(store, "contray", [CURVE]).values()
    assert run.info.run_id == many


def test_a_file_of_ones_own_is_listed_by_what_it_says_not_by_settings_of_a_try(store: str, tmp_path: Path) -> None:
    own = result(replace(CURVE, name="mine"), {0.1: 60, 0.2: 70, 0.5: 55})
    plant(store, own, tmp_path, **{"contray.declared": ""})
    assert "mine" not in [row["study"] for row in listing.study_rows(store, "contray")]
    plant(store, own, tmp_path)
    assert "mine" in [row["study"] for row in listing.study_rows(store, "contray")]


# ---------------------------------------------------------------- the page


def test_a_record_of_other_arms_keeps_its_own_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    today = replace(CURVE, claim="another claim")
    monkeypatch.setattr(page, "load_study", lambda name: today)
    assert page._declared(result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55})) is today
    assert page._declared(result(CURVE, {0.1: 60, 0.2: 70, 0.4: 55})) is CURVE


def test_a_record_is_judged_by_today_s_claim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Numbers stay; where the study's file claims something else of the same arms, or a test is another, the verdict is today's."""
    given = result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55})
    path = tmp_path / "planted_digits.json"
    path.write_text(page.compact(given))
    monkeypatch.setattr(page, "load_study", lambda name: replace(CURVE, expect=(Above(0.5, 0.2),)))
    assert (given.verdict.word, page._read(path).verdict.word) == ("supported", "contradicted")
    monkeypatch.setattr(
        page, "load_study", lambda name: replace(CURVE, expect=(Above(0.4, 0.2),), space={"optim.lr": [0.2, 0.4]})
    )
    assert page._read(path).verdict == given.verdict, "of other arms it says nothing"


def test_how_many_verdicts_stay_where_many_are_looked_for() -> None:
    """Benjamini & Hochberg's (1995) own example has 4 of 15 at 5 %; a verdict's p counts both sides."""
    theirs = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    found = [Verdict("", (Judged("", 0, 0, 0, p / 2, 1 - p / 2, ""),), "") for p in theirs]
    assert lasting(found) == 4
    turned = [Verdict("", (Judged("", 0, 0, 0, 1 - p / 2, p / 2, ""),), "") for p in theirs]
    assert lasting(turned) == 4
    assert lasting([]) == lasting([Verdict("", (Judged("", None, None, None, None, None, ""),), "")]) == 0


def test_the_page_is_made_of_what_mlflow_keeps(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "shipped", lambda: [CURVE])
    docs, records = tmp_path / "docs", tmp_path / "records"
    docs.mkdir()
    settings = {"train.steps": 100, "data.root": "/home/me", "track.uri": store}
    given = result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55}, settings=settings, commit="0123456789", uri=store, url="http://mine")
    plant(store, given, tmp_path)
    assert write(store, "contray", docs, records) == ["planted_digits"]

    text = (docs / "STUDIES.md").read_text()
    for told in (
        "An intermediate value is best.", "<https://example.org/abs/1>", "1 supported, 0 contradicted, 0 undecided", "| [planted](#planted) |",
        "![planted at scale digits](assets/studies/planted_digits.png)", "| 0.2 | 71.0 ± 1.24 |", "64.4 |", "*Supported*:\n\n- a peak between 0.1 and 0.5",
        "Too small to tell.", "contray study planted --train.steps 100\n", "9 runs, 3 minutes of training, commit 0123456",
    ):  # fmt: skip
        assert told in text, told
    assert (docs / "assets" / "studies" / "planted_digits.png").exists()

    record = (records / "planted_digits.json").read_text()
    assert not [each for each in ("/home/me", str(tmp_path), "http://mine", "not_kept") if each in record]
    again = StudyResult.from_json(json.loads(record))
    assert (again.verdict, again.runs) == (given.verdict, given.runs)
    assert again.values[0.2][1] == {name: value for name, value in given.values[0.2][1].items() if name != "not_kept"}
    assert compact(again) == record

    (records / "notes.yaml").write_text("planted_digits: It is scale, as 2000 steps tell.")
    (records / "other_cifar.json").write_text(compact(replace(given, study=replace(CURVE, name="other"), scale="cifar", left=1)))
    assert write(f"sqlite:///{tmp_path}/none.db", "contray", docs, records) == ["other_cifar", "planted_digits"]
    text = (docs / "STUDIES.md").read_text()
    assert "It is scale, as 2000 steps tell." in text
    assert "| (supported) |" in text
    assert "contray study other --scale cifar" in text
    (records / "bad_digits.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad_digits\.json: no record of a study"):
        write(store, "contray", docs, records)


@pytest.mark.parametrize("damaged", ["{", "[]", '{"study": {}}', None], ids=["cut", "list", "other", "missing"])
def test_a_damaged_study_keeps_its_record_and_the_others_go_on(
    damaged: str | None, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    whole = replace(CURVE, name="whole")
    monkeypatch.setattr(page, "shipped", lambda: [CURVE, whole])
    docs, records = tmp_path / "docs", tmp_path / "records"
    docs.mkdir()
    given = result(CURVE, {0.1: 60, 0.2: 70, 0.5: 55})
    plant(store, given, tmp_path)
    write(store, "contray", docs, records)
    before = (records / "planted_digits.json").read_text()

    run = track.TrackedRun(store, "", plant(store, given, tmp_path))
    kept = next(tmp_path.rglob(f"{run.run_id}/artifacts/study.json"))
    kept.unlink() if damaged is None else kept.write_text(damaged)
    plant(store, replace(given, study=whole), tmp_path, **{"contray.declared": whole.digest("digits")})
    assert write(store, "contray", docs, records) == ["planted_digits", "whole_digits"]
    assert (records / "planted_digits.json").read_text() == before
    said = capsys.readouterr().err
    assert run.run_id in said
    assert "the record stays as it was" in said
