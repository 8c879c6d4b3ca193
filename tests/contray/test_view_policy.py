"""RandAugment as InfoMin's release has it, policies of single patches, the order of grey, antialiased crops: against PIL and torchvision."""

import colorsys
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import ColorJitter, InterpolationMode
from torchvision.transforms.functional import gaussian_blur
from torchvision.transforms.v2.functional import resize

from contray import RunConfig
from contray.data.draws import Draws
from contray.data.jitter import Jitter, jitter_ranges
from contray.data.pixels import antialiased
from contray.data.policy import RandAugment, steps
from contray.data.randaugment import FILL, NAMES, TimmRandAugment, applied
from contray.data.views import Pipeline
from contray.errors import ConfigError
from contray.methods._base import View, evaluation_view
from tests.contray.test_data_views import picture

PHOTO = picture(64, 64, seed=3)  # smooth, of all colours


# ---------------------------------------------------------------- the release's RandAugment, word by word


def release(name, image, level, resample):
    """One operation of pycontrast/datasets/RandAugment.py at a level of 0 to 10; `level` is signed where theirs is negated at random."""
    size, fill = image.size, {"fillcolor": FILL, "resample": resample}
    factor = (level / 10) * 1.8 + 0.1
    table = {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Rotate": lambda: image.rotate((level / 10) * 30, **fill),
        "Posterize": lambda: (
            ImageOps.posterize(image, int((level / 10) * 4)) if int((level / 10) * 4) else image.point(lambda _: 0)
        ),
        "Solarize": lambda: ImageOps.solarize(image, int((level / 10) * 256)),
        "SolarizeAdd": lambda: image.point([min(255, i + int((level / 10) * 110)) if i < 128 else i for i in range(256)] * 3),
        "Color": lambda: ImageEnhance.Color(image).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "ShearX": lambda: image.transform(size, Image.Transform.AFFINE, (1, level / 10 * 0.3, 0, 0, 1, 0), **fill),
        "ShearY": lambda: image.transform(size, Image.Transform.AFFINE, (1, 0, 0, level / 10 * 0.3, 1, 0), **fill),
        "TranslateX": lambda: image.transform(size, Image.Transform.AFFINE, (1, 0, level / 10 * 0.45 * size[0], 0, 1, 0), **fill),
        "TranslateY": lambda: image.transform(size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, level / 10 * 0.45 * size[1]), **fill),
    }
    return table[name]()


SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_is_the_releases(name):
    for level in (10.0, 9.4, 3.0, *((-9.4, -10.0) if name in SIGNED else ())):
        for cubic, resample in (
            (False, Image.Resampling.BILINEAR),
            *([(True, Image.Resampling.BICUBIC)] if name in SIGNED else []),
        ):
            ours = applied(name, PHOTO, level / 10, cubic).astype(int)
            gaps = np.abs(ours - np.asarray(release(name, Image.fromarray(PHOTO), level, resample)))
            if name not in SIGNED:
                assert gaps.max() <= 2
            else:  # OpenCV places pixels to 1/32, and mixes the last one with what lies beyond
                assert np.median(gaps) <= 1
                assert (gaps > 16).mean() < 0.06, (level, cubic)


def theirs(image, rng):
    """aug D of pycontrast/datasets/util.py after the crop, without the flip: jitter, blur, RandAugment, grey."""
    if rng.random() < 0.8:
        image = ColorJitter(0.8, 0.8, 0.8, 0.2)(image)
    if rng.random() < 0.5:
        image = gaussian_blur(image, [23, 23], [rng.uniform(0.1, 2.0)] * 2)
    for name in rng.choices(NAMES, k=2):
        if rng.random() > 0.5:
            continue
        level = min(10.0, max(0.0, rng.gauss(10, 0.5)))
        level = -level if name in SIGNED and rng.random() > 0.5 else level
        image = release(name, image, level, rng.choice((Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)))
    return ImageOps.grayscale(image).convert("RGB") if rng.random() < 0.2 else image


def told(views):
    """Shares of nearly constant views and of grey ones; the mean and the spread of all pixels."""
    views = np.stack(views).astype(float)
    spreads = views.std((1, 2, 3))
    grey = (np.ptp(views, 3).max((1, 2)) <= 1).mean()
    return np.array([(spreads < 12).mean(), grey, views.mean() / 255, np.median(spreads) / 255])


def drawn(view, count=300):
    whole = replace(view, size=64, crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    pipeline = Pipeline({"view": whole}, 1.0)
    return [pipeline(lambda column, rng: PHOTO, (0, 0, i))["view"] for i in range(count)]


def test_views_of_infomin_are_as_varied_as_the_releases():
    torch.manual_seed(0)  # torchvision's jitter draws there
    rng = random.Random(0)
    expected = told([np.asarray(theirs(Image.fromarray(PHOTO), rng)) for _ in range(300)])
    view = RunConfig.make("infomin", preset="paper").views["query"]
    assert (view.gray_order, view.randaugment, view.randaugment_as) == ("last", (2, 10), "timm")
    assert told(drawn(view)) == pytest.approx(expected, abs=0.07)
    assert told(drawn(replace(view, randaugment_as="torchvision")))[0] > expected[0] + 0.07  # which always does both, and harder


def test_a_quarter_of_timms_pairs_of_operations_do_nothing():
    """Both are left out, or leave the picture as it is; an identity, AutoContrast of a full range, adds a little."""
    views = drawn(View(randaugment=(2, 10), randaugment_as="timm"))
    untouched = np.mean([np.array_equal(view, PHOTO) for view in views])
    assert untouched == pytest.approx(0.27, abs=0.07)


def test_timms_magnitude_varies_with_a_deviation_of_half_and_the_dial_scales_both():
    draws, levels = Draws(), []
    draws.move(0, 0, 0, 0)
    operation = TimmRandAugment(5.0, 1.0, draws)
    grey = np.full((8, 8, 3), 100, np.uint8)
    for _ in range(3000):
        found = operation(grey)[0, 0, 0]
        levels.append(int(found))
    assert len({level for level in levels if 90 < level < 110}) > 10  # brightness around a factor of 1
    view = View(size=64, randaugment=(2, 10), randaugment_as="timm")
    for strength, chance, magnitude in ((0.5, 0.25, 5.0), (1.0, 0.5, 10.0), (2.0, 1.0, 10.0)):
        (p, first), _ = steps(view, strength, Draws())
        assert isinstance(first, TimmRandAugment)
        assert (p, first.chance, first.magnitude) == (1.0, chance, magnitude)


# ---------------------------------------------------------------- grey, patches


def test_grey_before_the_jitter_is_coloured_by_it_and_last_is_grey():
    """Hue and saturation do nothing to grey pixels; brightness and contrast do, to all channels alike."""
    view = View(jitter=(0.0, 0.0, 0.0, 0.5), jitter_p=1.0, gray=1.0, randaugment=(1, 10))
    for order, names in (
        ("after_jitter", ["jitter", "gray", "rest"]), ("before_jitter", ["gray", "jitter", "rest"]), ("last", ["jitter", "rest", "gray"]),
    ):  # fmt: skip
        found = [operation for _, operation in steps(replace(view, gray_order=order), 1.0, Draws())]
        assert [name_of(operation) for operation in found] == names
    for image in drawn(replace(view, gray_order="last", randaugment_as="timm"), 20):
        assert np.ptp(image, 2).max() <= 1
    assert RunConfig.make("instdisc", preset="paper").views["view"].gray_order == "before_jitter"  # lemniscate's main.py
    assert RunConfig.make("moco", preset="v1").views["query"].gray_order == "before_jitter"  # moco's main_moco.py
    for name, preset in (("instdisc", "cifar"), ("invaspread", "paper"), ("moco", "v2")):  # lemniscate's cifar.py, demo_seen.py
        assert next(iter(RunConfig.make(name, preset=preset).views.values())).gray_order == "after_jitter"


def name_of(operation):
    """Of a step, by what it does to a coloured picture."""
    draws = operation(np.dstack([np.full((8, 8), v, np.uint8) for v in (200, 40, 90)]))
    if isinstance(operation, RandAugment):
        return "rest"
    return "gray" if np.ptp(draws, 2).max() <= 1 else "jitter"


V2 = View(size=64, kind="patches", grid=(4, 28, 12), crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8,
          gray=0.25, elastic=0.2, shear=0.2, per_patch=True)  # fmt: skip


def test_patches_are_augmented_each_by_itself():
    """CPC v2: grey falls on a quarter of all patches, not on all of an image or none, and overlaps are no copies of one another."""
    pipeline, shares, same = Pipeline({"p": V2}, 1.0), [], []
    for i in range(60):
        patches = pipeline(lambda column, rng: PHOTO, (0, 0, i))["p"]
        assert patches.shape == (16, 28, 28, 3)
        shares.append((np.ptp(patches, 3).max((1, 2)) <= 1).mean())
        same += [np.array_equal(patches[k][:, 12:], patches[k + 1][:, :16]) for k in range(15) if k % 4 < 3]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.05)
    assert 0 < np.median(shares) < 1
    assert np.mean(same) < 0.1
    whole = Pipeline({"p": replace(V2, per_patch=False)}, 1.0)(lambda column, rng: PHOTO, (0, 0, 0))["p"]
    assert np.array_equal(whole[0][:, 12:], whole[1][:, :16])
    plain = Pipeline({"p": V2}, 0.0)(lambda column, rng: PHOTO, (0, 0, 0))["p"]
    assert np.array_equal(plain, Pipeline({"p": replace(V2, per_patch=False)}, 0.0)(lambda column, rng: PHOTO, (0, 0, 0))["p"])
    assert np.array_equal(
        pipeline(lambda column, rng: PHOTO, (0, 0, 3))["p"], pipeline(lambda column, rng: PHOTO, (0, 0, 3))["p"]
    )


def test_cpc_is_evaluated_in_the_colours_it_trains_on():
    view = RunConfig.make("cpc", preset="paper").views["patches"]
    for strength, each in ((1.0, view), (0.0, evaluation_view(view))):
        patches = Pipeline({"p": each}, strength)(lambda column, rng: PHOTO, (0, 0, 0))["p"]
        assert patches.shape == (49, 64, 64, 3)
        assert np.ptp(patches, 3).max() == 0
    v2 = RunConfig.make("cpc", preset="v2")
    assert np.ptp(Pipeline({"p": evaluation_view(v2.views["patches"])}, 0.0)(lambda c, r: PHOTO, (0, 0, 0))["p"], 3).max() > 0
    assert (v2.flat()["method.nearest"], v2.flat()["method.farthest"]) == (3, 3)


def test_a_random_square_of_each_patch_is_kept_in_the_middle_of_black():
    """CPC v1, §3.2: a 60 x 60 sub-crop of each patch of 64 px, padded back; here 24 of 28."""
    view = replace(V2, grid_kept=24, jitter_p=0.0, gray=0.0, elastic=0.0, shear=0.0)
    whole = Pipeline({"p": replace(view, grid_kept=0)}, 1.0)(lambda column, rng: PHOTO, (0, 0, 0))["p"]
    kept, places = Pipeline({"p": view}, 1.0)(lambda column, rng: PHOTO, (0, 0, 0))["p"], set()
    for patch, full in zip(kept, whole, strict=True):
        assert not patch[:2].any()
        assert not patch[:, 26:].any()
        inner = patch[2:26, 2:26]
        found = [(y, x) for y in range(5) for x in range(5) if np.array_equal(inner, full[y : y + 24, x : x + 24])]
        assert len(found) == 1
        places |= set(found)
    assert len(places) > 5
    with pytest.raises(ConfigError, match=r"views.p.grid_kept: got 29, must be at most the 28 px of a patch"):
        Pipeline({"p": replace(view, grid_kept=29)}, 1.0)
    with pytest.raises(ConfigError, match=r"views.view0?.*per_patch: is of views of kind patches, but this one is of kind image"):
        RunConfig.make("simclr", {"views.view.per_patch": True})


@pytest.mark.parametrize("image", [PHOTO, PHOTO[:, :, :1], PHOTO.astype(np.float32) / 255, np.repeat(PHOTO, 2, 2)])
def test_new_operations_take_images_of_any_channels(image):
    channels = 0 if image.dtype == np.uint8 and image.shape[2] == 3 else image.shape[2]
    view = replace(
        V2, elastic=1.0, shear=1.0, gray_order="last", randaugment=(2, 10), randaugment_as="timm", interpolation="antialiased"
    )
    pipeline = Pipeline({"p": view}, 1.0, channels)
    for i in range(12):
        patches = pipeline(lambda column, rng: image, (0, 0, i))["p"]
        assert patches.shape == (16, 28, 28, image.shape[2])
        assert patches.dtype == image.dtype
        assert patches.max() <= (255 if image.dtype == np.uint8 else 1)
    for name in NAMES:
        assert applied(name, image, 0.7).shape == image.shape


# ---------------------------------------------------------------- antialiased crops


@pytest.mark.parametrize(("shape", "side"), [((375, 500), 224), ((301, 199), 96), ((40, 60), 128)])
@pytest.mark.parametrize(("mode", "filter_", "tolerance"), [("bilinear", "BILINEAR", 1), ("bicubic", "BICUBIC", 2)])
def test_antialiased_crops_are_pillows_and_torchvisions(shape, side, mode, filter_, tolerance):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours = antialiased(image, (side, side), mode)
    pillow = np.asarray(Image.fromarray(image).resize((side, side), getattr(Image.Resampling, filter_)))
    assert np.abs(ours.astype(int) - pillow).max() <= tolerance
    how = getattr(InterpolationMode, filter_)
    theirs = resize(torch.from_numpy(image).permute(2, 0, 1), [side, side], how, antialias=True)
    assert np.array_equal(ours, theirs.permute(1, 2, 0).numpy())
    view = View(
        size=side,
        crop=(1.0, 1.0),
        ratio=(shape[1] / shape[0],) * 2,
        flip=0.0,
        interpolation="antialiased" if mode == "bilinear" else "antialiased_cubic",
    )
    fixed = image[:]
    fixed.setflags(write=False)  # as from a file that is mapped into memory
    assert np.array_equal(Pipeline({"v": view}, 1.0)(lambda column, rng: fixed, (0, 0, 0))["v"], ours)


def test_papers_crops_are_resized_as_their_releases_do():
    """TensorFlow and JAX do not antialias by default; Pillow, under torchvision, always does."""
    smooth, cubic = "antialiased", "antialiased_cubic"
    expected = {"simclr": "cubic", "simclr_v2": "cubic", "byol": "cubic", "moco_v3": smooth, "dino": cubic, "mae": cubic, "barlow_twins": cubic,
                "instdisc": smooth, "infomin": smooth, "cmc": smooth, "deepcluster": smooth, "deepcluster_v2": smooth, "swav": smooth, "simsiam": smooth,
                "moco": smooth}  # fmt: skip
    found = {name: {view.interpolation for view in RunConfig.make(name, preset="paper").views.values()} for name in expected}
    assert found == {name: {how} for name, how in expected.items()}
    for name in expected:
        assert {view.interpolation for view in RunConfig.make(name, preset="digits").views.values()} == {"linear"}


def test_antialiasing_keeps_fine_stripes_from_becoming_coarse_ones():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    view = View(size=90, crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    aliased, smooth = (
        Pipeline({"v": replace(view, interpolation=how)}, 1.0)(lambda column, rng: stripes, (0, 0, 0))["v"]
        for how in ("linear", "antialiased")
    )
    assert aliased.std() > 40
    assert smooth[:, 2:-2].std() < 12


def tensorflows(image: np.ndarray, operation: str, amount: float) -> np.ndarray:
    """TensorFlow's random_brightness, random_contrast, random_saturation and random_hue of one drawn amount, literally: float (H, W, 3) in [0, 1]."""
    x = image / 255
    if operation == "added":
        x = x + amount
    elif operation == "brightness":
        x = x * amount
    elif operation == "contrast":
        mean = x.mean((0, 1), keepdims=True)  # of each channel
        x = (x - mean) * amount + mean
    else:
        pixels = []
        for r, g, b in x.reshape(-1, 3).tolist():
            h, s, v = colorsys.rgb_to_hsv(r, g, b)
            pixels.append(
                colorsys.hsv_to_rgb(h, min(s * amount, 1), v)
                if operation == "saturation"
                else colorsys.hsv_to_rgb((h + amount) % 1, s, v)
            )
        x = np.array(pixels).reshape(x.shape)
    return np.clip(x, 0, 1) * 255


@pytest.mark.parametrize(
    ("operation", "amount", "away"),
    [
        ("added", 0.3, 1.0), ("added", -0.3, 1.0), ("brightness", 1.7, 1.0), ("contrast", 0.3, 1.0), ("contrast", 1.8, 1.0),
        ("saturation", 0.2, 1.5), ("saturation", 1.8, 2.0), ("hue", 0.15, 2.5), ("hue", -0.2, 2.5),
    ],
)  # fmt: skip
def test_tensorflows_jitter(operation: str, amount: float, away: float) -> None:
    """Of one operation at a time, the others leaving things as they are but for the rounding of HSV; hues are of two degrees."""
    neutral = {"brightness": 0.0 if operation == "added" else 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    drawn = neutral | {"brightness" if operation == "added" else operation: amount}
    draws = Draws()
    draws.move(0, 0, 0, 0)
    jitter = Jitter(View(jitter_as="added" if operation == "added" else "tensorflow"), 1.0, draws)
    jitter.ranges = [(value, value) for value in drawn.values()]
    difference = np.abs(jitter(PHOTO).astype(float) - tensorflows(PHOTO, operation, amount))
    assert difference.mean() <= away
    assert np.quantile(difference, 0.99) <= 4 * away + 1


def test_who_jitters_as_tensorflow() -> None:
    """SimCLR and BYOL where they are the papers'; recipes of other libraries are torchvision's."""
    asked = {
        ("simclr", "paper"): "added", ("simclr_v2", "paper"): "tensorflow", ("byol", "paper"): "added", ("byol", "e300"): "added",
        ("simclr", "cifar"): "torchvision", ("simclr", "cifar_lightly"): "torchvision", ("byol", "cifar"): "torchvision",
        ("byol", "digits"): "torchvision", ("simclr_v2", "digits"): "torchvision", ("simclr", "digits"): "torchvision", ("moco", "paper"): "torchvision",
    }  # fmt: skip
    for (method, preset), whose in asked.items():
        assert {view.jitter_as for view in RunConfig.make(method, preset=preset).views.values()} == {whose}, (method, preset)
    assert jitter_ranges(View(jitter=(0.4, 0.8, 0.2, 0.1), jitter_as="added"), 2.0) == [
        (-0.8, 0.8),
        (0.0, 2.6),
        (0.6, 1.4),
        (-0.2, 0.2),
    ]
