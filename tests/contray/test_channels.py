"""Images of any channels and depth: their pixels reach the network as the files have them, whatever the file."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from contray import RunConfig, check_data, data, model
from contray.cli import main
from contray.data.bands import packed, samples_of
from contray.data.form import Form
from contray.data.native import OtherChannels, native
from contray.data.pixels import BrokenImage, Depth
from contray.data.views import Pipeline
from contray.errors import ConfigError, DataError, UserError
from contray.methods._base import View, evaluation_view
from contray.model.encoder import Encoder
from contray.storage.folder import Storage
from contray.training.settle import measure, settle

BANDS, SIDE = 12, 32
TIFFS: dict[str, dict[str, Any]] = {
    "channels side by side": {"planarconfig": "contig"},
    "a plane each": {"planarconfig": "separate"},
    "big-endian": {"planarconfig": "contig", "byteorder": ">"},
    "deflate with a predictor": {"planarconfig": "contig", "compression": "zlib", "predictor": True},
    "tiles": {"planarconfig": "contig", "tile": (16, 16), "compression": "zlib", "predictor": True},
    "tiles of planes": {"planarconfig": "separate", "tile": (16, 16)},
    "strips": {"planarconfig": "separate", "rowsperstrip": 5, "compression": "zlib"},
    "BigTIFF": {"planarconfig": "contig", "bigtiff": True},
}


def values(dtype: str = "uint16", channels: int = BANDS, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """(side + 5, side, channels) of numbers that fill 12 bits, or of floats from -1 to 3."""
    drawn = np.random.default_rng(seed).random((side + 5, side, channels))
    return (
        (drawn * 4 - 1).astype(dtype) if np.dtype(dtype).kind == "f" else (drawn * min(4095, np.iinfo(dtype).max)).astype(dtype)
    )


def tiff(image: np.ndarray, **how: Any) -> bytes:
    out = io.BytesIO()
    how = {"photometric": "minisblack", "planarconfig": "contig", **how}
    if image.dtype.kind == "f":
        how.pop("predictor", None)  # which tifffile writes with imagecodecs alone
    if image.shape[2] == 1:
        image, how = image[:, :, 0], {**how, "planarconfig": None}
    elif how.get("planarconfig") == "separate":
        image = np.moveaxis(image, 2, 0)
    tifffile.imwrite(out, image, metadata=None, **how)
    return out.getvalue()


def npy(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, image)
    return out.getvalue()


def npz(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, image=image)
    return out.getvalue()


def pages(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, np.moveaxis(image, 2, 0), photometric="minisblack", metadata=None)
    return out.getvalue()


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


FILES: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "bands.tif": ("uint16", tiff), "pages.tif": ("uint16", pages), "deep.npy": ("uint16", npy), "first.npy": ("uint16", lambda x: npy(np.moveaxis(x, 2, 0))),
    "one.npz": ("int32", npz), "floats.tif": ("float32", tiff), "doubles.npy": ("float64", npy),
}  # fmt: skip


def folder(place: Path, images: list[np.ndarray], name: str, write: Callable[[np.ndarray], bytes]) -> Path:
    for i, image in enumerate(images):
        (place / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (place / "ab"[i % 2] / f"{i}{name}").write_bytes(write(image))
    return place


def at_network(config: RunConfig, source: data.Source) -> dict[int, np.ndarray]:
    """What the network is given of the training images for evaluation, by their ids."""
    views = {"image": evaluation_view(next(iter(config.views.values())))}
    normalise = model.normaliser(config, torch.device("cpu"))
    batches = data.EvalImages(source.train, views, np.arange(len(source.train)), 4)
    return {
        int(i): x for batch in batches for i, x in zip(batch["index"], normalise(batch["views"]["image"]).numpy(), strict=True)
    }


def config_of(place: Path, channels: int, **keys: Any) -> RunConfig:
    given = {"data.source": str(place), "data.channels": channels, "data.test_share": 0, "augment.mean": 0.3, "augment.std": 0.2}
    return RunConfig.make("simclr", given | {key.replace("__", "."): value for key, value in keys.items()}, preset="cifar")


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_at_the_network_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    dtype, write = FILES[name]
    images = [values(dtype, seed=i, side=SIDE) for i in range(4)]
    if name == "first.npy":
        images = [image[:SIDE] for image in images]
    mean, std = tuple(np.linspace(0.2, 0.6, BANDS).tolist()), tuple(np.linspace(0.1, 0.4, BANDS).tolist())
    config = config_of(folder(tmp_path, images, f"_{name}", write), BANDS, augment__mean=mean, augment__std=std)
    source = data.open_source(config)
    measured = Depth.of(images)
    low, high = (0.0, 4095.0) if np.dtype(dtype).kind in "iu" else (measured.low, measured.high)
    order = {source.train.key(i): i for i in range(len(source.train))}
    found = at_network(config, source)
    for number, image in enumerate(images):
        top = (image.shape[0] - SIDE) // 2
        exact = ((image[top : top + SIDE].astype(np.float64) - low) / (high - low) - mean) / std  # by hand, in fp64
        assert_allclose(found[order[f"{'ab'[number % 2]}/{number}_{name}"]], exact.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_images_of_8_bits_stay_bytes_and_reach_the_network_alike(tmp_path: Path) -> None:
    images = [values("uint8", 5, seed=i)[:SIDE] for i in range(4)]
    config = config_of(folder(tmp_path, images, ".npy", npy), 5)
    source = data.open_source(config)
    assert source.train.image(0, None).dtype == np.uint8
    exact = (images[0].astype(np.float64) / 255 - 0.3) / 0.2
    assert_allclose(at_network(config, source)[0], exact.transpose(2, 0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", TIFFS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiffs_of_any_layout_give_their_numbers(how: str, dtype: str) -> None:
    image = values(dtype, 7)
    assert_array_equal(native(tiff(image, **TIFFS[how]), "x.tif", 7), image)


def test_tiffs_that_libtiff_writes() -> None:
    """LZW, and the predictor of floats."""
    deep, floats = values("uint16", 1)[:, :, 0], values("float32", 1)[:, :, 0]
    for image, predictor in ((deep, 2), (deep, 1), (floats, 3), (floats, 1)):
        out = io.BytesIO()
        Image.fromarray(image).save(out, "TIFF", compression="tiff_lzw", tiffinfo={317: predictor, 278: 9})
        assert_array_equal(native(out.getvalue(), "x.tif", 1)[:, :, 0], image)


def test_arrays_in_any_order_of_axes_and_bytes() -> None:
    image = values("float64", 5)
    assert_array_equal(native(npy(np.asfortranarray(image)), "x", 5), image)
    assert_array_equal(native(npy(image.astype(">f8")), "x", 5), image)
    assert_array_equal(native(npy(image[:, :, 0]), "x", 1), image[:, :, :1])
    assert native(png(values("uint16", 1)), "x", 1).dtype == np.uint16
    assert_array_equal(native(png(values("uint8", 4)), "x", 4), values("uint8", 4)[:, :, [2, 1, 0, 3]])  # OpenCV writes BGRA


def test_a_file_for_each_band(tmp_path: Path) -> None:
    bands = ["B01", "B02", "B8A", "B10"]
    for tile in ("T1", "T2", "T3"):
        for number, band in enumerate(bands):
            if (tile, band) != ("T3", "B8A"):
                side = 16 if band == "B01" else 32  # a coarser grid
                image = np.full((side, side, 1), 100 * number + int(tile[1]), np.uint16)
                (tmp_path / f"{tile}_{band}.tif").write_bytes(tiff(image))
    config = config_of(tmp_path, 4, data__max_broken=0.5, data__range=(0, 1000))
    train = data.open_source(config).train
    assert len(train) == 3
    assert_allclose(train.image(1, None)[0, 0], np.array([2, 102, 202, 302]) / 1000, atol=1e-6)
    with pytest.raises(BrokenImage, match="T3: its band B8A is missing"):
        train.image(2, None)
    with pytest.raises(DataError, match=r"give --data.channels 4"):
        data.open_source(config_of(tmp_path, 5))


def test_bands_in_a_folder_each_and_files_that_are_none() -> None:
    nested = [f"{kind}/{tile}/{tile}_{band}.tif" for kind in "pq" for tile in ("x", "y") for band in ("B1", "B2", "B11")]
    found = samples_of(nested, 3)
    assert list(found) == ["p/x", "p/y", "q/x", "q/y"]
    assert list(found["p/x"]) == ["B1", "B2", "B11"]
    assert not samples_of(["a/1.tif", "a/2.tif", "b/photo_c1.tif"], 3)
    assert not samples_of(nested, 1)


def test_other_channels_are_broken_and_named_and_most_of_them_refused(tmp_path: Path) -> None:
    with pytest.raises(OtherChannels, match=r"13 channels, and data.channels is 12"):
        native(tiff(values(channels=13)), "x.tif", 12)
    with pytest.raises(OtherChannels, match=r"3 pages of 1, 3 channels, and data.channels is 5"):
        native(pages(values(channels=3)), "x.tif", 5)
    config = config_of(folder(tmp_path, [values(channels=3, seed=i) for i in range(4)], ".npy", npy), 12)
    with pytest.raises(ConfigError, match=r"data.channels: got 12, but 4 of 4 sampled images have 3, such as .*npy; give 3"):
        data.open_source(config).train.notes()


def test_arrays_are_images_only_where_channels_are_asked_for(tmp_path: Path) -> None:
    folder(tmp_path, [values("uint8", 3)] * 4, ".png", png)
    np.save(tmp_path / "labels.npy", np.arange(4))
    config = config_of(tmp_path, 3).replace({"data.channels": 0, "augment.mean": 0.5})
    assert len(data.open_source(config).train) == 4


# ---------------------------------------------------------------- what strangers write

WHOLE = {
    "tiff": tiff(values(channels=3), **TIFFS["tiles"]), "pages": pages(values(channels=3)), "npy": npy(values(channels=3)), "npz": npz(values(channels=3)),
    "bands": packed({"B1": tiff(values(channels=1)), "B2": tiff(values(channels=1)), "B3": tiff(values(channels=1))}),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
@given(drawn=some.data())
@settings(max_examples=60, deadline=None)
def test_damage_breaks_an_image_and_nothing_else(kind: str, drawn: some.DataObject) -> None:
    whole = bytearray(WHOLE[kind])
    head = drawn.draw(some.integers(0, 1))
    for _ in range(drawn.draw(some.integers(1, 4))):
        at = drawn.draw(some.integers(0, (min(len(whole), 400) if head else len(whole)) - 1))
        whole[at] = drawn.draw(some.integers(0, 255))
    cut = drawn.draw(some.integers(0, len(whole)))
    for data_ in (bytes(whole), bytes(whole[:cut])):
        with suppress(BrokenImage):
            assert native(data_, "x", 3).shape[2] == 3


def test_a_file_that_python_2_wrote_is_read_without_a_word() -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4L, 4L, 3L), }\n"
    pixels = values(channels=3)[:4, :4].astype(np.uint8)
    file = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pixels.tobytes()
    np.testing.assert_array_equal(native(file, "x", 3), pixels)


def test_a_tag_whose_number_became_text_breaks_the_image() -> None:
    whole = bytearray(WHOLE["tiff"])
    whole[12] = 1  # the width's kind: bytes
    with suppress(BrokenImage):
        assert native(bytes(whole[:22]), "x", 3).shape[2] == 3


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{'descr': '<u2', 'fortran_order': False, 'shape': (100000, 100000, 12), }", "claimed"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }", "not of numbers"),
        ("{'descr': '<u2', 'fortran_order': False, 'shape': (-4, 4), }", "not of numbers"),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (4, 4), }", "not of numbers"),
        ("__import__('os').system('true')", "damaged"),
    ],
)
def test_a_header_of_npy_is_not_believed(header: str, said: str) -> None:
    text = (header + "\n").encode()
    with pytest.raises(BrokenImage, match=said):
        native(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 64, "x", 12)


def test_claims_of_tiff_and_zip_are_not_believed() -> None:
    whole = tiff(values(channels=3))
    large = whole.replace(b"\x00\x01\x04\x00\x01\x00\x00\x00\x20\x00", b"\x00\x01\x04\x00\x01\x00\x00\x00\xff\xff")  # ImageWidth
    assert large != whole
    with pytest.raises(BrokenImage):
        native(large, "x", 3)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.npy", npy(values()))
        archive.writestr("b.npy", npy(values()))
    with pytest.raises(BrokenImage, match="2 arrays"):
        native(out.getvalue(), "x", 12)
    pickled = io.BytesIO()
    np.save(pickled, np.array([[{}, 1]], object), allow_pickle=True)
    with pytest.raises(BrokenImage, match="not of numbers"):
        native(pickled.getvalue(), "x", 1)


# ---------------------------------------------------------------- DICOM


def dicom(pixels: np.ndarray, kind: str = "MONOCHROME2", frames: int = 1, **tags: Any) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    found = pydicom.dataset.FileDataset("", {}, file_meta=pydicom.dataset.FileMetaDataset(), preamble=b"\0" * 128)
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    found.Rows, found.Columns = pixels.shape[-2:]
    found.SamplesPerPixel, found.PhotometricInterpretation, found.NumberOfFrames = 1, kind, frames
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    for name, value in tags.items():
        setattr(found, name, value)
    found.PixelData = pixels.astype("<u2").tobytes()
    out = io.BytesIO()
    found.save_as(out)
    return out.getvalue()


def test_dicom_is_rescaled_and_turned_to_white_on_black() -> None:
    pixels = values("uint16", 1)[:, :, 0]
    assert_array_equal(native(dicom(pixels), "x", 1)[:, :, 0], pixels)
    scaled = native(dicom(pixels, RescaleSlope=2, RescaleIntercept=-1024), "x", 1)[:, :, 0]
    assert_array_equal(scaled, pixels.astype(np.int64) * 2 - 1024)
    assert_array_equal(native(dicom(pixels, "MONOCHROME1"), "x", 1)[:, :, 0], 4095 - pixels)
    with pytest.raises(BrokenImage, match="3 frames"):
        native(dicom(np.stack([pixels] * 3), frames=3), "x", 1)
    with pytest.raises(BrokenImage):
        native(dicom(pixels)[:-9], "x", 1)


# ---------------------------------------------------------------- views

EVERYTHING = View(
    size=24, rotation=20, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=1, gray=0.3, blur=0.5, randaugment=(2, 8), solarize=0.3, cutout=0.3, noise=0.3
)  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 5, 12])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_whole_policy_is_drawn_of_any_channels(channels: int, dtype: str) -> None:
    image = values("uint8", channels)
    image = image if dtype == "uint8" else image.astype(np.float32) / 255
    views = {"a": EVERYTHING, "b": View(size=24, sobel=True), "c": View(size=64, interpolation="area", crop=(1, 1))}
    patches = {"p": View(size=24, kind="patches", grid=(2, 12, 12))}
    pipeline = Pipeline(views | patches, 1.0, channels)
    for i in range(25):
        drawn = pipeline(lambda column, rng: image, (0, 0, i))
        assert {name: x.shape for name, x in drawn.items()} == {
            "a": (24, 24, channels), "b": (24, 24, channels), "c": (64, 64, channels), "p": (4, 12, 12, channels),
        }  # fmt: skip
        assert {x.dtype for x in drawn.values()} == {image.dtype}
        assert all(np.isfinite(x).all() and x.min() >= 0 and x.max() <= (255 if dtype == "uint8" else 1) for x in drawn.values())
        again = pipeline(lambda column, rng: image, (0, 0, i))
        assert all(np.array_equal(x, again[name]) for name, x in drawn.items())


def test_grey_brightness_and_contrast_are_what_they_say() -> None:
    image = values("uint8", 5).astype(np.float32) / 255
    whole = {"size": SIDE, "crop": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
    image = image[:SIDE]

    def drawn(**policy: Any) -> np.ndarray:
        return Pipeline({"v": View(**whole, **policy)}, 1.0, 5)(lambda column, rng: image, (0, 0, 1))["v"]

    assert_allclose(drawn(gray=1.0), np.repeat(image.mean(2, keepdims=True), 5, 2), atol=1e-6)
    assert_allclose(drawn(solarize=1.0), np.where(image >= 0.5, 1 - image, image), atol=1e-6)
    assert_allclose(drawn(jitter=(0.0, 0.0, 0.9, 0.5), jitter_p=1.0), image, atol=1e-6)  # saturation and hue are left out
    bright = drawn(jitter=(0.5, 0.0, 0.0, 0.0), jitter_p=1.0)
    factor = bright[bright < 1] / np.maximum(image[bright < 1], 1e-9)
    assert_allclose(factor[image[bright < 1] > 0.1], np.median(factor), rtol=1e-4)


# ---------------------------------------------------------------- keys


def test_what_is_of_rgb_is_refused_by_its_key(tmp_path: Path) -> None:
    place = folder(tmp_path, [values(channels=4)] * 4, ".npy", npy)
    with pytest.raises(ConfigError, match=r"views.view.space: got lab, which is made of RGB; with data.channels 4 give rgb"):
        RunConfig.make("cmc", {"data.source": str(place), "data.channels": 4}, preset="cifar")
    split = {"views.view.space": "rgb", "train.batch_size": 4, "method.negatives": 2}
    config = RunConfig.make("cmc", {"data.source": str(place), "data.channels": 4, **split}, preset="cifar_short")
    with pytest.raises(ConfigError, match=r"method.groups: got 1 2, .* of 4 channels in all: 4 for each of view; 2 2 would do"):
        model.check(config, 8)
    model.check(config.replace({"method.groups": (2, 2)}), 8)
    with pytest.raises(ConfigError, match=r"augment.mean: got 3 numbers for 4 channels"):
        config.replace({"augment.mean": (0.1, 0.2, 0.3)})
    with pytest.raises(ConfigError, match=r"data.range: got 5 2"):
        config.replace({"data.range": (5, 2)})
    with pytest.raises(ConfigError, match=r"digits has RGB images of 8 bits; give 0"):
        data.open_source(RunConfig.make("simclr", {"data.channels": 4}))
    assert config.augment.mean == (), "measured, unless it is given"
    with pytest.raises(ConfigError, match=r"augment\.mean: is measured when a run starts"):
        model.normaliser(config, torch.device("cpu"))


NAMED = "simclr-digits-704de9e9"  # before there were channels


def test_runs_of_rgb_keep_their_names() -> None:
    config = RunConfig.make("simclr", preset="digits")
    assert config.run_name == NAMED
    settled = config.replace({"augment.mean": "measured", "augment.std": "measured"})
    assert settled.run_name != NAMED
    known = settled.replace({"augment.mean": 0.5, "augment.std": 0.5, "train.settled": ["augment.mean", "augment.std"]})
    assert known.run_name == settled.run_name, "a run has one name before and after it measures"


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "vit_mini", "torchvision/mobilenet_v3_small", "timm/convnext_atto"])
def test_backbones_take_the_channels(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    own = {"backbone.name": name, "views.view.size": 64, "data.channels": 5}
    config = RunConfig.make("simclr", own, preset="cifar")
    model.check(config, 1000)
    assert model.sketch(config).backbone(torch.rand(2, 5, 64, 64, device="meta")).shape[0] == 2


# ---------------------------------------------------------------- what is measured


def test_mean_deviation_and_range_are_measured_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    images = [values(channels=3, seed=i, side=32)[:32] for i in range(6)]
    images = [np.concatenate([image[..., :2], np.zeros_like(image[..., :1])], 2) for image in images]  # the third says nothing
    asked = config_of(folder(tmp_path / "set", images, ".npy", npy), 3, augment__mean="measured", augment__std="measured")
    source, place = data.open_source(asked), Storage(str(tmp_path / "run"))
    place.create()
    known = measure(asked, source, place)
    assert "channel 3 the same everywhere" in capsys.readouterr().out
    exact = np.stack(images).astype(np.float64) / 4095
    assert_allclose(known.augment.mean, exact.mean((0, 1, 2)), atol=1e-5)
    assert_allclose(known.augment.std[:2], exact.std((0, 1, 2))[:2], atol=1e-5)
    assert known.augment.std[2] == 1
    assert known.data.range == (0, 4095)
    assert known.run_name == asked.run_name
    content = source.train.content()
    assert data.open_source(known).train.content() == content, "a checkpoint's fingerprint is that of the same data"
    assert measure(known, source, place) == measure(asked, source, place) == known
    with monkeypatch.context() as patch:
        patch.setattr(data, "moments", None)  # nothing is measured again
        assert measure(asked, source, place) == known
    assert settle(settle(known, place), place).run_name == asked.run_name, "what the hardware settles takes nothing away"
    place.write("pixels.json", b"{")
    assert measure(asked, source, place) == known, "the same data, the same numbers"


def test_the_deviation_of_rgb_can_be_measured_too(tmp_path: Path) -> None:
    asked = RunConfig.make("simclr", {"augment.std": "measured", "data.renderings": 1}, preset="digits")
    place = Storage(str(tmp_path))
    known = measure(asked, data.open_source(asked), place, quiet=True)
    assert known.augment.mean == asked.augment.mean
    assert all(0.1 < value < 0.5 for value in known.augment.std)
    assert known.data.range == ()


def test_channels_in_parquet(tmp_path: Path) -> None:
    images = [values(channels=5, seed=i)[:SIDE] for i in range(4)]
    table = pa.table({"image": [npy(image) for image in images], "label": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    train = data.open_source(config_of(tmp_path, 5)).train
    assert_allclose(train.image(2, None), images[2] / 4095, atol=1e-6)
    batches = data.GlobalBatches(train, {"v": View(size=16)}, strength=1.0, batch_size=4, seed=0)
    drawn = batches.load(0, range(4))["views"]["v"]
    assert drawn.dtype == torch.float32
    assert drawn.shape == (4, 16, 16, 5)


# ---------------------------------------------------------------- from the file to the export


def tiles(place: Path, count: int = 24) -> Path:
    """12 bands of 16 bits, two classes that differ by which bands are bright."""
    ramp = np.linspace(0, 1500, BANDS)
    images = [(values(seed=i)[:SIDE] * 0.3 + (ramp if i % 2 else ramp[::-1])).astype(np.uint16) for i in range(count)]
    return folder(place, images, ".tif", tiff)


def microscopy(place: Path, count: int = 24) -> Path:
    """16-bit grey."""
    images = [(values(channels=1, seed=i)[:SIDE] * (0.5 + i % 2)).astype(np.uint16) for i in range(count)]
    return folder(place, images, ".png", png)


CASES = {
    "12 bands, SimCLR": (tiles, BANDS, "simclr", {"backbone.name": "resnet_small", "backbone.width": 16}),
    "16-bit grey, MAE": (microscopy, 1, "mae", {"backbone.width": 32, "backbone.patch": 8, "method.decoder_dim": 32}),
}


@pytest.mark.parametrize("case", CASES)
def test_from_files_to_the_exported_encoder(case: str, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from contray.exchange.cards import Origin
    from contray.exchange.exporting import export_to
    from contray.training.launch import launch

    write, channels, method, own = CASES[case]
    monkeypatch.chdir(tmp_path)
    small = {
        "train.steps": 2,
        "train.batch_size": 8,
        "eval.final": "knn",
        "eval.every_epochs": 0,
        "data.workers": 0,
        "track.uri": store,
    }
    place = {"scale.storage": str(tmp_path / "runs"), "scale.workers": (0, 0), "track.model": False}
    keys = {"data.source": str(write(tmp_path / "set")), "data.channels": channels, **small, **place, **own}
    config = RunConfig.make(method, keys, preset="cifar")
    result = launch(config, quiet=True)
    assert result.metrics["knn_top1"] >= 0.5
    encoder = model_of(Path(result.checkpoint))
    kept = encoder.config
    assert kept.data.range == (0.0, {BANDS: 4095.0, 1: 16383.0}[channels]), "a run keeps what it measured"
    assert len(kept.augment.mean) == channels
    assert set(kept.train.settled) >= {"augment.mean", "augment.std", "data.range"}

    source = data.open_source(kept)
    files = sorted((tmp_path / "set").rglob("*.*"))[:3]
    raw = [native(file.read_bytes(), str(file), channels) for file in files]
    features = encoder([str(file) for file in files])
    torch.testing.assert_close(encoder(raw), features, rtol=1e-5, atol=1e-5)  # arrays as the files have them
    tensors = torch.from_numpy(np.stack(raw).astype(np.float64) / kept.data.range[1]).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder(tensors), features, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=f"this encoder takes arrays .H, W, {channels}."):
        encoder(np.zeros((8, 8, 3), np.uint16))

    pytest.importorskip("onnxruntime")
    export_to(encoder, "onnx", tmp_path / "onnx", Origin("a test"))
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "onnx" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "onnx")
    found: dict[str, Any] = {}
    exec(code, found)
    (inputs,) = found["inputs"].values()
    assert inputs.shape == (2, channels, SIDE, SIDE)
    with torch.no_grad():
        expected = encoder.method.cpu().encode({"image": torch.from_numpy(inputs)}).numpy()
    assert_allclose(found["features"], expected, rtol=1e-3, atol=1e-4)

    out = tmp_path / "views.png"
    chosen = ["--channels", "3", "2", "1"] if channels > 1 else []
    assert main(["data", "preview", method, "--preset", "cifar", "--data.source", str(tmp_path / "set"), "--data.channels", str(channels),
                 "--images", "2", "--out", str(out), *chosen]) == 0  # fmt: skip
    assert cv2.imread(str(out)).std() > 5
    assert source.train.channels == channels


def test_a_preview_says_what_other_channels_get_and_how_they_are_shown() -> None:
    from contray.pictures.look import Look
    from contray.pictures.preview import _caption

    view = View(size=32, jitter=(0.4, 0.3, 0.2, 0.1), jitter_p=0.8, jitter_as="tensorflow")
    (_, told, shown) = _caption({"view": view}, 1.0, False, Look((2, 0, 4)), 500)
    assert "brightness and contrast by 0.4/0.3 at 0.8" in told
    assert "jitter" not in told
    assert shown == "channels 3, 1 and 5 are shown as red, green and blue"
    assert _caption({"view": view}, 1.0, False, Look((1, 1, 1)), 500)[-1] == "channel 2 is shown in grey"
    assert "TensorFlow's jitter 0.4/0.3/0.2/0.1 at 0.8" in _caption({"view": view}, 1.0, False, Look(), 500)[-1]


def model_of(place: Path) -> Encoder:
    from contray.model.encoder import read_checkpoint

    return read_checkpoint(str(place))


def test_form_without_channels_is_rgb() -> None:
    grey = values("uint16", 1)
    assert Form().decode(png(grey), "x", lambda: Depth(0, 4095)).shape == (SIDE + 5, SIDE, 3)
    given_range = Form(range=(0.0, 8190.0)).decode(png(grey), "x")
    assert_array_equal(given_range[:, :, 0], cv2.convertScaleAbs(grey[:, :, 0], alpha=255 / 8190))


def test_images_of_all_channels_are_no_bands_whatever_they_are_called(tmp_path: Path) -> None:
    for name in "bc":
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(1, BANDS + 1):
            (tmp_path / "set" / name / f"{name}{i}.tif").write_bytes(tiff(values(seed=i)))
    source = data.open_source(config_of(tmp_path / "set", BANDS))
    assert len(source.train) + len(source.test or ()) == 2 * BANDS
    assert not any("bands" in note for note in source.notes)
    assert source.train.image(0, None).shape[2] == BANDS


@pytest.mark.parametrize(("channels", "name", "write"), [(BANDS, "t.tif", tiff), (1, "g.png", png), (4, "a.npy", npy)])
def test_a_look_at_a_set_is_of_its_own_values(
    channels: int, name: str, write: Callable[[np.ndarray], bytes], tmp_path: Path
) -> None:
    """Dark tiles, of a few thousands of 65,535, are no images of one brightness, and their statistics are those of the range."""
    images = [values(channels=channels, seed=i) // 16 for i in range(8)]
    place = folder(tmp_path / "set", images, name, write)
    keys = {"data.channels": channels, "data.range": (0.0, 65535.0), "data.scratch": str(tmp_path / "s"), "data.test_share": 0.0}
    found = check_data(place, keys, quiet=True).document()
    assert not [each for each in found["findings"] if each["severity"] != "note" and each["kind"] == "blank"], found["findings"]
    wanted = np.mean([image.reshape(-1, channels).mean(0) / 65535 for image in images], 0)
    assert found["channels"]["mean"] == pytest.approx(wanted, abs=1e-6)
