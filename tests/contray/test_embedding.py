"""Features of many images: every image a row in the order of names, broken ones with their reason; a second call goes on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contray import RunConfig, model
from contray.cli import main
from contray.encoder import Encoder, export, read_folder
from contray.errors import UserError
from contray.exchange import embedding


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


def test_nothing_is_done_where_all_is_there_and_what_is_there_must_be_the_same(
    encoder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, without Ray: the worker is called by hand."""

    def here(todo: list, job: embedding._Job, address: str) -> None:
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
    other = Encoder(trained.config, model.build(trained.config.replace({"seed": 1}), 100).eval())
    with pytest.raises(UserError, match="another encoder"):
        embedding.embed(str(images), out, other, part=4)


REFUSED = {
    "embed": ("SOURCE is missing",),
    "embed {images}": ("either --run RUN_ID or --checkpoint PATH",),
    "embed {images} --checkpoint {encoder} --part 0": ("--part", "at least 1"),
    "embed {images}/gone --checkpoint {encoder}": ("gone", "no image"),
    "embed {images}/notes.txt --checkpoint {encoder}": ("notes.txt", "no image"),
    "embed {images} --checkpoint {encoder} --out {images}": ("--out", "holds other files"),
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
