"""Probes as the papers train them: what is drawn, what is trained, what picks the rate, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from contray import RunConfig, data, model
from contray.data.splits import ArraySplit
from contray.errors import ConfigError, DataError, UserError
from contray.evaluation import paper
from contray.evaluation.attentive import AttentiveProbe
from contray.evaluation.common import trained
from contray.evaluation.common.labelled import CroppedImages, cropped_views, score
from contray.evaluation.common.samples import check_labels
from contray.evaluation.common.tokens import conv_layers, last_blocks, layer_features, tokens
from contray.evaluation.common.trained import decayed
from contray.model.vit import VisionTransformer
from tests.contray.evaluations import CPU, evaluated

SMALL = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "train.batch_size": 64, "train.precision": "fp32",
    **{f"eval.{name}.{key}": value for name in ("paper", "attentive") for key, value in (("epochs", 1), ("lrs", (0.1, 1.0)))},
    **{f"eval.{name}.{key}": value for name in ("linear", "last_n") for key, value in (("epochs", 2), ("lrs", 1.0), ("decays", 0.0))},
}  # fmt: skip
RESNET = {**SMALL, "views.view.size": 16, "backbone.width": 4, "method.projector_hidden": 16, "method.projector_dim": 8}
VIT = {**SMALL, "backbone.name": "vit_mini", "backbone.width": 16, "backbone.patch": 4, "views.view.size": 16}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.make("simclr", RESNET, preset="digits")


@pytest.fixture(scope="module")
def source(config: RunConfig) -> data.Source:
    return data.open_source(config.data)


def vit_config(**more) -> RunConfig:
    return RunConfig.make("simclr", {**RESNET, **VIT, **more}, preset="digits")


def coloured(rows: int, seed: int) -> ArraySplit:
    """Noise of 16 px in which red, green, blue or nothing stands out: easy, but not at once."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 4
    pixels = 60 + 60 * np.eye(4)[labels][:, None, None, :3] + rng.integers(-40, 40, (rows, 16, 16, 3))
    return ArraySplit("colours", pixels.astype(np.uint8), labels, ["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def easy() -> data.Source:
    return data.Source("colours", coloured(240, 0), coloured(120, 1))


def quiet(message: dict) -> None:
    pass


def trained_probe(config: RunConfig, source: data.Source, method, *, attentive: bool, show=quiet) -> dict[str, float]:
    return evaluated("attentive" if attentive else "paper", config, source, method, show=show)


def last_n_probe(config: RunConfig, source: data.Source, method) -> dict[str, float]:
    return evaluated("last_n", config, source, method)


def built(config: RunConfig, source: data.Source):
    return model.build(config, len(source.train)).eval()


def images(count: int = 3) -> dict[str, torch.Tensor]:
    return {"image": torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


# ---------------------------------------------------------------- crops


def test_crops_are_a_function_of_seed_epoch_and_sample(config: RunConfig, source: data.Source) -> None:
    """A sample's pixels in an epoch are the same among other samples and in another batch size; they differ between epochs."""

    def drawn(ids, batch_size: int, epochs: int, seed: int = 0) -> dict[tuple[int, int], torch.Tensor]:
        crops = CroppedImages(config.replace({"seed": seed}), source.train, np.asarray(ids), batch_size, CPU)
        found = {}
        for step, (batch, y) in enumerate(crops(epochs * crops.steps_per_epoch)):
            assert torch.equal(y, torch.as_tensor(source.train.labels)[batch.index])
            for i, pixels in zip(batch.index.tolist(), batch.views["image"], strict=True):
                found[step // crops.steps_per_epoch, i] = pixels
        return found

    few, many = drawn([3, 5, 8, 13], 2, 2), drawn(range(16), 16, 2)
    assert set(few) == {(epoch, i) for epoch in (0, 1) for i in (3, 5, 8, 13)}
    for key, pixels in few.items():
        assert torch.equal(pixels, many[key])
    assert not torch.equal(few[0, 3], few[1, 3])
    assert not torch.equal(few[0, 3], drawn([3, 5, 8, 13], 4, 1, seed=1)[0, 3])


def test_crops_show_the_picture_that_the_label_belongs_to(config: RunConfig) -> None:
    """Pretraining draws a fresh background for each view of a digit; where backgrounds are the labels that would be another class."""
    whole = config.replace({"data.label_column": "background", "eval.crop": (1.0, 1.0), "views.view.ratio": (1.0, 1.0)})
    source = data.open_source(whole.data)
    crops = CroppedImages(whole, source.train, np.arange(8), 8, CPU)
    ((batch, _),) = crops(1)
    for i, pixels in zip(batch.index.tolist(), batch.views["image"], strict=True):
        fixed = model.normaliser(whole, CPU)(torch.from_numpy(source.train.image(i, None))[None])[0]
        assert torch.equal(pixels, fixed)


def test_crop_and_flip_are_the_methods_own_and_colours_stay(config: RunConfig) -> None:
    (view,) = cropped_views(config).values()
    assert (view.crop, view.flip, view.size, view.jitter_p, view.gray, view.blur) == ((0.6, 1.0), 0.0, 16, 0.0, 0.0, 0.0)
    (wide,) = cropped_views(RunConfig.make("moco", {"eval.crop": (0.08, 1.0)}, preset="paper")).values()
    assert (wide.crop, wide.flip, wide.size, wide.jitter_p) == ((0.08, 1.0), 0.5, 224, 0.0)
    lab = cropped_views(RunConfig.make("cmc", preset="paper"))
    assert {view.geometry for view in lab.values()} == {"evaluation"}, "both channels of a picture share one crop"


# ---------------------------------------------------------------- paper


@pytest.mark.parametrize("name", ["paper", "attentive"])
def test_probes_crop_as_the_releases_do_whatever_pretraining_cropped(
    name: str, config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RandomResizedCrop's default, in main_lincls.py of MoCo, eval_linear.py of SwAV and DINO, main_linprobe.py of MAE; simclr's digits crop .6 to 1."""
    crops: list[tuple[float, float]] = []

    def noted(options, images, *more) -> None:
        crops.extend(view.crop for view in images.batches.views.values())
        raise StopIteration

    monkeypatch.setattr(trained, "_train", noted)
    for given in (config, config.replace({"eval.crop": (0.5, 0.9)})):
        with pytest.raises(StopIteration):
            trained_probe(given, easy, built(config, easy), attentive=name == "attentive")
    assert crops == [(0.08, 1.0), (0.5, 0.9)]


@pytest.mark.parametrize("optim", ["sgd", "nesterov", "lars"])
@pytest.mark.parametrize("kind", ["linear_paper", "attentive"])
def test_probes_side_by_side_train_as_alone(kind: str, optim: str, config: RunConfig, source: data.Source) -> None:
    options = paper.Config(optim=optim, decay=1e-3, batch=32, epochs=1)
    crops = CroppedImages(config, source.train, np.arange(64), 32, CPU)
    method = built(config, source)

    def heads_of(lrs: list[float]) -> list[nn.Module]:
        torch.manual_seed(0)
        head = AttentiveProbe(32, 10) if kind == "attentive" else paper.linear_head(32, 10, norm=True)
        heads = nn.ModuleList()
        for _ in lrs:
            heads.append(type(head)(32, 10) if kind == "attentive" else paper.linear_head(32, 10, norm=True))
            heads[-1].load_state_dict(head.state_dict())

        @torch.no_grad()
        def features(inputs):
            return tokens(method, inputs) if kind == "attentive" else method.encode(inputs)

        trained._train(options, crops, features, heads, lrs, quiet)
        return list(heads)

    together, alone = heads_of([0.1, 3.0]), heads_of([3.0])
    for a, b in zip(together[1].state_dict().values(), alone[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(next(together[0].parameters()), next(together[1].parameters()))


@pytest.mark.parametrize("attentive", [False, True])
def test_a_trained_probe_learns_and_leaves_the_encoder_as_it_was(attentive: bool, config: RunConfig, easy: data.Source) -> None:
    method = built(config, easy).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    keys = {"epochs": 8, "batch": 32, "lrs": (1e-6, 0.3), **({} if attentive else {"norm": True})}
    options = config.replace({f"eval.{'attentive' if attentive else 'paper'}.{key}": value for key, value in keys.items()})
    messages: list[dict] = []
    torch.manual_seed(5)
    state = torch.get_rng_state()
    results = trained_probe(options, easy, method, attentive=attentive, show=messages.append)
    name = "attentive" if attentive else "linear_paper"
    assert set(results) == {f"{name}_val_top1", f"{name}_top1"}
    assert results[f"{name}_top1"] > 0.6
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert messages[-1]["step"] == messages[-1]["total"] == 8 * (216 // 32)
    assert trained_probe(options, easy, method, attentive=attentive, show=quiet) == results


def test_the_test_set_is_opened_once_and_after_the_choice(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[str, int]] = []

    def noted(config, split, ids, classify, device):
        top1, loss = score(config, split, ids, classify, device)
        scored.append(("test" if split is easy.test else "train", len(top1)))
        return top1, loss

    monkeypatch.setattr(trained, "score", noted)
    trained_probe(config, easy, built(config, easy), attentive=False, show=quiet)
    assert scored == [("train", 2), ("test", 1)]


def test_a_diverged_probe_never_wins(config: RunConfig, easy: data.Source) -> None:
    method = built(config, easy)
    wild = config.replace({"eval.paper.lrs": (0.1, 1e38), "eval.paper.batch": 32, "eval.paper.decay": 1.0})
    tame = wild.replace({"eval.paper.lrs": (0.1,)})
    assert trained_probe(wild, easy, method, attentive=False, show=quiet) == trained_probe(tame, easy, method, attentive=False, show=quiet)  # fmt: skip
    with pytest.raises(ConfigError, match=r"^eval\.paper\.lrs: every probe diverged with 1e\+38"):
        trained_probe(wild.replace({"eval.paper.lrs": (1e38,)}), easy, method, attentive=False, show=quiet)


def test_schedules() -> None:
    cosine, step = paper.Config(epochs=100), paper.Config(epochs=100, schedule="step")
    assert [decayed(cosine, epoch) for epoch in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    assert [decayed(step, epoch) for epoch in (0, 59, 60, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_maes_probe_warms_up_for_ten_epochs(config: RunConfig, easy: data.Source) -> None:
    """adjust_learning_rate of MAE's util/lr_sched.py, min_lr 0, literal."""
    options = paper.Config(epochs=90, warmup_epochs=10.0)
    for epoch in (0.0, 0.5, 9.99, 10.0, 37.3, 89.9):
        theirs = epoch / 10 if epoch < 10 else 0.5 * (1.0 + math.cos(math.pi * (epoch - 10) / (90 - 10)))
        assert decayed(options, epoch) == pytest.approx(theirs)
    with pytest.raises(ConfigError, match=r"^eval\.paper\.warmup_epochs: got 1 of 1 epochs"):
        trained_probe(config.replace({"eval.paper.warmup_epochs": 1}), easy, built(config, easy), attentive=False)


def test_a_refit_sees_all_labels(config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[float]]] = []
    train = trained._train

    def noted(options, images, features, heads, lrs, show) -> None:
        seen.append((len(images.batches.members), lrs))
        train(options, images, features, heads, lrs, show)

    monkeypatch.setattr(trained, "_train", noted)
    trained_probe(config.replace({"eval.paper.refit": True}), easy, built(config, easy), attentive=False)
    (some, lrs), (whole, picked) = seen
    assert (some, lrs, whole) == (216, [0.1, 1.0], 240)
    assert len(picked) == 1
    assert picked[0] in lrs


def test_scores_count_hits_and_nats(config: RunConfig, source: data.Source) -> None:
    labels = torch.as_tensor(source.train.labels)

    def classify(inputs):
        seen = labels[:5]
        right = torch.nn.functional.one_hot(seen, 10).float() * 100
        return torch.stack([right, torch.zeros(5, 10), right.roll(1, 1), torch.full((5, 10), torch.nan)])

    top1, loss = score(config, source.train, range(5), classify, CPU)
    assert top1.tolist() == [1, (labels[:5] == 0).double().mean().item(), 0, 0]
    assert loss[:3].tolist() == pytest.approx([0, math.log(10), 100])


# ---------------------------------------------------------------- tokens


def test_last_blocks_are_the_normed_class_tokens_in_order(source: data.Source) -> None:
    method = built(vit_config(), source)
    net = method.backbone
    assert isinstance(net, VisionTransformer)
    x = images()
    hidden = torch.cat([net.class_token + net.encoder.pos_embedding[:, :1], torch.zeros(1, 0, 16)], 1).expand(3, -1, -1)
    hidden, expected = torch.cat([hidden, net.patches(x["image"])], 1), []
    for block in net.encoder.layers:
        hidden = block(hidden)
        expected.append(net.encoder.ln(hidden))
    torch.testing.assert_close(last_blocks(method, x, 3, False), torch.cat([each[:, 0] for each in expected[1:]], 1))
    average = torch.cat([expected[-1][:, 0], expected[-1][:, 1:].mean(1)], 1)
    torch.testing.assert_close(last_blocks(method, x, 1, True), average)
    torch.testing.assert_close(last_blocks(method, x, 1, False), method.encode(x))
    torch.testing.assert_close(tokens(method, x), expected[-1][:, 1:])
    assert not any(block._forward_hooks for block in net.encoder.layers), "hooks are taken off again"


def test_tokens_are_of_the_network_that_encodes(source: data.Source) -> None:
    """DINO is measured by its teacher; CAE names its tokens; of a ResNet it is the last feature map, row by row."""
    small = {"data.size": 16, "data.renderings": 1}
    dino = built(RunConfig.make("dino", {**small, "backbone.name": "vit_mini", "backbone.patch": 4}, preset="digits"), source)
    with torch.no_grad():
        for p in dino.backbone.parameters():
            p.add_(1.0)
        x = {"image": torch.randn(2, 3, 32, 32)}
        assert torch.equal(last_blocks(dino, x, 1, False), dino.encode(x))
        cae = built(RunConfig.make("cae", small, preset="digits"), source)
        assert torch.equal(tokens(cae, x), cae.taps(x)["tokens"])
        resnet = built(RunConfig.make("simclr", RESNET, preset="digits"), source)
        found = tokens(resnet, images())
        assert found.shape == (3, 4, 32)
        torch.testing.assert_close(found.mean(1), resnet.encode(images()))


def test_what_has_no_tokens_or_blocks_is_told_so(config: RunConfig, source: data.Source) -> None:
    with pytest.raises(UserError, match="eval last_n: the backbone has no transformer blocks"):
        last_n_probe(config, source, built(config, source))
    deep = vit_config(**{"eval.last_n.blocks": 5})
    with pytest.raises(ConfigError, match=r"^eval\.last_n\.blocks: got 5, but the backbone has 4 blocks"):
        last_n_probe(deep, source, built(deep, source))
    cpc = RunConfig.make("cpc", preset="digits")
    with pytest.raises(UserError, match="this encoder has no tokens"):
        tokens(built(cpc, source), {"image": torch.randn(2, cpc.views["patches"].grid[0] ** 2, 3, 8, 8)})


def test_last_n_goes_through_the_cached_grid(easy: data.Source) -> None:
    config = vit_config(**{"eval.last_n.epochs": 20})
    results = last_n_probe(config, easy, built(config, easy))
    assert set(results) == {"linear_last4_val_top1", "linear_last4_top1"}
    assert results["linear_last4_top1"] > 0.6
    one = vit_config(**{"eval.last_n.blocks": 1})
    cached = evaluated("linear", one, easy, built(one, easy))
    assert last_n_probe(one, easy, built(one, easy))["linear_last1_top1"] == cached["linear_top1"]
    averaged = vit_config(**{"eval.last_n.blocks": 1, "eval.last_n.average": True})
    assert "linear_last1_avg_top1" in last_n_probe(averaged, easy, built(averaged, easy))


# ---------------------------------------------------------------- layers


def test_a_layer_has_the_features_of_deepclusters_probe() -> None:
    """RegLog of its eval_linear.py: 9600, 9216, 9600, 9600 and 9216 features of AlexNet's five convolutions, after their ReLUs, at 224 px."""
    config = RunConfig.make("deepcluster", {"method.clusters": 10, "method.pca": 8}, preset="paper")
    method = model.build(config, 20).eval()
    x = {"image": torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        layers = conv_layers(method, x)
        found = [layer_features(method, x, layer, 9600) for layer in layers]
    assert [each.shape[1] for each in found] == [9600, 9216, 9600, 9600, 9216]
    assert all(each.min() >= 0 for each in found)
    assert not any(layer._forward_hooks for layer in layers)


def test_probes_of_layers_go_through_the_cached_grid(config: RunConfig, easy: data.Source) -> None:
    given = config.replace({"eval.layers.epochs": 5, "eval.layers.features": 128, "eval.layers.layers": (1, 4)})
    found = evaluated("layers", given, easy, built(given, easy))
    assert set(found) == {f"linear_layer{number}_{name}" for number in (1, 4) for name in ("top1", "val_top1")}
    assert found["linear_layer1_top1"] > 0.6
    with pytest.raises(ConfigError, match=r"^eval\.layers\.layers: got 5, but the backbone has 4 layers"):
        evaluated("layers", given.replace({"eval.layers.layers": (5,)}), easy, built(given, easy))
    with pytest.raises(UserError, match="eval layers: the backbone has no feature maps"):
        evaluated("layers", vit_config(), easy, built(vit_config(), easy))


# ---------------------------------------------------------------- labels


class Named(data.Split):
    def __init__(self, labels, classes) -> None:
        super().__init__(classes)
        self.labels = None if labels is None else np.asarray(labels)


def test_labels_that_cannot_serve_are_refused() -> None:
    good, ab = Named([0, 1], ["a", "b"]), ["a", "b"]
    assert check_labels(data.Source("x", good, good)) is good
    assert check_labels(data.Source("x", good, None)) is None
    for train, test, said in (
        (Named(None, []), good, "x has no labels"),
        (Named([1, 1], ab), good, "all training images of x have the same label"),
        (good, Named([0, 1], ["a", "c"]), "other classes .*: b, c"),
        (good, Named([0, 2], ["a", "b", "c"]), "other classes .*: c"),
    ):
        with pytest.raises(DataError, match=said):
            check_labels(data.Source("x", train, test))
