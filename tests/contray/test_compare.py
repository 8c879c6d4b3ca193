"""The numbers of the table, on runs made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from contray import RunConfig, track
from contray.config.tree import _flatten
from contray.errors import ConfigError, UserError
from contray.track.comparing import compare

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # MLflow 3.17 with SQLAlchemy 2.1

SIMCLR = {"method.name": "simclr", "method.preset": "digits", "data.source": "digits", "method.temperature": 0.1}


def run(store: str, name: str, params: dict, metrics: dict[str, float], step: int = 200, kind: str = "run", **more) -> str:
    tags = {"contray.kind": kind, **more.pop("tags", {})}
    made = track.begin(store, "shapes", name, params=params, tags=tags, **more)
    made.log_metrics(metrics, step)
    made.finish("FINISHED")
    return made.run_id


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_rows_are_configurations_over_seeds(store: str, tmp_path: Path, wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    results = {
        "linear_top1": (0.8, 0.9),
        "random_linear_top1": (0.2, 0.4),
        "knn_top1": (0.7, 0.7),
        "pixels_linear_top1": (0.5, 0.5),
    }
    ids = [
        run(
            store,
            f"seed-{seed}",
            SIMCLR | {"seed": seed, "scale.workers": (1, 1 + seed), "track.name": str(seed)},
            {name: values[seed] for name, values in results.items()},
        )
        for seed in (0, 1)
    ]
    warm = run(store, "warm", SIMCLR | {"method.temperature": 0.5, "seed": 0}, {"linear_top1": 0.95}, step=400)
    run(store, "still running", SIMCLR | {"seed": 2}, {"loss": 1.0})

    best, other = compare(store, [], "shapes", tmp_path / "plots" / "compare.png").rows
    assert (best.run_ids, best.settings, best.seeds, best.steps) == ((warm,), "method.temperature=0.5", 1, 400)
    assert best.metrics["linear_top1"].std == 0
    assert "linear_gain" not in best.metrics
    assert (set(other.run_ids), other.settings, other.seeds, other.steps) == (set(ids), "method.temperature=0.1", 2, 200)
    assert (other.method, other.preset, other.dataset) == ("simclr", "digits", "digits")
    spread = other.metrics["linear_top1"]
    assert (spread.mean, spread.std, spread.n) == (pytest.approx(0.85), pytest.approx(0.1 / 2**0.5), 2)
    gain = other.metrics["linear_gain"]  # per seed: 0.6 and 0.5
    assert (gain.mean, gain.std) == (pytest.approx(0.55), pytest.approx(0.1 / 2**0.5))
    assert (tmp_path / "plots" / "compare.png").read_bytes().startswith(b"\x89PNG")

    shown = capsys.readouterr().out
    for text in ("0.850±0.071", "+0.550", "0.700±0.000", " 0.500 ", " 0.950 ", "1 run has not been"):
        assert text in shown
    link = next(line for line in shown.splitlines() if line.startswith("MLflow: "))
    assert all(run_id in link for run_id in (*ids, warm))
    assert link.startswith("MLflow: http://127.0.0.1:5000/#/compare-runs?runs=%5B%22")


def test_evaluations_on_demand_have_columns_of_their_own(
    store: str, tmp_path: Path, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each where any run has it, and a run that has no other score is no less evaluated."""
    probed = run(
        store, "probed", SIMCLR | {"seed": 0}, {"linear_top1": 0.7, "linear_paper_top1": 0.81, "linear_paper_val_top1": 0.55, "contrast_top1": 0.44}
    )  # fmt: skip
    tuned = run(store, "tuned", SIMCLR | {"seed": 0, "method.temperature": 0.5}, {"loss": 1.0}, step=300)
    track.attach(store, tuned).log_metrics(
        {"finetune_1pct_top1": 0.62, "finetune_1pct_val_top1": 0.33, "scratch_1pct_top1": 0.41, "supervised_top1": 0.9, "linear_last4_avg_top1": 0.66}, 0
    )  # fmt: skip
    rows = compare(store, [], "shapes", tmp_path / "compare.png").rows
    assert {row.run_ids: row.steps for row in rows} == {(tuned,): 300, (probed,): 200}
    shown = capsys.readouterr().out
    for text in ("0.810", "0.620", "0.410", "0.900", "0.660", "paper", "1pct", "supervised"):
        assert text in shown
    for text in ("0.550", "0.330", "0.440"):  # what selected, and what is no evaluation
        assert text not in shown


def test_children_stand_for_their_parent(store: str, tmp_path: Path, wide: None, capsys: pytest.CaptureFixture[str]) -> None:
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
        rows = compare(store, asked, "shapes", tmp_path / "compare.png").rows
        assert [row.run_ids for row in rows] == [(trials[1],), (trials[0],)]
    assert "knn_val" in capsys.readouterr().out
    assert [row.run_ids for row in compare(store, trials[:1], "shapes", tmp_path / "compare.png").rows] == [(trials[0],)]


def test_the_group_tag_decides_where_there_is_one(store: str, tmp_path: Path, wide: None) -> None:
    for seed in (0, 1):
        run(store, str(seed), SIMCLR | {"seed": seed, "data.root": str(seed)}, {"knn_top1": 0.5}, tags={"contray.group": "abc"})
    (row,) = compare(store, [], "shapes", tmp_path / "compare.png").rows
    assert row.seeds == 2


@pytest.mark.parametrize("columns", ["40", "80", ""])
def test_no_number_and_no_name_is_cut(
    columns: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    names = ("knn_top1", "linear_top1", "random_knn_top1", "random_linear_top1", "pixels_linear_top1", "finetune_1pct_top1")
    for seed in (0, 1):
        run(store, str(seed), SIMCLR | {"seed": seed}, dict.fromkeys(names, 0.25))
    run(store, "trial", SIMCLR | {"method.temperature": 3, "seed": 0}, {"knn_val_top1": 0.125, "linear_val_top1": 0.375})
    run(store, "begun", SIMCLR, {"loss": 1.0})
    compare(store, [], "shapes", tmp_path / "compare.png")
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert shown.count("0.250±0.000") == 3
    for text in ("seeds", "steps", "0.125", "0.375", "method.temperature=3", "1 run has not been evaluated and is left out"):
        assert text in shown


def test_a_repeated_seed_is_one_seed(store: str, tmp_path: Path, wide: None, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        run(store, f"again-{i}", SIMCLR | {"seed": 0}, {"linear_top1": 0.5})
    (row,) = compare(store, [], "shapes", tmp_path / "compare.png").rows
    assert (row.seeds, row.metrics["linear_top1"].n, len(row.run_ids)) == (1, 1, 2)
    assert "±0.000" not in capsys.readouterr().out
    run(store, "other", SIMCLR | {"seed": 1}, {"linear_top1": 0.9})
    (row,) = compare(store, [], "shapes", tmp_path / "compare.png").rows
    assert (row.metrics["linear_top1"].mean, row.metrics["linear_top1"].n) == (pytest.approx(0.7), 2)


def test_what_is_not_there_is_named(store: str, tmp_path: Path) -> None:
    out = tmp_path / "compare.png"
    run(store, "r", SIMCLR, {"loss": 1.0})
    with pytest.raises(UserError, match=r"no experiment 'shape' in sqlite:.*did you mean shapes"):
        compare(store, [], "shape", out)
    with pytest.raises(UserError, match=r"no run 'abc' in sqlite:"):
        compare(store, ["abc"], "shapes", out)
    with pytest.raises(UserError, match="none of the 1 runs of experiment 'shapes' has been evaluated"):
        compare(store, [], "shapes", out)
    with pytest.raises(ConfigError, match=r"there is no .*none\.db yet"):
        compare(f"sqlite:///{tmp_path}/none.db", [], "shapes", out)
    assert not out.exists()


def test_own_evaluations_and_metrics_that_are_asked_for_have_columns(
    store: str, tmp_path: Path, wide: None, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"mine_top1": 0.75, "mine_val_top1": 0.7, "random_mine_top1": 0.1, "rankme": 9.5}
    run(store, "own", SIMCLR | {"eval.final": ("/home/me/mine.py",)}, own)
    run(store, "both", SIMCLR | {"eval.final": ("knn", "mine.py"), "method.temperature": 0.3}, own | {"knn_top1": 0.5})
    first, _ = compare(store, [], "shapes", tmp_path / "compare.png").rows
    assert first.metrics["mine_top1"].mean == 0.75
    shown = capsys.readouterr().out
    assert "mine" in shown
    assert "0.750" in shown
    assert not {"0.700", "0.100", "9.500"} & set(shown.split())
    compare(store, [], "shapes", tmp_path / "compare.png", ["rankme"])
    assert "9.500" in capsys.readouterr().out.split()
    with pytest.raises(UserError, match=r"^--metric: no run has 'rankm'; did you mean rankme"):
        compare(store, [], "shapes", tmp_path / "compare.png", ["rankm"])


def test_runs_of_before_evaluations_had_keys_of_their_own_stand_beside_new_ones(store: str, tmp_path: Path, wide: None) -> None:
    text = Path(__file__).parent.joinpath("config_before_plugins.yaml").read_text()
    old = dict(_flatten(yaml.safe_load(text)))
    new = RunConfig.from_yaml(text).flat()
    old, new = ({k: tuple(v) if isinstance(v, list) else v for k, v in each.items()} for each in (old, new))
    run(store, "old", old, {"knn_top1": 0.5})
    run(store, "new", new | {"method.temperature": 0.7}, {"knn_top1": 0.6})
    rows = compare(store, [], "shapes", tmp_path / "compare.png").rows
    assert [row.settings for row in rows] == ["method.temperature=0.7", f"method.temperature={old['method.temperature']}"]
