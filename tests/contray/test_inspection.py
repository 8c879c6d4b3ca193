"""`contray data check`: every fault that is planted is found and named, repeats of any kind, classes, numbers; nothing is changed."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import contray
from contray.cli import main
from contray.cli.main import command_of
from contray.cli.options import parse
from contray.errors import UserError
from contray.inspection import Inspection, duplicates, page, records
from contray.inspection.gather import drawn, gather
from tests.stores import fresh


def picture(seed: int, height: int = 96, width: int = 112) -> np.ndarray:
    """(height, width, 3): amplitudes of 1 / frequency as photographs have them, and a few things before it."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    noise = np.fft.fft2(rng.normal(size=(height, width, 3)), axes=(0, 1)) / frequency[:, :, None] ** 1.2
    image = np.fft.ifft2(noise, axes=(0, 1)).real
    image = image.mean(2, keepdims=True) + 0.3 * image
    made = np.ascontiguousarray(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
    for _ in range(3):
        centre, axes = (int(rng.integers(width)), int(rng.integers(height))), (int(rng.integers(8, 30)), int(rng.integers(8, 30)))
        cv2.ellipse(made, centre, axes, float(rng.integers(180)), 0, 360, rng.integers(0, 255, 3).tolist(), -1)
    return made


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)


def cropped(image: np.ndarray, share: float) -> np.ndarray:
    height, width = (round(share * side) for side in image.shape[:2])
    return image[:height, -width:]


def brighter(image: np.ndarray, gain: float, more: float) -> np.ndarray:
    return np.clip(image * gain + more, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- planted faults


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cats, dogs and horses with one fault of each kind."""
    root = tmp_path_factory.mktemp("messy")
    sizes = {"train": {"cat": 4, "dog": 14, "horse": 1}, "test": {"cat": 3, "dog": 3}}
    seed = 0
    for split, classes in sizes.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i:02}.jpg").write_bytes(jpeg(picture(seed := seed + 1)))
    train, dog = root / "train", root / "train" / "dog"
    (train / "nothing").mkdir()
    (dog / "zero.jpg").write_bytes(b"")
    (dog / "page.jpg").write_text("<!doctype html><title>404</title>")
    gif = io.BytesIO()
    Image.fromarray(picture(70)).convert("P").save(gif, "GIF")
    (dog / "torn.jpg").write_bytes((dog / "05.jpg").read_bytes()[:-1500])
    (dog / "endless.png").write_bytes(cv2.imencode(".png", picture(71))[1].tobytes()[:-12])
    (dog / "exact.jpg").write_bytes((dog / "00.jpg").read_bytes())
    whole = (dog / "01.jpg").read_bytes()
    (dog / "pixels.jpg").write_bytes(whole[:2] + b"\xff\xfe\x00\x06note" + whole[2:])
    near = np.array(Image.open(dog / "02.jpg"))
    (dog / "rescaled.png").write_bytes(cv2.imencode(".png", scaled(near, 0.5)[:, :, ::-1])[1].tobytes())
    (dog / "recompressed.jpg").write_bytes(jpeg(np.array(Image.open(dog / "03.jpg")), 30))
    (dog / "leak.jpg").write_bytes((root / "test/dog/00.jpg").read_bytes())
    (train / "cat/two.jpg").write_bytes((dog / "04.jpg").read_bytes())
    (dog / "wrong.png").write_bytes(gif.getvalue())
    (dog / "giant.jpg").write_bytes(jpeg(cv2.resize(picture(72), (4200, 3200)), 40))
    Image.fromarray(picture(73)[:, :, 0].astype(np.uint16) * 200).save(dog / "deep.png")
    Image.fromarray(picture(74)).convert("L").save(dog / "grey.jpg")
    Image.fromarray(picture(75)).convert("CMYK").save(dog / "cmyk.jpg")
    Image.fromarray(picture(76)).convert("P").save(dog / "palette.png")
    Image.fromarray(picture(77)).convert("RGBA").save(dog / "alpha.png")
    Image.new("RGB", (80, 80), (20, 90, 20)).save(dog / "blank.png")
    Image.fromarray(picture(78, 40, 400)).save(dog / "thin.png")
    Image.fromarray(scaled(picture(79), 0.125)).save(dog / "small.png")
    return root


def state_of(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(root.rglob("*"))}


@pytest.fixture(scope="module")
def looked(messy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspection, Path, dict[str, Any]]:
    """The look at it, the folder of what it wrote, and what it printed as JSON."""
    out = tmp_path_factory.mktemp("out")
    uri = fresh(out)
    before = state_of(messy)
    found = contray.check_data(messy, {"track.uri": uri}, out=out / "report.html", clean=out / "keep.txt", quiet=True)
    assert state_of(messy) == before
    return found, out, found.document()


def names(document: dict[str, Any], kind: str) -> list[str]:
    return [name for each in document["findings"] if each["kind"] == kind for name in each["names"]]


@pytest.mark.parametrize(
    ("kind", "severity", "files"),
    [
        (
            "broken",
            "wrong",
            ["page.jpg: it is a web page", "torn.jpg: not decodable; it ends before its picture does", "zero.jpg: no bytes"],
        ),
        ("cut off", "look", ["endless.png"]),
        ("train in test", "wrong", ["train/dog/leak.jpg = test/dog/00.jpg"]),
        ("two labels", "wrong", ["cat/two.jpg (cat)"]),
        ("empty class", "look", ["train/nothing"]),
        ("untested class", "look", ["horse"]),
        ("imbalance", "look", ["horse"]),
        ("giant", "look", ["giant.jpg"]),
        ("thin", "look", ["thin.png"]),
        ("blank", "look", ["blank.png"]),
        ("small", "note", ["small.png"]),
        ("misnamed", "note", ["wrong.png"]),
        ("deep", "note", ["deep.png"]),
        ("grey", "note", ["deep.png", "grey.jpg"]),
        ("CMYK", "note", ["cmyk.jpg"]),
        ("palette", "note", ["palette.png", "wrong.png"]),
        ("RGB with alpha", "note", ["alpha.png"]),
    ],
)
def test_every_planted_fault_is_found_and_named(looked, kind: str, severity: str, files: list[str]) -> None:
    document = looked[2]
    told = names(document, kind)
    assert {each["severity"] for each in document["findings"] if each["kind"] == kind} == {severity}
    assert all(any(file in name for name in told) for file in files), told
    if kind not in ("train in test", "two labels", "broken"):
        assert len(told) == len(files), "and nothing besides"


def test_repeats_are_told_by_how_they_repeat(looked) -> None:
    document = looked[2]
    kinds = {
        tuple(sorted(Path(each["name"]).name for each in group["images"])): group["kind"]
        for group in document["duplicates"]["listed"]
    }
    assert kinds == {
        ("00.jpg", "exact.jpg"): "bytes",
        ("01.jpg", "pixels.jpg"): "pixels",
        ("02.jpg", "rescaled.png"): "near",
        ("03.jpg", "recompressed.jpg"): "near",
        ("00.jpg", "leak.jpg"): "bytes",
        ("04.jpg", "two.jpg"): "bytes",
    }
    first = document["duplicates"]["listed"][0]["images"]
    assert {each["split"] for each in first} == {"train", "test"}, "those that spoil the verdict come first"


def test_what_is_kept_has_each_image_once_and_none_of_the_test_set(looked, messy: Path) -> None:
    lines = (looked[1] / "keep.txt").read_text().splitlines()
    kept = {line for line in lines if not line.startswith("#")}
    every = {path.relative_to(messy).as_posix() for path in (messy / "train").rglob("*.*")}
    gone = {"exact.jpg", "pixels.jpg", "recompressed.jpg", "rescaled.png", "leak.jpg", "zero.jpg", "page.jpg", "torn.jpg"}
    assert every - kept == {f"train/dog/{name}" for name in gone} | {"train/dog/04.jpg"}, "of equal images the first stays"


def test_classes_and_sizes_are_counted(looked) -> None:
    found = looked[0]
    assert (found.classes.names, found.classes.train, found.classes.test) == (["cat", "dog", "horse"], [5, 33, 1], [3, 3, 0])
    assert found.classes.ratio == 33
    assert found.classes.effective == pytest.approx(39**2 / (25 + 33**2 + 1))
    assert found.parts[0].sizes.width == (14, 112, 4200)
    assert found.parts[0].kinds["PNG grey 16 bit"] == found.parts[0].kinds["JPEG CMYK 8 bit"] == 1
    assert found.parts[0].sizes.aspect[2] == 10
    assert not found.ok


def test_the_page_needs_nothing_but_itself_and_mlflow_keeps_it_apart(looked, messy: Path) -> None:
    out = looked[1]
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "leak.jpg" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    from contray import track
    from contray.track.runs import all_runs, trainings

    with track.asking(fresh(out), "reading") as talk:
        (experiment,) = [each for each in talk.search_experiments() if each.name == "contray"]
        (run,) = all_runs(talk, experiment.experiment_id)
        assert [each.path for each in talk.list_artifacts(run.info.run_id)] == ["report.html"]
        assert run.info.status == "FINISHED"
        assert run.data.params["train_in_test"] == "1"
        assert trainings([run]) == [], "contray compare takes it for no training"


# ---------------------------------------------------------------- near repeats

CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a quarter": lambda image: scaled(image, 0.25),
    "half": lambda image: scaled(image, 0.5),
    "twice": lambda image: scaled(image, 2),
    "quality 30": lambda image: np.array(Image.open(io.BytesIO(jpeg(image, 30)))),
    "half at quality 50": lambda image: np.array(Image.open(io.BytesIO(jpeg(scaled(image, 0.5), 50)))),
    "95 % of each side": lambda image: cropped(image, 0.95),
    "brighter": lambda image: brighter(image, 1.2, 10),
    "darker": lambda image: brighter(image, 0.75, 0),
    "all of it": lambda image: np.array(Image.open(io.BytesIO(jpeg(brighter(cropped(image, 0.94), 1.15, 5), 60)))),
}


def recorded(images: list[np.ndarray]) -> np.ndarray:
    made = np.zeros(len(images), records.dtype(3))
    for record, image in zip(made, images, strict=True):
        records.measure_pixels(record, image)
    return made


@pytest.fixture(scope="module")
def originals() -> tuple[list[np.ndarray], np.ndarray]:
    images = [picture(1000 + i) for i in range(60)]
    return images, recorded(images)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(change: str, originals: tuple[list[np.ndarray], np.ndarray]) -> None:
    images, made = originals
    found = duplicates.find(np.concatenate([made, recorded([CHANGES[change](image) for image in images])]))
    own, copies = found.group[: len(images)], found.group[len(images) :]
    assert np.mean((own >= 0) & (own == copies)) >= 0.95
    assert all(len(members) == 2 and members[0] + len(images) == members[1] for members in found.members()), "no other pair"
    assert set(found.kind) == {"near"}


def test_cells_find_what_comparing_all_with_all_finds(originals, monkeypatch: pytest.MonkeyPatch) -> None:
    images, made = originals
    every = np.concatenate([made, recorded([CHANGES["half at quality 50"](image) for image in images])])
    whole = duplicates.find(every)
    monkeypatch.setattr(duplicates, "FEW", 16)
    few = duplicates.find(every, seed=3)
    assert few.compared < whole.compared * 0.6
    assert np.mean(few.group >= 0) >= 0.95


def test_blank_images_are_no_copies_of_each_other_unless_equal() -> None:
    tones = [np.full((40, 40, 3), tone, np.uint8) for tone in (10, 10, 90, 200)]
    found = duplicates.find(recorded(tones))
    assert found.group.tolist() == [0, 0, -1, -1]
    assert found.kind == ["pixels"]


# ---------------------------------------------------------------- numbers, and what follows from them


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Two classes with a test set, nothing wrong; sizes differ."""
    for split, count in (("train", 6), ("test", 2)):
        for at, name in enumerate("ab"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                seed = 100 * at + 10 * (split == "test") + i
                (tmp_path / "set" / split / name / f"{i}.png").write_bytes(
                    cv2.imencode(".png", picture(seed, 40 + 8 * i, 48)[:, :, ::-1])[1].tobytes()
                )
    return tmp_path / "set"


def test_nothing_wrong_is_0_and_the_numbers_are_those_of_the_pixels(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plain.parent)
    assert main(["data", "check", "set", "--json", "--gpu-images-per-second", "100000"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"]
    images = [np.array(Image.open(path)) / 255 for path in sorted((plain / "train").rglob("*.png"))]
    mean = np.mean([image.mean((0, 1)) for image in images], axis=0)
    square = np.mean([(image**2).mean((0, 1)) for image in images], axis=0)
    assert document["channels"]["mean"] == pytest.approx(mean, abs=1e-12)
    assert document["channels"]["std"] == pytest.approx(np.sqrt(square - mean**2), abs=1e-9)
    assert document["memory"]["decoded_bytes"] == sum(image.size for image in images)
    assert document["splits"]["train"]["bytes"] == sum(path.stat().st_size for path in (plain / "train").rglob("*.png"))
    assert not list(plain.parent.glob("mlflow.db")), "without a report nothing is kept"

    speed = document["speed"]
    assert speed["workers"] == {"100000": int(np.ceil(100000 / speed["images_per_second_per_core"]))}
    words = shlex.split(document["command"])
    assert words[:4] == ["contray", "train", "simclr", "--preset"]
    assert f"--augment.mean {mean[0]:.4f}" in document["command"]
    parse(command_of("train"), words[2:], "train")
    assert main([*words[1:], "--dry-run", "--scale.workers", "0", "0"]) == 0
    assert "dry run: nothing was started" in capsys.readouterr().out


def test_of_a_set_that_cannot_be_read_nothing_is_promised_and_one_image_is_no_set(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(plain / "train" / "a" / "0.png", tmp_path / "one")
    found = contray.check_data(tmp_path / "one", quiet=True)
    assert [(each.severity, each.words) for each in found.findings if each.kind == "few"] == [("look", "1 training image in all")]
    for path in plain.rglob("*.png"):
        path.write_bytes(b"broken")
    found = contray.check_data(plain, quiet=True)
    assert not found.advice()
    assert "For the training" not in page.written(found)
    assert not any("images/s" in line or "contray train" in line for line in found.lines())
    document = found.document()
    assert (document["speed"], document["memory"], document["command"]) == (None, None, "")


def test_a_sample_is_drawn_by_the_seed(plain: Path) -> None:
    assert drawn(10, 4, 0).tolist() == drawn(10, 4, 0).tolist() != drawn(10, 4, 1).tolist()
    found = contray.check_data(plain, {"seed": 5}, sample=3, quiet=True)
    assert [part.looked for part in found.parts] == [3, 3]
    assert "of a sample" in found.said
    assert found.document()["memory"]["decoded_bytes"] > 3 * 40 * 48 * 3


def test_sets_in_memory_are_looked_at_too() -> None:
    found = contray.check_data("digits", {"data.renderings": 1, "data.size": 16}, sample=40, quiet=True)
    assert found.parts[0].kinds == {"pixels in memory": 40}
    assert found.channels is not None


def test_a_record_is_half_a_kilobyte() -> None:
    assert records.dtype(3).itemsize < 600


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sample": -1}, "--sample: got -1"),
        ({"sample": 5, "clean": "keep.txt"}, "--clean: needs all images"),
        ({"out": "report.pdf"}, "must end in .html, .png, .json"),
        ({"gpu_images_per_second": -1.0}, "--gpu-images-per-second"),
        ({"overrides": {"train.epochs": 3}}, "train.epochs: a check of data takes"),
        ({"source": "nowhere/at_all"}, "does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_read(
    options: dict[str, Any], told: str, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(plain)
    monkeypatch.setattr("contray.inspection.gather", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match=told):
        contray.check_data(**{"source": plain, "quiet": True, **options})


# ---------------------------------------------------------------- processes


def test_a_decoder_that_ends_its_process_is_told_with_the_file(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contray import data
    from contray.data.splits import EncodedSplit

    source = data.open_source(contray.RunConfig.make(overrides={"data.source": str(plain)}))
    whole = EncodedSplit.image

    def crash(split: EncodedSplit, i: int, rng: np.random.Generator | None) -> np.ndarray:
        if split.key(i).endswith("b/3.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(split, i, rng)

    monkeypatch.setattr(EncodedSplit, "image", crash)
    with pytest.raises(UserError, match=r"b/3\.png is gone \(SIGKILL\): the system was out of memory"):
        gather(source, 0, 0, 2, "", lambda message: None)


def test_an_interrupt_leaves_no_process(plain: Path) -> None:
    import multiprocessing

    from contray import data

    source = data.open_source(contray.RunConfig.make(overrides={"data.source": str(plain)}))

    def interrupt(message: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(source, 0, 0, 2, "", interrupt)
    assert multiprocessing.active_children() == []
