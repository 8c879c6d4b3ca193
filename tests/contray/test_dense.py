"""Detection and segmentation: the networks, how they are trained, what the rows share, and what lands in the run."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import contray
from contray import RunConfig, model, track
from contray.cli import main
from contray.data import scenes
from contray.errors import ConfigError, DataError, UserError
from contray.evaluation import Subject
from contray.evaluation.dense import frozen, protocol
from contray.evaluation.dense.bodies import body_of, dilate, stages_of
from contray.evaluation.dense.coco import CocoSet
from contray.evaluation.dense.detector import detector
from contray.evaluation.dense.frozen import Neighbours, shares
from contray.evaluation.dense.protocol import Row, Task, losses, measured, rate
from contray.evaluation.dense.rows import rows_of
from contray.evaluation.dense.samples import Wanted, batches, training_order
from contray.evaluation.dense.segmenter import Segmenter
from contray.methods._base import Method
from contray.model import encoder

CPU = torch.device("cpu")
SMALL = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 8, "train.precision": "fp32",
    "method.projector_hidden": 16, "method.projector_dim": 8, "train.batch_size": 64, "eval.detection.proposals": 8,
    **{f"eval.{name}.{key}": value for name in ("detection", "segmentation") for key, value in (("steps", 2), ("batch", 2), ("lr", 1e-3))},
}  # fmt: skip
PIXELS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.make("simclr", SMALL, preset="digits")


@pytest.fixture(scope="module")
def method(config: RunConfig) -> Method:
    """As if trained: no weight and no statistic is as it was built."""
    made = model.build(config, 100)
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in made.state_dict().values():
            if value.is_floating_point():
                value += 0.01 * torch.rand(value.shape, generator=noise)
    return made.eval()


@pytest.fixture(scope="module")
def parts() -> tuple[CocoSet, CocoSet]:
    def made(part: str, count: int) -> CocoSet:
        described, pictures = scenes.scenes(part, count, side=64)
        return CocoSet(part, described, pictures.__getitem__, 0.0)

    return made("train", 4), made("val", 3)


def quiet(message: dict) -> None:
    pass


def task_of(name: str, head: str, parts: tuple[CocoSet, CocoSet], config: RunConfig, **more: Any) -> Task:
    return Task(name, head, *parts, dataclasses.replace(config.parts[f"eval.{name}"], **more))


def rows(config: RunConfig, method: Method, supervised: str, **more: Any) -> list[Row]:
    options = dataclasses.replace(config.parts["eval.detection"], supervised=supervised, **more)
    return rows_of(Subject(config, method, CPU), options, "eval.detection.")


# ---------------------------------------------------------------- backbones


def test_the_backbone_is_the_one_that_encodes(config: RunConfig, method: Method) -> None:
    net = body_of(config, method)
    for name, value in net.state_dict().items():
        assert torch.equal(value, method.backbone.state_dict()[name]), name
    assert all(p.requires_grad for p in net.parameters())
    assert not {id(p) for p in net.parameters()} & {id(p) for p in method.parameters()}, "training must not change the encoder"


def test_of_dino_it_is_the_teacher() -> None:
    config = RunConfig.make("dino", {"backbone.name": "resnet_small", "backbone.width": 4}, preset="digits")
    made: Any = model.build(config, 100)
    for p in made.teacher.parameters():
        p.data += 1
    net = body_of(config, made)
    assert torch.equal(next(net.parameters()), next(made.teacher.parameters()))
    assert all(p.requires_grad for p in net.parameters()), "the teacher's own are not trained"


@pytest.mark.parametrize(
    ("name", "preset", "keys", "words"),
    [
        ("cmc", "digits", {}, ("method.name", "cmc", "RGB")),
        ("cpc", "digits", {}, ("method.name", "cpc", "one network")),
        ("deepcluster", "digits", {"method.input": "sobel"}, ("method.name", "deepcluster", "one network")),
    ],
)
def test_other_encoders_are_refused(name: str, preset: str, keys: dict, words: tuple[str, ...]) -> None:
    config = RunConfig.make(name, {"backbone.width": 16, **keys}, preset=preset)
    with pytest.raises(UserError) as caught:
        body_of(config, model.build(config, 200))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet_small", "resnet50"])
def test_a_dilated_stage_sees_what_the_strided_one_sees(name: str) -> None:
    config = RunConfig.make("simclr", {"backbone.name": name, "backbone.width": 4, "backbone.stem": "imagenet", "views.view.size": 64}, preset="digits")  # fmt: skip
    net: Any = body_of(config, model.build(config, 100)).eval()
    strides = {stage: found.stride for stage, found in stages_of(net).items()}
    assert strides == {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    stage = net.layer4
    x = torch.randn(1, stages_of(net)["layer3"].channels, 8, 8, generator=torch.Generator().manual_seed(0))
    wide = copy.deepcopy(stage)
    dilate(wide)
    with torch.no_grad():
        assert wide(x).shape[-2:] == (8, 8)
        torch.testing.assert_close(wide(x)[..., ::2, ::2], stage(x))


# ---------------------------------------------------------------- frozen


def test_a_cell_shows_the_shares_of_its_pixels_classes() -> None:
    classes = torch.tensor([[[0, 1, 255, 255], [1, 1, 255, 255], [2, 2, 255, 0], [2, 2, 2, 2]]])
    found = shares(classes, 3, (2, 2))
    assert found.shape == (1, 3, 2, 2)
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0.25, 0.75, 0]))
    assert not found[0, :, 0, 1].any(), "crowds and padding show nothing"
    torch.testing.assert_close(found[0, :, 1, 1], torch.tensor([1 / 3, 0, 2 / 3]))


def test_a_frozen_encoder_is_as_it_was_while_a_linear_layer_learns(
    config: RunConfig, method: Method, parts: tuple[CocoSet, CocoSet]
) -> None:
    task = task_of("segmentation", "linear", parts, config, steps=12, batch=4, lr=0.2)
    network = protocol.build(task, body_of(config, method), Row("", body_of, **PIXELS), config)  # pyright: ignore[reportArgumentType]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    told: list[float] = []
    protocol.train(task, network, config, CPU, "pretrained", lambda message: told.append(message["loss"]))
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    own = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert moved == {"head.weight", "head.bias", *(f"norm.{name}" for name in own)}
    assert told[-1] < 0.7 * told[0]


def test_tokens_of_training_images_vote_for_what_they_showed(
    parts: tuple[CocoSet, CocoSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for a training image, one neighbour is the token itself; of several the nearest count most, by exp(cosine / .02)."""
    config = RunConfig.make(
        "simclr", SMALL | {"backbone.name": "vit_mini", "backbone.width": 16, "backbone.patch": 8}, preset="digits"
    )
    task = task_of("segmentation", "knn", parts, config, k=1)
    network = protocol.build(task, body_of(config, model.build(config, 100)), Row("", body_of, **PIXELS), config)  # pyright: ignore[reportArgumentType]
    assert isinstance(network, Neighbours)
    protocol.remember(task, network, config)
    assert len(network.bank) == len(network.shown) == 4 * 64, "four images of 8 x 8 tokens, all of which fit"
    ((sample,),) = batches(parts[0], [[(0, False)]], Wanted(True, size=64), 0)
    image = sample.pixels[None].float() / 255
    rows = torch.nn.functional.normalize(network.tokens(image)[0].flatten(1).T, dim=1)  # (64, D)
    own = shares(sample.shown[None], network.classes, (8, 8))[0].flatten(1).T
    torch.testing.assert_close(network._votes(rows), own)
    assert network(image).shape == (1, 11, 64, 64)
    network.k = 3
    slow = []
    for row in rows:
        near = sorted(((float(row @ key), i) for i, key in enumerate(network.bank)), reverse=True)[:3]
        weights = torch.tensor([cosine for cosine, _ in near]).div(0.02).softmax(0)
        slow.append(sum(weight * network.shown[i] for weight, (_, i) in zip(weights, near, strict=True)))
    torch.testing.assert_close(network._votes(rows), torch.stack(slow), rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(frozen, "BANK", 12)
    protocol.remember(task, network, config)
    few = network.bank
    protocol.remember(task, network, config)
    assert len(few) == 12
    assert torch.equal(network.bank, few), "drawn as a function of seed and image"


def test_kept_tokens_are_of_images_as_they_are_whatever_the_batch() -> None:
    """Padded beside a larger one, an image's tokens would be others than those that it is asked with."""
    from pycocotools import mask as rle

    config = RunConfig.make(
        "simclr", SMALL | {"backbone.name": "vit_mini", "backbone.width": 16, "backbone.patch": 8}, preset="digits"
    )
    described, pictures = scenes.scenes("train", 4, side=64)
    width = {image["id"]: 48 if image["id"] < 3 else 64 for image in described["images"]}  # alike in a batch of two, not of four
    for each in described["annotations"]:
        cut = np.asfortranarray(rle.decode(each["segmentation"])[:, : width[each["image_id"]]])
        each["segmentation"] = {**(made := rle.encode(cut)), "counts": made["counts"].decode()}
    for image in described["images"]:
        image["width"] = width[image["id"]]
    narrow = [picture[:, : image["width"]] for image, picture in zip(described["images"], pictures, strict=True)]
    mixed = CocoSet("train", described, narrow.__getitem__, 0.0)
    body, banks = body_of(config, model.build(config, 100)), []
    for batch in (2, 4):
        task = task_of("segmentation", "knn", (mixed, mixed), config, k=1, batch=batch)
        network = protocol.build(task, body, Row("", body_of, **PIXELS), config)  # pyright: ignore[reportArgumentType]
        assert isinstance(network, Neighbours)
        protocol.remember(task, network, config)
        banks.append(network.bank)
    assert torch.equal(*banks)


# ---------------------------------------------------------------- networks


def drawn(task: Task, config: RunConfig) -> list:
    dense = task.name == "segmentation"
    return next(batches(task.train, [[(0, False), (1, True)]], Wanted(dense, task.masks, 64 if dense else 0), 0))


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("head", ["fpn", "c4", "mask", "fcn", "deeplab"])
def test_a_step_trains_everything_from_the_pretrained_weights(head: str, stem: str, parts: tuple[CocoSet, CocoSet]) -> None:
    config = RunConfig.make("simclr", {**SMALL, "backbone.stem": stem}, preset="digits")
    net = body_of(config, model.build(config, 100))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    task = task_of("segmentation" if head in ("fcn", "deeplab") else "detection", head, parts, config)
    network = protocol.build(task, net, Row("", lambda show: net, **PIXELS), config)

    held = {id(p): name for name, p in net.named_parameters()}
    inside = {id(p) for p in network.parameters()}
    assert inside >= held.keys(), f"outside of the network: {[name for key, name in held.items() if key not in inside]}"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), (
        "pretrained weights arrive untouched"
    )

    network.train()
    torch.manual_seed(0)
    loss = losses(task, network, drawn(task, config), CPU)
    assert loss.isfinite()
    loss.backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead
    moved = [name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert "conv1.weight" in moved
    assert any(name.startswith("layer4") for name in moved)


def test_the_pyramid_of_five_levels_is_the_papers() -> None:
    """At 800 px, on the ImageNet stem: one size of anchor per level, from 32 px; on coarse stems neighbours share sizes."""
    config = RunConfig.make("simclr", {**SMALL, "backbone.stem": "imagenet"}, preset="digits")
    made: Any = detector("fpn", body_of(config, model.build(config, 100)), 3, size=800, proposals=512, **PIXELS)
    assert made.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert made.rpn.post_nms_top_n() == 2048
    config = RunConfig.make("simclr", SMALL, preset="digits")
    made = detector("fpn", body_of(config, model.build(config, 100)), 3, size=100, proposals=64, **PIXELS)
    assert made.rpn.anchor_generator.sizes == ((4, 8, 16), (8, 16, 32), (16, 32, 64))
    made = detector("c4", body_of(config, model.build(config, 100)), 3, size=100, proposals=64, **PIXELS)
    assert made.rpn.anchor_generator.sizes == ((4, 8, 16, 32, 64),)
    assert made.rpn.pre_nms_top_n() == 24 * 64, "as detectron2's 12 000 of 512"
    made = detector("mask", body_of(config, model.build(config, 100)), 3, size=100, proposals=64, **PIXELS)
    assert not [name for name, _ in made.roi_heads.named_parameters() if "norm" in name or "bn" in name], (
        "on backbone and pyramid alone"
    )
    assert not [layer for layer in made.roi_heads.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def test_a_segmenter_normalises_as_the_encoder_was_trained(config: RunConfig, method: Method) -> None:
    net: Any = body_of(config, method)
    made = Segmenter("fcn", net, 3, (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)).eval()
    seen: list[torch.Tensor] = []
    net.conv1.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    image = torch.rand(1, 3, 64, 64)
    made(image)
    expected = (image - torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(seen[0], expected)


# ---------------------------------------------------------------- training


def test_the_rate_is_the_papers_schedule() -> None:
    assert rate(0, 24000) == pytest.approx(1 / 101)
    assert rate(99, 24000) == pytest.approx(100 / 101)
    assert rate(100, 24000) == rate(17999, 24000) == 1
    assert rate(18000, 24000) == rate(21999, 24000) == pytest.approx(0.1)
    assert rate(22000, 24000) == rate(23999, 24000) == pytest.approx(0.01)
    assert rate(0, 50) == pytest.approx(1 / 6), "a short run warms up over a tenth"


def test_epochs_are_whole_permutations_without_their_tail() -> None:
    order = training_order(3, 7, 2, 6, 0.5)
    first, second = ([i for batch in order[start : start + 3] for i, _ in batch] for start in (0, 3))
    assert len(set(first)) == len(set(second)) == 6
    assert first != second
    assert order == training_order(3, 7, 2, 9, 0.5)[:6]
    assert {flip for batch in order for _, flip in batch} == {True, False}
    assert not any(flip for batch in training_order(3, 7, 2, 6, 0.0) for _, flip in batch)


@pytest.mark.parametrize(("name", "head"), [("detection", "c4"), ("segmentation", "deeplab")])
def test_rows_differ_in_their_weights_alone(
    name: str, head: str, config: RunConfig, method: Method, parts: tuple[CocoSet, CocoSet]
) -> None:
    """The same weights give the same trained network in any row, others give another; the caller's generator is as it was."""
    mean, std = config.augment.mean, config.augment.std
    task, trained = task_of(name, head, parts, config), []

    def kept(task: Task, network: nn.Module, config: RunConfig) -> dict[str, float]:
        trained.append({key: value.clone() for key, value in network.state_dict().items()})
        return {"ap": 0.5}

    same = [Row(prefix, lambda show: body_of(config, method), mean, std) for prefix in ("", "scratch_")]
    other = Row("supervised_", lambda show: body_of(config, model.build(config, 100)), mean, std)
    shown: list[dict[str, Any]] = []
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "test", kept)
        metrics = measured(task, [*same, other], config, CPU, shown.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(metrics) == [f"{prefix}{name}_{head}_ap" for prefix in ("", "scratch_", "supervised_")]
    first, second, third = trained
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)
    assert [message["step"] for message in shown] == [1, 2, 3, 4, 5, 6]
    assert {message["total"] for message in shown} == {6}


def test_training_lowers_the_loss_and_moves_the_statistics(config: RunConfig, parts: tuple[CocoSet, CocoSet]) -> None:
    longer = config
    task = task_of("segmentation", "fcn", parts, config, steps=25, lr=0.02)
    net = body_of(longer, model.build(longer, 100))
    network = protocol.build(task, net, Row("", lambda show: net, **PIXELS), longer)
    seen: list[float] = []
    protocol.train(task, network, longer, CPU, "pretrained", lambda message: seen.append(message["loss"]))
    assert sum(seen[-4:]) < 0.7 * sum(seen[:4])
    assert not network.training
    assert int(net.bn1.num_batches_tracked) == 25  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def test_a_diverging_row_is_named(config: RunConfig, parts: tuple[CocoSet, CocoSet]) -> None:
    task = task_of("segmentation", "fcn", parts, config, lr=1e30, steps=5)
    rows = [Row("scratch_", lambda show: body_of(config, model.build(config, 100)), **PIXELS)]
    with pytest.raises(ConfigError, match=r"eval\.segmentation\.lr: scratch diverged at step \d with 1e\+30"):
        measured(task, rows, config, CPU, quiet)


def test_what_the_data_cannot_serve_is_refused(config: RunConfig, parts: tuple[CocoSet, CocoSet]) -> None:
    with pytest.raises(ConfigError, match=r"eval\.detection\.batch: got 5, but there are 4"):
        task_of("detection", "mask", parts, config, batch=5).check()
    with pytest.raises(ConfigError, match=r"eval\.detection\.size: got 32"):
        task_of("detection", "mask", parts, config, size=32).check()
    for row in (bare := copy.deepcopy(parts[1].truth.dataset))["annotations"]:
        row.pop("segmentation")
    unmasked = CocoSet("val.json", bare, parts[1].read, 0.0)
    task_of("detection", "c4", (parts[0], unmasked), config).check()
    with pytest.raises(DataError, match=r"val\.json: annotation 1 has the segmentation None"):
        task_of("detection", "mask", (parts[0], unmasked), config).check()


# ---------------------------------------------------------------- rows


def test_the_supervised_row_learns_from_training_labels_alone(
    config: RunConfig, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = config.replace({"train.steps": 2})
    opened: list[Subject] = []
    from contray.evaluation.dense import rows as module

    real = module.supervised

    def watched(subject: Subject, *rest: Any) -> Any:
        opened.append(subject)
        return real(subject, *rest)

    monkeypatch.setattr(module, "supervised", watched)
    pretrained, scratch, taught = rows(quick, method, "train", supervised_lrs=(1e-3, 3e-3))
    assert [row.prefix for row in (pretrained, scratch, taught)] == ["", "scratch_", "supervised_"]
    assert taught.steps == 4
    assert not opened, "nothing is trained before its turn"
    messages: list[dict[str, Any]] = []
    nets = [row.backbone(messages.append) for row in (pretrained, scratch, taught)]
    assert opened[0].test is None
    assert opened[0].source.test is not None
    assert [message["step"] for message in messages] == [1, 2, 3, 4]
    untrained = model.build(quick, 100).backbone.state_dict()
    same = [all(torch.equal(value, untrained[name]) for name, value in net.state_dict().items()) for net in nets]
    assert same == [False, True, False]
    assert torch.equal(nets[0].state_dict()["conv1.weight"], method.backbone.state_dict()["conv1.weight"])


def test_a_given_supervised_encoder_keeps_its_own_normalisation(config: RunConfig, method: Method, tmp_path: Path) -> None:
    given = config.replace({"augment.mean": (0.1, 0.2, 0.3)})
    encoder.export(given, method, tmp_path / "given")
    assert [row.prefix for row in rows(config, method, "none")] == ["", "scratch_"]
    row = rows(config, method, str(tmp_path / "given"))[-1]
    assert (row.prefix, row.mean, row.steps) == ("supervised_", (0.1, 0.2, 0.3), 0)
    assert torch.equal(row.backbone(quiet).state_dict()["conv1.weight"], method.backbone.state_dict()["conv1.weight"])
    other = config.replace({"backbone.width": 4})
    encoder.export(other, model.build(other, 100), tmp_path / "other")
    with pytest.raises(UserError, match=r"--supervised: .*backbone\.width 4, the encoder 8"):
        rows(config, method, str(tmp_path / "other"))
    unlabelled = config.replace({"data.label_column": ""})
    with pytest.raises(DataError, match=r"no labels.*--supervised none"):
        rows(unlabelled, method, "train")
    imported = RunConfig.make("imported", {"backbone.name": "resnet_small", "backbone.width": 4})
    with pytest.raises(UserError, match="--supervised: imported weights"):
        rows(imported, model.build(imported, 0), "train")


# ---------------------------------------------------------------- the command


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for part, count in (("train", 4), ("val", 2)):
        monkeypatch.setitem(scenes.COUNTS, part, count)


def test_every_row_lands_in_the_run_and_in_the_comparison(
    few: None, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    keys = {
        **SMALL, "train.steps": 2, "eval.final": (), "eval.every_epochs": 0.0, "scale.workers": (0, 0), "track.uri": store,
        "scale.storage": str(tmp_path / "runs"), "eval.detection.supervised_lrs": (1e-3,),
    }  # fmt: skip
    run = contray.train(RunConfig.make("simclr", keys, preset="digits"), quiet=True).run_id
    where = ["--run", run, "--track.uri", store]
    assert main(["eval", "detection", "--head", "c4", *where]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("pretrained", "untrained", "supervised", "detection_c4_ap75"))
    assert main(["data", "scenes", "--out", str(tmp_path / "my set")]) == 0
    rest = ["--data", str(tmp_path / "my set"), "--supervised", "none"]
    assert main(["eval", "segmentation", *rest, *where]) == 0
    assert main(["eval", "detection", "--head", "mask", *rest, *where]) == 0
    metrics, _ = track.attach(store, run).results()
    boxes = {f"{row}detection_c4_{name}" for row in ("", "scratch_", "supervised_") for name in ("ap", "ap50", "ap75")}
    classes = {f"my_set.{row}segmentation_fcn_miou" for row in ("", "scratch_")}
    masks = {f"my_set.{row}detection_mask_{name}" for row in ("", "scratch_") for name in ("ap", "segm_ap", "segm_ap50")}
    assert metrics.keys() >= boxes | classes | masks
    assert "my_set.supervised_segmentation_fcn_miou" not in metrics
    assert all(0 <= metrics[name] <= 1 for name in boxes | classes | masks)
    assert all(metrics[name] > 0 for name in classes)
    capsys.readouterr()
    assert main(["compare", "--run", run, "--track.uri", store, "--out", str(tmp_path / "compare.png")]) == 0
    shown = capsys.readouterr().out
    assert "segmentation" in shown
    assert f"{100 * metrics['my_set.segmentation_fcn_miou']:.1f}" in shown


def test_a_network_of_one_size_is_refused_in_one_line_before_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ("patch_size=8", "depth=1", "dynamic_img_size=False")
    vit = {"backbone.name": "timm/vit_tiny_patch16_224", "backbone.timm.options": fixed}
    config = RunConfig.make("simclr", {**SMALL, **vit}, preset="digits")
    encoder.export(config, model.build(config, 100), tmp_path / "vit")
    assert main(["eval", "detection", "--checkpoint", str(tmp_path / "vit"), "--data", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("contray: backbone.name: got timm/vit_tiny_patch16_224")
    assert err.count("\n") == 1
