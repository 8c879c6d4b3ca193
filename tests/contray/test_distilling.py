"""Distillation without labels: the teacher is what was named, sees what it is used to, is in no checkpoint, and must be the same for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contray import data, model
from contray.config import RunConfig
from contray.errors import ConfigError
from contray.methods.distill import divergence, resemblance, resized
from contray.model import encoder
from contray.storage.checkpoint import latest
from contray.storage.folder import Storage
from contray.training.launch import plan_of
from contray.training.loop import train
from contray.training.start import guides_of, marks, started
from tests.contray.test_importing import torchvision_vit
from tests.contray.test_loop import TINY, Losses, tiny


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """An encoder of another width, which is used to pixels of another mean."""
    config = tiny("simclr", backbone__width=8, augment__mean="0.1", augment__std="0.7")
    encoder.export(config, model.build(config, 100), tmp_path / "teacher")
    return tmp_path / "teacher"


def student(teacher: object, **keys: Any) -> RunConfig:
    given = {"method.teacher": str(teacher), "method.queue_size": 80, "views.view.size": 16, "train.steps": 4}
    return RunConfig.make(
        "distill", {**TINY, **given, **{key.replace("__", "."): value for key, value in keys.items()}}, preset="digits"
    )


def test_the_teacher_sees_the_same_images_normalised_as_it_is_used_to(teacher: Path) -> None:
    config, pixels = started(student(teacher))[0], torch.rand(3, 3, 16, 16)
    method: Any = model.build(config, 100)
    theirs = encoder.read_folder(teacher)
    features, places = method.frozen["teacher"](pixels)
    torch.testing.assert_close(features, theirs.method.encode({"image": (pixels - 0.1) / 0.7}))
    torch.testing.assert_close(places.mean((2, 3)), features)  # a residual net's features are its map's mean
    images = (pixels - torch.tensor(config.augment.mean).view(-1, 1, 1)) / torch.tensor(config.augment.std).view(-1, 1, 1)
    torch.testing.assert_close(method.seen(images), pixels)
    assert method.projector.out_features == 64 == features.shape[1]
    assert not features.requires_grad
    larger: Any = model.build(config.replace({"method.teacher_size": 24}), 100)
    assert larger.seen(images).shape[2:] == (24, 24)


def test_a_run_has_its_teacher_on_record_and_in_no_checkpoint(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = student(teacher)
    config, _ = plan_of(asked, data.open_source(asked.data), Storage(str(tmp_path / "none")), quiet=False)
    assert f"learns from {teacher}, " in capsys.readouterr().out
    assert config.run_name == asked.run_name
    digest = marks(config)["the weights of method.teacher"]
    assert config.train.given == (f"method.teacher={digest}:64:64",)
    assert guides_of(config) == {"teacher": f"{teacher}, {digest[:12]}: 64 features, 64 in each cell of its map"}
    folder, source, whole, rest = Storage(str(tmp_path / "run")), data.open_source(config.data), Losses(), Losses()
    folder.create()
    train(config, source, None, whole)

    class Stopping(Losses):
        def stop(self) -> bool:
            return 1 in self.loss

    train(config, source, folder, Stopping())
    state = latest(folder)
    assert state is not None
    assert not [name for name in state["method"] if "teacher" in name or "frozen" in name]
    assert train(config, source, folder, rest).step == 4
    assert rest.loss == {step: loss for step, loss in whole.loss.items() if step in rest.loss}
    encoder.export(
        tiny("simclr", backbone__width=8, seed=9), model.build(tiny("simclr", backbone__width=8, seed=9), 100), teacher
    )
    with pytest.raises(ConfigError, match=r"method.teacher: holds other weights \(\w{12}\) than the run was given"):
        train(config, source, folder)
    for file in teacher.iterdir():
        file.unlink()
    read = encoder.read_checkpoint(folder.address)  # without the teacher
    assert read(torch.rand(2, 16, 16, 3).numpy()).shape == (2, 32)


def test_any_imported_network_teaches_and_what_cannot_is_refused(teacher: Path, tmp_path: Path) -> None:
    torch.save(torchvision_vit().state_dict(), tmp_path / "vit.pth")
    config, _ = started(student(tmp_path / "vit.pth"))
    assert config.train.given[0].endswith(":32:32")
    heard = Losses()
    train(config, data.open_source(config.data), None, heard)
    assert len(heard.loss) == 4

    def begin(config: RunConfig) -> None:
        model.check(started(config)[0], 5000)

    def refused(**keys: Any) -> str:
        with pytest.raises(ConfigError) as problem:
            begin(student(**{"teacher": teacher, **keys}))
        return str(problem.value)

    assert "method.teacher: say what is to be distilled" in refused(teacher="")
    with pytest.raises(ConfigError, match=r"method.teacher: say what"):  # a plan does not choose one
        begin(RunConfig.make("distill", preset="auto"))
    assert "no such file" in refused(teacher=tmp_path / "gone.pth")
    assert "no folder of a run" in refused(teacher="nosuchrun")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "odd.pth")
    unread = refused(teacher=tmp_path / "odd.pth")
    assert "its names tell no layout; say whose code wrote it" in unread
    assert "of a teacher, contray import --layout" in unread
    with pytest.raises(
        ConfigError, match=r"method.teacher_size: .*vit.pth has patches of 4 px .* images of 3 px; give 4 or more"
    ):
        begin(student(tmp_path / "vit.pth", method__teacher_size=3))
    deep = {name.replace("layer_3", "layer_9"): value for name, value in torchvision_vit().state_dict().items()}
    torch.save(deep | torchvision_vit().state_dict(), tmp_path / "deep.pth")
    assert "A teacher goes through an import first: contray import" in refused(teacher=tmp_path / "deep.pth")
    assert "is of 3 channels, the images have 5" in refused(data__channels=5, augment__mean="0.5", augment__std="0.5")
    assert "method.queue_size: got 1, must be from 65 (the global batch" in refused(method__queue_size=1)
    vit = {"teacher": tmp_path / "vit.pth", "method__local": 0.0}
    assert "px, which do not divide the 30 px of its images; method.teacher_size must" in refused(**vit, method__teacher_size=30)
    assert "makes one cell of the 4 px of its images" in refused(method__teacher_size=4)
    begin(student(teacher, method__teacher_size=4, method__local=0.0))
    assert "holds other weights" in refused(train__given=["method.teacher=0000:64:64"])
    (tmp_path / "vit.pth").write_bytes((tmp_path / "vit.pth").read_bytes()[:-500])
    assert "torn or no checkpoint" in refused(teacher=tmp_path / "vit.pth")


def test_the_losses_are_lightly_trains() -> None:
    """Literal: lightly-train `distillationv3.py` and `distillationv3_loss.py`, one GPU."""
    draw = torch.Generator().manual_seed(0)
    rows, kept, places, width, t = 6, 9, 5, 8, 0.07

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)

    student, teacher, queue = unit(rows, width), unit(rows, width), unit(kept, width)
    local_student, local_teacher = unit(rows, places, width), unit(rows, places, width)
    theirs = queue.clone()
    theirs[rows:] = queue[:-rows].clone()
    theirs[:rows] = teacher
    kl = torch.nn.KLDivLoss(reduction="batchmean", log_target=False)
    goal = F.softmax(torch.einsum("b d, c d -> b c", teacher, theirs) / t, dim=-1)
    whole = kl(F.log_softmax(torch.einsum("b d, c d -> b c", student, theirs) / t, dim=-1), goal)
    inner = [torch.einsum("b m d, b n d -> b m n", each, each).flatten(0, 1) / t for each in (local_student, local_teacher)]
    local = kl(F.log_softmax(inner[0], dim=-1), F.softmax(inner[1], dim=-1))

    ours = torch.cat([teacher, queue])[:kept]
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(divergence(student @ ours.T, teacher @ ours.T, t) / rows, whole)
    torch.testing.assert_close(divergence(resemblance(local_student), resemblance(local_teacher), t) / (rows * places), local)
    cells = torch.randn(2, 3, 4, 5, generator=draw)
    torch.testing.assert_close(resized(cells, (7, 3)), F.interpolate(cells, (7, 3), mode="bilinear", align_corners=False))
