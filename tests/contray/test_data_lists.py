"""Lists of images: which of them train, whose labels are known. The test set is what it is without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contray import RunConfig, data
from contray.config.sections import DataConfig
from contray.data import ArraySplit, Source, open_source
from contray.data.aside import part_of
from contray.data.finding import AMBIGUOUS, MISSING, find
from contray.data.lists import read_list
from contray.errors import ConfigError, UserError
from contray.evaluation.common.classifier import FewLabels, listed_subset
from contray.evaluation.common.samples import check_measurable, held_out, measurable
from tests.contray.test_data_aside import folder, png

LINES = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


class Keys(data.Split):
    """Samples that have nothing but names."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.known_as = keys

    def __len__(self) -> int:
        return len(self.known_as)

    def key(self, i: int) -> str:
        return self.known_as[i]


def opened(source: Path, **keys) -> Source:
    return open_source(DataConfig(source=str(source), **keys))


def written(file: Path, *lines: str) -> str:
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return str(file)


def keys_of(split: data.Split | None) -> list[str]:
    return [] if split is None else list(split.all_keys())


# ---------------------------------------------------------------- files


@settings(max_examples=25, deadline=None)
@given(lines=st.lists(LINES), coding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_a_list_reads_the_same_in_any_coding_and_with_any_ends(lines: list[str], coding: str, end: str, tmp_path_factory) -> None:
    file = tmp_path_factory.mktemp("list") / "list.txt"
    file.write_bytes(end.join(["# a comment", "", *lines, ""]).encode(coding))
    names = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    if names:
        assert read_list("data.subset", str(file)).names == names
    else:
        with pytest.raises(ConfigError, match=r"data\.subset: .*names no image"):
            read_list("data.subset", str(file))


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(LINES.map(str.strip).filter(bool), min_size=1), labels=st.lists(LINES.map(str.strip).filter(bool), min_size=1)
)
def test_tables_read_as_they_were_written(names: list[str], labels: list[str], tmp_path_factory) -> None:
    import csv

    place, rows = tmp_path_factory.mktemp("list"), list(zip(names, labels, strict=False))
    with (place / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "name"), *((label, name) for name, label in rows)])
    pq.write_table(pa.table({"name": [row[0] for row in rows], "label": [row[1] for row in rows]}), place / "list.parquet")
    for suffix in ("csv", "parquet"):
        found = read_list("data.labels", str(place / f"list.{suffix}"))
        assert (found.names, found.labels) == ([row[0] for row in rows], [row[1] for row in rows])


def test_a_list_may_lie_at_an_address(tmp_path: Path) -> None:
    written(tmp_path / "list.txt", "a.png")
    assert read_list("data.subset", f"file://{tmp_path}/list.txt").names == ["a.png"]
    with pytest.raises(ConfigError, match=r"^data\.subset: there is no file file:///.*gone\.txt"):
        read_list("data.subset", f"file://{tmp_path}/gone.txt")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.txt", b"a\0b", "is no text"),
        ("list.txt", b"\xff\xfea", "is no text"),
        ("list.csv", b"file,label\na.png,cat\n", "needs one column called name .*it has file, label"),
        ("list.csv", b"name,label\na.png\n", "row 2 has fewer cells"),
        ("list.csv", b"name,label\na.png,\n", "row 1 has no label"),
        ("list.parquet", b"PAR1", "no readable Parquet"),
        ("gone.txt", None, "there is no file .*gone.txt"),
    ],
)
def test_what_is_no_list_is_refused(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^data\.subset: .*{said}"):
        read_list("data.subset", str(tmp_path / name))


# ---------------------------------------------------------------- names


def test_names_are_found_by_key_by_their_end_and_by_row() -> None:
    keys = (
        "cat/1.png",
        "dog/1.png",
        "dog/2.png",
        "deep/er/3.png",
        "flat.png",
        "t-0.parquet 12",
        "7",
        "caf\u00e9/x.png",
        "by\udce9te.png",
        "a b/#5.png",
    )
    asked = {
        "cat/1.png": 0, "./dog/1.png": 1, "2.png": 2, "er/3.png": 3, "/data/set/deep/er/3.png": 3, "set/flat.png": 4, "t-0.parquet#12": 5,
        "sub/t-0.parquet#12": 5, "7": 6, "cafe\u0301/x.png": 7, "by\\xe9te.png": 8, "by\udce9te.png": 8, "./a b/#5.png": 9,
        "1.png": AMBIGUOUS, "8": MISSING, "g/1.png": MISSING, "1.pn": MISSING, "at/1.png": MISSING, "t-0.parquet": MISSING,
    }  # fmt: skip
    assert dict(zip(asked, find([Keys(*keys)], list(asked)).tolist(), strict=True)) == asked
    halves = find([Keys(*keys[:4]), Keys(*keys[4:])], list(asked))
    assert dict(zip(asked, halves.tolist(), strict=True)) == asked


@settings(max_examples=50, deadline=None)
@given(
    names=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join), unique=True, min_size=1, max_size=12),
    asked=st.data(),
)
def test_finding_agrees_with_looking_at_every_pair(names: list[str], asked) -> None:
    for name in asked.draw(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), max_size=6)):
        if name in names:
            meant = [names.index(name)]
        else:
            meant = [i for i, key in enumerate(names) if f"/{key}".endswith(f"/{name}") or f"/{name}".endswith(f"/{key}")]
        assert find([Keys(*names)], [name]).tolist() == [meant[0] if len(meant) == 1 else AMBIGUOUS if meant else MISSING]


# ---------------------------------------------------------------- data.subset


def test_the_named_images_alone_train_and_the_same_ones_test(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", cat=30, dog=30)
    whole = opened(root)
    kept = [f"{kind}/{i}.png" for kind in ("dog", "cat") for i in range(20)]
    some = opened(root, subset=written(tmp_path / "list.txt", *kept, kept[0]))
    assert keys_of(some.test) == keys_of(whole.test) != []
    assert keys_of(some.train) == [key for key in keys_of(whole.train) if key in kept], "in the source's order, each once"
    testing = len(set(kept) & set(keys_of(whole.test)))
    assert some.notes[-1].endswith(f"{testing} that it names are test images and stay so")
    assert some.train.labels is not None
    assert [some.train.classes[label] for label in some.train.labels] == [key[:3] for key in keys_of(some.train)]
    assert np.array_equal(some.train.image(5, None), whole.train.image(keys_of(whole.train).index(keys_of(some.train)[5]), None))


def test_what_a_list_says_is_in_the_fingerprint_and_where_it_lies_is_not(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", cat=20, dog=20)
    lists = [
        written(tmp_path / "one.txt", *(f"cat/{i}.png" for i in range(9))),
        written(tmp_path / "two.txt", "# the same", *(f"cat/{i}.png" for i in reversed(range(9)))),
        written(tmp_path / "three.txt", *(f"cat/{i}.png" for i in range(8))),
    ]
    for key in ("subset", "labels"):
        if key == "labels":
            lists = [
                written(Path(file), *Path(file).read_text().splitlines(), *(f"dog/{i}.png" for i in range(9))) for file in lists
            ]
        prints = []
        for file in lists if key == "subset" else [lists[0], lists[2]]:
            keys = DataConfig(str(root), subset=file) if key == "subset" else DataConfig(str(root), labels=file)
            prints.append(data.fingerprint(open_source(keys), keys)["data"])
        plain = DataConfig(source=str(root))
        assert data.fingerprint(open_source(plain), plain)["data"] not in prints
        assert prints[0] != prints[-1]
        assert key == "labels" or prints[0] == prints[1]


def test_keys_that_came_later_do_not_rename_a_run(tmp_path: Path) -> None:
    config = RunConfig.make("simclr")
    other = config.replace({"data.subset": str(tmp_path / "list.txt")})
    assert config.digest() == config.digest("data.subset", "data.labels") == other.digest("data.subset") != other.digest()
    assert not other.free("data.subset")
    assert not other.free("data.labels")


def test_lists_of_another_set_are_refused_and_few_slips_are_said(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", cat=100, dog=100)
    own = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(100)]
    other = written(tmp_path / "other.txt", *(f"n01/{name}" for name in own), *(name.replace("png", "jpg") for name in own))
    said = r"200 of 400 names .* \(cat/0.jpg, .* and 197 more; its own are such as cat/\d+.png\); is it the list of another set"
    with pytest.raises(ConfigError, match=rf"^data\.subset: {said}"):
        opened(root, subset=other)
    with pytest.raises(ConfigError, match=r"^data\.subset: 1 names .* fit several images of set \(0\.png\); give paths"):
        opened(root, subset=written(tmp_path / "unclear.txt", *own, "0.png"))
    with pytest.raises(ConfigError, match=r"^data\.subset: 3 of 203 names"):
        opened(root, subset=written(tmp_path / "three.txt", *own, "x.png", "y.png", "z.png"))
    assert (
        "2 that it names are not there (x.png, y.png)"
        in opened(root, subset=written(tmp_path / "two.txt", *own, "x.png", "y.png")).notes[-1]
    )
    test = keys_of(opened(root).test)
    with pytest.raises(ConfigError, match=r"^data\.subset: no training image of set is named"):
        opened(root, subset=written(tmp_path / "tests.txt", *test))


def test_parquet_and_numbered_sets_take_lists(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for part in range(2):
        rows = {"image": [png(20 * part + i) for i in range(20)], "label": [i % 2 for i in range(20)]}
        pq.write_table(pa.table(rows), tmp_path / "set" / f"train-{part}.parquet")
    asked = [f"train-{i % 2}.parquet{'# '[i % 2]}{i}" for i in range(20)]
    found = opened(tmp_path / "set", subset=written(tmp_path / "list.txt", *asked), test_share=0.0)
    assert set(keys_of(found.train)) == {name.replace("#", " ") for name in asked}
    split = ArraySplit("numbers", np.zeros((50, 4, 4, 3), np.uint8), np.arange(50) % 5, list("abcde"))
    listed = listed_subset(Source("numbers", split, None), written(tmp_path / "40 labels.txt", *map(str, range(49, 9, -1))))
    assert (listed.ids.tolist(), listed.name) == (list(range(10, 50)), "40_labels")


# ---------------------------------------------------------------- data.labels


def test_labels_that_are_not_listed_are_unknown(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", cat=40, dog=40)
    named = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(12)]
    source = opened(root, labels=written(tmp_path / "list.txt", *named))
    train, whole = source.train, opened(root)
    assert keys_of(train) == keys_of(whole.train), "all train"
    assert keys_of(source.test) == keys_of(whole.test)
    assert source.test is not None
    assert source.test.labels is not None
    assert source.test.labels.min() == 0
    assert [train.key(i) for i in train.known] == [key for key in keys_of(train) if key in named]
    assert train.labels is not None
    assert set(train.labels[np.setdiff1d(np.arange(len(train)), train.known)]) == {-1}
    config = RunConfig.make("simclr", {"data.source": str(root), "train.batch_size": 16}, preset="cifar")
    fit, val = held_out(config, source)
    assert set(fit) | set(val) == set(train.known)
    assert measurable(source)
    check_measurable(config, source)
    few = FewLabels.of(source, "0.5", 0.25)
    assert set(few.subset.ids) < set(train.known)
    assert FewLabels.of(source, "1.0", 0.25).subset.ids.tolist() == train.known.tolist()
    part = part_of(train, np.arange(0, len(train), 2))
    assert [part.key(i) for i in part.known] == [train.key(i) for i in train.known if i % 2 == 0]


def test_a_list_gives_labels_to_a_folder_without(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", all=40)
    lines = [f"all/{i}.png {'cat' if i % 2 else 'dog'}" for i in range(30)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["name,label", *(line.replace(" ", ",") for line in lines)]))
    for place in (written(tmp_path / "list.txt", *lines), str(table)):
        source = opened(root, labels=place)
        assert source.train.classes == ["cat", "dog"]
        assert source.test is not None, "a tenth of those with labels"
        known = {source.train.key(i) for i in source.train.known} | set(keys_of(source.test))
        assert known == {line.split(" ")[0] for line in lines}
        for split in (source.train, source.test):
            assert split.labels is not None
            for i in split.known.tolist():
                assert split.classes[split.labels[i]] == ("cat" if int(split.key(i)[4:-4]) % 2 else "dog")
        assert len(source.train) + len(source.test) == 40
    with pytest.raises(ConfigError, match=r"^data\.labels: set has no labels, and .* gives none; write NAME LABEL"):
        opened(root, labels=written(tmp_path / "bare.txt", "all/1.png", "all/2.png"))
    with pytest.raises(ConfigError, match=r"^data\.labels: .* gives all/0.png two labels"):
        opened(root, labels=written(tmp_path / "two.txt", *lines, "all/0.png cat"))


def test_tabs_labels_behind_names_and_backslashes_are_understood(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", cat=12, dog=12)
    lines = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(8)]
    wanted = sorted(lines)
    for line in (
        "{name}",
        "{name} {label}",
        "{name}\t{label} of mine",
        "C:\\photos\\{slashed}",
        "{slashed} {label}",
    ):
        told = [line.format(name=name, label=name[:3], slashed=name.replace("/", "\\")) for name in lines]
        assert sorted(keys_of(opened(root, subset=written(tmp_path / "l.txt", *told), test_share=0.0).train)) == wanted, line
    table = ["name,label", *(f"{name},{name[:3]}" for name in (*lines, "cat/99.png"))]
    subset = opened(root, subset=written(tmp_path / "l.csv", *table), test_share=0.0)
    assert sorted(keys_of(subset.train)) == wanted, "a name that is not there is no image"
    bare = folder(tmp_path / "bare", all=20)
    told = [f"all\\{i}.png\t{'a cat' if i % 2 else 'a dog'}" for i in range(20)]
    assert opened(bare, labels=written(tmp_path / "l.txt", *told)).train.classes == ["a cat", "a dog"]
    (root / "cat" / "1.png").rename(root / "cat" / "1\\x.png")
    found = opened(root, subset=written(tmp_path / "l.txt", "cat/1\\x.png", "dog/1.png"), test_share=0.0)
    assert len(found.train) == 2, "a name may have a backslash"


def test_a_list_that_says_other_labels_than_the_source_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", cat=10, dog=10)
    with pytest.raises(
        ConfigError,
        match=r"^data\.labels: .* has the label cow, which is no class of the source \(cat, dog\); with --data.label_column ''",
    ):
        opened(root, labels=written(tmp_path / "a.txt", *(f"cat/{i}.png cat" for i in range(9)), "dog/1.png cow"))
    wrong = written(tmp_path / "b.txt", *(f"cat/{i}.png cat" for i in range(9)), *(f"dog/{i}.png cat" for i in range(9)))
    with pytest.raises(ConfigError, match=r"^data\.labels: .* gives \d images other labels than the source .*label_column ''"):
        opened(root, labels=wrong, test_share=0.1)
    assert opened(root, labels=wrong, label_column="").train.classes == ["cat"]


def test_official_few_labels_are_fine_tuned_on(tmp_path: Path) -> None:
    """Base names, as SimCLR's lists of ImageNet have them, in folders of classes."""
    root = tmp_path / "set"
    for split, wnid in ((split, wnid) for split in ("train", "val") for wnid in ("n01", "n02")):
        (root / split / wnid).mkdir(parents=True)
        for i in range(10):
            (root / split / wnid / f"{wnid}_{i}.JPEG").write_bytes(png(i))
    source = opened(root)
    few = FewLabels.of(source, written(tmp_path / "1percent.txt", *(f"n0{k}_{i}.JPEG" for k in (1, 2) for i in range(4))), 0.25)
    assert few.subset.name == "1percent"
    assert [source.train.key(i).rpartition("/")[2] for i in few.subset.ids] == [
        f"n0{k}_{i}.JPEG" for k in (1, 2) for i in range(4)
    ]
    assert set(few.fit) | set(few.val) == set(few.subset.ids)
    with pytest.raises(UserError, match=r"^--labels: .* names images of fewer than two classes"):
        FewLabels.of(source, written(tmp_path / "one.txt", "n01_1.JPEG", "n01_2.JPEG"), 0.25)


def test_labels_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    """As a spreadsheet writes them: they would be in tables and pages that cannot be written then."""
    root = folder(tmp_path / "set", all=12)
    rows = "".join(f"{i}.png,{('café', 'thé')[i % 2]}\n" for i in range(12))
    (tmp_path / "labels.csv").write_bytes(f"name,label\n{rows}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"labels\.csv is not written in UTF-8: it has a label 'caf\\xe9'; write it as UTF-8"):
        opened(root / "all", labels=str(tmp_path / "labels.csv"))


def test_labels_of_lists_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", all=12)
    pairs = [f"{i}.png {('cat', 'Cat')[i % 2]}" for i in range(12)]
    notes = opened(root / "all", labels=written(tmp_path / "labels.txt", *pairs)).notes
    assert any("differ in case or spaces alone and count as two" in note for note in notes)
