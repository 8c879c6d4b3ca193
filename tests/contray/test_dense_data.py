"""COCO's format: what is read, what is refused, and that its measures say 1 of the truth and 0 of nonsense."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from contray.cli import main
from contray.data import scenes
from contray.errors import DataError, UserError
from contray.evaluation.dense.coco import IGNORE, CocoSet, open_sets
from contray.evaluation.dense.metrics import Confusion, average_precision, found_in
from contray.evaluation.dense.samples import Wanted, _Samples, resized, stacked

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]


def small() -> dict[str, Any]:
    """Two images of 8 x 10 px; categories whose ids have gaps and stand in no order."""
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 8}, {"id": 3, "file_name": "b.png", "width": 10, "height": 8}],
        "categories": [{"id": 40, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 40, "bbox": [2, 2, 4, 4], "area": 16, "iscrowd": 0, "segmentation": SQUARE},
            {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 9, 7], "area": 63, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 7, 0, 7]]},
            {"id": 3, "image_id": 7, "category_id": 4, "bbox": [8, 6, 2, 2], "area": 4, "iscrowd": 1,
             "segmentation": {"size": [8, 10], "counts": [70, 2, 6, 2]}},
        ],
    }  # fmt: skip


def black(i: int) -> np.ndarray:
    return np.zeros((8, 10, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole data set in plain files."""
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        (tmp_path / f"{part}.json").write_text(json.dumps(small()))
        for name in ("a.png", "b.png"):
            cv2.imwrite(str(tmp_path / part / name), black(0))
    return tmp_path


# ---------------------------------------------------------------- reading


def test_labels_follow_the_ids_and_crowds_are_no_objects() -> None:
    part = CocoSet("train.json", small(), black, 0.0)
    assert (len(part), part.side, part.ids, part.classes) == (2, 8, [4, 40], ["cat", "dog"])
    objects = part.objects(0, masks=True)
    assert objects.boxes.tolist() == [[2, 2, 6, 6], [0, 0, 9, 7]]
    assert objects.labels.tolist() == [2, 1]
    assert objects.masks is not None
    assert objects.masks.shape == (2, 8, 10)
    assert objects.masks.sum((1, 2)).tolist() == [16, 63]
    none = part.objects(1, masks=True)
    assert (none.boxes.shape, none.labels.shape, none.masks.shape) == ((0, 4), (0,), (0, 8, 10))  # pyright: ignore[reportOptionalMemberAccess]


def test_of_several_objects_the_smallest_is_seen_and_crowds_count_for_nothing() -> None:
    shown = CocoSet("train.json", small(), black, 0.0).semantic(0)
    expected = np.zeros((8, 10), np.uint8)
    expected[:7, :9] = 1
    expected[2:6, 2:6] = 2
    expected[6:8, 8:10] = IGNORE  # an RLE goes down the columns: 70 = 8 * 8 + 6
    assert np.array_equal(shown, expected)


def test_boxes_are_cut_at_the_border_and_a_few_empty_ones_left_out(caplog: pytest.LogCaptureFixture) -> None:
    described = small()
    described["annotations"][0]["bbox"] = [-3, 4, 6, 100]
    described["annotations"].append({"id": 9, "image_id": 3, "category_id": 4, "bbox": [4, 4, 0, 3]})
    part = CocoSet("train.json", described, black, 0.25)
    assert part.objects(0, masks=False).boxes[0].tolist() == [0, 4, 3, 8]
    assert len(part.objects(1, masks=False).boxes) == 0
    assert "1 of 4 boxes are empty, the first is [4, 4, 0, 3] of annotation 9; they are left out" in caplog.text
    with pytest.raises(DataError, match=r"train\.json: 1 of 4 boxes are empty.* annotation 9; data\.max_broken 0\.2 is the most"):
        CocoSet("train.json", described, black, 0.2)


def changed(kind: str, place: int, **values: Any) -> Callable[[dict], None]:
    return lambda described: described[kind][place].update(values)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: d.clear(), "it has no images"),
        (lambda d: d["images"].clear(), "it has no images"),
        (lambda d: d["categories"].clear(), "it has no categories"),
        (lambda d: d["annotations"].clear(), "it has no annotations"),
        (lambda d: d["images"][0].pop("file_name"), ".*has no file_name"),
        (lambda d: d["images"][0].pop("height"), ".*has no height"),
        (lambda d: d["annotations"][0].pop("bbox"), "one of its annotations.*has no bbox"),
        (changed("annotations", 0, image_id=8), "annotation 1 is of image 8, which does not exist"),
        (changed("annotations", 1, category_id=5), "annotation 2 is of category 5, which does not exist"),
        (changed("annotations", 1, image_id="7"), ".*has the image_id '7', must be a whole number"),
        (changed("annotations", 0, bbox=[1, 2, 3]), r"annotation 1 has the box \[1, 2, 3\], must be four numbers"),
        (changed("annotations", 0, bbox=[1, 2, 3, float("nan")]), "annotation 1 has the box .*nan"),
        (changed("annotations", 0, bbox=[10, 2, 3, 3]), "1 of 3 boxes are empty"),
        (changed("images", 1, id=7), "2 of its images have the id 7"),
        (changed("categories", 1, id=40), "2 of its categories have the id 40"),
        (changed("images", 0, width=0), "image 7 has width 0"),
        (lambda d: [row.update(iscrowd=1) for row in d["annotations"]], "all annotations are crowds"),
    ],
)
def test_what_does_not_hang_together_is_named(harm: Callable[[dict], None], words: str) -> None:
    described = small()
    harm(described)
    with pytest.raises(DataError, match=f"^--data: train.json: {words}"):
        CocoSet("train.json", described, black, 0.0)


@pytest.mark.parametrize("drawn", [[], None, [[1, 2, 3, 4]], {"size": [8, 10]}])
def test_masks_are_checked_where_they_are_needed(drawn: Any) -> None:
    described = small()
    described["annotations"][1]["segmentation"] = drawn
    part = CocoSet("train.json", described, black, 0.0)
    with pytest.raises(DataError, match="annotation 2 has the segmentation"):
        part.check_masks()


def test_a_folder_is_read_in_both_layouts(folder: Path) -> None:
    name, train, test = open_sets(str(folder), 0.0)
    assert (len(train), len(test)) == (2, 2)
    assert name == folder.name
    assert train.image(0).shape == (8, 10, 3)
    (folder / "annotations").mkdir()
    for part in ("train", "val"):
        (folder / f"{part}.json").rename(folder / "annotations" / f"instances_{part}2017.json")
        (folder / part).rename(folder / f"{part}2017")
    assert [len(part) for part in open_sets(str(folder), 0.0)[1:]] == [2, 2]


def gone(*names: str) -> Callable[[Path], None]:
    return lambda root: [(root / name).unlink() for name in names] and None


def torn(root: Path) -> None:
    (root / "val.json").write_text("{")


def other_classes(root: Path) -> None:
    described = small()
    described["categories"][0]["name"] = "wolf"
    (root / "val.json").write_text(json.dumps(described))


def twice(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "train.json").rename(root / "annotations" / "instances_train2014.json")
    (root / "annotations" / "instances_train2017.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (gone("train.json"), r"neither train\.json nor annotations/instances_train\*\.json"),
        (gone("val.json"), r"neither val\.json"),
        (torn, r"val\.json is no JSON"),
        (gone("train/b.png"), r"1 of 2 images of .*train\.json are missing, the first is .*b\.png"),
        (gone("train/a.png", "train/b.png"), r"image a\.png of .*train\.json lies in none of train, images/train"),
        (other_classes, r"train\.json and val\.json have other categories: 40 dog, 40 wolf"),
        (twice, r"instances_train2014\.json, instances_train2017\.json; copy or link one as train\.json"),
    ],
)
def test_what_a_folder_lacks_is_named(harm: Callable[[Path], None], words: str, folder: Path) -> None:
    harm(folder)
    with pytest.raises(DataError, match=f"^--data: .*{words}"):
        open_sets(str(folder), 0.0)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="--data: there is no folder nowhere; scenes, or a folder"):
        open_sets("nowhere", 0.0)


def test_images_that_cannot_be_read_or_have_another_size_are_named(folder: Path) -> None:
    (folder / "train" / "a.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "train" / "b.png"), np.zeros((9, 10, 3), np.uint8))
    _, train, _ = open_sets(str(folder), 0.0)
    with pytest.raises(DataError, match=r"a\.png is no image"):
        train.image(0)
    with pytest.raises(DataError, match=r"b\.png is 10 x 9 px, but .*train\.json says 10 x 8"):
        train.image(1)


# ---------------------------------------------------------------- samples


def test_a_flip_moves_pixels_boxes_masks_and_classes_together() -> None:
    described, pictures = scenes.scenes("train", 3, side=64)
    part = CocoSet("train", described, pictures.__getitem__, 0.0)
    boxes, classes = _Samples(part, Wanted(False, masks=True)), _Samples(part, Wanted(True, size=64))
    for i in range(3):
        plain, flipped = boxes.load(i, False), boxes.load(i, True)
        assert torch.equal(flipped.pixels, plain.pixels.flip(2))
        assert torch.equal(flipped.shown["masks"], plain.shown["masks"].flip(2))
        assert torch.equal(classes.load(i, True).shown, classes.load(i, False).shown.flip(1))
        for sample in (plain, flipped):
            for mask, box in zip(sample.shown["masks"], sample.shown["boxes"].tolist(), strict=True):
                y, x = torch.nonzero(mask, as_tuple=True)
                assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == box, "boxes fit their masks"


def test_images_are_resized_by_the_shorter_side_within_the_longest() -> None:
    assert resized(np.zeros((40, 60, 3), np.uint8), 80).shape == (80, 120, 3)
    assert resized(np.zeros((40, 400, 3), np.uint8), 80).shape == (13, 133, 3)
    assert resized(np.zeros((40, 60), np.uint8), 0).shape == (40, 60)
    assert set(np.unique(resized(np.eye(40, dtype=np.uint8) * 9, 70))) == {0, 9}, "classes are not mixed"


def test_padding_counts_for_no_class() -> None:
    described = small()
    described["images"][1] |= {"width": 4, "height": 12}
    part = CocoSet("train", described, lambda i: np.full((8, 10, 3) if i == 0 else (12, 4, 3), 9, np.uint8), 0.0)
    samples = _Samples(part, Wanted(True))
    pixels, classes = stacked([samples.load(0, False), samples.load(1, False)])
    assert pixels.shape == (2, 3, 12, 10)
    assert classes.shape == (2, 12, 10)
    assert (classes[0, 8:] == IGNORE).all()
    assert (classes[1, :, 4:] == IGNORE).all()
    assert (classes[1, :, :4] == 0).all()


# ---------------------------------------------------------------- scenes


def test_scenes_repeat_themselves_and_show_what_they_say() -> None:
    described, pictures = scenes.scenes("val", 60)
    again, same = scenes.scenes("val", 20)
    assert again["images"] == described["images"][:20]
    assert again["annotations"] == described["annotations"][: len(again["annotations"])]
    assert all(np.array_equal(a, b) for a, b in zip(pictures[:20], same, strict=True))
    assert not np.array_equal(scenes.scenes("train", 1)[1][0], pictures[0])
    part = CocoSet("val", described, pictures.__getitem__, 0.0)
    assert {each["category_id"] for each in described["annotations"]} == set(range(1, 11))
    counts = [len(part.annotations(i)) for i in range(60)]
    assert min(counts) >= 1
    assert max(counts) > 3
    for i in range(60):
        objects = part.objects(i, masks=True)
        assert objects.masks is not None
        assert objects.masks.sum(0).max() == 1, "a pixel belongs to one digit"
        assert objects.masks.sum((1, 2)).min() >= 20
        inside = pictures[i].max(2)[objects.masks.any(0)].mean()
        assert inside > pictures[i].max(2)[~objects.masks.any(0)].mean() + 50, "digits are bright"


def test_written_scenes_are_the_built_in_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, count in (("train", 5), ("val", 3)):
        monkeypatch.setitem(scenes.COUNTS, part, count)
    out = tmp_path / "digits in rooms"
    assert main(["data", "scenes", "--out", str(out)]) == 0
    name, *written = open_sets(str(out), 0.0)
    assert name == "digits_in_rooms"
    for ours, theirs in zip(open_sets("scenes", 0.0)[1:], written, strict=True):
        assert len(ours) == len(theirs)
        assert ours.truth.dataset == theirs.truth.dataset
        for i in range(len(ours)):
            assert np.array_equal(ours.image(i), theirs.image(i)), "colours are not swapped"
    index = COCO(str(out / "val.json"))  # as any other tool reads it
    for annotation in index.loadAnns(index.getAnnIds()):
        mask = index.annToMask(annotation)
        y, x = np.nonzero(mask)
        assert annotation["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
        assert annotation["area"] == mask.sum()
    capsys.readouterr()
    assert main(["data", "scenes", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


# ---------------------------------------------------------------- measures


@pytest.fixture(scope="module")
def val() -> CocoSet:
    described, pictures = scenes.scenes("val", 12, side=64)
    return CocoSet("val", described, pictures.__getitem__, 0.0)


def predicted(part: CocoSet, i: int) -> dict[str, torch.Tensor]:
    """The truth, as a detector would say it."""
    objects = part.objects(i, masks=True)
    assert objects.masks is not None
    boxes, labels = torch.from_numpy(objects.boxes), torch.from_numpy(objects.labels)
    return {
        "boxes": boxes,
        "labels": labels,
        "scores": torch.ones(len(labels)),
        "masks": torch.from_numpy(objects.masks)[:, None].float(),
    }


def scored(part: CocoSet, change: Callable[[dict[str, torch.Tensor]], None], kind: Any) -> dict[str, float]:
    found = []
    for i in range(len(part)):
        prediction = copy.deepcopy(predicted(part, i))
        change(prediction)
        found += found_in(part, i, prediction)
    return average_precision(part, found, kind)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_truth_has_an_average_precision_of_one_and_nonsense_of_none(kind: str, val: CocoSet) -> None:
    def moved(prediction: dict[str, torch.Tensor]) -> None:
        prediction["boxes"] = (prediction["boxes"] + 40) % 64
        prediction["masks"] = prediction["masks"].roll((32, 32), (2, 3))

    def renamed(prediction: dict[str, torch.Tensor]) -> None:
        prediction["labels"] = prediction["labels"] % 10 + 1

    assert scored(val, lambda prediction: None, kind) == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    assert scored(val, moved, kind)["ap50"] < 0.05
    assert scored(val, renamed, kind)["ap50"] < 0.05
    assert average_precision(val, [], "bbox")["ap"] == 0


def test_results_carry_the_categories_own_ids_and_crowds_cost_nothing() -> None:
    part = CocoSet("val", small(), black, 0.0)
    found = found_in(part, 0, predicted(part, 0))
    assert [(each["image_id"], each["category_id"], each["bbox"]) for each in found] == [
        (7, 40, [2, 2, 4, 4]),
        (7, 4, [0, 0, 9, 7]),
    ]
    for kind in ("bbox", "segm"):
        assert average_precision(part, found, kind)["ap"] == pytest.approx(1)


def test_thresholds_are_told_apart(val: CocoSet) -> None:
    """Boxes a third too wide overlap by 3/4 at the most: right at 0.5, wrong at 0.8 and above."""

    def wider(prediction: dict[str, torch.Tensor]) -> None:
        x1, y1, x2, y2 = prediction["boxes"].unbind(1)
        prediction["boxes"] = torch.stack([x1, y1, x2 + 0.45 * (x2 - x1), y2], 1)  # overlap 1 / 1.45 = 0.69

    scores = scored(val, wider, "bbox")
    assert scores == {"ap": pytest.approx(0.4), "ap50": 1.0, "ap75": 0.0}  # at 0.5, 0.55, 0.6 and 0.65


def test_miou_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    confusion, true, said = Confusion(4), rng.integers(0, 3, (2, 5, 7)), rng.integers(0, 4, (2, 5, 7))
    true[0, 0] = IGNORE
    for t, s in zip(true, said, strict=True):
        confusion.add(torch.from_numpy(s), torch.from_numpy(t.astype(np.uint8)))
    overlaps = []
    for c in range(3):  # class 3 is said and never true
        both = ((true == c) & (said == c)).sum()
        either = (((true == c) | (said == c)) & (true != IGNORE)).sum()
        overlaps.append(both / either)
    assert confusion.miou() == pytest.approx(np.mean(overlaps))
    perfect = Confusion(3)
    perfect.add(torch.tensor([[0, 1]]), torch.tensor([[0, 1]], dtype=torch.uint8))
    assert perfect.miou() == 1
