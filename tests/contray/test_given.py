"""What people pass as images: every form of one picture gives the same pixels, and what can mean two things is refused in one line."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contray.data.given import images_of
from contray.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FORMS: dict[str, Callable[[Path], Any]] = {
    "array": lambda folder: PIXELS,
    "floats in [0, 1]": lambda folder: PIXELS / 255,
    "PIL": lambda folder: Image.fromarray(PIXELS),
    "PIL with alpha": lambda folder: Image.fromarray(PIXELS).convert("RGBA"),
    "bytes": lambda folder: _png(PIXELS),
    "path": lambda folder: folder / "a.png",
    "text": lambda folder: str(folder / "a.png"),
    "tensor": lambda folder: torch.from_numpy(PIXELS).permute(2, 0, 1),
    "float tensor": lambda folder: torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
    "list of one": lambda folder: [Image.fromarray(PIXELS)],
    "batch of one": lambda folder: PIXELS[None],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_picture(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(PIXELS))
    (seen,) = images_of(FORMS[form](tmp_path))
    assert isinstance(seen, np.ndarray)
    assert seen.dtype == np.uint8
    assert np.array_equal(seen, PIXELS)


@pytest.mark.parametrize(
    "given",
    [GREY, GREY[..., None], GREY[None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None], Image.fromarray(GREY), _png(GREY)],
)
def test_grey_is_repeated(given: Any) -> None:
    (seen,) = images_of(given)
    assert np.array_equal(np.asarray(seen), np.repeat(GREY[..., None], 3, 2))


def test_several_come_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(PIXELS))
    other = 255 - PIXELS
    batch = np.stack([PIXELS, other])
    for given in (
        batch,
        batch / 255,
        torch.from_numpy(batch).permute(0, 3, 1, 2),
        [tmp_path / "a.png", Image.fromarray(other)],
        iter([PIXELS, other]),
    ):
        assert np.array_equal(np.stack(list(images_of(given))), batch)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert len(list(images_of(np.stack([GREY] * 4)))) == 4
    (sample,) = images_of([{"image": PIXELS, "depth": GREY}])
    assert sample["depth"] is GREY  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (PIXELS * 1.0, r"floats from 0 to 2\d\d; give floats in \[0, 1\]"),
        (PIXELS / 255 - 0.5, r"floats from -0\.5 to 0\.\d+; give floats in \[0, 1\], not normalised"),
        (np.full((4, 5, 3), np.nan), "floats from nan"),
        (PIXELS.astype(np.uint16), r"an array of uint16; give uint8 of 0 to 255 \(images.astype\('uint8'\)\)"),
        (torch.from_numpy(PIXELS), r"a tensor \(5, 7, 3\); tensors are \(C, H, W\)"),
        (np.zeros((5, 7, 4), np.uint8), r"of 4 channels; give 1 or 3: image\[\.\.\., :3\]"),
        (np.zeros(7, np.uint8), r"an array \(7,\); give \(H, W, 3\)"),
        ([PIXELS[None].repeat(2, 0)], "among others is 2 images"),
        ([[1, 2]], "got list as an image; give a path"),
        (3, "got int; give a path"),
        ("nowhere.png", "nowhere.png cannot be read"),
        (b"GIF", "images: the bytes: not decodable"),
        (str(Path(__file__).parent), r"is a folder; contray.embed\(folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_refused_in_one_line(given: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        list(images_of(given))
    assert "\n" not in str(refused.value)
