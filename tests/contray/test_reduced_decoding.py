"""`data.reduce dct`: JPEGs at a half, a quarter or an eighth of their size, by their scale alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contray import RunConfig, data, model
from contray.config.sections import DataConfig
from contray.data import fingerprint, open_source
from contray.data.form import Form
from contray.data.given import image_of
from contray.data.pixels import decode
from contray.data.views import Pipeline
from contray.errors import ConfigError
from contray.evaluation.common.features import images_of
from contray.methods._base import View
from contray.model.encoder import Encoder

DCT = Form(reduce="dct")


def picture(width: int, height: int, suffix: str = ".jpg") -> bytes:
    """Smooth, as photos are: what is compared is where things lie."""
    draws = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.float32)
    image = np.clip(cv2.resize(draws, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    for i, (width, height) in enumerate([(640, 480), (480, 640), (200, 150), (1000, 200), (330, 250), (64, 64)]):
        (folder / f"{i}.jpg").write_bytes(picture(width, height))
    (folder / "6.png").write_bytes(picture(640, 480, ".png"))
    return str(folder)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    side=st.integers(0, 200),
    suffix=st.sampled_from([".jpg", ".png", ".webp"]),
)
def test_the_scale_follows_from_the_size_and_what_is_needed(width: int, height: int, side: int, suffix: str) -> None:
    encoded, shorter = picture(width, height, suffix), min(width, height)
    whole, found = decode(encoded, "x"), DCT.decode(encoded, "x", shorter_side=side)
    scale = round(shorter / min(found.shape[:2])) if shorter > 8 else 1
    if suffix != ".jpg" or side == 0 or side > shorter // 2:
        assert np.array_equal(found, whole)
    elif shorter > 8:
        assert found.shape[:2] == (-(-height // scale), -(-width // scale))
        assert scale in (2, 4, 8)
        assert min(found.shape[:2]) >= side
        assert scale == 8 or shorter // (2 * scale) < side


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640)])
def test_a_view_shows_the_same_region(width: int, height: int) -> None:
    """To a pixel of the smaller image; of 100 crops one falls otherwise, which fits into one of the images alone by its rounding."""
    encoded = picture(width, height)
    pipeline = Pipeline({"view": View(size=32, crop=(0.2, 1.0), interpolation="antialiased", flip=0.5)}, strength=0.0)
    whole, small = decode(encoded, "x"), DCT.decode(encoded, "x", shorter_side=120)
    assert small.shape == (height // 4, width // 4, 3)
    views = [
        [pipeline(lambda *_, image=image: image, (0, 0, sample))["view"].astype(int) for sample in range(200)]
        for image in (whole, small)
    ]
    apart = np.abs(np.array(views[0]) - views[1]).mean((1, 2, 3))
    assert np.median(apart) < 5
    assert (apart > 12).mean() < 0.03  # of another region: 60


def test_the_pixels_are_the_same_cached_or_not_in_any_process_and_in_an_encoder(photos: str) -> None:
    keys: dict[str, Any] = {"source": photos, "shorter_side": 100, "reduce": "dct", "test_share": 0.0}
    lazy, held = (open_source(DataConfig(**keys, memory_gb=memory)).train for memory in (0.0, 1.0))
    held.prepare()
    assert held.decoded
    for i in range(len(lazy)):
        assert np.array_equal(lazy.image(i, None), held.image(i, None))
        given_path = Path(photos) / lazy.key(i)
        assert np.array_equal(image_of(given_path, 100, DCT), held.image(i, None))
    assert sorted(min(lazy.image(i, None).shape[:2]) for i in range(len(lazy))) == [64, 100, 120, 120, 125, 150, 480]
    batches = data.GlobalBatches(lazy, {"view": View(size=32)}, strength=1.0, batch_size=3, seed=0)
    alone, ahead = (
        [each["views"]["view"] for each in data.loader(batches, range(4), range(3), workers=workers, pin=False)]
        for workers in (0, 2)
    )
    assert all(np.array_equal(one, other) for one, other in zip(alone, ahead, strict=True))


def test_an_encoder_sees_what_evaluations_saw(photos: str) -> None:
    keys = {
        "data.source": photos,
        "data.test_share": 0,
        "data.memory_gb": 0,
        "data.shorter_side": 100,
        "data.reduce": "dct",
        "train.device": "cpu",
    }
    config = RunConfig.make(
        "simclr", {**keys, "views.view.size": 32, "backbone.width": 4, "train.batch_size": 4}, preset="digits"
    )
    encoder, split = Encoder(config, model.build(config, 7).eval()), open_source(config).train
    normalise = model.normaliser(config, model.device_of(config))
    for batch in images_of(config, split, range(len(split))):
        for row, i in enumerate(batch["index"].tolist()):
            (name, seen), *_ = encoder.transform(Path(photos) / split.key(i)).items()
            assert torch.equal(seen[0], normalise(batch["views"][name])[row])


def test_it_is_part_of_what_the_pixels_depend_on(photos: str) -> None:
    prints: dict[str, str] = {}
    cases: dict[str, dict[str, Any]] = {"whole": {}, "area": {"shorter_side": 100}, "dct": {"shorter_side": 100, "reduce": "dct"}}
    for name, keys in cases.items():
        config = DataConfig(source=photos, test_share=0.0, **keys)
        prints[name] = fingerprint(open_source(config), config)["data"]
    assert len(set(prints.values())) == 3
    plain = RunConfig.make("simclr", {"data.shorter_side": 100}, preset="digits")
    assert plain.replace({"data.reduce": "dct"}).digest() != plain.digest() == plain.replace({"data.reduce": "area"}).digest()


def test_what_reduces_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^data\.reduce: got dct, but data\.shorter_side 0 reduces nothing"):
        RunConfig.make("simclr", {"data.reduce": "dct"}, preset="digits")
    with pytest.raises(ConfigError, match=r"^data\.reduce: got dct, but with data\.channels 4 files are decoded whole"):
        RunConfig.make("simclr", {"data.reduce": "dct", "data.shorter_side": 64, "data.channels": 4}, preset="digits")
    with pytest.raises(ConfigError, match=r"^data\.reduce: got 'half', must be area \| dct"):
        RunConfig.make("simclr", {"data.reduce": "half"}, preset="digits")
    RunConfig.make("simclr", {"data.reduce": "dct", "data.source": "photos/"})  # the plan says at what size photos are read
