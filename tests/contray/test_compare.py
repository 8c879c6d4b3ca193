"""The numbers of the table, on runs made by hand."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from contray import RunConfig, track
from contray.cli import main
from contray.config import dotted
from contray.errors import ConfigError, UserError
from contray.pictures.comparison import draw
from contray.track.compared import tables_of
from contray.track.comparing import Comparison, compare
from contray.track.significance import against

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # MLflow 3.17 with SQLAlchemy 2.1

SIMCLR = {"method.name": "simclr", "method.preset": "digits", "data.source": "digits", "method.temperature": 0.1}


def run(store: str, name: str, params: dict, metrics: dict[str, float], step: int = 200, kind: str = "run", **more) -> str:
    tags = {"contray.kind": kind, **more.pop("tags", {})}
    made = track.begin(store, "shapes", name, params=params, tags=tags, **more)
    made.log_metrics(metrics, step)
    made.finish("FINISHED")
    return made.run_id


def cells(found: Comparison) -> list[str]:
    return [cell for table in found.tables for row in table.rows for cell in row]


def test_rows_are_configurations_over_seeds(store: str, tmp_path: Path) -> None:
    results = {
        "linear_top1": (0.8, 0.9),
        "random_linear_top1": (0.2, 0.4),
        "knn_top1": (0.7, 0.7),
        "pixels_linear_top1": (0.5, 0.5),
    }
    ids = [
        run(
            store,
            f"seed-s{seed}",
            SIMCLR | {"seed": seed, "scale.workers": (1, 1 + seed), "track.name": str(seed)},
            {name: values[seed] for name, values in results.items()},
        )
        for seed in (0, 1)
    ]
    warm = run(store, "warm", SIMCLR | {"method.temperature": 0.5, "seed": 0}, {"linear_top1": 0.95}, step=400)
    run(store, "still running", SIMCLR | {"seed": 2}, {"loss": 1.0})

    found = compare(store, [], "shapes")
    best, other = found.rows
    assert (best.run_ids, best.settings, best.seeds, best.steps) == ((warm,), "method.temperature=0.5", 1, 400)
    assert best.metrics["linear_top1"].std is None, "one value has none"
    assert "linear_gain" not in best.metrics
    assert (set(other.run_ids), other.settings, other.seeds, other.steps) == (set(ids), "method.temperature=0.1", 2, 200)
    assert (other.method, other.preset, other.dataset) == ("simclr", "digits", "digits")
    spread = other.metrics["linear_top1"]
    assert (spread.mean, spread.std, spread.n) == (pytest.approx(0.85), pytest.approx(0.1 / 2**0.5), 2)
    gain = other.metrics["linear_gain"]  # per seed: 0.6 and 0.5
    assert (gain.mean, gain.std) == (pytest.approx(0.55), pytest.approx(0.1 / 2**0.5))
    assert {"85.0 ± 7.1", "+55.0", "70.0 ± 0.0", "50.0", "95.0", "seed and 1 more", "seed"} & set(cells(found)) == {
        *("85.0 ± 7.1", "+55.0", "70.0 ± 0.0", "50.0", "95.0", "seed"),
    }
    assert "1 run has not ended or been evaluated and is left out" in str(found)
    assert re.fullmatch(r"http://127\.0\.0\.1:5000/#/experiments/\d+/runs\?.*&viewStateShareKey=compare-\w+", found.url)
    assert found.differing == ["method.temperature"]
    assert [row.by_seed["linear_top1"] for row in found.rows] == [{"0": 0.95}, {"0": 0.8, "1": 0.9}]
    assert found._repr_html_().count("<table") == 2, "no differences of single seeds"
    assert "one seed: no telling a difference from chance" in found.tables[0].caption
    head, first, _ = csv.reader(found.csv().splitlines())
    line = dict(zip(head, first, strict=True))
    assert (line["name"], line["method.temperature"], line["linear_top1"], line["knn_top1"]) == ("warm", "0.5", "0.95", "")


def test_a_table_for_a_spreadsheet_holds_no_formula_of_a_stranger(store: str) -> None:
    run(
        store,
        "=HYPERLINK(1)",
        SIMCLR | {"seed": 0, "optim.lr": -1.5, "augment.mean": "y", "train.planned_for": "2 cores"},
        {"linear_top1": 0.7},
    )
    run(
        store,
        "a",
        SIMCLR | {"seed": 0, "optim.lr": 1, "train.planned_for": "4 cores", "augment.mean": "@x"},
        {"linear_top1": 0.6},
    )
    found = compare(store, [], "shapes")
    head, *rows = csv.reader(found.csv().splitlines())
    lines = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert (lines["'=HYPERLINK(1)"]["optim.lr"], lines["a"]["augment.mean"]) == ("-1.5", "'@x")
    assert found.differing == ["optim.lr", "augment.mean"], "whom a plan was made for is no setting"


def test_runs_without_labels_are_compared_by_the_rank_of_their_features(store: str) -> None:
    run(store, "poor", SIMCLR, {"rankme": 3.0, "loss": 1.0})
    run(store, "rich", SIMCLR | {"method.temperature": 0.5}, {"rankme": 9.5, "random_rankme": 6.8})
    found = compare(store, [], "shapes")
    assert [row.name for row in found.rows] == ["rich", "poor"]
    assert "9.5" in cells(found)
    run(store, "labelled", SIMCLR | {"method.temperature": 0.7}, {"rankme": 1.0, "knn_top1": 0.5})
    assert [row.name for row in compare(store, [], "shapes").rows] == ["labelled"]


def test_evaluations_on_demand_have_columns_of_their_own(store: str, tmp_path: Path) -> None:
    """Each where any run has it, and a run that has no other score is no less evaluated."""
    probed = run(
        store, "probed", SIMCLR | {"seed": 0}, {"linear_top1": 0.7, "linear_paper_top1": 0.81, "linear_paper_val_top1": 0.55, "contrast_top1": 0.44}
    )  # fmt: skip
    tuned = run(store, "tuned", SIMCLR | {"seed": 0, "method.temperature": 0.5}, {"loss": 1.0}, step=300)
    track.attach(store, tuned).log_metrics(
        {"finetune_1pct_top1": 0.62, "finetune_1pct_val_top1": 0.33, "scratch_1pct_top1": 0.41, "supervised_top1": 0.9, "linear_last4_avg_top1": 0.66}, 0
    )  # fmt: skip
    found = compare(store, [], "shapes")
    assert {row.run_ids: row.steps for row in found.rows} == {(tuned,): 300, (probed,): 200}
    shown = cells(found)
    assert {"81.0*", "62.0*", "41.0*", "90.0*", "66.0*", "linear paper, %", "finetune 1pct, %", "supervised, %"} <= set(shown)
    for text in ("55.0", "33.0", "44.0"):  # what selected, and what is no evaluation
        assert not any(text in cell for cell in shown)
    rows, matrix = tables_of(found, "runs"), tables_of(found, "evaluations")
    assert "81.0" in rows[0].rows[0] + rows[0].rows[1]
    assert [table.columns for table in matrix if table.title.startswith("evaluations")] == [("evaluation", "#1", "#2")]


def test_children_stand_for_their_parent(store: str, tmp_path: Path) -> None:
    parent = run(store, "sweep", SIMCLR, {"linear_top1": 0.9}, kind="sweep")
    trials = [
        run(
            store,
            f"trial-{i}",
            SIMCLR | {"method.temperature": i, "seed": 0},
            {"knn_val_top1": i / 10},
            kind="trial",
            parent_id=parent,
        )
        for i in (3, 5)
    ]
    for asked in ([], [parent], [parent, trials[0]]):
        found = compare(store, asked, "shapes")
        assert [row.run_ids for row in found.rows] == [(trials[1],), (trials[0],)]
        assert "held out" in str(found)
    assert [row.run_ids for row in compare(store, trials[:1], "shapes").rows] == [(trials[0],)]


def test_the_group_tag_decides_where_there_is_one(store: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(store, str(seed), SIMCLR | {"seed": seed, "data.root": str(seed)}, {"knn_top1": 0.5}, tags={"contray.group": "abc"})
    (row,) = compare(store, [], "shapes").rows
    assert row.seeds == 2


@pytest.mark.parametrize("width", [40, 80, 0])
def test_no_number_and_no_name_is_cut(width: int, store: str) -> None:
    names = ("knn_top1", "linear_top1", "random_knn_top1", "random_linear_top1", "pixels_linear_top1", "finetune_1pct_top1")
    for seed in (0, 1):
        run(store, f"long-name-of-a-run-s{seed}", SIMCLR | {"seed": seed}, dict.fromkeys(names, 0.25))
    run(store, "trial", SIMCLR | {"method.temperature": 3, "seed": 0}, {"knn_val_top1": 0.125, "linear_val_top1": 0.375})
    run(store, "begun", SIMCLR, {"loss": 1.0})
    tables = compare(store, [], "shapes").tables
    shown = "\n\n".join(table.text(width) for table in tables)
    assert "…" not in shown
    assert shown.count("25.0 ± 0.0") == 3
    for text in ("seeds", "steps", "12.5", "37.5", "temperature", "1 run has not ended or been evaluated and is left out"):
        assert text in shown
    column = "".join(line[3:].split("  ")[0].strip() for line in tables[0].text(width).splitlines()[4:6])
    assert column.startswith("long-name-of-a-run")
    fits = [max(map(len, table.text(width).splitlines())) <= max(width, table.least) for table in tables]
    assert width == 0 or all(fits)


def test_in_80_columns_a_table_of_k_nn_and_linear_probe_fits(store: str) -> None:
    names = ("knn_top1", "linear_top1", "random_knn_top1", "random_linear_top1", "pixels_linear_top1")
    for seed in (0, 1, 2):
        for temperature in (0.1, 0.5):
            params = SIMCLR | {"seed": seed, "method.temperature": temperature, "optim.lr": temperature}
            run(store, f"simclr-digits-{temperature}-s{seed}", params, {name: temperature + seed / 100 for name in names})
    for table in compare(store, [], "shapes").tables:
        assert max(map(len, table.text(80).splitlines())) <= 80
        assert "simclr-digits-0.5" in table.text(80) or table.columns[1] != "run"


def test_a_repeated_seed_is_one_seed(store: str, tmp_path: Path) -> None:
    for i in range(2):
        run(store, f"again-{i}", SIMCLR | {"seed": 0}, {"linear_top1": 0.5})
    found = compare(store, [], "shapes")
    (row,) = found.rows
    assert (row.seeds, row.metrics["linear_top1"].n, len(row.run_ids)) == (1, 1, 2)
    assert "50.0" in cells(found)
    run(store, "other", SIMCLR | {"seed": 1}, {"linear_top1": 0.9})
    (row,) = compare(store, [], "shapes").rows
    assert (row.metrics["linear_top1"].mean, row.metrics["linear_top1"].n) == (pytest.approx(0.7), 2)


def test_what_is_not_there_is_named(store: str, tmp_path: Path) -> None:
    run(store, "r", SIMCLR, {"loss": 1.0})
    with pytest.raises(UserError, match=r"no experiment 'shape' in sqlite:.*did you mean shapes"):
        compare(store, [], "shape")
    with pytest.raises(UserError, match=r"no run 'abc' in sqlite:"):
        compare(store, ["abc"], "shapes")
    with pytest.raises(UserError, match="none of the 1 runs of experiment 'shapes' has finished and been evaluated"):
        compare(store, [], "shapes")
    with pytest.raises(ConfigError, match=r"there is no .*none\.db yet"):
        compare(f"sqlite:///{tmp_path}/none.db", [], "shapes")


def test_runs_are_found_by_their_names(store: str) -> None:
    first = run(store, "first", SIMCLR | {"seed": 0}, {"linear_top1": 0.5})
    other = run(store, "it's", SIMCLR | {"seed": 0, "method.temperature": 1}, {"linear_top1": 0.6})
    for asked in (["first", "it's"], [first, "it's"], [first, other]):
        rows = compare(store, asked, "none").rows
        assert [(row.run_ids, row.names, row.name) for row in rows] == [
            ((other,), ("it's",), "it's"),
            ((first,), ("first",), "first"),
        ]
    again = run(store, "first", SIMCLR | {"seed": 1}, {"linear_top1": 0.5})
    with pytest.raises(UserError, match=f"2 runs are called 'first': give an id, .*{first}") as refused:
        compare(store, ["first"], "shapes")
    assert again in str(refused.value)


def test_own_evaluations_and_metrics_that_are_asked_for_have_columns(store: str, tmp_path: Path) -> None:
    own = {"mine_top1": 0.75, "mine_val_top1": 0.7, "random_mine_top1": 0.1, "rankme": 9.5}
    run(store, "own", SIMCLR | {"eval.final": ("/home/me/mine.py",)}, own)
    run(store, "both", SIMCLR | {"eval.final": ("knn", "mine.py"), "method.temperature": 0.3}, own | {"knn_top1": 0.5})
    found = compare(store, [], "shapes")
    assert found.rows[0].metrics["mine_top1"].mean == 0.75
    assert "mine %" in found.tables[0].columns
    assert "75.0" in cells(found)
    assert not {"70.0", "10.0", "9.5"} & set(cells(found))
    assert "9.5" in [cell.strip() for cell in cells(compare(store, [], "shapes", ["rankme"]))], "no star where all are equal"
    with pytest.raises(UserError, match=r"^--metric: no run has 'rankm'; did you mean rankme"):
        compare(store, [], "shapes", ["rankm"])


def test_runs_of_before_evaluations_had_keys_of_their_own_stand_beside_new_ones(store: str, tmp_path: Path) -> None:
    text = Path(__file__).parent.joinpath("config_before_plugins.yaml").read_text()
    old = dict(dotted(yaml.safe_load(text)))
    new = RunConfig.from_yaml(text).flat()
    old, new = ({k: tuple(v) if isinstance(v, list) else v for k, v in each.items()} for each in (old, new))
    run(store, "old", old, {"knn_top1": 0.5})
    run(store, "new", new | {"method.temperature": 0.7}, {"knn_top1": 0.6})
    rows = compare(store, [], "shapes").rows
    assert [row.settings for row in rows] == ["method.temperature=0.7", f"method.temperature={old['method.temperature']}"]


def test_runs_of_other_test_images_are_not_held_against_each_other(store: str) -> None:
    for name, change, top1 in (
        ("a", {}, 0.9),
        ("b", {"method.temperature": 0.5}, 0.8),
        ("faint", {"data.contrast": 0.2}, 0.4),
        ("photos", {"data.source": "cifar10"}, 0.5),
        ("photos elsewhere", {"data.source": "/data/cifar10"}, 0.45),
    ):
        for seed in range(3):
            made = run(store, f"{name}-s{seed}", SIMCLR | change | {"seed": seed}, {"linear_top1": top1 + seed / 100})
            if name.startswith("photos"):
                images = track.datasets.Dataset("cifar10 test", "abc", "test", "cifar10", 100, 10)
                track.attach(store, made).log_inputs([images])
    found = compare(store, [], "shapes")
    assert [row.name for row in found.rows] == ["photos", "photos elsewhere", "a", "b", "faint"]
    assert found.rows[0].tests == found.rows[1].tests, "of one digest"
    assert {(each.best, each.row) for each in found.against} == {(1, 2), (3, 4)}
    assert found.tables[0].sections == {2, 4}
    assert "of the same test images" in found.tables[0].title
    assert [table.title.split(" in ")[0] for table in found.tables if table.title.startswith("behind")] == [
        "behind #1",
        "behind #3",
    ]


def test_how_many_seeds_a_number_is_of_stands_beside_it(store: str) -> None:
    for seed in range(3):
        metrics = {
            "linear_top1": 0.8 + seed / 100,
            "random_linear_top1": 0.2,
            "knn_top1": 0.7,
            "grad_norm": float("nan") if seed else 1.0,
        }
        if seed == 2:
            metrics |= {"linear_top1": float("nan")}
        run(store, f"r-s{seed}", SIMCLR | {"seed": seed}, metrics)
    found = compare(store, [], "shapes")
    (row,) = found.rows
    assert {"80.5 ± 0.7 (n=2)", "+60.5 (n=2)", "70.0 ± 0.0"} <= {*cells(found)}
    assert "n: seeds that have such a number" in found.tables[0].caption
    assert (row.metrics["grad_norm"].n, row.metrics["grad_norm"].std) == (1, None)
    line = next(csv.DictReader(found.csv().splitlines()))
    assert (line["grad_norm"], line["grad_norm_std"], line["linear_top1_n"]) == ("1.0", "", "2")


def test_what_decides_nothing_makes_no_other_configuration(store: str) -> None:
    for seed, workers in ((0, 2), (1, 8)):
        run(store, f"r-s{seed}", SIMCLR | {"seed": seed, "data.workers": workers, "train.keep": workers}, {"knn_top1": 0.5})
    (row,) = compare(store, [], "shapes").rows
    assert (row.seeds, row.settings) == (2, "")


def test_what_is_no_number_comes_last(store: str) -> None:
    for name, temperature, top1 in (("bad", 0.2, float("nan")), ("good", 0.3, 0.7), ("best", 0.4, 0.8)):
        run(store, name, SIMCLR | {"seed": 0, "method.temperature": temperature}, {"linear_top1": top1})
    assert [row.name for row in compare(store, [], "shapes").rows] == ["best", "good", "bad"]


def test_the_least_loss_is_the_best(store: str) -> None:
    for temperature in (1, 2):
        metrics = {"knn_top1": temperature / 4, "loss": temperature, "alignment": 0.5}
        run(store, f"r{temperature}", SIMCLR | {"seed": 0, "method.temperature": temperature}, metrics)
    shown = cells(compare(store, [], "shapes", ["loss", "alignment"]))
    assert {"1*", "2 ", "50.0*", "0.5 "} <= {*shown}


def test_a_deleted_run_is_not_taken_for_one_that_is_there(store: str) -> None:
    made = run(store, "gone", SIMCLR, {"knn_top1": 0.5})
    with track.asking(store, "deleting") as talk:
        talk.delete_run(made)
    with pytest.raises(UserError, match=f"run {made} was deleted in MLflow; `mlflow runs restore --run-id {made}`"):
        compare(store, [made], "shapes")


# ---------------------------------------------------------------- by more than chance?


def test_differences_are_those_of_scipys_tests() -> None:
    from scipy import stats

    best, near, far = {"0": 0.90, "1": 0.94, "2": 0.92}, {"0": 0.89, "1": 0.92, "2": 0.92}, {"5": 0.72, "6": 0.74}
    paired, welch = against([near, best, far], "linear_top1")
    assert (paired.row, paired.best, paired.test, welch.row, welch.test) == (1, 2, "paired", 3, "Welch")
    t = stats.ttest_rel([*best.values()], [*near.values()])
    w = stats.ttest_ind([*best.values()], [*far.values()], equal_var=False)
    assert paired.mean == pytest.approx(0.01)
    assert (paired.low, paired.high) == pytest.approx(tuple(t.confidence_interval()))
    assert (welch.low, welch.high) == pytest.approx(tuple(w.confidence_interval()))
    assert welch.p == pytest.approx(3 * w.pvalue)  # Holm: the smallest of three pairs, for the best was picked
    assert paired.p == pytest.approx(max(2 * t.pvalue, 3 * w.pvalue))
    assert paired.words.startswith("no telling")
    assert welch.words == "#2 is better"


def test_one_seed_tells_nothing() -> None:
    found = against([{"0": 0.9}, {"0": 0.5, "1": 0.5}, {}, {"0": 0.1}], "linear_top1")
    assert [(each.row, each.p, each.words) for each in found] == [
        (2, None, "one seed of #1: no telling"), (4, None, "one seed of #1 and #4: no telling"),
    ]  # fmt: skip
    assert against([{"0": 0.5}], "x") == []


def test_gaps_that_are_equal_are_no_certainty() -> None:
    """One test image more in each of three seeds is what chance gives; of eight seeds it is not."""
    for seeds, images, words in (
        (3, 0.0, "no telling"),
        (3, 1 / 360, "no telling"),
        (8, 0.0, "#1 is better"),
        (8, 1 / 360, "#1 is better"),
    ):
        best = {str(seed): 0.9 + seed / 100 for seed in range(seeds)}
        found = against([best, {seed: value - 1 / 360 for seed, value in best.items()}], "linear_top1", images)
        assert found[0].words.startswith(words), (seeds, images, found)
    assert against([{"0": 0.5, "1": 0.5}, {"0": 0.5, "1": 0.5}], "x")[0].p == 1


def test_ten_equal_rows_are_seldom_told_apart() -> None:
    draws = np.random.default_rng(0).normal(0.8, 0.01, (300, 10, 3))
    wrong = sum(
        any(each.words.endswith("is better") for each in against([dict(zip("012", row, strict=True)) for row in table], "x"))
        for table in draws.tolist()
    )
    assert wrong <= 0.06 * 300


def test_a_seed_that_was_run_again_counts_once_in_gains(store: str) -> None:
    for seed, trained in ((0, 0.9), (0, 0.9), (0, 0.9), (1, 0.8)):
        run(store, f"s{seed}", SIMCLR | {"seed": seed}, {"linear_top1": trained, "random_linear_top1": 0.3})
    gain = compare(store, [], "shapes").rows[0].metrics["linear_gain"]
    assert (gain.n, gain.mean) == (2, pytest.approx(0.55))


def test_a_run_that_was_trained_on_anyway_is_a_row_of_its_own(store: str) -> None:
    """Its params are those of its first length."""
    long, tags = SIMCLR | {"train.steps": 12}, {"contray.group": "g"}
    run(store, "fresh", long | {"seed": 0}, {"linear_top1": 0.9}, tags=tags)
    longer = {"contray.extended": "from 6 to 12 steps"}
    run(store, "exact", long | {"seed": 1, "train.steps": 6}, {"linear_top1": 0.9}, tags=tags | longer)
    inexact = longer | {track.INEXACT: "trained on from 6 to 12 steps, whose schedules differ"}
    run(store, "anyway", long | {"seed": 2, "train.steps": 6}, {"linear_top1": 0.8}, tags=tags | inexact)
    rows = compare(store, [], "shapes").rows
    assert [set(row.names) for row in rows] == [{"fresh", "exact"}, {"anyway"}]
    assert rows[1].settings == "train.extend=trained on from 6 to 12 steps, whose schedules differ"


# ---------------------------------------------------------------- picture and command


def test_the_table_goes_into_a_paper_or_a_page(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        run(store, f"100%_{seed}", SIMCLR | {"seed": seed}, {"linear_top1": 0.8 + seed / 10, "random_linear_top1": 0.2})
    words = ["compare", "--track.uri", store, "--track.experiment", "shapes", "--out", str(tmp_path / "c.png")]
    for name, cells in (("t.tex", r"\% & gain & seeds"), ("t.md", "| 85.0 ± 7.1 | +65.0 |")):
        assert main([*words, "--table", str(tmp_path / name)]) == 0
        assert cells in (tmp_path / name).read_text()
    text = (tmp_path / "t.tex").read_text()
    assert r"100\%\_0 and 1 more & 85.0 $\pm$ 7.1 & $+$65.0 & 2" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2
    assert main([*words, "--table", str(tmp_path / "t.doc")]) == 2
    assert "must end in .tex or .md" in capsys.readouterr().err


def test_labels_of_the_picture_fit(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    kept: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *words, **how: (kept.append(figure), save(figure, *words, **how))[1])
    for i, name in enumerate(("short", f"{'very ' * 40}long $x_1$", "_third")):
        run(
            store,
            name,
            SIMCLR | {"seed": 0, "method.temperature": i},
            {"knn_top1": 0.5, "linear_top1": 0.6, "supervised_top1": 0.9},
        )
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        out = draw(compare(store, [], "shapes"), tmp_path / "deep" / f"c{suffix}")
        assert out.read_bytes().startswith(begins)
    (long,) = (compare(store, ["short"], "shapes"),)
    draw(long, tmp_path / "one.png")
    for figure in (kept[0], kept[-1]):
        figure.draw_without_rendering()
        canvas = figure.bbox
        parts = [figure, *figure.subfigs]
        shown = [text for part in parts for text in part.texts + [word for legend in part.legends for word in legend.texts]]
        shown += [tick for axis in figure.axes[:1] for tick in axis.get_yticklabels()]
        assert any("#2" in text.get_text() for text in shown) == (figure is kept[0])
        for text in shown:
            box = text.get_window_extent()
            assert canvas.x0 - 1 <= box.x0 <= box.x1 <= canvas.x1 + 1, text
            assert canvas.y0 - 1 <= box.y0 <= box.y1 <= canvas.y1 + 1, text


def test_the_command_writes_a_table_a_file_and_a_picture(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(store, "one", SIMCLR | {"seed": 0}, {"linear_top1": 0.5})
    run(store, "two", SIMCLR | {"seed": 0, "method.temperature": 1}, {"linear_top1": 0.6})
    words = ["compare", "--run", "one", "two", "--csv", "deep/runs.csv", "--out", "c.svg", "--track.uri", store]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for text in ("one", "two", "60.0", "no telling", "plot: c.svg", "table: deep/runs.csv", "MLflow: http"):
        assert text in shown
    assert len((tmp_path / "deep" / "runs.csv").read_text().splitlines()) == 3
    assert (tmp_path / "c.svg").exists()
    assert main(["compare", "--out", "c.txt", "--track.uri", store]) == 2
    assert main(["compare", "--by", "seeds", "--track.uri", store]) == 2
