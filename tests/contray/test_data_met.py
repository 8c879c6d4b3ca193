"""Sets as people have them, each of which was once read wrongly without a word."""

from __future__ import annotations

import errno
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contray import RunConfig, data
from contray.cli import main
from contray.config.sections import DataConfig
from contray.data import rows
from contray.data.batches import check_views
from contray.data.form import Form
from contray.data.given import image_of
from contray.data.sources import open_source, other_labels
from contray.errors import ConfigError, DataError
from contray.inspection.duplicates import find
from contray.inspection.gather import gather
from contray.inspection.groups import kept
from contray.storage.folder import Storage
from contray.training.settle import measure


def png(seed: int, high: int = 255, side: int = 16, deep: bool = False) -> bytes:
    shape = (side, side) if deep else (side, side, 3)
    values = np.random.default_rng(seed).integers(0, high + 1, shape)
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16 if deep else np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def opened(source: Path, **keys: Any) -> data.Source:
    return open_source(DataConfig(source=str(source), **{"test_share": 0.0, **keys}))


def table(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def files(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))


def test_files_of_one_name_in_several_folders(tmp_path: Path) -> None:
    """As Spark and `write_dataset` write: the rows of one are not those of the other."""
    for year, other in ((2020, "x"), (2021, "y")):
        table(tmp_path / f"set/year={year}/part-0.parquet", image=[png(i) for i in range(6)], label=[0, 1] * 3, other=[other] * 6)
    source = opened(tmp_path / "set")
    assert len(set(source.train.all_keys())) == 12
    config = RunConfig.make("simclr", {"data.source": str(tmp_path / "set"), "data.test_share": 0.0}, preset="digits")
    classes, train, _ = other_labels(source, config, "other")
    assert [classes[i] for i in train] == ["x"] * 6 + ["y"] * 6
    names = tmp_path / "names.txt"
    names.write_text("year=2021/part-0.parquet#1\nyear=2020/part-0.parquet#2\n")
    assert list(opened(tmp_path / "set", subset=str(names)).train.all_keys()) == [
        "year=2020/part-0.parquet 2",
        "year=2021/part-0.parquet 1",
    ]


def test_a_list_of_test_rows_is_not_one_of_training_rows(tmp_path: Path) -> None:
    """The Hub's converted sets: train/0000.parquet beside test/0000.parquet."""
    for split, count in (("train", 8), ("test", 4)):
        table(tmp_path / f"set/{split}/0000.parquet", image=[png(i) for i in range(count)], label=[0, 1] * (count // 2))
    names = tmp_path / "names.txt"
    names.write_text("test/0000.parquet#0\n")
    with pytest.raises(ConfigError, match=r"^data\.subset: .*no training image"):
        opened(tmp_path / "set", subset=str(names))


@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_where_the_test_labels_are_secret_val_tests(tmp_path: Path, layout: str) -> None:
    place = tmp_path / "set"
    if layout == "folders":
        files(place, *(f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in "ab" for i in range(3)), "test/0.png")
    else:
        for split, labels in (("train", [0, 1] * 3), ("validation", [0, 1] * 3), ("test", [-1] * 2)):
            table(place / f"{split}-00000-of-00001.parquet", image=[png(i) for i in range(len(labels))], label=labels)
    source = opened(place)
    assert source.test is not None
    assert source.test.labels is not None
    assert len(source.test) == 6
    assert any("tests in its place" in note for note in source.notes), source.notes
    assert not any("not used" in note or "nothing is tested" in note for note in source.notes), source.notes


def test_the_range_of_a_sorted_set_is_that_of_all_of_it(tmp_path: Path) -> None:
    table(
        tmp_path / "a.parquet", image=[png(i, 200, deep=True) for i in range(64)] + [png(i, 60000, deep=True) for i in range(200)]
    )
    assert "values of 0 to 65535 become 0 to 255" in opened(tmp_path / "a.parquet").train.notes()[0]


def test_a_subset_of_late_rows_is_sampled(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", image=[png(i, 60000, deep=True) for i in range(300)])
    names = tmp_path / "names.txt"
    names.write_text("".join(f"a.parquet {i}\n" for i in range(250, 254)))
    train = opened(tmp_path / "a.parquet", subset=str(names)).train
    assert isinstance(train, data.EncodedSplit)
    assert train.decoded_bytes() == 4 * 16 * 16 * 3
    assert train.image(0, None).mean() > 60


def test_a_run_keeps_the_range_of_deep_rgb(tmp_path: Path) -> None:
    """So that one of its images is as bright to its encoder as it was in training."""
    for i in range(8):
        path = tmp_path / f"set/{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(i, 3000 if i else 60000, deep=True))
    config = RunConfig.make("simclr", {"data.source": str(tmp_path / "set")}, preset="digits")
    split = opened(tmp_path / "set").train
    (tmp_path / "run").mkdir()
    (tmp_path / "plain").mkdir()
    settled = measure(config, opened(tmp_path / "set"), Storage(str(tmp_path / "run")), quiet=True)
    assert settled.data.range == (0.0, 65535.0)
    alone = image_of(tmp_path / "set/3.png", form=Form.of(settled.data))
    assert np.array_equal(alone, split.image(3, None))
    assert np.array_equal(image_of(Image.open(tmp_path / "set/3.png"), form=Form.of(settled.data)), alone)
    files(tmp_path / "flat", "0.png", "1.png")
    plain = measure(config, opened(tmp_path / "flat"), Storage(str(tmp_path / "plain")), quiet=True)
    assert plain.data.range == ()
    assert "data.range" not in plain.train.settled


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for name, link in (("0.png", ""), ("1.png", "0.png"), ("readme", "0.png")):
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.LNKTYPE, link
                packed.addfile(member)
            else:
                member.size = len(png(0))
                packed.addfile(member, io.BytesIO(png(0)))
    with pytest.raises(DataError, match=r"1\.png is a link to 0\.png.*--hard-dereference"):
        opened(tmp_path / "a.tar")


def test_classes_that_are_written_in_two_ways_stay_two(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for i, label in enumerate(["01", "1", "01", "1", "2"]):
            for name, content in ((f"{i}.cls", label.encode()), (f"{i}.png", png(i))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    assert opened(tmp_path / "a.tar").train.classes == ["01", "1", "2"]


def test_what_is_no_band_is_named(tmp_path: Path) -> None:
    for name in [f"t{t}_B0{b}.tif" for t in range(4) for b in (1, 2, 3, 4)] + ["mosaic.tif"]:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    source = opened(tmp_path, channels=4)
    words = (
        "16 files are the bands of 4 images: B01, B02, B03, B04; 1 files are none of these bands, and are left out (mosaic.tif)"
    )
    assert words in source.notes


def test_test_images_with_labels_test_though_one_has_none(tmp_path: Path) -> None:
    files(tmp_path / "set", *(f"train/{i}.png" for i in range(6)), *(f"test/{i}.png" for i in range(4)))
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "name,label\n" + "".join(f"{split}/{i}.png,{'ab'[i % 2]}\n" for split, n in (("train", 6), ("test", 3)) for i in range(n))
    )
    source = opened(tmp_path / "set", labels=str(labels))
    assert source.test is not None
    assert source.test.labels is not None
    assert source.test.labels.tolist() == [0, 1, 0]
    assert [source.test.key(i).rpartition("/")[2] for i in range(3)] == ["0.png", "1.png", "2.png"]
    assert any("3 of 4 test images have one, and test" in note for note in source.notes)


def test_a_column_that_cannot_serve_is_told_why(tmp_path: Path) -> None:
    table(tmp_path / "a/0.parquet", image=[png(0)] * 4, caption=["a"] * 4, captions=[["a", "b"]] * 4)
    table(tmp_path / "a/1.parquet", image=[png(0)] * 4, caption=[["a"]] * 4, captions=[["a", "b"]] * 4)
    train = opened(tmp_path / "a").train
    views = RunConfig.make("clip", {"views.text.source": "caption"}, preset="digits").views
    with pytest.raises(
        ConfigError,
        match=r"no view is drawn from the column 'caption': it is string in 0\.parquet, but list<.*string> in 1\.parquet",
    ):
        check_views(train, views)
    views = RunConfig.make("clip", {"views.text.source": "captions"}, preset="digits").views
    with pytest.raises(ConfigError, match=r"'captions': it is list<.*keep one text of each list"):
        check_views(train, views)


def test_a_name_with_a_dot_is_a_column(tmp_path: Path) -> None:
    images = [png(i) for i in range(4)]
    table(tmp_path / "a.parquet", **{"image.bytes": images, "image": [len(each) for each in images]})
    for column, size in (("image.bytes", sum(map(len, images))), ("image", 0)):
        sizes = rows.Rows([tmp_path / "a.parquet"], np.array([0, 4]), column, "").size()
        assert (sizes > size) if size else (sizes < 200)


def test_a_file_that_the_disk_does_not_give_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files(tmp_path / "set", *(f"{i}.png" for i in range(20)))
    bad = tmp_path / "set/07.png"
    bad.symlink_to("/proc/self/mem")  # which opens and cannot be read, as a bad sector
    for command in (
        ["data", "check", str(tmp_path / "set")],
        ["train", "simclr", "--data.source", str(tmp_path / "set"), "--preset", "digits"],
    ):
        assert main(
            [*command, "--data.workers", "0", "--train.batch_size", "8", "--scale.workers", "0", "0"]
            if command[0] == "train"
            else command
        ) in (1, 2)
        told = capsys.readouterr().err
        assert "07.png" in told, told
        assert "Input/output error" in told, told
        assert "Traceback" not in told, told


def test_one_sample_that_cannot_be_read_tells_nothing_and_all_of_them_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path / "set", *(f"{i}.png" for i in range(4)))
    monkeypatch.setattr("contray.data.splits._PAUSES", ())
    for bad, ends in ({2}, False), (set(range(4)), True):
        train = opened(tmp_path / "set").train
        assert isinstance(train, data.EncodedSplit)
        real = train.encoded.read

        def read(i: int, bad: set[int] = bad, real: Any = real) -> Any:
            if i in bad:
                raise OSError(errno.EIO, "Input/output error")
            return real(i)

        train.encoded.read = read
        if ends:
            with pytest.raises(OSError, match=r"png"):
                train.notes()
        else:
            assert train.notes() == ()


def test_of_a_film_frames_that_differ_stay(tmp_path: Path) -> None:
    """Each frame is nearly the next one, the first and the last have nothing in common: a chain is not one image. Of a film alone all stay."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (12, 80), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(wide).resize((1280, 192), Image.Resampling.BICUBIC))
    for folder in ("film", "all"):
        (tmp_path / folder).mkdir()
        for i in range(60):
            Image.fromarray(texture[:, 6 * i : 6 * i + 192]).save(tmp_path / folder / f"{i:02d}.png")
    for i in range(300):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"all/other{i}.png")

    def stay(folder: str) -> np.ndarray:
        records, found = gather(opened(tmp_path / folder), 0, 0, 1, "", lambda message: None)
        equal = find(records)
        assert len(set(equal.group.tolist())) < 5, "one chain, or few"
        return kept(found[0], equal)

    assert stay("film").all()
    among = stay("all")
    assert among[60:].all()
    assert among[0]
    assert 4 <= among[:60].sum() < 40
