"""COCO files as tools write them: any ids of annotations, damaged masks, images of more than 8 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from contray.errors import DataError
from contray.evaluation.dense.coco import CocoSet, open_sets
from contray.evaluation.dense.metrics import average_precision, found_in

HEIGHT, WIDTH = 24, 30


def described(**annotation: Any) -> dict[str, Any]:
    """Two images with three objects each; annotation: keys that every one has, functions of its place or plain values."""
    rows: list[dict[str, Any]] = [
        {"id": i + 1, "image_id": i % 2, "category_id": i % 3, "bbox": [i, 2, 9, 11], "segmentation": [[i, 2, i + 9, 2, i + 9, 13]]}
        for i in range(6)
    ]  # fmt: skip
    for i, row in enumerate(rows):
        row |= {key: value(i) if callable(value) else value for key, value in annotation.items()}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(2)],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(3)],
        "annotations": rows,
    }


def read(found: dict[str, Any]) -> CocoSet:
    return CocoSet("val.json", found, lambda i: np.zeros((HEIGHT, WIDTH, 3), np.uint8), 0.0)


def ap_of_the_truth(part: CocoSet) -> float:
    found = []
    for i in range(len(part)):
        own = part.objects(i, False)
        shown = {
            "boxes": torch.tensor(own.boxes),
            "labels": torch.tensor(own.labels),
            "scores": torch.full((len(own.labels),), 0.9),
        }
        found += found_in(part, i, shown)
    return average_precision(part, found, "bbox")["ap"]


@pytest.mark.parametrize("own", [lambda i: i, lambda i: 7, lambda i: None, lambda i: f"a{i}", lambda i: -i, lambda i: True])
def test_the_truth_has_an_ap_of_1_whatever_annotations_are_called(own: Any) -> None:
    assert ap_of_the_truth(read(described(id=own))) == pytest.approx(1)


@given(st.lists(st.one_of(st.integers(-3, 3), st.none(), st.text(max_size=2)), min_size=6, max_size=6))
def test_the_truth_has_an_ap_of_1_for_ids_in_any_order(ids: list[Any]) -> None:
    assert ap_of_the_truth(read(described(id=lambda i: ids[i]))) == pytest.approx(1)


@pytest.mark.parametrize("values", [{"area": None}, {"iscrowd": None}, {"area": None, "iscrowd": False}])
def test_null_is_as_good_as_absent(values: dict[str, Any]) -> None:
    part, plain = read(described(**values)), read(described())
    assert np.array_equal(part.semantic(0), plain.semantic(0))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"iscrowd": "no"}, "annotation 1 has the iscrowd no, must be 0 or 1"),
        ({"area": "x"}, "annotation 1 has the area x, must be a number"),
        ({"bbox": [10**400, 1, 2, 3]}, "annotation 1 has the box"),
        ({"bbox": [True, True, 9, 9]}, "annotation 1 has the box"),
    ],
)
def test_values_that_are_none_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"^--data: val.json: {words}"):
        read(described(**values))


@pytest.mark.parametrize(("kind", "key"), [("images", "file_name"), ("categories", "name")])
def test_names_are_texts(kind: str, key: str) -> None:
    for name in (3, None, ""):
        found = described()
        found[kind][0][key] = name
        with pytest.raises(DataError, match=f"has the {key} {name!r}, must be a text"):
            read(found)


SIZE = [HEIGHT, WIDTH]
NO_MASKS = [
    [["a"] * 6], [[1, 2, 3, 4, 5, 6, 7]], [[float("nan")] * 6], [[None] * 6], {"size": SIZE, "counts": "xx"}, {"size": SIZE, "counts": [5, 5]},
    {"size": [9, 9], "counts": [40, 41]}, {"size": "x", "counts": [1]}, {"size": SIZE, "counts": None}, {"size": SIZE, "counts": [-1, HEIGHT * WIDTH + 1]},
]  # fmt: skip


@pytest.mark.parametrize("drawn", NO_MASKS)
def test_masks_that_are_none_are_refused_before_anything_is_trained(drawn: Any) -> None:
    with pytest.raises(DataError, match=r"annotation 1 has the segmentation .*, must be polygons .* or an RLE of 24 x 30"):
        read(described(segmentation=drawn)).check_masks()


@given(st.integers(0, 2**32 - 1), st.data())
def test_an_rle_is_taken_whole_and_damaged_ones_never_crash(seed: int, data: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    mask = np.asfortranarray(generator.random((HEIGHT, WIDTH)) < generator.random(), np.uint8)
    packed: Any = rle.encode(mask)
    counts = packed["counts"].decode()
    part = read(described(segmentation={"size": SIZE, "counts": counts}))
    part.check_masks()
    assert np.array_equal(part.mask(part.annotations(0)[0]), mask)
    place = data.draw(st.integers(0, len(counts) - 1))
    harmed = counts[:place] + data.draw(st.text(max_size=2)) + counts[place + 1 :]
    part = read(described(segmentation={"size": SIZE, "counts": harmed}))
    try:
        part.check_masks()
    except DataError:
        return
    assert part.mask(part.annotations(0)[0]).shape == mask.shape


def folder(root: Path, image: np.ndarray, text: bytes) -> tuple[str, CocoSet, CocoSet]:
    for part in ("train", "val"):
        (root / part).mkdir()
        (root / f"{part}.json").write_bytes(text)
        for i in range(2):
            cv2.imwrite(str(root / part / f"{i}.png"), image)
    return open_sets(str(root), 0.0)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_images_of_more_than_8_bits_have_their_range(bits: int, tmp_path: Path) -> None:
    ramp = np.linspace(0, 2**bits - 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16 if bits > 8 else np.uint8)
    _, train, _ = folder(tmp_path, ramp, json.dumps(described()).encode())
    assert np.abs(train.image(0)[..., 0] - ramp / (2**bits - 1) * 255).max() <= 1


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_json_of_other_tools(coding: str, tmp_path: Path) -> None:
    assert len(folder(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8), json.dumps(described()).encode(coding))[1]) == 2


@pytest.mark.parametrize("text", [b"[" * 100_000, json.dumps(described()).encode().replace(b"c0", b"\xe9")])
def test_what_is_no_json_is_said_in_one_line(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.json is no JSON") as caught:
        folder(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8), text)
    assert "\n" not in str(caught.value)


def test_a_name_that_no_disk_takes_is_a_missing_image(tmp_path: Path) -> None:
    found = described()
    found["images"][1]["file_name"] = "x" * 5000
    with pytest.raises(DataError, match=r"1 of 2 images .* are missing"):
        folder(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8), json.dumps(found).encode())
