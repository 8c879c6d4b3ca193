"""Images encoded by all ranks, with loader processes, and gone on with from disk: bit for bit what one process gives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contray import RunConfig, data, model
from contray.data.batches import EvalImages
from contray.errors import DataError
from contray.evaluation import Subject
from contray.evaluation.common import crew as crews
from contray.evaluation.common import parts
from contray.evaluation.common.crew import Asked, Crew
from contray.evaluation.common.parts import Kept
from contray.methods._base import Method
from contray.training.listener import Listener
from contray.training.loop import train
from tests.ranks import run_ranks

CPU = torch.device("cpu")
BROKEN = [3, 4, 5, 17, 30]  # 3 to 5: a whole batch
COUNT, SIZE = 32, 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 images of two classes, of which five are none."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for i in range(COUNT):
        file = folder / "ab"[i % 2] / f"{i:02d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)
    for i in BROKEN:
        files = sorted(folder.rglob("*.png"))
        files[i].write_bytes(b"no image")
    return folder


def config_of(photos: Path, **keys: Any) -> RunConfig:
    given = {
        "data__source": str(photos),
        "data__test_share": 0.0,
        "data__memory_gb": 0.0,
        "data__max_broken": 0.5,
        "data__workers": 0,
        **keys,
    }
    given |= {"backbone__width": 4, "method__dim": 8, "method__hidden": 4, "eval__batch_size": SIZE, "train__precision": "fp32"}
    return RunConfig.make("simsiam", {key.replace("__", "."): value for key, value in given.items()}, preset="digits")


def encode(crew: Crew, config: RunConfig, method: Method | None = None) -> tuple[list[Tensor], Tensor]:
    method = method or model.build(config, COUNT)
    method.train()
    found = crew.encode(Asked(np.arange(COUNT)), {"": method, "random_": crew.untrained, "pixels_": None})
    assert method.training
    return found


def same(a: tuple[list[Tensor], Tensor], b: tuple[list[Tensor], Tensor]) -> bool:
    return torch.equal(a[1], b[1]) and len(a[0]) == len(b[0]) and all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))


@pytest.fixture(scope="module")
def alone(photos: Path) -> tuple[list[Tensor], Tensor]:
    config = config_of(photos)
    return encode(Crew(config, data.open_source(config.data), CPU), config)


def in_ranks(rank: int, world: int, photos: str) -> dict[str, Any]:
    crews.PART = 2  # of which the batches of a rank are not always as many
    config = config_of(Path(photos))
    crew = Crew(config, data.open_source(config.data), CPU, shared=True)
    strict = config_of(Path(photos), data__max_broken=0.1)
    full = Crew(config, crew.source, CPU, shared=True)
    refusing = Crew(strict, crew.source, CPU, shared=True)
    if rank:
        crew.follow(model.build(config, COUNT))
        refusing.follow(model.build(config, COUNT))
        full.follow(model.build(config, COUNT))
        crew.follow(model.build(config, COUNT))
        return {}
    with crew.leading():
        method = model.build(config, COUNT)
        seen: dict[str, Any] = {"found": encode(crew, config, method), "met": dict(crew.source.train.met)}
        held = Asked(np.arange(COUNT), held="some")
        crew.encode(held, {})
        seen["held"] = [crew.encode(held, {"": method}) for _ in range(2)]
    try:
        with refusing.leading():
            encode(refusing, strict)
    except DataError as error:
        seen["refused"] = str(error)
    add = parts.Whole.add
    parts.Whole.add = lambda whole, rows: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with full.leading():
            encode(full, config)
    except ZeroDivisionError:
        seen["full"] = True
    parts.Whole.add = add
    with crew.leading():  # the others are still there
        seen["after"] = crew.encode(Asked(np.arange(4)), {"pixels_": None})[1].tolist()
    return seen


@pytest.fixture(scope="module")
def ranks(photos: Path) -> dict[str, Any]:
    return run_ranks(in_ranks, 3, str(photos))[0]


def test_ranks_give_what_one_gives(ranks: dict[str, Any], alone: tuple[list[Tensor], Tensor]) -> None:
    assert alone[1].tolist() == [i for i in range(COUNT) if i not in BROKEN]
    assert same(ranks["found"], alone)
    assert all(torch.equal(each[0][0], alone[0][0]) for each in ranks["held"])


def test_broken_images_are_counted_over_all_ranks(ranks: dict[str, Any]) -> None:
    assert sorted(ranks["met"]) == BROKEN
    assert "5 of 32 images are broken, more than data.max_broken 0.1 allows" in ranks["refused"]


def test_what_goes_wrong_on_the_first_rank_ends_the_work_of_all(ranks: dict[str, Any]) -> None:
    assert ranks["full"]
    assert ranks["after"] == [0, 1, 2], "the others wait for what is asked next"


def test_an_error_of_one_rank_is_told_on_the_first(photos: Path) -> None:
    assert run_ranks(failing, 2, str(photos)) == ["data.source: the store is gone", "followed"]


def failing(rank: int, world: int, photos: str) -> str:
    config = config_of(Path(photos))
    crew = Crew(config, data.open_source(config.data), CPU, shared=True)
    if rank:
        crew.source.train.image = None  # pyright: ignore[reportAttributeAccessIssue]

        def gone(i: int, rng: object) -> np.ndarray:
            raise DataError("data.source: the store is gone")

        crew.source.train.image = gone
        crew.follow(model.build(config, COUNT))
        return "followed"
    try:
        with crew.leading():
            encode(crew, config)
    except DataError as error:
        return str(error)
    return ""


class Heard(Listener):
    """What the online evaluations gave."""

    def __init__(self) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []

    def evaluated(self, step: int, fraction: float, values: Any, save: Any) -> None:
        self.values.append((step, dict(values)))


def trained(rank: int, world: int, photos: str) -> list[tuple[int, dict[str, float]]]:
    keys = {"train__steps": 2, "train__batch_size": 8, "train__norm_groups": 1, "eval__every_epochs": 0.25, "eval__knn__k": 3}
    config = config_of(Path(photos), data__memory_gb=1.0, **keys).replace({"train.precision": "fp64", "eval.holdout": 0.3})
    heard = Heard()
    train(config, data.open_source(config.data), None, heard)
    return heard.values


def test_ranks_measure_online_what_one_measures(photos: Path) -> None:
    first, second = run_ranks(trained, 2, str(photos))
    assert second == []
    alone = trained(0, 1, str(photos))
    assert [step for step, _ in first] == [step for step, _ in alone]
    for (_, values), (_, others) in zip(first, alone, strict=True):
        assert values == pytest.approx(others, rel=1e-4)
        assert {"knn_val_top1", "rankme", "fit_images", "val_images"} <= values.keys()


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(workers: int, photos: Path, alone: tuple[list[Tensor], Tensor]) -> None:
    config = config_of(photos, data__workers=workers)
    source = data.open_source(config.data)
    assert same(encode(Crew(config, source, CPU), config), alone)
    assert sorted(source.train.met) == BROKEN, "this process knows what the others met"


def test_a_set_that_does_not_fit_in_memory_is_mapped(
    photos: Path, alone: tuple[list[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int]] = []
    real = parts.mapped
    monkeypatch.setattr(parts, "mapped", lambda config, *shape: shapes.append(shape) or real(config, *shape))
    for room, count in ((0.0, 3), (1.0, 0)):
        shapes.clear()
        config = config_of(photos, data__memory_gb=room)
        assert same(encode(Crew(config, data.open_source(config.data), CPU), config), alone)
        assert len(shapes) == count


class Cut(BaseException):
    """What kills a process."""


def test_an_interrupted_call_goes_on_and_a_damaged_part_is_made_again(
    photos: Path, tmp_path: Path, alone: tuple[list[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "PART", 2)
    monkeypatch.setattr(Kept, "FROM", 10)
    monkeypatch.setattr(
        parts.shutil, "disk_usage", lambda place: SimpleNamespace(free=9e12, total=1e13)
    )  # however full this one is
    config = config_of(photos, data__scratch=str(tmp_path))
    loaded: list[int] = []
    real = EvalImages.load

    def counted(images: EvalImages, batch: int, slots: range = range(0)) -> dict[str, Any]:
        if len(loaded) == stop:
            raise Cut
        loaded.append(batch)
        return real(images, batch, slots)

    monkeypatch.setattr(EvalImages, "load", counted)
    source, stop = data.open_source(config.data), 7
    crew = Crew(config, source, CPU, keeps=True)
    with pytest.raises(Cut):
        encode(crew, config)
    (folder,) = (path for path in (tmp_path / "features").iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == [f"part-{i:06d}.safetensors" for i in range(3)]
    assert crew.kept
    for lock in crew.kept.locks:  # as the system does for a process that ends
        lock.release()
    torn = bytearray((folder / "part-000001.safetensors").read_bytes())
    torn[len(torn) // 2] ^= 1
    (folder / "part-000001.safetensors").write_bytes(torn)

    loaded.clear()
    stop = -1
    crew = Crew(config, data.open_source(config.data), CPU, keeps=True)
    assert same(encode(crew, config), alone)
    assert loaded == [2, 3, 6, 7, 8, 9, 10]
    assert sorted(crew.source.train.met) == BROKEN, "also those of the parts that were there"
    loaded.clear()
    encode(Crew(config.replace({"eval.batch_size": 4}), crew.source, CPU, keeps=True), config)
    assert len(loaded) == 8, "other batches, other features"
    crew.forget()
    assert not folder.exists()


def test_the_verdict_reads_each_image_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contray.evaluation import knn

    config = config_of(photos, eval__holdout=0.25)
    source = data.open_source(config.data)
    read: list[int] = []
    real = source.train.image
    monkeypatch.setattr(source.train, "image", lambda i, rng: read.append(i) or real(i, rng))
    subject = Subject(config, model.build(config, COUNT), CPU, given=source)
    found = knn.evaluate(subject, knn.Config(k=3))
    assert {"knn_val_top1", "random_knn_val_top1", "pixels_knn_val_top1"} <= found.keys()
    assert sorted(read) == list(range(COUNT))
