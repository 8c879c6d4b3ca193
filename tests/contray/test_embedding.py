"""Features of many images: every image a row in the order of names, broken ones with their reason; a second call goes on."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contray import RunConfig, model
from contray.cli import main
from contray.config.sections import DataConfig
from contray.data import open_source
from contray.data.form import Form
from contray.errors import UserError
from contray.exchange import embedding
from contray.model.encoder import Encoder, export, read_folder
from tests.object_store import pictures


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    config = RunConfig.make("simsiam", {"backbone.width": 4, "method.dim": 8, "method.hidden": 4}, preset="digits")
    export(config, model.build(config, 100).eval(), folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven files, the third of them no image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deep").mkdir()
    generator = np.random.default_rng(0)
    for i in range(7):
        name = folder / ("deep" if i > 4 else "") / f"{i}.png"
        cv2.imwrite(str(name), generator.integers(0, 255, (20 + i, 32, 3), dtype=np.uint8))
    (folder / "2.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


def pixels(file: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


def expected(encoder: Encoder, images: Path, names: list[str]) -> torch.Tensor:
    return encoder([pixels(images / name) for name in names])


def check(rows: list[dict], names: list[str], encoder: Encoder, images: Path, files: list[str]) -> None:
    """rows against the features of `files`; the third is broken."""
    assert [row["name"] for row in rows] == names
    assert [row["error"] for row in rows] == [None, None, "not decodable", None, None, None, None]
    assert [row["embedding"] is None for row in rows] == [i == 2 for i in range(7)]
    whole = [i for i in range(7) if i != 2]
    features = torch.tensor([rows[i]["embedding"] for i in whole])
    torch.testing.assert_close(features, expected(encoder, images, [files[i] for i in whole]), rtol=1e-5, atol=1e-6)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray", "ignore:unclosed:ResourceWarning")
def test_a_folder_and_parquet_become_rows_and_are_gone_on_with(
    encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        files = ["0.png", "1.png", "2.png", "3.png", "4.png", "deep/5.png", "deep/6.png"]
        out = tmp_path / "embeddings.parquet"
        words = ["embed", str(images), "--checkpoint", str(encoder), "--out", str(out), "--part", "3"]
        assert main(words) == 0
        assert capsys.readouterr().out.strip() == f"7 images in {out} (1 broken)"
        parts = sorted(path.name for path in out.glob("*.parquet"))
        assert parts == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
        rows = pq.read_table(out).to_pylist()
        check(rows, files, read_folder(encoder), images, files)

        kept = {name: (out / name).stat().st_mtime_ns for name in parts}
        (out / parts[1]).unlink()
        assert main(words) == 0
        assert capsys.readouterr().out.strip() == f"7 images in {out} (1 broken, 2 of 3 parts were there)"
        assert pq.read_table(out).to_pylist() == rows
        assert [(out / name).stat().st_mtime_ns == kept[name] for name in parts] == [True, False, True]

        table = pa.table({"image": [{"bytes": (images / name).read_bytes(), "path": name} for name in files]})
        pq.write_table(table, tmp_path / "images.parquet", row_group_size=4)
        embedding.embed(str(tmp_path / "images.parquet"), str(tmp_path / "of_parquet"), read_folder(encoder))
        rows = pq.read_table(tmp_path / "of_parquet").to_pylist()
        check(rows, [f"images.parquet#{i}" for i in range(7)], read_folder(encoder), images, files)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("parquet", [False, True])
def test_images_of_more_than_8_bits_have_one_range(
    parquet: bool, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two images of a 12-bit camera the dark one stays dark."""
    ramp = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
    source = tmp_path / "source"
    source.mkdir()
    for i, scale in enumerate((4, 1)):
        cv2.imwrite(str(source / f"{i}.png"), ramp * scale)
    if parquet:
        files = [(source / f"{i}.png").read_bytes() for i in (0, 1)]
        source = tmp_path / "source.parquet"
        pq.write_table(pa.table({"image": files}), source, row_group_size=1)

    def here(todo: list, job: embedding._Job, *more: object) -> None:
        for each in todo:
            embedding._Embedder(job)({"part": [each["part"]], "names": [each["names"]], "group": [each["group"]]})

    monkeypatch.setattr(embedding, "_run", here)
    trained = read_folder(encoder)
    embedding.embed(str(source), str(tmp_path / "out"), trained)
    assert "values of 0 to 4095 become 0 to 255 (2 of 2 sampled" in capsys.readouterr().err
    found = torch.tensor(pq.read_table(tmp_path / "out").column("embedding").to_pylist())
    grey = [np.repeat(np.rint(ramp * scale * (255 / 4095)).astype(np.uint8)[..., None], 3, 2) for scale in (4, 1)]
    torch.testing.assert_close(found, trained(grey), rtol=1e-5, atol=1e-6)


def test_nothing_is_done_where_all_is_there_and_what_is_there_must_be_the_same(
    encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, without Ray: the worker is called by hand."""

    def here(todo: list, job: embedding._Job, *more: object) -> None:
        worker = embedding._Embedder(job)
        for each in todo:
            worker({"part": [each["part"]], "names": [each["names"]], "group": [each["group"]]})
        done.append(len(todo))

    done: list[int] = []
    monkeypatch.setattr(embedding, "_run", here)
    trained, out = read_folder(encoder), str(tmp_path / "out")
    for _ in range(2):
        embedding.embed(str(images), out, trained, part=4)
    assert done == [2]
    with pytest.raises(UserError, match="of other images"):
        embedding.embed(str(images), out, trained, part=3)
    others = [Encoder(trained.config, model.build(trained.config.replace({"seed": 1}), 100).eval())]
    others += [
        Encoder(trained.config.replace(keys), trained.method)
        for keys in ({"augment.mean": (0.9, 0.9, 0.9)}, {"data.shorter_side": 16})
    ]
    for other in others:
        with pytest.raises(UserError, match="another encoder"):
            embedding.embed(str(images), out, other, part=4)
    (tmp_path / "out" / embedding.PLAN).write_bytes(b"{")
    with pytest.raises(UserError, match=r"_plan\.json, which says whose features these are, is damaged"):
        embedding.embed(str(images), out, trained, part=4)


def test_features_that_are_no_numbers_are_told_and_counted(encoder: Path, images: Path, tmp_path: Path) -> None:
    broken = read_folder(encoder)
    with torch.no_grad():
        next(broken.method.backbone.parameters()).fill_(float("nan"))
    found = embedding.embed(str(images), str(tmp_path / "out"), broken)
    assert found.broken == found.rows == 7
    errors = pq.read_table(tmp_path / "out").column("error").to_pylist()
    assert errors == ["not decodable" if i == 2 else "its features are not finite" for i in range(7)]


def embedded(
    monkeypatch: pytest.MonkeyPatch, source: str, out: Path, encoder: Path, **options: int
) -> tuple[list[dict], embedding.Embedded]:
    """The rows of `source`, embedded in this process, without Ray."""

    def here(todo: list, job: embedding._Job, *more: object) -> None:
        worker = embedding._Embedder(job)
        for each in todo:
            worker({name: [value] for name, value in each.items()})

    monkeypatch.setattr(embedding, "_run", here)
    done = embedding.embed(source, str(out), read_folder(encoder), **options)
    return [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()], done


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_image_is_what_training_takes_for_one(
    encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """On a disk and, by the way of addresses, on an object store."""
    data = (images / "0.png").read_bytes()
    names = ["_DSC0001.PNG", "b.gif", "deep/c.Png", ".hidden/d.png", "._e.png", "@eaDir/f.png", "metadata.txt"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "in" / "metadata.parquet")
    rows, done = embedded(monkeypatch, f"{scheme}{tmp_path / 'in'}", tmp_path / "out", encoder)
    assert [row["name"] for row in rows] == names[:3]
    assert all(row["error"] is None for row in rows)
    for part in ("2 hidden folder(s)", "1 hidden file(s)", "1 .txt", "1 .parquet without images in a column 'image'"):
        assert part in done.skipped
    pq.write_table(pa.table({"image": [data]}), tmp_path / "in" / "more.parquet")
    with pytest.raises(
        UserError, match=r"holds both images \(_DSC0001.PNG and 2 more\) and Parquet with images \(more.parquet\)"
    ):
        embedded(monkeypatch, f"{scheme}{tmp_path / 'in'}", tmp_path / "other", encoder)


def test_names_of_any_bytes_are_escaped(encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"in")
    os.mkdir(folder)
    for name in (b"caf\xe9.png", b"new\nline.png"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write((images / "0.png").read_bytes())
    rows, _ = embedded(monkeypatch, str(tmp_path / "in"), tmp_path / "out", encoder)
    assert [(row["name"], row["error"]) for row in rows] == [(r"caf\xe9.png", None), ("new\nline.png", None)]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_rows_that_name_files(encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    (tmp_path / "in" / "pictures").mkdir(parents=True)
    (tmp_path / "in" / "pictures" / "0.png").write_bytes((images / "0.png").read_bytes())
    cells = [{"bytes": None, "path": path} for path in ("pictures/0.png", "gone.png", "../../secret.png")]
    cells.append({"bytes": (images / "0.png").read_bytes(), "path": None})
    pq.write_table(pa.table({"image": cells}), tmp_path / "in" / "x.parquet")
    rows, done = embedded(monkeypatch, f"{scheme}{tmp_path / 'in' / 'x.parquet'}", tmp_path / "out", encoder)
    assert [row["name"] for row in rows] == [f"x.parquet#{i}" for i in range(4)]
    assert [row["error"] is None for row in rows] == [True, False, False, True]
    assert "'gone.png' that the row names is not there" in rows[1]["error"]
    assert "leads out of" in rows[2]["error"]
    assert rows[0]["embedding"] == rows[3]["embedding"]
    assert (done.rows, done.broken) == (4, 2)


def test_finished_parts_are_counted_from_their_footers_and_only_for_the_same_contents(
    encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    shutil.copytree(images, source)
    _, first = embedded(monkeypatch, str(source), tmp_path / "out", encoder, part=4)
    read, whole = embedding.Storage.read, []
    monkeypatch.setattr(embedding.Storage, "read", lambda self, name: (whole.append(name), read(self, name))[1])
    _, again = embedded(monkeypatch, str(source), tmp_path / "out", encoder, part=4)
    assert (first.rows, first.broken, first.there) == (again.rows, again.broken, again.there - 2) == (7, 1, 0)
    assert whole == [embedding.PLAN]
    data = (source / "0.png").read_bytes()
    (source / "0.png").write_bytes(data[:-1] + b"x")  # as large as before
    with pytest.raises(UserError, match="of other images"):
        embedded(monkeypatch, str(source), tmp_path / "out", encoder, part=4)


REFUSED = {
    "embed": ("SOURCE is missing",),
    "embed {images}": ("either --run RUN_ID or --checkpoint PATH",),
    "embed {images} --checkpoint {encoder} --part 0": ("--part", "at least 1"),
    "embed {images}/gone --checkpoint {encoder}": ("gone", "does not exist"),
    "embed {images}/notes.txt --checkpoint {encoder}": ("notes.txt", "no image"),
    "embed {images} --checkpoint {encoder} --out {images}": ("--out", "lies among the images"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED.items(), ids=list(REFUSED))
def test_refused_in_one_line(
    words: str, said: tuple[str, ...], encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(words.format(images=images, encoder=encoder).split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    for part in said:
        assert part in err
    assert not list(tmp_path.iterdir())


def test_threads_that_decode_ahead_change_nothing(
    encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the images come in another order than they are ready in, and fewer are ahead than there are."""
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", 2)
    real, waits = Form.decode, threading.Semaphore(0)

    def late(form: Form, data: bytes, name: str, *more: Any) -> np.ndarray:
        if name == "0.png" and threads > 1:
            assert waits.acquire(timeout=30), "the others wait for the first"
        found = real(form, data, name, *more)
        waits.release()
        return found

    monkeypatch.setattr(Form, "decode", late)
    monkeypatch.setattr(embedding, "_run", lambda todo, job, *more: worker(todo, replace(job, threads=threads)))

    def worker(todo: list[dict[str, Any]], job: embedding._Job) -> None:
        for each in todo:
            embedding._Embedder(job)({name: [value] for name, value in each.items()})

    found = []
    for threads, ahead in ((1, 0), (3, 2), (3, 100)):
        monkeypatch.setattr(embedding, "AHEAD", ahead)
        embedding.embed(str(images), str(tmp_path / f"{threads}-{ahead}"), read_folder(encoder))
        found.append(pq.read_table(tmp_path / f"{threads}-{ahead}").to_pylist())
    assert found[0] == found[1] == found[2]
    assert [row["error"] for row in found[0]] == [None, None, "not decodable", None, None, None, None]


def test_what_lies_in_shards_is_embedded_as_its_files_are(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By names of its own, in parts that are not its shards; and gone on with."""
    files, _ = embedded(monkeypatch, str(pictures(tmp_path / "files", "folder", 12)), tmp_path / "of_files", encoder)
    tars = pictures(tmp_path / "tars", "tar", 12)
    rows, done = embedded(monkeypatch, str(tars), tmp_path / "of_tars", encoder, part=5, scratch=str(tmp_path / "scratch"))
    assert any((tmp_path / "scratch").iterdir())
    assert (done.rows, done.broken, done.parts, done.there) == (12, 0, 3, 0)
    assert rows[0]["name"] == open_source(DataConfig(source=str(tars), test_share=0.0)).train.key(0)
    of = {row["name"][-8:-4]: row["embedding"] for row in rows}
    assert len(of) == 12
    for row in files:
        np.testing.assert_allclose(of[Path(row["name"]).stem], row["embedding"], rtol=1e-5, atol=1e-6)
    (tmp_path / "of_tars" / "part-000001.parquet").unlink()
    again, done = embedded(monkeypatch, str(tars), tmp_path / "of_tars", encoder, part=5)
    assert (again, done.there) == (rows, 2)
    alone, _ = embedded(monkeypatch, str(tars / "train-0001.tar"), tmp_path / "of_one", encoder)
    assert len(alone) == 4
