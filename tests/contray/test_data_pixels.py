"""What encoded values become: 8-bit RGB by one range for a set, within bounded memory, or a broken image with a reason."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from contray.config.sections import DataConfig
from contray.data import BrokenImage, Source, fingerprint, open_source, pixels, splits
from contray.data.native import native
from contray.data.pixels import Depth, antialiased, decode, survey
from contray.data.views import Pipeline
from contray.errors import DataError
from contray.methods._base import View

GREY = np.arange(256, dtype=np.uint16).reshape(16, 16)
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
RAMP = np.stack(
    [np.tile(np.arange(60) * 4, (40, 1)), np.tile(np.arange(40)[:, None] * 6, (1, 60)), np.full((40, 60), 90)], 2
).astype(np.uint8)


def encoded(image: Any, form: str = "PNG", **options: Any) -> bytes:
    """By Pillow, of an array or an image."""
    out = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(out, form, **options)
    return out.getvalue()


def tiff(image: np.ndarray, photometric: int = 1, extra: tuple[int, ...] = (), orientation: int = 1) -> bytes:
    """An uncompressed TIFF (H, W, C) with the tags that are asked for, right or wrong."""
    height, width, channels = image.shape
    data = np.ascontiguousarray(image).tobytes()
    form = {"u": 1, "i": 2, "f": 3}[image.dtype.kind]
    tags = [
        (256, "H", [width]), (257, "H", [height]), (258, "H", [8 * image.dtype.itemsize] * channels), (259, "H", [1]),
        (262, "H", [photometric]), (273, "I", [8]), (274, "H", [orientation]), (277, "H", [channels]), (278, "H", [height]),
        (279, "I", [len(data)]), (284, "H", [1]), *([(338, "H", list(extra))] if extra else []), (339, "H", [form] * channels),
    ]  # fmt: skip
    directory, far, start = struct.pack("<H", len(tags)), b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for number, kind, values in tags:
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", start + len(far))
        far += b"" if len(packed) <= 4 else packed.ljust(len(packed) + len(packed) % 2, b"\0")
        directory += struct.pack("<HHI", number, {"H": 3, "I": 4}[kind], len(values)) + place
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + struct.pack("<I", 0) + far


def folder(root: Path, **files: bytes) -> Source:
    """files: names in which __ stands for / and _ for the dot."""
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return open_source(DataConfig(source=str(root)))


# ---------------------------------------------------------------- range


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0, 255], 0, 255), ([0, 256], 0, 1023), ([3, 4080], 0, 4095), ([0, 5000], 0, 16383), ([0, 40000], 0, 65535), ([-5, 20], -5, 20),
        ([0.0, 0.9], 0, 1), ([0.2, 200.0], 0, 255), ([-0.5, 0.5], -0.5, 0.5), ([0.0, 3000.0], 0, 3000), ([0.0, 0.01], 0, 0.01), ([7.0, 7.0], 7, 8),
    ],
)  # fmt: skip
def test_the_range_of_a_set(values: list[float], low: float, high: float) -> None:
    kind = np.float32 if isinstance(values[0], float) else np.int32
    assert (Depth.of([np.array(values, kind)]).low, Depth.of([np.array(values, kind)]).high) == pytest.approx((low, high))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
def test_values_are_scaled_rounded_and_clipped(kind: type) -> None:
    image = np.array([[0, 16, 4095, 4096, 60000]], kind)
    assert Depth(0, 4095)(image).tolist() == [[0, 1, 255, 255, 255]]
    assert Depth(16, 4095)(image)[0, :2].tolist() == [0, 0]


@pytest.mark.parametrize(
    "data",
    [
        encoded(GREY), encoded(GREY * 16), encoded(GREY * 16, "TIFF"), encoded(GREY * 16, "TIFF", compression="tiff_lzw"), encoded(GREY * 256 + GREY),
        encoded((GREY * 100).astype(np.int32), "TIFF"), encoded((GREY / 255).astype(np.float32), "TIFF"), encoded(GREY.astype(np.float32), "TIFF"),
        tiff((GREY / 255).astype(np.float64)[..., None]), tiff((GREY.astype(np.int16) - 100)[..., None]),
        tiff(np.repeat(GREY.astype(np.float32)[..., None], 3, 2), photometric=2), cv2.imencode(".pgm", GREY * 16)[1].tobytes(),
    ],
)  # fmt: skip
def test_a_ramp_of_any_depth_is_a_ramp(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    image = decode(data, "ramp")
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    top = image.max()
    assert top >= 99  # of int32 up to 25 500 the range is that of 16 bits
    assert abs(image[..., 0].astype(float) - GREY * (top / 255)).max() <= 1
    assert capfd.readouterr().err == ""


def test_colours_of_deep_images_keep_their_order() -> None:
    deep = RGB.astype(np.uint16) * 257
    for data in (
        cv2.imencode(".png", deep[..., ::-1])[1].tobytes(),
        cv2.imencode(".tif", deep[..., ::-1])[1].tobytes(),
        tiff(deep, photometric=2),
        tiff(np.dstack([deep, deep[..., :1]]), photometric=2, extra=(2,)),
        tiff(RGB.astype(np.float32), photometric=2),
    ):
        assert np.array_equal(decode(data, "x"), RGB)
    turned = tiff(RGB.astype(np.float32), photometric=2, orientation=6)
    assert np.array_equal(decode(turned, "x"), np.rot90(RGB, -1))
    white_is_zero = decode(tiff((65535 - GREY * 257)[..., None], photometric=0), "x")
    assert np.array_equal(white_is_zero[..., 0], GREY)


def test_a_set_has_one_range_and_the_test_images_the_training_images(tmp_path: Path) -> None:
    source = folder(
        tmp_path,
        train__a_png=encoded(GREY * 16),
        train__b_png=encoded(GREY),
        train__c_png=encoded(RGB),
        test__a_png=encoded(GREY * 2),
    )
    source.train.prepare()
    assert [source.train.image(i, None).max() for i in range(3)] == [254, 16, 255]
    assert source.test is not None
    assert source.test.image(0, None).max() == 32  # by its own range it would be 255
    (note,) = source.train.notes()
    assert note.startswith("values of 0 to 4095 become 0 to 255 (2 of 3 sampled")
    again = folder(tmp_path / "other", a_png=encoded(GREY))
    assert again.train.image(0, None).max() == 255
    assert fingerprint(source, DataConfig())["pipeline"] == "5"


def test_the_range_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Files of equal sizes, of which one has become brighter, so that all others become darker."""
    plain, bright = (np.zeros((8, 8), np.uint16) + value for value in (200, 2000))
    sets = [
        folder(
            tmp_path / name, a_pgm=cv2.imencode(".pgm", first)[1].tobytes(), b_pgm=cv2.imencode(".pgm", plain + 100)[1].tobytes()
        )
        for name, first in (("one", plain), ("two", bright))
    ]
    one, two = (fingerprint(each, DataConfig())["data"] for each in sets)
    assert one != two


def test_other_image_columns_have_ranges_of_their_own(tmp_path: Path) -> None:
    table = {"image": [encoded(RGB)] * 4, "depth": [encoded(GREY * scale) for scale in (4, 8, 16, 1)]}
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    split = open_source(DataConfig(source=str(tmp_path / "train.parquet"))).train
    assert [split.value(i, "depth", None).max() for i in range(4)] == [64, 127, 254, 16]


def test_floats_beside_deep_integers_are_refused(tmp_path: Path) -> None:
    """Of values up to 1 and up to 4095 together the former would all be black."""
    source = folder(tmp_path, a_tif=tiff(np.full((8, 8, 1), 0.5, np.float32)), b_png=encoded(GREY), c_png=encoded(RGB))
    with pytest.raises(
        DataError,
        match=r"^data\.source: files of floats \(.*a\.tif\) and integers of more than 8 bits \(.*b\.png\) have no range",
    ):
        source.train.notes()


def test_a_deep_image_that_no_sample_showed_is_broken_not_as_bright_as_its_own_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "_SURVEYED", 3)
    source = folder(tmp_path, **{f"{i}_png": encoded(GREY * 16 if i == 1 else RGB) for i in range(5)})  # 0, 2 and 4 are sampled
    source.train.prepare()
    assert source.train.broken.keys() == {1}
    assert "more than 8 bits, unlike the sampled images" in source.train.broken[1]


# ---------------------------------------------------------------- what the second reader is for


def test_alpha_changes_no_colour_in_any_format() -> None:
    clear = np.dstack([RAMP, np.arange(40, dtype=np.uint8)[:, None].repeat(60, 1)])
    for form, apart in {"PNG": 0, "TIFF": 0, "WEBP": 0, "AVIF": 3}.items():
        options = {"lossless": True, "exact": True} if form == "WEBP" else {"quality": 100} if form == "AVIF" else {}
        data = encoded(Image.fromarray(clear), form, **options)
        image = decode(data, form)
        assert np.abs(image.astype(int) - RAMP).mean() <= apart, form


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_all_formats_are_turned_as_they_say(form: str) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        data = encoded(RAMP, form, exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        found = decode(data, form)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 2
        if form == "TIFF" and orientation > 1:
            with pytest.raises(BrokenImage, match="274 says"):
                decode(data, form, stored=True)
        elif form != "AVIF":  # whose Exif is turned into a box when it is written
            assert np.abs(decode(data, form, stored=True).astype(int) - RAMP).mean() < 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC, which is not read here; save it as JPEG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a pointer of Git LFS.* git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "EPS, which is not read"),
        (bytes(200), "not decodable"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, words: str) -> None:
    with pytest.raises(BrokenImage, match=words):
        decode(data, "x.heic")


# ---------------------------------------------------------------- what is not used


def test_what_is_left_out_is_said() -> None:
    more = [Image.fromarray(RGB[::-1].copy())]
    files = {
        "alpha is not used": encoded(Image.fromarray(RGB).convert("RGBA")),
        "channel 4 of 4 is not used": tiff(np.dstack([RGB, RGB[..., :1]]), photometric=2, extra=(0,)),
        "pages after the first are not used": encoded(RGB, "TIFF", save_all=True, append_images=more),
        "frames after the first are not used": encoded(RGB, "GIF", save_all=True, append_images=more),
    }
    for words, data in files.items():
        (note,) = survey([("plain.png", encoded(RGB)), ("it", data)]).notes
        assert note == f"{words} (1 of 2 sampled images, e.g. it)"
    for words in ("channel 4 of 4 is not used", "pages after the first are not used", "alpha is not used"):
        assert np.array_equal(decode(files[words], words), RGB)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("channels", "photometric", "said"), [(4, 1, "calls grey"), (5, 1, "calls grey"), (7, 2, "4 at most")])
def test_channels_of_which_nobody_could_say_what_they_are(kind: type, channels: int, photometric: int, said: str) -> None:
    image = np.ones((8, 8, channels), kind)
    with pytest.raises(BrokenImage, match=rf"bands\.tif: {channels} channels, .*{said}"):
        decode(tiff(image, photometric, extra=(0,) * (channels - 1)), "bands.tif")


def test_values_that_are_no_numbers() -> None:
    image = np.full((8, 8), 0.5, np.float32)
    image[3, 3] = np.nan
    with pytest.raises(BrokenImage, match="no finite numbers"):
        decode(encoded(image, "TIFF"), "x")


FORMS = {
    "PNG": "RGB RGBA L LA P 1", "JPEG": "RGB L CMYK", "TIFF": "RGB RGBA L LA P 1 CMYK", "WEBP": "RGB RGBA", "BMP": "RGB L P 1", "GIF": "RGB L P 1",
}  # fmt: skip


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in FORMS.items() for mode in modes.split()])
def test_images_of_8_bits_are_as_opencv_has_them(form: str, mode: str) -> None:
    image = Image.fromarray(RGB).quantize(16) if mode == "P" else Image.fromarray(RGB).convert(mode)
    data = encoded(image, form)
    assert np.array_equal(decode(data, "x"), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


# ---------------------------------------------------------------- bounds

CLAIMS = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0) + b"\0" * 40,
    "bmp": b"BM" + b"\0" * 12 + struct.pack("<IiiHHI", 40, 40000, -40000, 1, 24, 0) + b"\0" * 40,
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0" * 40,
    "webp": b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + b"\xff\xff\x0f" * 2 + b"\0" * 20,
    "pgm": b"P5\n# by hand\n50000 50000\n255\n" + b"\0" * 40,
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x16ihdr" + struct.pack(">II", 50000, 50000) + b"\0" * 40,
    "tiff": tiff(np.zeros((1, 1, 1), np.uint8)).replace(struct.pack("<HHIH", 256, 3, 1, 1), struct.pack("<HHIH", 256, 3, 1, 60000)).replace(
        struct.pack("<HHIH", 257, 3, 1, 1), struct.pack("<HHIH", 257, 3, 1, 60000)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", CLAIMS)
def test_a_header_that_claims_any_size_takes_no_memory(form: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BrokenImage, match=r"\d+ x \d+ px are claimed, more than the 268,435,456 that are decoded"):
        decode(CLAIMS[form], form)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    image = cv2.resize(RGB, (256, 192), interpolation=cv2.INTER_CUBIC)
    data = encoded(image, "JPEG", quality=95)
    assert decode(data, "x").shape == (192, 256, 3)
    for most, scale in ((256 * 192 - 1, 2), (128 * 96 - 1, 4), (64 * 48 - 1, 8), (10, 8)):
        monkeypatch.setattr(pixels, "REDUCED_FROM", most)
        found = decode(data, "x")
        assert found.shape == (192 // scale, 256 // scale, 3)
        small = cv2.resize(image, (256 // scale, 192 // scale), interpolation=cv2.INTER_AREA)
        assert abs(found.astype(int) - small).mean() < 6
    with pytest.raises(BrokenImage, match="not decodable"):
        decode(data[:400], "x")


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90), height=st.integers(1, 90), side=st.integers(0, 100), form=st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP"])
)  # fmt: skip
def test_an_image_is_reduced_to_its_shorter_side_and_never_enlarged(width: int, height: int, side: int, form: str) -> None:
    data = encoded(cv2.resize(RAMP, (width, height), interpolation=cv2.INTER_AREA), form)
    whole, found = decode(data, "x"), decode(data, "x", shorter_side=side)
    assert min(found.shape[:2]) == min(side or 100, width, height)
    if side == 0 or side >= min(width, height):
        assert np.array_equal(found, whole)
        return
    longer = max(width, height) * side / min(width, height)
    of_blocks = longer / side if form == "JPEG" else 0.0  # libjpeg rounds both sides up, the shorter one by less than a pixel
    assert abs(max(found.shape[:2]) - longer) <= 0.5 + of_blocks
    if form != "JPEG":
        assert np.array_equal(found, cv2.resize(whole, found.shape[1::-1], interpolation=cv2.INTER_AREA))


def test_a_jpeg_is_decoded_at_the_next_larger_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(cv2.resize(RGB, (333, 241), interpolation=cv2.INTER_CUBIC), "JPEG", quality=95)
    scales: list[int] = []
    monkeypatch.setattr(
        pixels, "_reduced", lambda data, scale, where, old=pixels._reduced: (scales.append(scale), old(data, scale, where))[1]
    )
    for side, scale in ((30, 8), (31, 4), (60, 4), (61, 2), (120, 2), (121, 1), (240, 1)):
        scales.clear()
        assert min(decode(data, "x", shorter_side=side).shape[:2]) == side
        assert scales == ([scale] if scale > 1 else [])
    monkeypatch.setattr(pixels, "REDUCED_FROM", 100)  # what memory asks for comes first
    assert decode(data, "x", shorter_side=200).shape[:2] == (31, 42)


def test_reduced_images_are_turned_and_of_the_same_range(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(cv2.resize(RAMP, (240, 160)), "JPEG", quality=95, exif=exif.tobytes())
    assert decode(turned, "x", shorter_side=40).shape == (60, 40, 3)
    assert np.abs(decode(turned, "x", shorter_side=40).astype(int) - np.rot90(RAMP, -1)).mean() < 6
    deep = encoded(np.repeat(np.repeat(GREY * 16, 4, 0), 4, 1))  # 12 bits
    assert np.array_equal(decode(deep, "x", lambda: Depth(0, 4095), shorter_side=16)[..., 0], Depth(0, 4095)(GREY * 16))
    source = folder(tmp_path, a_png=deep, b_png=encoded(RAMP))
    small = open_source(DataConfig(source=str(tmp_path), shorter_side=20))
    assert small.train.image(0, None).shape == (20, 20, 3)
    assert small.train.image(1, None).shape == (20, 30, 3)
    assert isinstance(small.train, splits.EncodedSplit)
    assert small.train.decoded_bytes() == 3 * (20 * 20 + 20 * 30)  # what data.memory_gb counts
    lazy = open_source(DataConfig(source=str(tmp_path), shorter_side=20, memory_gb=0)).train
    small.train.prepare()
    assert all(np.array_equal(small.train.image(i, None), lazy.image(i, None)) for i in range(2))
    assert small.train.content() == lazy.content() != source.train.content()
    table = tmp_path / "table" / "images.parquet"
    table.parent.mkdir()
    pq.write_table(pa.table({"image": [deep, encoded(RAMP)], "depth": [turned, turned]}), table)
    rows = open_source(DataConfig(source=str(table), shorter_side=20)).train
    assert [rows.image(i, None).shape for i in range(2)] == [(20, 20, 3), (20, 30, 3)]
    assert rows.value(0, "depth", None).shape == (30, 20, 3)  # every column of images


def test_thin_pictures_take_little_memory() -> None:
    code = """
import resource, numpy as np
from contray.data.views import Pipeline
from contray.methods._base import View
pipeline = Pipeline({"a": View(size=224), "b": View(size=224, crop=(0.0, 0.0))}, 1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in ((1, 60_000, 3), (60_000, 1, 3), (2, 9000, 3)):
    drawn = pipeline(lambda column, rng: np.full(shape, 9, np.uint8), (0, 0, 0))
    assert all(view.shape == (224, 224, 3) and (view == 9).all() for view in drawn.values())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 100_000  # kB


@pytest.mark.parametrize("shape", [(32, 32), (48, 64), (64, 256), (256, 64)])
def test_pictures_up_to_four_times_as_long_as_wide_are_resized_whole(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    view = View(size=32, crop=(0.0, 0.0), flip=0.0)
    found = Pipeline({"image": view}, 0.0)(lambda column, rng: image, (0, 0, 0))["image"]
    scale = 32 / min(shape)
    whole = antialiased(image, (round(shape[1] * scale), round(shape[0] * scale)), "bilinear")
    top, left = (whole.shape[0] - 32) // 2, (whole.shape[1] - 32) // 2
    assert np.array_equal(found, whole[top : top + 32, left : left + 32])


# ---------------------------------------------------------------- anything

SEEDS = [
    encoded(RGB), encoded(GREY), encoded(RGB, "JPEG"), encoded(RGB, "TIFF"), encoded(RGB, "GIF"), encoded(RGB, "WEBP"), encoded(RGB, "BMP"),
    tiff(RGB.astype(np.float32), photometric=2), tiff(GREY[..., None]), encoded(Image.fromarray(RGB).convert("LA"), "TIFF"), CLAIMS["jp2"], CLAIMS["pgm"],
]  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=3), st.floats(0, 1)
)
def test_whatever_a_file_holds_it_is_an_image_or_broken(seed: bytes, patches: list[tuple[float, bytes]], cut: float) -> None:
    data = bytearray(seed)
    for place, patch in patches:
        start = int(place**3 * len(data))  # mostly near the header
        data[start : start + len(patch)] = patch
    torn = bytes(data[: int(len(data) * min(1.0, 2 * cut))])
    broken, image = "", np.zeros((1, 1, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pixels, "MOST_PIXELS", 2**20)
        survey([("x", torn)])
        try:
            image = decode(torn, "x")
        except BrokenImage as error:
            broken = str(error)
    assert "\n" not in broken
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)


def damaged() -> Iterator[bytes]:
    """An AVIF with one byte turned over, and a TIFF of whose tags one has another type or count."""
    avif = encoded(RAMP, "AVIF")
    for place in range(0, len(avif), 16):
        yield avif[:place] + bytes([avif[place] ^ 0xFF]) + avif[place + 1 :]
    for file in (tiff(GREY[..., None]), tiff(RGB.astype(np.float32), photometric=2)):
        first = struct.unpack("<I", file[4:8])[0]
        for entry in range(struct.unpack("<H", file[first : first + 2])[0]):
            at = first + 2 + 12 * entry
            for kind in range(1, 14):
                for count in range(3):
                    yield file[: at + 2] + struct.pack("<HI", kind, count) + file[at + 8 :]


def test_damage_of_any_place_or_tag_breaks_an_image_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    for data in damaged():
        with suppress(BrokenImage):
            assert decode(data, "x").ndim == 3
        with suppress(BrokenImage):
            assert native(data, "x", 1).ndim == 3
    avif = encoded(RAMP, "AVIF")
    with pytest.raises(BrokenImage, match="not decodable"):  # and no HEIC, whose brand it may bear
        decode(avif[: len(avif) // 2], "x.avif")
    capfd.readouterr()  # what libtiff says of it


@pytest.mark.parametrize("most", [1, 15, 100, 254, 255])
def test_the_largest_value_that_a_pnm_names_is_white(most: int) -> None:
    values = [0, most // 3, most, most]
    text = " ".join(map(str, values)).encode()
    scaled = np.rint(np.array(values) * 255 / most)
    for head, body in ((b"P5 # of a scanner\n4 1\n%d\n", bytes(values)), (b"P2\n4 1 %d\n", text)):
        assert decode(head % most + body, "x.pgm")[0, :, 0].tolist() == pytest.approx(scaled, abs=1)
    for head, body in ((b"P6\n2 2\n%d\n", bytes(3 * values)), (b"P3 2 2 %d\n", b" ".join([text] * 3))):
        assert decode(head % most + body, "x.ppm").ravel().tolist() == pytest.approx(np.tile(scaled, 3), abs=1)
