"""Hugging Face's Arrow files, as `save_to_disk` and the library's cache have them, and its cache of the hub's Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contray.config.sections import DataConfig
from contray.data import BrokenImage, open_source
from contray.errors import UserError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value: int) -> bytes:
    return cv2.imencode(".png", np.full((3, 3, 3), value, np.uint8))[1].tobytes()


def features(*names: str) -> dict[str, str]:
    return {
        "huggingface": json.dumps(
            {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
        )
    }


def table(cells: list[Any], labels: list[int], kind: pa.DataType = IMAGE) -> pa.Table:
    cells = [{"bytes": each, "path": None} for each in cells] if kind == IMAGE and not isinstance(cells[0], dict) else cells
    return pa.table({"label": pa.array(labels, pa.int64()), "image": pa.array(cells, kind)}).replace_schema_metadata(
        features("owl", "cat", "ant")
    )


def written(path: Path, found: pa.Table, stream: bool = True, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(
        str(path), found.schema, options=pa.ipc.IpcWriteOptions(**options)
    ) as writer:
        writer.write_table(found, max_chunksize=3)
    return path


def saved(folder: Path, values: range) -> None:
    """As save_to_disk writes, in two shards."""
    half = len(values) // 2
    names = [f"data-0000{n}-of-00002.arrow" for n in range(2)]
    for name, some in zip(names, (values[:half], values[half:]), strict=True):
        written(folder / name, table([png(v) for v in some], [v % 3 for v in some]))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], "_split": None}))
    (folder / "dataset_info.json").write_text("{}")


def opened(place: Path, **more: Any):
    return open_source(DataConfig(source=str(place), scratch=str(place.parent / "scratch"), test_share=0.0, **more))


def rows(split: Any) -> list[tuple[int, str]]:
    return [(int(split.image(i, None)[0, 0, 0]), split.classes[label]) for i, label in enumerate(split.labels.tolist())]


def test_a_saved_set_with_splits_has_its_classes_in_the_declared_order(tmp_path: Path) -> None:
    saved(tmp_path / "set/train", range(10))
    saved(tmp_path / "set/test", range(20, 24))
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    written(tmp_path / "set/train/cache-1234.arrow", table([png(99)], [0]))  # what was computed from it
    source = opened(tmp_path / "set")
    assert source.train.classes == ["owl", "cat", "ant"]
    assert rows(source.train) == [(v, ("owl", "cat", "ant")[v % 3]) for v in range(10)]
    assert source.test is not None
    assert rows(source.test) == [(v, ("owl", "cat", "ant")[v % 3]) for v in range(20, 24)]
    held = source.train.shards()
    assert held is not None
    assert held.starts.tolist() == [0, 5, 10]
    assert not list((tmp_path / "scratch").glob("*.blob"))
    (tmp_path / "set/train/data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"set/train lacks data-00001-of-00002\.arrow, which its state\.json names"):
        opened(tmp_path / "set")


def test_the_librarys_cache_is_read(tmp_path: Path) -> None:
    place = tmp_path / "cache/cifar10/plain_text/0.0.0/0b2714987fa478483af9968de7c934580d0bb9a2"
    for name, values in (("train-00000-of-00002", range(4)), ("train-00001-of-00002", range(4, 8)), ("test", range(8, 10))):
        written(place / f"cifar10-{name}.arrow", table([png(v) for v in values], [v % 3 for v in values]))
    written(place / "cache-77.arrow", table([png(99)], [0]))
    source = opened(tmp_path / "cache/cifar10")
    assert [value for value, _ in rows(source.train)] == list(range(8))
    assert source.test is not None
    assert [value for value, _ in rows(source.test)] == [8, 9]


def test_the_hubs_cache_links_its_parquet_to_blobs(tmp_path: Path) -> None:
    (tmp_path / "hub/blobs").mkdir(parents=True)
    (tmp_path / "hub/snapshots/abc/data").mkdir(parents=True)
    for name, values in (("train", range(6)), ("test", range(6, 8))):
        pq.write_table(table([png(v) for v in values], [v % 3 for v in values]), tmp_path / f"hub/blobs/{name}")
        (tmp_path / f"hub/snapshots/abc/data/{name}-00000-of-00001.parquet").symlink_to(f"../../../blobs/{name}")
    source = opened(tmp_path / "hub/snapshots/abc")
    assert [value for value, _ in rows(source.train)] == list(range(6))
    assert source.test is not None
    assert len(source.test) == 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "kind", [IMAGE, pa.binary(), pa.large_binary(), pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())])]
)
def test_streams_and_files_of_every_layout(tmp_path: Path, stream: bool, kind: pa.DataType) -> None:
    data = [png(v) for v in range(7)]
    cells = [{"path": "x", "bytes": each} for each in data] if pa.types.is_struct(kind) else data
    source = opened(written(tmp_path / "x.arrow", table(cells, list(range(3)) + [0] * 4, kind), stream))
    assert [value for value, _ in rows(source.train)] == list(range(7))


def test_rows_without_bytes_name_files_beside_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(png(5))
    (tmp_path / "b.png").write_bytes(png(6))
    cells = [{"bytes": None, "path": name} for name in ("a.png", "../b.png", "c.png", None)] + [
        {"bytes": png(7), "path": "a.png"},
        None,
    ]
    train = opened(written(tmp_path / "set/x.arrow", table(cells, [0] * 6))).train
    assert [int(train.image(i, None)[0, 0, 0]) for i in (0, 4)] == [5, 7]
    for i, said in ((1, "leads out of"), (2, "is not there"), (3, "no bytes"), (5, "no bytes")):
        with pytest.raises(BrokenImage, match=said):
            train.image(i, None)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.arrow", table([png(v) for v in range(7)], [0] * 7)).read_bytes()
    for at in (0, 10, 300, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        (tmp_path / "x.arrow").write_bytes(whole[:at])
        with pytest.raises(UserError, match=r"^data\.source: .*x\.arrow is (no Arrow file|cut off)"):
            opened(tmp_path / "x.arrow")
    with pytest.raises(UserError, match=r"x\.arrow is compressed, so that no image of it can be read by itself"):
        opened(written(tmp_path / "x.arrow", table([b"a" * 5000] * 4, [0] * 4), compression="zstd"))
    with pytest.raises(UserError, match=r"holds the label 7, and names 3 classes"):
        opened(written(tmp_path / "x.arrow", table([png(1)], [7])))
    with pytest.raises(UserError, match=r"^data\.image_column: .* has no column 'img'; it has label, image"):
        opened(written(tmp_path / "x.arrow", table([png(1)], [0])), image_column="img")
