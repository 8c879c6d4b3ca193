"""The pixels of a view: pure functions of their key, equal to torchvision's operations, scaled by one dial."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from contray import RunConfig
from contray.data.draws import Draws
from contray.data.policy import bound, steps
from contray.data.splits import ArraySplit
from contray.data.views import Pipeline, _geometry
from contray.errors import ConfigError
from contray.methods._base import View, evaluation_view
from contray.pictures.preview import draw

FULL = View(
    size=24,
    count=2,
    rotation=20,
    jitter=(0.8, 0.8, 0.8, 0.2),
    jitter_p=0.8,
    gray=0.2,
    blur=0.5,
    randaugment=(2, 10),
    solarize=0.3,
    cutout=0.3,
    noise=0.3,
)


def picture(height=40, width=56, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


IMAGE = picture()


def fetch(column, rng):
    return IMAGE


def noise_fetch(column, rng):
    return rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_same_key_same_pixels_in_any_order_and_pipeline():
    keys = [(seed, epoch, i) for seed in (0, 7) for epoch in (0, 1) for i in (0, 1, 5)]
    first = {key: Pipeline({"view": FULL}, 1.0)(fetch, key) for key in keys}
    pipeline = Pipeline({"view": FULL}, 1.0)
    for key in [*reversed(keys), *keys]:
        assert same(pipeline(fetch, key), first[key])


def test_other_seed_epoch_sample_view_or_crop_draws_other_pixels():
    pipeline = Pipeline({"view": FULL, "other": FULL}, 1.0)
    drawn = [pipeline(fetch, key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    pixels = [view.tobytes() for sample in drawn for view in sample.values()]
    assert len(pixels) == 4 * 4
    assert len(set(pixels)) == len(pixels)


def test_views_do_not_depend_on_each_other():
    both = Pipeline({"first": FULL, "second": View(size=16)}, 1.0)(noise_fetch, (0, 3, 4))
    alone = Pipeline({"second": View(size=16)}, 1.0)(noise_fetch, (0, 3, 4))
    assert np.array_equal(both["second"], alone["second"])


def test_generated_pictures_are_keyed_too():
    pipeline = Pipeline({"view": View(size=32, count=2, crop=(1, 1), ratio=(1, 1), flip=0)}, 1.0)
    a, again, other = (pipeline(noise_fetch, key) for key in ((0, 0, 0), (0, 0, 0), (0, 1, 0)))
    assert same(a, again)
    assert len({view.tobytes() for view in (*a.values(), *other.values())}) == 4


def test_negative_seeds_are_seeds():
    pipeline = Pipeline({"view": FULL}, 1.0)
    assert not same(pipeline(fetch, (-1, 0, 0)), pipeline(fetch, (1, 0, 0)))


def test_geometry_group_shares_picture_crop_and_flip_across_sizes():
    ramp = np.dstack(np.broadcast_arrays(np.arange(192)[:, None], np.arange(192)[None], 0)).astype(
        np.uint8
    )  # pixels say where they were
    views = {
        "rgb": View(size=64, geometry="scene", count=2),
        "small": View(size=32, geometry="scene", count=2),
        "free": View(size=64, count=2),
    }
    pipeline = Pipeline(views, 1.0)
    matches = 0
    for i in range(8):
        drawn = pipeline(lambda column, rng: ramp, (0, 0, i))
        for k in (0, 1):
            shrunk = cv2.resize(drawn[f"rgb{k}"], (32, 32), interpolation=cv2.INTER_AREA).astype(int)
            assert np.abs(shrunk - drawn[f"small{k}"]).max() <= 3
            matches += np.array_equal(drawn[f"rgb{k}"], drawn[f"free{k}"])
        assert not np.array_equal(drawn["rgb0"], drawn["rgb1"])
    assert matches == 0
    pictures = Pipeline({name: View(size=32, crop=(1, 1), ratio=(1, 1), flip=0, geometry="g") for name in ("a", "b")}, 1.0)
    drawn = pictures(noise_fetch, (0, 0, 0))
    assert np.array_equal(drawn["a"], drawn["b"])


def test_geometry_group_spans_sources_of_different_sizes():
    def scene(column, rng):
        side = {"image": 192, "depth": 64}[column]
        places = np.arange(side) * 192 // side
        return np.dstack(np.broadcast_arrays(places[:, None], places[None], 0)).astype(np.uint8)

    views = {
        "rgb": View(size=32, geometry="g", ratio=(0.2, 5)),
        "depth": View(size=32, geometry="g", source="depth", ratio=(0.2, 5)),
    }
    pipeline = Pipeline(views, 1.0)
    for i in range(50):  # at such ratios the larger image's tries are not always the smaller one's
        drawn = pipeline(scene, (0, 0, i))
        assert np.abs(drawn["rgb"].astype(int) - drawn["depth"]).max() <= 6


def test_colours_are_drawn_for_each_view_and_crop_alone():
    policy = {"size": 40, "jitter": (0.8, 0.8, 0.8, 0.2), "jitter_p": 1.0, "geometry": "g", "count": 2}
    views = {"a": View(**policy), "b": View(**policy)}
    plain = {name: View(size=40, geometry="g", count=2) for name in views}
    geometry = Pipeline(plain, 1.0)(fetch, (0, 0, 0))
    assert np.array_equal(geometry["a0"], geometry["b0"])
    drawn = Pipeline(views, 1.0)(fetch, (0, 0, 0))
    assert len({view.tobytes() for view in drawn.values()}) == 4
    assert same(drawn, dict(sorted(Pipeline({"b": views["b"], "a": views["a"]}, 1.0)(fetch, (0, 0, 0)).items())))
    whole = Pipeline({"a": View(**(policy | {"geometry": "", "crop": (1, 1), "ratio": (1, 1), "flip": 0}))}, 1.0)
    square = picture(40, 40)
    assert len({view.tobytes() for view in whole(lambda c, r: square, (0, 0, 0)).values()}) == 2


def test_strength_zero_is_crop_and_flip_only():
    plain = View(size=24, count=2)
    for i in range(20):
        assert same(Pipeline({"view": FULL}, 0.0)(fetch, (0, 0, i)), Pipeline({"view": plain}, 1.0)(fetch, (0, 0, i)))


def test_strength_scales_magnitudes_and_probabilities():
    view = View(size=32, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2)
    for strength, jitter_p, gray_p in ((0.5, 0.4, 0.1), (1.0, 0.8, 0.2), (2.0, 1.0, 0.4)):
        assert [p for p, _ in steps(view, strength, Draws())] == pytest.approx([jitter_p, gray_p])
    bright = View(size=32, crop=(1, 1), ratio=(1, 1), flip=0, jitter=(0.4, 0, 0, 0), jitter_p=1.0)
    grey = np.full((32, 32, 3), 100, np.uint8)
    for strength in (0.5, 1.0, 2.0):
        pipeline = Pipeline({"view": bright}, strength)
        jittered = [int(pipeline(lambda c, r: grey, (0, 0, i))["view"][0, 0, 0]) for i in range(300)]
        changed = [value for value in jittered if value != 100]
        assert 100 - 40 * strength - 1 <= min(changed) < 100 - 36 * strength
        assert 100 + 36 * strength < max(changed) <= 100 + 40 * strength + 1


def test_no_strength_leaves_the_allowed_ranges():
    view = View(size=16, jitter=(2.0, 2.0, 2.0, 0.5), jitter_p=1.0, rotation=180, noise=1.0, randaugment=(2, 10))
    pipeline = Pipeline({"view": view}, 2.0)
    for i in range(50):
        drawn = pipeline(fetch, (0, 0, i))["view"]
        assert drawn.shape == (16, 16, 3)
        assert drawn.dtype == np.uint8


@pytest.mark.parametrize(("field", "p"), [("gray", 0.2), ("flip", 0.5), ("blur", 0.5), ("solarize", 0.3)])
def test_probabilities_are_met(field, p):
    base = {"size": 40, "crop": (1, 1), "flip": 0.0, "blur_sigma": (1.0, 2.0)}  # below 0.29 px a blur is none
    plain, pipeline = Pipeline({"view": View(**base)}, 1.0), Pipeline({"view": View(**(base | {field: p}))}, 1.0)
    square = picture(40, 40)
    changed = sum(not same(plain(lambda c, r: square, (0, 0, i)), pipeline(lambda c, r: square, (0, 0, i))) for i in range(1000))
    assert changed == pytest.approx(1000 * p, abs=60)


def test_crop_covers_the_asked_area_and_ratio():
    ramp = np.dstack(np.broadcast_arrays(np.arange(200)[:, None], np.arange(200)[None], 0)).astype(np.uint8)
    pipeline = Pipeline({"view": View(size=32, crop=(0.2, 0.6), flip=0)}, 1.0)
    areas, ratios = [], []
    for i in range(400):
        drawn = pipeline(lambda c, r: ramp, (0, 0, i))["view"].astype(float)
        height, width = ((drawn[..., axis].max() - drawn[..., axis].min()) * 32 / 31 / 200 for axis in (0, 1))
        areas.append(height * width)
        ratios.append(width / height)
    assert 0.19 < min(areas) < 0.23
    assert 0.57 < max(areas) < 0.63
    assert np.mean(areas) == pytest.approx(0.4, abs=0.02)
    assert 0.72 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.4
    draws, wide = Draws(), View(crop=(0.02, 0.05), ratio=(0.25, 4.0))
    boxes = [_geometry(draws, wide, 1000, 1000)[0] for _ in range(1000)]
    assert np.median([box[3] / box[2] for box in boxes]) == pytest.approx(1.0, abs=0.15)  # uniform in the logarithm
    assert np.mean([box[0] / (1 - box[2]) for box in boxes]) == pytest.approx(0.5, abs=0.05)


def chw(image):
    return torch.from_numpy(image).permute(2, 0, 1)


def apply(transform, image):
    return bound(transform, Draws())(image)


@pytest.mark.parametrize("factor", [0.6, 1.4])
@pytest.mark.parametrize(("name", "tolerance"), [("brightness", 0), ("contrast", 1), ("saturation", 1)])
def test_jitter_is_torchvisions(name, factor, tolerance):
    import albumentations as A

    fixed = {
        "brightness": (1.0, 1.0),
        "contrast": (1.0, 1.0),
        "saturation": (1.0, 1.0),
        "hue": (0.0, 0.0),
        name: (factor, factor),
    }
    theirs = getattr(F, f"adjust_{name}")(chw(IMAGE), factor).permute(1, 2, 0).numpy()
    assert np.abs(apply(A.ColorJitter(**fixed), IMAGE).astype(int) - theirs).max() <= tolerance


def test_hue_solarisation_and_blur_are_torchvisions():
    import albumentations as A

    one = (1.0, 1.0)
    for hue in (-0.1, 0.1):
        ours = apply(A.ColorJitter(brightness=one, contrast=one, saturation=one, hue=(hue, hue)), IMAGE)
        assert np.abs(ours.astype(int) - F.adjust_hue(chw(IMAGE), hue).permute(1, 2, 0).numpy()).max() <= 6
    always = {"size": 40, "crop": (1, 1), "ratio": (1, 1), "flip": 0.0}
    square = picture(40, 40)
    ours = Pipeline({"view": View(**always, solarize=1.0)}, 1.0)(lambda c, r: square, (0, 0, 0))["view"]
    assert np.array_equal(ours, F.solarize(chw(square), 128).permute(1, 2, 0).numpy())
    for sigma in (0.5, 1.0, 2.0):
        view = View(**always, blur=1.0, blur_sigma=(sigma, sigma))
        ours = Pipeline({"view": view}, 1.0)(lambda c, r: square, (0, 0, 0))["view"]
        theirs = F.gaussian_blur(chw(square), [15, 15], [sigma, sigma]).permute(1, 2, 0).numpy()
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_evaluation_is_the_centre_and_deterministic():
    view = evaluation_view(View(size=32))
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 200
    drawn = [Pipeline({"image": view}, 0.0)(lambda c, r: wide, (0, 0, i))["image"] for i in (0, 1)]
    assert np.array_equal(drawn[0], np.full((32, 32, 3), 200, np.uint8))
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("side", [64, 300])
@pytest.mark.parametrize(("crop", "mode"), [("linear", "bilinear"), ("antialiased", "bilinear"), ("cubic", "bicubic")])
def test_evaluation_resizes_as_torchvision_does(crop: Literal["linear", "antialiased", "cubic"], mode: str, side: int) -> None:
    """Whatever the training crops do: SimCLR's are not antialiased."""
    view, image = evaluation_view(View(size=112, interpolation=crop)), picture(side, side * 2)
    ours = Pipeline({"image": view}, 0.0)(lambda c, r: image, (0, 0, 0))["image"]
    theirs = F.center_crop(F.resize(chw(image), [128], F.InterpolationMode(mode), antialias=True), [112])
    assert np.array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_patches_spaces_and_grey_input():
    whole = Pipeline({"a": View(size=32, geometry="g")}, 1.0)(fetch, (0, 0, 0))["a"]
    views = {
        "a": View(size=32, geometry="g", kind="patches", grid=(3, 16, 8)),
        "lab": View(size=32, geometry="g", space="lab"),
        "ycbcr": View(size=32, geometry="g", space="ycbcr"),
        "edges": View(size=32, geometry="g", sobel=True),
    }
    drawn = Pipeline(views, 1.0)(fetch, (0, 0, 0))
    assert drawn["a"].shape == (9, 16, 16, 3)
    assert np.array_equal(drawn["a"][5], whole[8:24, 16:32])
    assert np.array_equal(drawn["lab"], cv2.cvtColor(whole, cv2.COLOR_RGB2LAB))
    red, green, blue = (whole[..., k].astype(float) for k in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    for channel, expected in enumerate((luma, 128 + 0.564 * (blue - luma), 128 + 0.713 * (red - luma))):
        assert np.abs(drawn["ycbcr"][..., channel] - expected).max() <= 1.5
    step = np.zeros((32, 32), np.uint8)
    step[:, 16:] = 255
    flat = View(size=32, crop=(1, 1), ratio=(1, 1), flip=0, sobel=True)
    edges = Pipeline({"edges": flat}, 1.0)(lambda c, r: step, (0, 0, 0))["edges"]
    assert edges.shape == (32, 32, 3)
    assert (edges[:, 15:17] == 255).all()
    assert not edges[:, :15].any()


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (
            {"p": View(size=32, kind="patches", grid=(3, 16, 16))},
            "views.p.grid: 3 rows of 16 px at stride 16 need size 48, got 32",
        ),
        ({"p": View(size=32, kind="patches")}, "views.p.grid: patches need rows, side and stride above 0"),
        (
            {"a": View(geometry="g"), "b": View(geometry="g", flip=0)},
            "views.b.geometry: group 'g' needs one crop, ratio and flip; a has",
        ),
    ],
)
def test_impossible_views_are_refused(views, message):
    with pytest.raises(ConfigError, match="^" + message.replace("(", r"\(")):
        Pipeline(views, 1.0)


def test_preview_draws_every_view(tmp_path: Path):
    split = ArraySplit("set", np.stack([picture(32, 32, seed) for seed in range(4)]), np.arange(4) % 2, ["cat", "dog"])
    views = {"view": FULL, "lab": View(size=16, space="lab"), "p": View(size=16, kind="patches", grid=(3, 8, 4), space="ycbcr")}
    out = draw(split, views, strength=1.0, seed=0, out=tmp_path / "deep" / "grid.png")
    image = cv2.imread(str(out))
    assert image is not None
    assert image.shape[1] > 5 * 100
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500


@pytest.mark.parametrize("name", ["simclr", "byol", "dino", "cmc", "cpc"])
def test_the_whole_policy_stands_in_the_preview(name: str, tmp_path: Path):
    """The caption is no wider than the picture: right of it there is a white margin."""
    views = RunConfig.make(name, preset="paper").views
    split = ArraySplit("set", np.stack([picture(64, 64, seed) for seed in range(2)]), np.arange(2), ["cat", "dog"])
    views = {key: view for key, view in views.items() if view.source == "image"}
    image = cv2.imread(str(draw(split, views, strength=1.0, seed=0, samples=2, out=tmp_path / "grid.png")))
    assert image is not None
    assert image[:40, -3:].min() > 200, "text reaches the right edge"


ALIGNED = {
    "plain": FULL,
    "sobel": View(size=32, sobel=True),
    "lab": View(size=32, space="lab"),
    "ycbcr": View(size=32, space="ycbcr"),
    "cubic": View(size=24, interpolation="cubic"),
    "area": View(size=24, interpolation="area"),
    "blur": View(size=32, blur=1.0),
    "colour": View(size=32, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=1.0, gray=0.5, solarize=0.5),
    "rotation": View(size=32, rotation=90.0, cutout=0.5, noise=0.5),
    "randaugment": View(size=32, randaugment=(3, 9)),
    "evaluation": View(size=28, crop=(0.0, 0.0), flip=0.0),
}


@pytest.mark.parametrize("name", ALIGNED)
def test_pixels_do_not_depend_on_where_a_picture_lies_in_memory(name):
    """Some of OpenCV's vectorised functions round by alignment (cv2.magnitude does), which no seed can mend."""
    pipeline = Pipeline({"view": ALIGNED[name]}, 1.0)
    rng = np.random.default_rng(0)
    for i in range(20):
        picture = rng.integers(0, 256, (37, 41, 3), np.uint8)
        for offset in (0, 1, 3, 4, 8, 13):
            place = np.empty(picture.size + 64, np.uint8)[offset : offset + picture.size].reshape(picture.shape)
            place[:] = picture
            drawn = pipeline(lambda column, rng, place=place: place, (0, 0, i))
            if offset == 0:
                first = drawn
            assert same(drawn, first), offset  # pyright: ignore[reportPossiblyUnboundVariable]


def test_albumentations_asks_no_server_whatever_is_imported_first():
    looked = (
        "import builtins, os; builtins.seen = []; real = builtins.__import__\n"
        "def watch(name, *rest, **more):\n"
        "    if name == 'albumentations' and not builtins.seen: builtins.seen.append(os.environ.get('NO_ALBUMENTATIONS_UPDATE'))\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = watch\n"
        "import contray.data.photometry\n"
        "print(*builtins.seen)"
    )
    ours = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    found = subprocess.run([sys.executable, "-c", looked], env=ours, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1"]
