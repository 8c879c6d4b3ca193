"""Few labels: which, what is trained on them, what picks the rate, and the reference that is trained with all."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from contray import RunConfig, data, model
from contray.config.registry import method_names
from contray.data.splits import ArraySplit
from contray.errors import ConfigError, UserError
from contray.evaluation import finetune_mae
from contray.evaluation.common import classifier as finetune
from contray.evaluation.common.augmented import by_augmented, recipe_of, with_drop_path
from contray.evaluation.common.classifier import Classifier, labelled_subset, optimizer_of, rate_scales, warmed_cosine
from contray.evaluation.common.labelled import cropped_views, first_inputs, score
from contray.evaluation.common.settings import Augmented
from contray.evaluation.finetune import Config
from contray.methods._base import Batch, View
from contray.methods._norms import DropPath
from tests.contray.evaluations import CPU, evaluated
from tests.contray.test_evaluate_protocols import RESNET, built, coloured, quiet, vit_config

OPTIONS = {
    "eval.finetune.lrs": (1e-5, 1e-2), "eval.finetune.epochs": 8, "eval.finetune.batch": 16, "eval.supervised.lrs": (1e-5, 1e-2),
}  # fmt: skip


def finetuned(config: RunConfig, source: data.Source, method, labels: str, show=quiet) -> dict[str, float]:
    return evaluated("finetune", config.replace({"eval.finetune.labels": labels}), source, method, show=show)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.make("simclr", {**RESNET, **OPTIONS}, preset="digits")


@pytest.fixture(scope="module")
def easy() -> data.Source:
    return data.Source("colours", coloured(400, 0), coloured(120, 1))


# ---------------------------------------------------------------- which labels


def test_subsets_are_balanced_nested_and_named() -> None:
    digits = data.open_source(RunConfig.make("simclr", preset="digits").data).train
    assert digits.labels is not None
    one, ten, few = (labelled_subset(digits, labels) for labels in ("0.01", "0.1", "3-per-class"))
    assert (one.name, ten.name, few.name) == ("1pct", "10pct", "3perclass")
    assert np.bincount(digits.labels[one.ids]).tolist() == [6] * 10, "5,748 images"
    assert np.bincount(digits.labels[few.ids]).tolist() == [3] * 10
    assert set(few.ids) < set(one.ids) < set(ten.ids)
    assert one.ids.tolist() == sorted(one.ids)
    assert one.ids.tolist() == labelled_subset(digits, "0.01").ids.tolist()
    whole = labelled_subset(digits, "1.0")
    assert (whole.name, len(whole.ids)) == ("100pct", len(digits))
    assert labelled_subset(digits, "0.005").name == "0_5pct"


def test_a_small_class_gives_what_it_has() -> None:
    labels = np.array([0] * 50 + [1] * 3)
    split = ArraySplit("uneven", np.zeros((53, 4, 4, 3), np.uint8), labels, ["a", "b"])
    assert np.bincount(labels[labelled_subset(split, "5-per-class").ids]).tolist() == [5, 3]


@pytest.mark.parametrize(
    ("labels", "said"),
    [("0", "got '0'"), ("1.5", "got '1.5'"), ("ten", "got 'ten'"), ("nan", "got 'nan'"), ("0-per-class", "got '0-per-class'"), ("0.001", "less than one of each")],
)  # fmt: skip
def test_labels_that_say_nothing_are_refused(labels: str, said: str, easy: data.Source) -> None:
    with pytest.raises(UserError, match=f"^--labels: .*{said}"):
        labelled_subset(easy.train, labels)


# ---------------------------------------------------------------- what is trained


@pytest.mark.parametrize("name", method_names())
def test_every_method_can_be_fine_tuned(name: str) -> None:
    """Scores of every method's encoder; each trainable parameter gets a gradient and the method itself stays as it was."""
    config = RunConfig.make(name, {"train.precision": "fp32"}, preset="digits")
    source = data.open_source(config.data)
    method = model.build(config, len(source.train))
    before = copy.deepcopy(method.state_dict())
    wanted = [p.requires_grad for p in method.parameters()]
    inputs = first_inputs(config, source.train, np.arange(4), CPU)
    network = Classifier(method, inputs, 7)
    scores = network(inputs)
    assert scores.shape == (1, 7)
    assert torch.equal(scores, torch.zeros(1, 7)), "the new layer starts at zero"
    torch.nn.init.ones_(network.head.weight)
    network(inputs).pow(2).sum().backward()
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        n for n, p in network.named_parameters() if p.grad is not None
    }
    assert [p.requires_grad for p in method.parameters()] == wanted
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_what_encodes_is_trained_and_simclr_v2_keeps_a_layer_of_its_projector() -> None:
    def trainable(name: str, **more) -> set[str]:
        config = RunConfig.make(name, {"train.precision": "fp32"}, preset="digits")
        source = data.open_source(config.data)
        inputs = first_inputs(config, source.train, np.arange(4), CPU)
        network = Classifier(model.build(config, len(source.train)), inputs, 10, **more)
        return {".".join(n.split(".")[1:3]) for n, p in network.named_parameters() if p.requires_grad and "method." in n}

    assert {part.split(".")[0] for part in trainable("simclr")} == {"backbone"}
    assert {part.split(".")[0] for part in trainable("dino")} == {"teacher"}
    v2 = trainable("simclr_v2")
    assert {part for part in v2 if part.startswith("projector")} == {"projector.0", "projector.1"}
    assert not any(part.startswith("projector") for part in trainable("simclr_v2", project=False)), "as the supervised reference"


def test_rates_fall_from_block_to_block() -> None:
    config = vit_config()
    source = data.open_source(config.data)
    network = Classifier(built(config, source), first_inputs(config, source.train, np.arange(4), CPU), 10)
    scales = rate_scales(network, 0.5, "")
    net = "method.backbone."
    assert scales["head.weight"] == scales[f"{net}encoder.ln.weight"] == 1
    blocks = [scales[f"{net}encoder.layers.encoder_layer_{i}.ln_1.weight"] for i in range(4)]
    assert blocks == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    for name in ("conv_proj.weight", "class_token", "encoder.pos_embedding"):
        assert scales[net + name] == 1 / 32
    assert set(rate_scales(network, 1.0, "").values()) == {1.0}
    groups = optimizer_of(network, Config(decay=0.1, layer_decay=0.5), "").param_groups
    assert sum(len(group["params"]) for group in groups) == len(scales)
    assert all((group["weight_decay"] > 0) == (p.ndim > 1) for group in groups for p in group["params"])


def test_lars_leaves_the_classifier_to_plain_momentum(config: RunConfig, easy: data.Source) -> None:
    """It starts at zero: adapted, its rate would be 0.001 |w| / |g|, next to none for ever (google-research/simclr adapts no `head_supervised`)."""
    network = Classifier(built(config, easy), first_inputs(config, easy.train, np.arange(4), CPU), 3)
    optimizer = optimizer_of(network, Config(optim="lars", decay=0.1), "")
    torch.manual_seed(0)
    grads = [torch.randn_like(network.head.weight) for _ in range(3)]
    weight, velocity = torch.zeros_like(network.head.weight), torch.zeros_like(network.head.weight)
    for rate, grad in zip((0.2, 0.1, 0.05), grads, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        network.head.weight.grad = grad
        optimizer.step()
        velocity = 0.9 * velocity + rate * (grad + 0.1 * weight)
        weight = weight - velocity
        torch.testing.assert_close(network.head.weight.detach(), weight)
    others = [group for group in optimizer.param_groups if all(p is not network.head.weight for p in group["params"])]
    assert sum(group["adapted"] for group in others) >= 2


def test_a_resnet_has_no_layer_decay(config: RunConfig, easy: data.Source) -> None:
    decayed = config.replace({"eval.finetune.layer_decay": 0.65})
    with pytest.raises(ConfigError, match=r"^eval\.finetune\.layer_decay: got 0\.65, but the backbone has no transformer blocks"):
        finetuned(decayed, easy, built(config, easy), "0.1")


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    rates = [warmed_cosine(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 1e-3
    assert all(0 < warmed_cosine(step, steps, 0.1) <= 1 for steps in (1, 2, 5) for step in range(steps))
    assert [warmed_cosine(step, 4, 0.0) for step in range(4)] == pytest.approx(
        [0.5 + 0.5 * math.cos(math.pi * step / 4) for step in range(4)]
    )


# ---------------------------------------------------------------- the protocol


def test_only_the_subsets_labels_are_used_and_the_encoder_stays(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = built(config, easy)
    before = copy.deepcopy(method.state_dict())
    torch.manual_seed(5)
    state, messages = torch.get_rng_state(), []
    results = finetuned(config, easy, method, "0.1", messages.append)
    assert set(results) == {f"{kind}_10pct_{name}" for kind in ("finetune", "scratch") for name in ("top1", "val_top1")}
    assert results["finetune_10pct_top1"] > 0.5
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    steps = [message["step"] for message in messages]
    assert steps == list(range(1, messages[-1]["total"] + 1))

    subset = labelled_subset(easy.train, "0.1").ids
    train = coloured(400, 0)
    assert train.labels is not None
    outside = np.setdiff1d(np.arange(400), subset)
    train.labels[outside] = np.random.default_rng(0).permutation(train.labels[outside])
    spoilt = data.Source("colours", train, easy.test)
    monkeypatch.setattr(finetune, "labelled_subset", lambda split, labels: finetune.Subset(subset, "10pct"))
    assert finetuned(config, spoilt, method, "0.1") == results


def test_scratch_starts_from_the_same_network_untrained_with_the_same_budget(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained encoder gains nothing over from scratch; and each is trained on the same images, steps and rates."""
    runs: list[tuple] = []
    train = finetune.train_classifier

    def noted(network, config, options, key, images, steps, lr, told, loss_of):
        runs.append((tuple(images.batches.members), images.batch_size, steps, lr))
        train(network, config, options, key, images, steps, lr, told, loss_of)

    monkeypatch.setattr(finetune, "train_classifier", noted)
    untrained = model.build(config, len(easy.train))
    three = config.replace({"eval.finetune.lrs": (1e-6, 1e-2, 10.0)})
    results = finetuned(three, easy, untrained, "10-per-class")
    assert runs[:4] == runs[4:]
    assert results["finetune_10perclass_top1"] == results["scratch_10perclass_top1"]
    *fits, both = (set(run[0]) for run in runs[:4])
    assert fits == [fits[0]] * 3
    assert fits[0] < both == set(labelled_subset(easy.train, "10-per-class").ids)
    assert len(fits[0]) == 32
    assert [run[3] for run in runs[:4]] == [1e-6, 1e-2, 10.0, 1e-2], "neither standing still nor jumping about is picked"

    other = copy.deepcopy(untrained)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(torch.rand_like(p))
    changed = finetuned(three, easy, other, "10-per-class")
    assert changed["scratch_10perclass_top1"] == results["scratch_10perclass_top1"]
    assert changed["finetune_10perclass_top1"] != results["finetune_10perclass_top1"]


def test_held_out_images_pick_the_rate_and_the_test_set_is_opened_last(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def noted(config, split, ids, classify, device):
        opened.append("test" if split is easy.test else "train")
        return score(config, split, ids, classify, device)

    monkeypatch.setattr(finetune, "score", noted)
    quick = config.replace({"eval.finetune.epochs": 1})
    finetuned(quick, easy, built(config, easy), "0.1")
    assert opened == ["train", "train", "test"] * 2
    untested = finetuned(quick, data.Source("colours", easy.train, None), built(config, easy), "0.1")
    assert set(untested) == {"finetune_10pct_val_top1", "scratch_10pct_val_top1"}


def test_a_diverged_rate_never_wins(config: RunConfig, easy: data.Source) -> None:
    wild = config.replace({"eval.finetune.lrs": (1e-2, 1e30), "eval.finetune.epochs": 4})
    tame = wild.replace({"eval.finetune.lrs": (1e-2,)})
    method = built(config, easy)
    assert finetuned(wild, easy, method, "0.1") == finetuned(tame, easy, method, "0.1")
    with pytest.raises(ConfigError, match=r"^eval\.finetune\.lrs: finetune_10pct diverged with each of 1e\+30"):
        finetuned(wild.replace({"eval.finetune.lrs": (1e30,)}), easy, method, "0.1")


def test_one_image_per_class_leaves_nothing_to_choose_by(config: RunConfig, easy: data.Source) -> None:
    with pytest.raises(UserError, match="1-per-class leaves nothing to pick a rate by"):
        finetuned(config, easy, built(config, easy), "1-per-class")


def test_batch_norm_is_trained_too(config: RunConfig, easy: data.Source) -> None:
    method = built(config, easy)
    network = Classifier(method, first_inputs(config, easy.train, np.arange(4), CPU), 4)
    images = finetune.CroppedImages(config, easy.train, np.arange(64), 16, CPU)
    losses: list[float] = []
    finetune.train_classifier(network, config, Config(), "", images, 12, 1e-2, lambda step, loss: losses.append(loss))
    norm = "backbone.bn1.running_mean"
    assert not torch.equal(network.method.state_dict()[norm], method.state_dict()[norm])
    assert losses[0] == pytest.approx(math.log(4))
    assert losses[-1] < 1
    assert not network.training


# ---------------------------------------------------------------- augmented


def pictures(step: int = 0, rows: int = 64) -> tuple[Batch, torch.Tensor]:
    """Two inputs of one picture, of one and two channels, each constant and of its own value; and labels of four classes."""
    own = torch.arange(1.0, rows + 1)[:, None, None, None].expand(rows, 3, 8, 8)
    slots = torch.arange(rows)
    return Batch({"a": own[:, :1], "b": own[:, 1:]}, slots, slots, rows, seed=3, step=step), slots % 4


def seen(options: Augmented, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network is given, (B, 3, 8, 8), and the gradient at zero scores, which is their softmax less the target, (B, C)."""
    batch, y = pictures(step)
    given: list[torch.Tensor] = []
    scores = torch.zeros(len(y), 4, requires_grad=True)

    def network(views):
        given.append(torch.cat(list(views.values()), 1))
        return scores

    by_augmented(options, 4)(network, batch, y).backward()  # pyright: ignore[reportArgumentType]
    assert scores.grad is not None
    return given[0], 0.25 - len(y) * scores.grad  # (B, C) targets


def test_mixed_images_have_the_labels_of_their_parts() -> None:
    """Mixup: every pixel is l of the image and 1 - l of the one before; CutMix: so many pixels are its own. Labels are smoothed after (timm's Mixup)."""
    batch, y = pictures()
    own, other = torch.cat(list(batch.views.values()), 1), torch.cat(list(batch.views.values()), 1).roll(1, 0)
    hot = torch.nn.functional.one_hot(y, 4).float()
    for options, share in (
        (Augmented(mixup=0.8, smoothing=0.1), lambda x: ((x - other) / (own - other)).mean((1, 2, 3))),
        (Augmented(cutmix=1.0), lambda x: (x == own).float().mean((1, 2, 3))),
    ):
        x, target = seen(options)
        part = share(x)[:, None]  # (B, 1)
        assert 0 < part[0] < 1
        torch.testing.assert_close(part, part[:1].expand_as(part), rtol=1e-4, atol=1e-4)
        mixed = part * hot + (1 - part) * hot.roll(1, 0)
        smooth = options.smoothing
        torch.testing.assert_close(target, (1 - smooth) * mixed + smooth / 4, rtol=1e-4, atol=1e-4)


def test_augmentations_are_functions_of_seed_and_step_and_both_mixings_come() -> None:
    options = Augmented(mixup=0.8, cutmix=1.0, erasing=0.25)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, again, *more = (seen(options, step) for step in (0, 0, *range(1, 9)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], more[0][0])
    cut = [
        len(x[1, 0].unique()) < 60 and bool((x[1, 0] == 2).any())
        for x, _ in (seen(Augmented(mixup=0.8, cutmix=1.0), i) for i in range(12))
    ]
    assert 0 < sum(cut) < 12


def test_a_quarter_of_the_images_is_erased_by_noise() -> None:
    batch, y = pictures(rows=400)
    given: list[torch.Tensor] = []
    network = lambda views: given.append(torch.cat(list(views.values()), 1)) or torch.zeros(400, 4)  # noqa: E731
    by_augmented(Augmented(erasing=0.25), 4)(network, batch, y)  # pyright: ignore[reportArgumentType]
    changed = (given[0] != torch.cat(list(batch.views.values()), 1)).float()
    erased = changed.amax((1, 2, 3)) > 0
    assert 0.18 < erased.float().mean() < 0.32
    assert torch.equal(changed[:, 0], changed[:, 2]), "in all inputs of a picture alike"
    assert 0.02 <= changed[erased].mean((1, 2, 3)).min() < changed[erased].mean((1, 2, 3)).max() <= 0.4


def test_nothing_asked_for_is_plain_cross_entropy(config: RunConfig, easy: data.Source) -> None:
    network = Classifier(built(config, easy), first_inputs(config, easy.train, np.arange(4), CPU), 4)
    torch.nn.init.normal_(network.head.weight)
    ((batch, y),) = finetune.CroppedImages(config, easy.train, np.arange(16), 16, CPU)(1)
    recipe = recipe_of(config, Config(), "eval.finetune.", 4)
    assert recipe.views == cropped_views(config)
    assert torch.equal(recipe.loss(network, batch, y), finetune.by_labels(network, batch, y))


def test_depth_is_dropped_more_the_deeper_and_only_where_it_can_be(config: RunConfig, easy: data.Source) -> None:
    given = vit_config()
    method = built(given, easy)
    network = with_drop_path(Classifier(method, first_inputs(given, easy.train, np.arange(4), CPU), 4), 0.3, "eval.finetune.")
    rates = [layer.rate for layer in network.modules() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]), "attention and mlp of four blocks"
    assert not any(layer.rate for layer in method.modules() if isinstance(layer, DropPath))
    with pytest.raises(ConfigError, match=r"^eval\.finetune\.drop_path: got 0\.1, but only the built-in"):
        finetuned(config.replace({"eval.finetune.drop_path": 0.1}), easy, built(config, easy), "0.1")


def test_inputs_that_are_no_whole_images_are_not_mixed() -> None:
    patches = RunConfig.make("cpc", preset="digits")
    for name in ("mixup", "cutmix", "erasing"):
        with pytest.raises(ConfigError, match=rf"^eval\.finetune\.{name}: got 0\.5, but cpc does not encode whole images"):
            recipe_of(patches, Augmented(**{name: 0.5}), "eval.finetune.", 10)
    with pytest.raises(ConfigError, match=r"^eval\.finetune\.randaugment: is of images"):
        recipe_of(RunConfig.make("cpc_sequence", preset="digits"), Augmented(randaugment=(2, 9)), "eval.finetune.", 10)


def test_maes_recipe_is_the_releases(easy: data.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """FINETUNE.md, ViT-B: --blr 5e-4 (of batch 1024: 2e-3) --layer_decay 0.65 --weight_decay 0.05 --drop_path 0.1 --reprob 0.25 --mixup 0.8 --cutmix 1.0
    --epochs 100; main_finetune.py: --warmup_epochs 5, --smoothing 0.1, --aa rand-m9-mstd0.5-inc1 (2 operations). Crops of 0.08 to 1.
    """
    options = finetune_mae.Config()
    assert (options.optim, options.lrs, options.batch, options.epochs) == ("adamw", (5e-4 * 1024 / 256,), 1024, 100)
    assert (options.decay, options.layer_decay, options.warmup, options.drop_path) == (0.05, 0.65, 5 / 100, 0.1)
    assert (options.mixup, options.cutmix, options.smoothing, options.erasing, options.randaugment) == (
        0.8,
        1.0,
        0.1,
        0.25,
        (2, 9),
    )
    given = vit_config(**{"eval.finetune_mae.epochs": 6, "eval.finetune_mae.batch": 16, "eval.finetune_mae.labels": "0.2"})
    views: list[View] = []
    train = finetune.train_classifier

    def noted(network, config, options, key, images, *more):
        views.extend(images.batches.views.values())
        train(network, config, options, key, images, *more)

    monkeypatch.setattr(finetune, "train_classifier", noted)
    found = evaluated("finetune_mae", given, easy, built(given, easy))
    assert set(found) == {f"{kind}_mae_20pct_{name}" for kind in ("finetune", "scratch") for name in ("top1", "val_top1")}
    assert {(view.crop, view.randaugment, view.randaugment_as) for view in views} == {((0.08, 1.0), (2, 9), "timm")}


# ---------------------------------------------------------------- supervised


def test_supervised_has_the_steps_and_batches_of_pretraining(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config.replace({"train.steps": 30, "train.batch_size": 32})
    runs: list[tuple] = []
    train = finetune.train_classifier

    def noted(network, config, options, key, images, steps, lr, told, loss_of):
        runs.append((len(images.batches.members), images.batch_size, steps, lr))
        train(network, config, options, key, images, steps, lr, told, loss_of)

    monkeypatch.setattr(finetune, "train_classifier", noted)
    results = evaluated("supervised", given, easy, built(config, easy))
    assert set(results) == {"supervised_top1", "supervised_val_top1"}
    assert results["supervised_top1"] > 0.6
    assert runs == [(360, 32, 30, 1e-5), (360, 32, 30, 1e-2)]
    trained = model.build(given, len(easy.train))
    with torch.no_grad():
        for p in trained.parameters():
            p.add_(1.0)
    assert evaluated("supervised", given, easy, trained) == results, "it starts untrained"
