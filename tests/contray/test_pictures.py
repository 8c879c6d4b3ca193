"""Pictures of an encoder: what they show is what was computed, and what cannot be drawn is refused."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import imread

import contray
from contray import RunConfig, data, model, pictures, track
from contray.cli import main
from contray.errors import UserError
from contray.methods._parts import patchify, unpatchify
from contray.model.encoder import export
from contray.pictures import attention, map, neighbours, patch_pca, prototypes, reconstruction
from contray.pictures.sheet import RIGHT, WRONG, Sheet
from contray.pictures.subject import Subject, apart

CPU = torch.device("cpu")
TINY = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "train.batch_size": 64, "train.precision": "fp32", "backbone.width": 4,
    "eval.online_limit": 128,
}  # fmt: skip
VIT = {"backbone.name": "vit_mini", "backbone.width": 16, "backbone.patch": 4}
METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"views.view.size": 16, "method.projector_hidden": 16, "method.projector_dim": 8},
    "mae": {"views.view.size": 16, "backbone.width": 16, "method.decoder_dim": 16, "method.decoder_depth": 1, "method.decoder_heads": 2},
    "cae": {"views.view.size": 16, "backbone.width": 16, "method.vocabulary": 8},
    "swav": {"views.large.size": 16, "method.prototypes": 20, "method.hidden": 16},
    "deepcluster": {"views.view.size": 16, "method.clusters": 20},
    "deepcluster_v2": {"views.large.size": 16, "method.prototypes": 20, "method.hidden": 16},
}  # fmt: skip


def subject(name: str, images: int = 0, by: str = "tsne", **more: Any) -> Subject:
    """An untrained method on small digits; what starts as zeros is drawn, so that it can be told apart."""
    settings = {key.replace("__", "."): value for key, value in more.items()}
    config = RunConfig.make(name, {**TINY, **METHODS[name], **settings}, preset="digits")
    source = data.open_source(config.data)
    method = model.build(config, len(source.train)).eval()
    generator = torch.Generator().manual_seed(0)
    for key, buffer in method.named_buffers():
        if key.endswith(("codes", "prototypes")):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return Subject(config, source, method, CPU, images, by)


def draw(kind: str, drawn: Subject, out: Path) -> dict[str, float]:
    return importlib.import_module(f"contray.pictures.{kind}").draw(drawn, out)


def shows_something(out: Path) -> bool:
    pixels = imread(out)[..., :3]
    return min(pixels.shape[:2]) > 200 and 0.004 < (pixels < 0.9).any(-1).mean() < 0.98


@dataclasses.dataclass
class Tile:
    image: np.ndarray
    frame: str
    below: str


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[float, float], Tile]:
    """The tiles that a sheet was given, by row and column; they are drawn all the same."""
    found: dict[tuple[float, float], Tile] = {}
    plain = Sheet.tile

    def tile(sheet: Sheet, row: float, column: float, image: np.ndarray, **how: Any) -> None:
        found[round(row, 2), round(column, 2)] = Tile(image, how.get("frame", ""), how.get("below", ""))
        plain(sheet, row, column, image, **how)

    monkeypatch.setattr(Sheet, "tile", tile)
    return found


# ---------------------------------------------------------------- neighbours


def test_neighbours_are_the_nearest_training_images(tmp_path: Path, tiles: dict[tuple[float, float], Tile]) -> None:
    drawn = subject("simclr", images=200)
    assert draw("neighbours", drawn, tmp_path / "deep" / "n.png") == {}
    assert shows_something(tmp_path / "deep" / "n.png")
    train, test = drawn.source.train, drawn.source.test
    assert test is not None
    assert train.labels is not None
    assert test.labels is not None
    ids = drawn.limited(train, np.arange(len(train)), 200)
    assert set(np.bincount(train.labels[ids], minlength=10).tolist()) <= set(range(18, 23)), "each class has its share"
    bank, known = F.normalize(drawn.features(train, ids)[0], dim=1), drawn.pictures(train, ids)
    assert {row for row, _ in tiles} == set(range(10)), "one per class"
    queries = np.array([members[len(members) // 2] for members in (np.flatnonzero(test.labels == row) for row in range(10))])
    features, asked = F.normalize(drawn.features(test, queries)[0], dim=1), drawn.pictures(test, queries)
    for row in range(10):
        assert np.array_equal(tiles[row, 0].image, asked[int(queries[row])])
        similar = (bank @ features[row]).tolist()
        order = sorted(range(200), key=lambda i: -similar[i])[:8]
        for place, i in enumerate(order):
            shown = tiles[row, round(place + neighbours.GAP, 2)]
            own = train.labels[ids[i]]
            assert shown.below == f"{own}\n{similar[i]:.3f}"
            assert shown.frame == (RIGHT if own == row else WRONG)
            assert np.array_equal(shown.image, known[int(ids[i])])


def test_without_test_set_and_labels_held_out_images_ask(tmp_path: Path, tiles: dict[tuple[float, float], Tile]) -> None:
    drawn = subject("simclr", data__label_column="")
    drawn = dataclasses.replace(drawn, source=dataclasses.replace(drawn.source, test=None))
    asked, searched = drawn.asked()[1], drawn.searched()
    assert not set(asked) & set(searched)
    assert len(asked) + len(searched) == len(drawn.source.train)
    draw("neighbours", dataclasses.replace(drawn, images=100), tmp_path / "n.png")
    assert len({row for row, _ in tiles}) == neighbours.QUERIES
    assert not any(tile.frame for tile in tiles.values())


def test_words_of_neighbours_stay_under_their_own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of ordinary length ran into the words beside them."""
    sheets: list[Sheet] = []
    monkeypatch.setattr(Sheet, "save", lambda sheet, out: sheets.append(sheet))
    drawn = subject("simclr", images=100)
    for split in (drawn.source.train, drawn.source.test):
        assert split is not None
        split.classes = [f"golden retriever of kind {number}" for number in range(8)] + ["\u65e5\u672c", "golden_ret"]
    draw("neighbours", drawn, tmp_path / "n.png")
    figure = sheets[0].figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent().shrunk(0.99, 0.99) for text in sheets[0].axes.texts if text.get_text()[-1:].isdigit()]
    assert len(boxes) > 80
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_too_few_images_for_a_map_say_what_to_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"5 test images are too few for a map, which needs 10; raise --images$"):
        draw("map", subject("simclr", images=5), tmp_path / "m.png")
    few = subject("simclr")
    monkeypatch.setattr(Subject, "asked", lambda drawn: (drawn.source.train, np.arange(8), "training images"))
    few = dataclasses.replace(few, source=dataclasses.replace(few.source, test=None))
    with pytest.raises(
        UserError, match=r"8 training images are .*; raise --eval\.holdout 0\.1, the share that is drawn where no images test$"
    ):
        draw("map", few, tmp_path / "m.png")


def test_of_few_classes_there_are_several_queries_and_of_many_some() -> None:
    few, many = np.arange(300) % 5, np.arange(300) % 30
    assert np.bincount(few[neighbours.one_per_class(np.arange(300), few)]).tolist() == [2] * 5
    assert len(set(many[neighbours.one_per_class(np.arange(300), many)])) == 12
    assert apart(np.arange(7), 100).tolist() == list(range(7))
    assert apart(np.arange(100), 4).tolist() == [12, 37, 62, 87]


# ---------------------------------------------------------------- map


@pytest.mark.parametrize("column", ["digit", ""])
def test_the_map_is_drawn_with_labels_and_without(column: str, tmp_path: Path) -> None:
    assert draw("map", subject("simclr", images=60, data__label_column=column), tmp_path / "m.png") == {}
    assert shows_something(tmp_path / "m.png")


def test_the_map_keeps_what_is_near_together_and_repeats_itself() -> None:
    centres = torch.eye(3, 8)
    features = centres.repeat(20, 1) + 0.01 * torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    points = map.project(features, "tsne", 0)
    assert np.array_equal(points, map.project(4 * features, "tsne", 0)), "directions count, lengths do not"
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) % 3 == np.arange(60) % 3).all()


def test_a_class_is_named_where_it_is_densest_and_the_majority() -> None:
    rng = np.random.default_rng(0)
    clump = np.concatenate([[[9.0, 9.0]], rng.normal(size=(20, 2)), np.full((30, 2), 5.0)])  # the median is elsewhere
    mixed = 100 + rng.normal(size=(300, 2))
    places = map.gathered(np.concatenate([clump, mixed]), np.concatenate([np.zeros(51, int), 1 + np.arange(300) % 3]))
    assert {each: place.tolist() for each, place in places.items()} == {0: [5.0, 5.0]}


def test_umap_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    class UMAP:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return x[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))  # pyright: ignore[reportArgumentType]
    draw("map", subject("simclr", images=12, by="umap", seed=3), tmp_path / "m.png")
    assert asked == {"n_neighbors": 11, "random_state": 3, "n_jobs": 1}
    assert shows_something(tmp_path / "m.png")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install umap-learn"):
        pictures.check("map", Path("m.png"), "umap", 0)


# ---------------------------------------------------------------- attention


def test_what_is_kept_and_its_overlap_are_those_counted_by_hand() -> None:
    first = [[0.5, 0.2], [0.1, 0.2]]  # 0.1 and 0.2 may go, one 0.2 more is needed
    second = [[0.05, 0.05], [0.3, 0.3]]  # scaled to a sum of 1: 0.07, 0.07, 0.43, 0.43
    kept = attention.keep(torch.tensor([[first, second]]), 0.6)  # (1, 2, 2, 2)
    assert kept[0, 0].sum() == 2
    assert kept[0, 0, 0, 0]
    assert not kept[0, 0, 1, 0]
    assert kept[0, 1].tolist() == [[False, False], [True, True]]

    truth = torch.tensor(
        [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool
    )  # 3 pixels of the 8 kept below
    images = np.zeros((1, 4, 4, 3), np.uint8)
    looked = attention.Looked(images, torch.tensor([[second, [[0.9, 0.0], [0.1, 0.0]]]]), truth[None])
    assert looked.kept[0, 0].int().tolist() == [[0] * 4, [0] * 4, [1] * 4, [1] * 4]
    assert attention.jaccard(looked.kept, looked.objects[:, None])[0].tolist() == [3 / 8, 0]
    assert attention.overlap(looked.attention, truth[None]).tolist() == [3 / 8]


def test_attention_is_the_softmax_of_the_last_blocks_queries_and_keys() -> None:
    drawn = subject("simclr", **{key.replace(".", "__"): value for key, value in VIT.items()})
    method: Any = drawn.method
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = attention.attended(method, {"image": images}, "image")
    assert found.shape == (3, 4, 4, 4)
    net, kept = method.backbone, {}
    block = net.encoder.layers[-1]
    hook = block.register_forward_pre_hook(lambda _, args: kept.update(x=args[0]))
    net(images)
    hook.remove()
    query, key, _ = F.linear(block.ln_1(kept["x"]), block.self_attention.in_proj_weight, block.self_attention.in_proj_bias).chunk(
        3, -1
    )
    query, key = (each.unflatten(2, (4, 4)).transpose(1, 2) for each in (query, key))  # (3, heads, 17, 4)
    whole = (query @ key.transpose(2, 3) / 2).softmax(-1)
    torch.testing.assert_close(found, whole[:, :, 0, 1:].unflatten(2, (4, 4)))


def test_the_overlap_is_the_mean_over_images_of_their_best_head(tmp_path: Path, tiles: dict[tuple[float, float], Tile]) -> None:
    drawn = subject("mae", images=20)
    found = draw("attention", drawn, tmp_path / "a.png")
    assert shows_something(tmp_path / "a.png")
    assert sum(bool(tile.frame) for tile in tiles.values()) == attention.SHOWN, "the best head of each"
    assert found["random_attention_jaccard"] == pytest.approx(found["attention_jaccard"]), "it is untrained"
    test = drawn.source.test
    assert test is not None
    overlaps = []
    ids = drawn.limited(test, np.arange(len(test)), 20)
    (looked,) = attention.look(drawn, drawn.method, test, ids)
    for i, heads in zip(ids, looked.attention, strict=True):
        mask = test.value(int(i), "mask", None) > 127
        best = 0.0
        for head in heads:
            kept = np.kron(attention.keep(head, 0.6).numpy(), np.ones((4, 4))) > 0
            best = max(best, (kept & mask).sum() / (kept | mask).sum())
        overlaps.append(best)
    assert found["attention_jaccard"] == pytest.approx(np.mean(overlaps))


# ---------------------------------------------------------------- reconstruction


@pytest.mark.parametrize(("name", "target"), [("mae", "pixels"), ("mae", "norm_pix"), ("cae", "")])
def test_what_was_seen_is_kept_to_the_bit(name: str, target: str, tmp_path: Path, tiles: dict[tuple[float, float], Tile]) -> None:
    drawn = subject(name, **({"method__target": target} if target else {}))
    assert draw("reconstruction", drawn, tmp_path / "r.png") == {}
    assert shows_something(tmp_path / "r.png")
    split, ids, _ = drawn.asked()
    found = reconstruction.reconstruct(drawn, split, drawn.limited(split, ids, 8))
    _, whole = reconstruction.pasted(found)
    true, painted = patchify(found.images, 4), patchify(whole, 4)
    assert found.masked.float().mean() == 0.5
    assert torch.equal(painted[~found.masked], true[~found.masked])
    assert torch.equal(painted[found.masked], found.patches[found.masked])
    assert not torch.equal(painted[found.masked], true[found.masked])
    assert ("norm_pix" in found.about) == (target == "norm_pix")
    for column in range(8):
        image, seen, shown = (patchify(torch.tensor(tiles[row, column].image).permute(2, 0, 1)[None], 4)[0] for row in range(3))
        masked = found.masked[column]
        assert torch.equal(image[~masked], shown[~masked])
        assert torch.equal(image[~masked], seen[~masked])
        assert (seen[masked] == 128).all()


def test_norm_pix_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that paints each patch normalised gives the image back."""
    drawn = subject("mae", method__target="norm_pix")
    method: Any = drawn.method
    split, ids, _ = drawn.asked()
    images = reconstruction.reconstruct(drawn, split, ids[:3]).images
    patches = patchify(images, 4)
    perfect = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    decode = method.decode
    monkeypatch.setattr(method, "decode", lambda *args: (perfect, decode(*args)[1]))
    found = reconstruction.reconstruct(drawn, split, ids[:3])
    torch.testing.assert_close(reconstruction.pasted(found)[1], images, rtol=1e-4, atol=1e-4)


def test_cae_paints_the_clusters_that_it_names() -> None:
    drawn = subject("cae")
    method: Any = drawn.method
    split, ids, _ = drawn.asked()
    with torch.no_grad():
        method.name.weight.zero_()
        method.name.bias.copy_(torch.eye(8)[5])
    found = reconstruction.reconstruct(drawn, split, ids[:3])
    assert torch.equal(found.patches[found.masked], method.tokenizer.codes[5].expand(int(found.masked.sum()), -1))


def test_patches_are_put_back() -> None:
    images = torch.randn(2, 3, 8, 12)
    assert torch.equal(unpatchify(patchify(images, 4), 3), images)


# ---------------------------------------------------------------- prototypes


@pytest.mark.parametrize("name", ["swav", "deepcluster", "deepcluster_v2"])
def test_a_prototype_is_shown_by_the_nearest_of_its_own_images(
    name: str, tmp_path: Path, tiles: dict[tuple[float, float], Tile]
) -> None:
    drawn = subject(name, images=150)
    found = draw("prototypes", drawn, tmp_path / "p.png")
    assert shows_something(tmp_path / "p.png")
    train = drawn.source.train
    assert train.labels is not None
    features, ids = drawn.features(train, drawn.limited(train, np.arange(len(train)), 150))
    scores = drawn.method.prototype_scores(features)
    assert scores.shape == (150, 20)
    own, labels = scores.argmax(1).numpy(), train.labels[ids]
    sizes = np.bincount(own, minlength=20)
    right = sum(np.bincount(labels[own == k]).max() for k in range(20) if sizes[k])
    assert found == {"prototypes_used": (sizes > 0).mean(), "prototype_purity": pytest.approx(right / 150)}
    known = drawn.pictures(train, ids)
    shown = prototypes.chosen(sizes)
    assert len(shown) == len(set(shown)) == min(12, (sizes > 0).sum())
    assert (np.diff(sizes[shown]) <= 0).all()
    assert sizes[shown].min() > 0
    each = -(-len(shown) // 2)
    for place, k in enumerate(shown):
        order = sorted(np.flatnonzero(own == k).tolist(), key=lambda i: -float(scores[i, k]))[:8]
        most = np.bincount(labels[own == k]).argmax()
        for column, i in enumerate(order):
            left = place // each * (8 + prototypes.WORDS + 0.25) + prototypes.WORDS
            tile = tiles[round(place % each * prototypes.ROW, 2), round(left + column, 2)]
            assert np.array_equal(tile.image, known[int(ids[i])])
            assert tile.frame == (RIGHT if labels[i] == most else WRONG)
    assert len(tiles) == sum(min(8, sizes[k]) for k in shown)


def test_prototypes_are_those_of_the_loss() -> None:
    """SwAV's own loss on the same features: the codes of a sharp assignment go to the highest scores."""
    drawn = subject("swav", method__epsilon=0.01, method__iterations=1)
    method: Any = drawn.method
    features = drawn.features(drawn.source.train, np.arange(64))[0]
    z = F.normalize(method.projector(features), dim=1)
    torch.testing.assert_close(method.prototype_scores(features), z @ method.prototypes.T)


def test_scores_of_a_classifier_do_not_grow_with_the_features_length() -> None:
    """DeepCluster's images are ranked by how sure the classifier is; its logits would rank the longest features first."""
    method: Any = subject("deepcluster").method
    features = torch.randn(5, method.out_dim)
    torch.testing.assert_close(method.prototype_scores(features).exp().sum(1), torch.ones(5))


def test_purity_counts_the_most_frequent() -> None:
    own, labels = np.array([0, 0, 0, 2, 2, 5]), np.array([1, 1, 0, 3, 2, 0])
    assert prototypes.purity(own, labels) == pytest.approx((2 + 1 + 1) / 6)


# ---------------------------------------------------------------- through the command


@pytest.fixture
def trained(store: str, tmp_path: Path) -> track.TrackedRun:
    """A run that keeps an encoder."""
    drawn = subject("mae")
    run = track.begin(store, "shapes", "mae", params={"method.name": "mae"}, tags={"contray.kind": "run"})
    export(drawn.config, drawn.method, tmp_path / "encoder")
    track.log_encoder(run, tmp_path / "encoder")
    return run


def artifacts(run: track.TrackedRun, folder: str) -> list[str]:
    return [file.path for file in track.client(run.uri).list_artifacts(run.run_id, folder)]


def test_picture_and_numbers_join_the_run(
    trained: track.TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ["--run", trained.run_id, "--track.uri", trained.uri, "--images", "10"]
    assert main(["plot", "attention", *keys]) == 0
    told = capsys.readouterr().out
    metrics = trained.results()[0]
    assert metrics.keys() == {"attention_jaccard", "random_attention_jaccard"}
    assert f"{metrics['attention_jaccard']:.3f}" in told
    assert "wrote attention.png" in told
    assert shows_something(tmp_path / "attention.png")
    assert artifacts(trained, "pictures") == ["pictures/attention.png"]

    contray.plot(
        "attention", run=trained.run_id, overrides={"track.uri": trained.uri, "data.label_column": "background"}, images=10
    )
    assert trained.results()[0].keys() == metrics.keys() | {f"digits.{name}" for name in metrics}
    assert "pictures/digits/attention.png" in artifacts(trained, "pictures/digits")


def test_similarities_are_those_of_geometry(tmp_path: Path) -> None:
    drawn = subject("simclr")
    export(drawn.config, drawn.method, tmp_path / "encoder")
    found = contray.plot("similarities", checkpoint=str(tmp_path / "encoder"), out=tmp_path / "one.png")
    assert found == contray.evaluate(("geometry",), checkpoint=str(tmp_path / "encoder"), out=tmp_path / "other.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_curves_of_runs_over_seeds(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"method.name": "simclr", "method.preset": "digits", "data.source": "digits"}
    ids = []
    for temperature, seed in ((0.1, 0), (0.1, 1), (0.5, 0)):
        run = track.begin(
            store, "e", "r", params=params | {"method.temperature": temperature, "seed": seed}, tags={"contray.kind": "run"}
        )
        for step in (10, 20, 30):
            run.log_metrics({"loss": 3 / step + temperature + seed}, step)
        ids.append(run.run_id)
    drawn: list[Any] = []
    from contray.pictures import curves

    plain = curves.draw_runs
    monkeypatch.setattr(curves, "draw_runs", lambda *args: drawn.append(args[0]) or plain(*args))
    assert main(["plot", "curves", "--run", *ids, "--track.uri", store, "--out", str(tmp_path / "c.png")]) == 0
    assert shows_something(tmp_path / "c.png")
    ((first, seeds), (second, lone)) = drawn[0]
    assert (first, second) == (
        "simclr digits on digits: method.temperature=0.1",
        "simclr digits on digits: method.temperature=0.5",
    )
    assert lone == [("0", [(step, 3 / step + 0.5) for step in (10, 20, 30)])]
    assert [(seed, points[0]) for seed, points in seeds] == [("0", (10, 0.4)), ("1", (10, 1.4))]
    capsys.readouterr()
    for words, said in (
        ([*ids, "--metric", "lose"], "--metric: run " + ids[0]),
        (["nope"], "there is no run 'nope'"),
    ):
        assert main(["plot", "curves", "--run", *words, "--track.uri", store, "--out", str(tmp_path / "no.png")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_the_mean_of_curves_is_of_the_steps_that_all_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from contray import drawing

    assert drawing.mean_curve([[(0, 0.0), (10, 1.0)], [(5, 3.0), (15, 5.0)]]) == ([5, 10], [1.75, 2.5])
    assert drawing.mean_curve([[(0, 0.0), (10, 1.0)], [(20, 3.0)]]) == ([], [])
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *words, **how: kept.append(figure))
    line, short, late = [(0, 2.0), (20, 1.0)], [(0, 3.0), (10, 2.0)], [(30, 1.0), (40, 0.5)]
    runs = [("simclr on digits: lr=1", [("0", line), ("1", short)]), ("simclr on digits: lr=2", [("0", line), ("0", line)]),
            ("simclr on digits: lr=3", [("0", line), ("1", late)]), ("simclr on digits: lr=4", [("0", line)])]  # fmt: skip
    drawing.draw_runs(runs, "loss", tmp_path / "c.png")
    (axes,) = kept[0].axes
    assert axes.get_title(loc="left") == "simclr on digits"
    assert [text.get_text() for text in kept[0].legends[0].get_texts()] == [
        "lr=1 (mean of 2 seeds, to step 10, where one ends)", "lr=2 (mean of 2 runs of 1 seed)",
        "lr=3 (2 seeds, which have no steps in common)", "lr=4",
    ]  # fmt: skip


def test_help_teaches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["plot", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for word in (*pictures.KINDS, "--by", "--images", "--metric", "pip install umap-learn", "--data.source", "pictures/"):
        assert word in shown


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("attention", "simclr", "no class token that looks at patches"),
        ("reconstruction", "simclr", "simclr paints no images; cae, mae, simmim can be drawn so"),
        ("prototypes", "mae", "mae has no prototypes; deepcluster, deepcluster_v2, swav can be drawn so"),
    ],
)
def test_a_method_that_cannot_be_drawn_so_is_refused_at_once(
    kind: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = subject(name)
    monkeypatch.setattr(Subject, "features", lambda *args: pytest.fail("features of many images were computed"))
    with pytest.raises(UserError, match=said) as refused:
        draw(kind, drawn, tmp_path / "x.png")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "x.png").exists()


def test_tokens_of_a_tokenizer_that_cannot_decode_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contray.methods._tokenizers import DalleTokenizer

    drawn = subject("cae")
    method: Any = drawn.method
    monkeypatch.setattr(method, "tokenizer", DalleTokenizer(""))
    with pytest.raises(UserError, match="cae names patches by DALL-E's encoder"):
        draw("reconstruction", drawn, tmp_path / "x.png")


def test_a_map_of_a_few_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="9 test images are too few for a map, which needs 10"):
        draw("map", subject("simclr", images=9), tmp_path / "x.png")


def test_kinds_are_the_files() -> None:
    files = {path.stem for path in Path(pictures.__path__[0]).glob("*.py")} - {
        "__init__",
        "comparison",
        "look",
        "picture",
        "preview",
        "sheet",
        "subject",
    }
    assert files == set(pictures.KINDS)


# ---------------------------------------------------------------- principal components of patches


def test_the_object_is_told_from_its_ground_and_its_parts_from_each_other() -> None:
    """Planted: a square of two parts in the middle of each image, whichever way the components point."""
    noise = torch.Generator().manual_seed(0)
    ground, thing, part = torch.eye(8)[:3]
    truth = torch.zeros(3, 6, 6, dtype=torch.bool)
    truth[:, 2:4, 1:5] = True
    x = ground + 0.05 * torch.randn(3, 6, 6, 8, generator=noise)
    x[:, 2, 1:5] += 3 * thing - ground + part
    x[:, 3, 1:5] += 3 * thing - ground - part
    for flipped in (x, -x):
        front = patch_pca.foreground(flipped)
        assert torch.equal(front, truth)
        colours = patch_pca.coloured(flipped, front)
        assert not colours[~front].any()
        assert colours.min() == 0
        assert colours.max() == 1
        assert (colours[:, 2, 1:5, 0].mean() - colours[:, 3, 1:5, 0].mean()).abs() > 0.8, "the parts differ most, in red"
    flat = x.flatten(0, 2)
    found, whole = patch_pca.components(flat, 3), flat.double() - flat.double().mean(0)
    torch.testing.assert_close(found.square().sum(0).sqrt(), torch.linalg.svdvals(whole)[:3])
    assert (found.T @ found).fill_diagonal_(0).abs().max() < 1e-8


def test_principal_components_are_drawn_with_their_overlap(tmp_path: Path, tiles: dict[tuple[float, float], Tile]) -> None:
    drawn = subject("mae", images=20)
    found = draw("patch_pca", drawn, tmp_path / "p.png")
    assert shows_something(tmp_path / "p.png")
    assert {row for row, _ in tiles} == {0, 1, 2, 3}
    assert tiles[1, 0].image.shape == (4, 4, 3)
    assert set(found) == {"patch_pca_jaccard", "random_patch_pca_jaccard"}
    assert found["patch_pca_jaccard"] == pytest.approx(found["random_patch_pca_jaccard"]), "it is untrained"
    test = drawn.source.test
    assert test is not None
    ids = drawn.limited(test, np.arange(len(test)), 20)
    front = patch_pca.foreground(patch_pca.look(drawn, drawn.method, test, ids).tokens).numpy()
    masks = [test.value(int(i), "mask", None) > 127 for i in ids]
    overlaps = [
        (np.kron(a, np.ones((4, 4))) * b).sum() / ((np.kron(a, np.ones((4, 4))) + b) > 0).sum()
        for a, b in zip(front, masks, strict=True)
    ]
    assert found["patch_pca_jaccard"] == pytest.approx(np.mean(overlaps))
