"""WebDataset's archives: every sample with its image and class, by whatever tool they were packed, or a refusal in one line."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contray.config.sections import DataConfig
from contray.data import fingerprint, open_source, ranges, webdataset
from contray.data.tar import members
from contray.data.webdataset import _samples
from contray.errors import ConfigError, DataError, UserError

FEW = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((3, 3, 3), value, np.uint8))[1].tobytes()


def pack(path: Path, found: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in found:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, values: range, folder: str = "", **labels: Any) -> Path:
    return pack(
        path,
        [
            (f"{folder}{v:04}.{kind}", data)
            for v in values
            for kind, data in (("png", png(v)), ("cls", str(labels.get("names", "ab")[v % 2]).encode()))
        ],
    )


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    return {"scratch": str(tmp_path / "scratch"), "test_share": 0.0}


def opened(place: Path, keys: dict[str, Any], **more: Any):
    return open_source(DataConfig(source=str(place), **(keys | more)))


def rows(split: Any) -> list[tuple[int, str | None]]:
    labels = [None] * len(split) if split.labels is None else [split.classes[label] for label in split.labels]
    return [(int(split.image(i, None)[0, 0, 0]), label) for i, label in enumerate(labels)]


NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=120)


@FEW
@given(
    st.lists(st.tuples(NAME, st.binary(max_size=1500)), max_size=8),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(0, 3),
)
def test_members_are_those_that_pythons_own_reader_finds(
    tmp_path: Path, found: list[tuple[str, bytes]], form: int, depth: int
) -> None:
    try:
        path = pack(tmp_path / "x.tar", [(f"{'folder of some length/' * 4 * depth}{name}", data) for name, data in found], form)
    except ValueError:  # what ustar cannot hold
        return
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        expected = [(info.name, tar.extractfile(info).read()) for info in tar.getmembers() if info.isreg()]  # pyright: ignore[reportOptionalMemberAccess]
    got = [
        (os.fsdecode(each.name), whole[each.offset : each.offset + each.size])
        for each in members(lambda count, at: whole[at : at + count], len(whole), "x")
    ]
    assert got == expected


def test_links_folders_and_the_headers_of_git_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a commit"}) as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE), ("f", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "x.png"
            tar.addfile(info)
        info = tarfile.TarInfo("x.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    whole = path.read_bytes()
    assert [(each.name, each.size) for each in members(lambda count, at: whole[at : at + count], len(whole), path)] == [
        (b"x.png", 3)
    ]


def test_a_folder_of_archives_has_splits_classes_and_one_shard_each(tmp_path: Path, keys: dict[str, Any]) -> None:
    for n in range(3):
        shard(tmp_path / f"set/train-{n:05}.tar", range(4 * n, 4 * n + 4), folder="deep/er/")
    shard(tmp_path / "set/val-00000.tar", range(20, 23))
    source = opened(tmp_path / "set", keys)
    assert rows(source.train) == [(v, "ab"[v % 2]) for v in range(12)]
    assert source.test is not None
    assert rows(source.test) == [(v, "ab"[v % 2]) for v in range(20, 23)]
    held = source.train.shards()
    assert held is not None
    assert held.starts.tolist() == [0, 4, 8, 12]
    assert not held.sizes.any()
    assert source.train.key(5) == "train-00001.tar deep/er/0005.png"
    assert "train-00001.tar deep/er/0005.png" in source.train.describe(5)


def test_numbers_are_classes_in_their_order_and_json_serves_where_no_cls_is(tmp_path: Path, keys: dict[str, Any]) -> None:
    shard(tmp_path / "a.tar", range(4), names=["10", "9"])
    assert opened(tmp_path / "a.tar", keys).train.classes == ["9", "10"]
    made = [
        (f"{v}.{kind}", data)
        for v in range(4)
        for kind, data in (
            ("jpg.png", b""),
            ("png", png(v)),
            ("json", json.dumps({"class": "ab"[v % 2], "kind": v % 3}).encode()),
        )
    ]
    path = pack(tmp_path / "b.tar", [(name, data) for name, data in made if "jpg" not in name])
    assert rows(opened(path, keys).train) == [(v, "ab"[v % 2]) for v in range(4)]
    assert rows(opened(path, keys, label_column="kind").train) == [(v, str(v % 3)) for v in range(4)]
    assert opened(path, keys, label_column="").train.labels is None


def test_of_several_images_one_is_named(tmp_path: Path, keys: dict[str, Any]) -> None:
    path = pack(
        tmp_path / "x.tar", [(f"{v}.{side}.PNG", png(v + add)) for v in range(3) for side, add in (("left", 0), ("right", 50))]
    )
    with pytest.raises(
        ConfigError,
        match=r"^data\.image_column: .*x\.tar: 0\.left\.PNG is one of several images of a sample \(left\.png, right\.png\), whose name ends at the first dot",
    ):
        opened(path, keys)
    assert [value for value, _ in rows(opened(path, keys, image_column="right.png").train)] == [50, 51, 52]
    with pytest.raises(
        ConfigError, match=r"^data\.image_column: .*x\.tar has no members \.webp; it has \.left\.png, \.right\.png"
    ):
        opened(path, keys, image_column="webp")


def test_a_sample_is_named_as_webdataset_names_it(tmp_path: Path, keys: dict[str, Any]) -> None:
    law = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset.tariterators.base_plus_ext of 1.0.2
    names = ["a.b/c.d/one.png", "a.b/c.d/one.cls", "two.PNG", "two.cls", "x y/3.png", "x y/3.seg.txt", "no_dot", "a.b/no_dot"]
    path = pack(tmp_path / "x.tar", [(name, b"0" if name.endswith("cls") else png(i)) for i, name in enumerate(names)])
    with path.open("rb") as file:
        size = path.stat().st_size
        found = list(_samples(members(lambda count, at: os.pread(file.fileno(), count, at), size, path), path))
    theirs: dict[str, list[str]] = {}
    for name in names:
        if match := law.match(name):
            theirs.setdefault(match[1], []).append(match[2].lower())
    assert [list(sample) for sample in found] == list(theirs.values())


def test_samples_without_an_image_are_left_out_and_counted(tmp_path: Path, keys: dict[str, Any]) -> None:
    path = pack(
        tmp_path / "x.tar",
        [("a.png", png(1)), ("a.cls", b"0"), ("b.cls", b"1"), ("c.png", png(2)), ("c.cls", b"1"), (".hidden.png", b"")],
    )
    source = opened(path, keys)
    assert rows(source.train) == [(1, "0"), (2, "1")]
    assert any(note.startswith("1 samples of") and "have no image and are left out" in note for note in source.notes)
    assert opened(pack(tmp_path / "y.tar", [("a.png", png(1)), ("b.png", png(2))]), keys).train.labels is None


REFUSED: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "twice": ([("a.png", b"1"), ("a.png", b"2")], "has a.png twice"),
    "not side by side": ([("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3")], "the members of sample /a do not lie side by side"),
    "some labels": ([("a.png", b"1"), ("b.png", b"2"), ("b.cls", b"3")], "have 1 samples without a label (of 2)"),
    "no text": ([("a.png", b"1"), ("a.cls", b"\xff")], "a.cls is no text"),
    "no json": ([("a.png", b"1"), ("a.json", b"{")], "a.json is no JSON"),
    "a fraction": ([("a.png", b"1"), ("a.json", b'{"label": 0.5}')], "a.json holds 0.5; labels are integers or strings"),
    "no image": ([("a.txt", b"1")], "has no images; it has .txt"),
    "nothing": ([], "is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_set_is_refused(tmp_path: Path, keys: dict[str, Any], case: str) -> None:
    found, said = REFUSED[case]
    with pytest.raises(UserError) as caught:
        opened(pack(tmp_path / "x.tar", found), keys)
    assert said in str(caught.value)
    assert "x.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_called_so(tmp_path: Path, keys: dict[str, Any]) -> None:
    (tmp_path / "x.tar").touch()
    with pytest.raises(DataError, match=r"x\.tar is empty \(0 bytes\), so its download or its packing failed; fetch it again"):
        opened(tmp_path / "x.tar", keys)


def test_what_is_compressed_is_refused_with_how_to_mend_it(tmp_path: Path, keys: dict[str, Any]) -> None:
    shard(tmp_path / "x.tar", range(3))
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set/train.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "x.tar", "x.tar")
    for place in (tmp_path / "set", tmp_path / "set/train.tar.gz"):
        with pytest.raises(
            DataError, match=r"train\.tar\.gz is compressed, so that no image of it can be read by itself; unpack it"
        ):
            opened(place, keys)
    (tmp_path / "set/train.tar.gz").rename(tmp_path / "set/train.tar")
    with pytest.raises(DataError, match=r"train\.tar is compressed: gunzip it"):
        opened(tmp_path / "set", keys)


@FEW
@given(st.integers(0, 10**6), st.binary(max_size=6), st.booleans())
def test_damaged_archives_open_or_are_refused_and_cut_ones_are_refused(tmp_path: Path, at: int, data: bytes, cut: bool) -> None:
    path = shard(tmp_path / "x.tar", range(4))
    whole = path.read_bytes()
    used = whole.rstrip(b"\0")
    at %= len(used)
    path.write_bytes(whole[:at] if cut else whole[:at] + data + whole[at + len(data) :])
    source, said = None, ""
    try:
        source = opened(path, {"scratch": str(tmp_path / "scratch"), "test_share": 0.0})
    except UserError as error:
        said = str(error)
    assert said.count("\n") == 0
    assert (source is None) == ("x.tar" in said)
    assert source is None or (not cut and len(source.train) <= 4)


def test_an_archive_that_is_added_is_looked_through_alone(
    tmp_path: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(tmp_path / "set/train-0.tar", range(3))
    before = opened(tmp_path / "set", keys)
    shard(tmp_path / "set/train-1.tar", range(3, 6))
    looked = []
    own = webdataset._look
    monkeypatch.setattr(
        webdataset, "_look", lambda fd, size, file, **more: looked.append(file.name) or own(fd, size, file, **more)
    )
    after = opened(tmp_path / "set", keys)
    assert looked == ["train-1.tar"]
    assert rows(after.train)[:3] == rows(before.train)
    assert fingerprint(after, DataConfig()) != fingerprint(before, DataConfig())
    (index, *_) = (tmp_path / "scratch").glob("*.index")
    index.write_bytes(index.read_bytes()[:-3])
    assert rows(opened(tmp_path / "set", keys).train) == rows(after.train)
    assert len(looked) == 2


def test_many_archives_are_looked_through_by_processes(tmp_path: Path, keys: dict[str, Any]) -> None:
    for n in range(ranges._MANY):
        shard(tmp_path / f"set/train-{n}.tar", range(2 * n, 2 * n + 2))
    assert [value for value, _ in rows(opened(tmp_path / "set", keys).train)] == list(range(2 * ranges._MANY))
    shard(tmp_path / "bad/train-0.tar", range(2)).write_bytes(b"junk" * 500)
    for n in range(1, ranges._MANY):
        shard(tmp_path / f"bad/train-{n}.tar", range(2))
    with pytest.raises(DataError, match=r"train-0\.tar is no tar archive"):
        opened(tmp_path / "bad", keys)


def test_a_folder_of_images_may_keep_the_archive_that_it_came_in(tmp_path: Path, keys: dict[str, Any]) -> None:
    for v in range(4):
        (tmp_path / "set" / "ab"[v % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "ab"[v % 2] / f"{v}.png").write_bytes(png(v))
    shard(tmp_path / "set/train.tar", range(3))
    source = opened(tmp_path / "set", keys)
    assert len(source.train) == 4
    assert "skipped: 1 .tar" in source.notes


@pytest.mark.parametrize("part", ["head", "labels", "end"])
def test_a_damaged_index_is_made_again(tmp_path: Path, keys: dict[str, Any], part: str) -> None:
    shard(tmp_path / "set" / "train-0.tar", range(6), cls="cat")
    shard(tmp_path / "set" / "train-1.tar", range(6, 12), cls="dog")
    whole = rows(opened(tmp_path / "set", keys).train)
    for path in Path(keys["scratch"]).rglob("*.index"):
        data = bytearray(path.read_bytes())
        place = {"head": 20, "labels": len(data) // 2, "end": len(data) - 3}[part]
        data[place] ^= 1
        path.write_bytes(data)
    assert rows(opened(tmp_path / "set", keys).train) == whole


def test_a_size_that_is_no_number_is_damage(tmp_path: Path, keys: dict[str, Any]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("0.png")
        info.size, info.pax_headers = len(png(1)), {"size": "abc"}
        tar.addfile(info, io.BytesIO(png(1)))
    with pytest.raises(DataError, match=r"a\.tar is damaged \(a size of abc\)"):
        opened(tmp_path / "a.tar", keys)
