"""Curation: semantic duplicates go, every kind of image is drawn from, and the list is what a training takes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import contray
from contray import RunConfig, data, model
from contray.cli import main
from contray.config.sections import DataConfig
from contray.data import open_source
from contray.errors import DataError, UserError
from contray.exchange.curation import clusters
from contray.exchange.curation.balance import allotted, balanced
from contray.exchange.curation.duplicates import Nearest, nearest_before
from contray.exchange.curation.features import read_features
from contray.model.encoder import export


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def written(
    folder: Path, x: np.ndarray | list, names: list[str] | None = None, parts: int = 2, kind: pa.DataType | None = None
) -> Path:
    """Features as contray embed writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [f"{i}.png" for i in range(len(x))]
    for part, at in enumerate(np.array_split(np.arange(len(x)), parts)):
        rows = pa.array([None if x[i] is None else [float(v) for v in x[i]] for i in at], kind or pa.list_(pa.float32()))
        table = pa.table({"name": [names[i] for i in at], "embedding": rows})
        pq.write_table(table, folder / f"part-{part:06d}.parquet")
    return folder


def planted(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 16) around few centres, and the group of each: groups are of one to four almost equal ones."""
    rng = np.random.default_rng(seed)
    single = unit(np.repeat(rng.normal(size=(5, 16)), count // 5, 0) + 0.6 * rng.normal(size=(count, 16)))
    groups = np.repeat(np.arange(count), rng.integers(1, 5, count))
    order = rng.permutation(len(groups))
    return unit(single[groups] + 0.004 * rng.normal(size=(len(groups), 16)))[order], groups[order]


# ---------------------------------------------------------------- duplicates


def test_of_each_planted_group_one_stays(tmp_path: Path) -> None:
    x, groups = planted(100)
    done = contray.curate(written(tmp_path / "features", x), tmp_path / "list.txt", epsilon=0.01, clusters=5, quiet=True)
    kept = [int(line[:-4]) for line in (tmp_path / "list.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(groups[kept]) == list(range(100))
    assert kept == sorted(kept)
    assert (done.images, done.kept, done.duplicates) == (len(x), 100, len(x) - 100)
    size, names = done.groups[0]
    assert size == np.bincount(groups).max()
    assert len({groups[int(name[:-4])] for name in names}) == 1


def test_shares_and_draws_are_of_what_may_train(tmp_path: Path) -> None:
    names = [f"{split}/{name}/{i}.png" for split, count in (("test", 9), ("train", 20)) for name in "ab" for i in range(count)]
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"not read")
    features = written(tmp_path / "features", np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32), names)
    done = contray.curate(features, tmp_path / "list.txt", balance=24, source=str(tmp_path / "set"), quiet=True)
    assert (done.images, done.tested, done.kept) == (40, 18, 24)
    listed = {line for line in (tmp_path / "list.txt").read_text().splitlines() if not line.startswith("#")}
    assert len(listed) == 24
    assert all(name.startswith("train/") for name in listed)
    rows = dict(zip(read_features(str(features)).names.to_pylist(), read_features(str(features)).x, strict=True))
    kept = read_features(str(features)).take(np.arange(18, 58))
    assert all(np.array_equal(rows[name], x) for name, x in zip(kept.names.to_pylist(), kept.x, strict=True))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.png").write_bytes(b"not read")
    with pytest.raises(UserError, match=r"^--data\.source: .*other has no image test/a/0\.png"):
        contray.curate(features, tmp_path / "list.txt", balance=24, source=str(tmp_path / "other"), quiet=True)


@pytest.mark.parametrize("chunk", [7, clusters.CHUNK])
def test_duplicates_are_those_of_the_papers_code(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pseudo code of Abbas et al. 2023, appendix: sorted by distance to the centroid, descending; the largest similarity above the diagonal."""
    monkeypatch.setattr("contray.exchange.curation.duplicates.CHUNK", chunk)
    x, _ = planted(60, seed=1)
    centres = clusters.kmeans(x, 6, np.random.default_rng(0), spherical=True)
    labels, _ = clusters.assign(x, centres)
    near = nearest_before(x, labels, centres)
    for epsilon in (0.002, 0.05, 0.5):
        expected = np.zeros(len(x), bool)
        for cluster in range(6):
            members = np.flatnonzero(labels == cluster)
            rows = torch.from_numpy(x[members])
            order = torch.argsort(1 - rows @ centres[cluster], descending=True, stable=True)
            similar = torch.triu(rows[order] @ rows[order].T, diagonal=1)
            expected[members[order.numpy()]] = (similar.max(0).values > 1 - epsilon).numpy()
        assert np.array_equal(near.dropped(1 - epsilon), expected)
        stays = near.kept_for(expected)
        assert not expected[stays].any()
        assert np.array_equal(stays[~expected], np.flatnonzero(~expected))


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), share=st.floats(0.01, 1))
def test_a_share_stays(values: list[float], share: float) -> None:
    near = Nearest(np.array(values, np.float32), np.zeros(len(values), np.int64))
    threshold = near.threshold_for(share)
    kept, wanted = (~near.dropped(threshold)).sum(), max(1, round(share * len(values)))
    assert kept >= wanted
    assert (near.similarity < np.float32(threshold)).sum() < wanted, "but for those as similar as the last"


# ---------------------------------------------------------------- balance


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12), count=st.integers(0, 300))
def test_each_gets_the_same_as_far_as_it_has_that(sizes: list[int], count: int) -> None:
    held = np.array(sizes)
    found = allotted(held, count, np.random.default_rng(0))
    assert found.sum() == min(count, held.sum())
    assert (found <= held).all()
    assert found.max() - found[found < held].min(initial=found.max()) <= 1


def entropy(labels: np.ndarray) -> float:
    share = np.bincount(labels) / len(labels)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def test_balance_evens_out_a_long_tail() -> None:
    rng = np.random.default_rng(0)
    sizes = (1000 * 0.5 ** np.arange(8)).astype(int)  # 1000 to 7
    labels = np.repeat(np.arange(8), sizes)
    x = unit(rng.normal(size=(8, 32))[labels] + 0.3 * rng.normal(size=(len(labels), 32)))
    drawn = balanced(clusters.hierarchy(x, [64, 8], np.random.default_rng(1)), 200, np.random.default_rng(2))
    flat = rng.permutation(len(x))[:200]
    assert len(np.unique(drawn)) == 200
    assert entropy(labels[flat]) < 1.5
    assert entropy(labels[drawn]) > 1.8, "the classes have 29 each, but for the two that have no more than 15 and 7"
    assert (np.bincount(labels[drawn], minlength=8) > 0).all()


def test_the_same_seed_gives_the_same_list_and_another_one_another(tmp_path: Path) -> None:
    x, _ = planted(200)
    folder = written(tmp_path / "features", x)
    lists = []
    for seed in (0, 0, 1):
        done = contray.curate(folder, tmp_path / "list.txt", keep=0.8, balance=100, seed=seed, quiet=True)
        assert (done.kept, done.images) == (100, len(x))
        assert 0.2 * len(x) - 1 <= done.duplicates <= 0.2 * len(x) + 1
        lists.append((tmp_path / "list.txt").read_text().splitlines()[1:])
    assert lists[0] == lists[1] != lists[2]


# ---------------------------------------------------------------- features


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float16())])
def test_rows_without_usable_features_are_counted(kind: pa.DataType, tmp_path: Path) -> None:
    rows = [[1, 2, 2], None, [float("nan"), 0, 0], [0, 0, 0], [0, 4, 0], [float("inf"), 0, 0], [3, 0, 4]]
    found = read_features(str(written(tmp_path / "features", rows, parts=3, kind=kind)))
    assert (found.names.to_pylist(), found.broken) == (["0.png", "4.png", "6.png"], 4)
    np.testing.assert_allclose(found.x, [[1 / 3, 2 / 3, 2 / 3], [0, 1, 0], [0.6, 0, 0.8]], rtol=1e-3)


def test_what_is_no_features_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "other" / "train.parquet")
    written(tmp_path / "broken", [None, None])
    written(tmp_path / "cut", np.eye(6), parts=3)
    (tmp_path / "cut" / "part-000001.parquet").unlink()
    widths = written(tmp_path / "widths", np.eye(4), parts=1)
    pq.write_table(pa.table({"name": ["a"], "embedding": [[1.0, 2.0]]}), widths / "part-000001.parquet")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "part-000000.parquet").write_bytes(b"PAR1")
    for name, said in {
        "gone": "does not exist", "empty": "holds no features", "other": "has no columns name and embedding (it has image)",
        "broken": "none of the 2 images", "cut": "lacks part 1", "widths": "features of 2 numbers, before they were 4", "torn": "is no readable Parquet",
    }.items():  # fmt: skip
        assert main(["curate", str(tmp_path / name), "--keep", "0.5", "--out", str(tmp_path / "list.txt")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "list.txt").exists()
    good = str(written(tmp_path / "good", np.eye(4)))
    for words, said in {
        "": "--keep: say what to keep", "--keep 1.5": "--keep: got 1.5", "--keep 0.5 --epsilon 0.1": "--keep: is given beside --epsilon",
        "--epsilon -0.5": "--epsilon: got -0.5", "--balance 9": "--balance: got 9, but 4", "--balance 2 --levels 0": "--levels: got 0",
        "--keep 1 --out x/": "--out: got 'x/'",
    }.items():  # fmt: skip
        assert main(["curate", good, *words.split()]) == 2
        assert said in capsys.readouterr().err
    pq.write_table(pa.table({"name": ["a"], "embedding": ["b"]}), tmp_path / "text.parquet")
    with pytest.raises((UserError, DataError), match="lists of numbers"):
        read_features(str(tmp_path / "text.parquet"))


# ---------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    config = RunConfig.make("simsiam", {"backbone.width": 4, "method.dim": 8, "method.hidden": 4}, preset="digits")
    torch.manual_seed(0)
    export(config, model.build(config, 100).eval(), folder)
    return folder


def pictures(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (count, 3, 3, 3), dtype=np.uint8)
    return [cv2.imencode(".png", cv2.resize(each, (32, 32), interpolation=cv2.INTER_NEAREST))[1].tobytes() for each in small]


def test_embed_curate_train(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of 24 images is there twice; from each pair one trains. Names that no list holds as they are make the way too."""
    monkeypatch.chdir(tmp_path)
    odd = ["# 1.png", " 2.png", "caf\u00e9.png", os.fsdecode(b"by\xe9te.png"), "a#7.png"]
    names = [*odd, *(f"{i}.png" for i in range(24 - len(odd)))]
    for copy in ("one", "two"):
        (tmp_path / "photos" / copy).mkdir(parents=True)
        for name, png in zip(names, pictures(24), strict=True):
            (tmp_path / "photos" / copy / name).write_bytes(png)
    assert main(["embed", "photos", "--checkpoint", str(encoder), "--out", "features"]) == 0
    capsys.readouterr()
    words = [
        "curate",
        "features",
        "--epsilon",
        "1e-5",
        "--clusters",
        "2",
        "--out",
        "lists/photos.txt",
        "--data.source",
        "photos",
        "--data.test_share",
        "0",
        "--json",
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["kept"], found["duplicates"]) == (48, 24, 24)
    assert Path(found["picture"]).stat().st_size > 10_000
    train = open_source(DataConfig("photos", subset="lists/photos.txt", test_share=0.0)).train
    assert sorted(key.partition("/")[2] for key in train.all_keys()) == sorted(names)

    config = RunConfig.make(
        "simclr", {"data.source": "photos", "data.subset": "lists/photos.txt", "train.batch_size": 8}, preset="digits"
    )
    batches = data.GlobalBatches(train, config.views, strength=1.0, batch_size=8, seed=0, max_broken=0.0)
    seen = [i for step in range(batches.steps_per_epoch) for i in batches.load(step, range(8))["index"].tolist()]
    assert sorted(seen) == list(range(24))


def test_rows_of_parquet_are_found_again(encoder: Path, tmp_path: Path) -> None:
    twice = [png for png in pictures(12) for _ in range(2)]
    pq.write_table(pa.table({"image": twice}), tmp_path / "shop photos.parquet")
    contray.embed(tmp_path / "shop photos.parquet", tmp_path / "features", checkpoint=encoder, quiet=True)
    done = contray.curate(tmp_path / "features", tmp_path / "list.txt", epsilon=1e-5, clusters=1, quiet=True)
    assert "\nshop photos.parquet#" in (tmp_path / "list.txt").read_text()
    train = open_source(DataConfig(str(tmp_path / "shop photos.parquet"), subset=done.out)).train
    assert sorted(int(key.rpartition(" ")[2]) // 2 for key in train.all_keys()) == list(range(12))
