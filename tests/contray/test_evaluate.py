"""k-NN, linear probes and the protocol: exact in pieces, deterministic, and blind to the test set."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contray import RunConfig, data, model
from contray.api.opened import Opened
from contray.errors import ConfigError, UserError
from contray.evaluation import Features, knn, linear
from contray.evaluation._base import NotFinite, Parts
from contray.evaluation.common.protocol import encode, pixels, report
from contray.evaluation.knn import _nearest, knn_predict, knn_top1, tile
from contray.evaluation.linear import LinearProbes, Stacked, linear_probe
from tests.contray.test_data_aside import folder

GRID = {"lrs": (0.3, 3.0, 30.0), "decays": (0.0, 1e-2), "epochs": 5, "batch_size": 64}


def blobs(rows: int, seed: int, *, dim: int = 16, classes: int = 4, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy points around the same class centres for every seed, with unequal scales and an offset."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (rows,), generator=generator)
    x = centres[y] + noise * torch.randn(rows, dim, generator=generator)
    return x * torch.logspace(-1, 2, dim) + 5, y


def split(rows: int, seed: int, **kwargs) -> Features:
    x, y = blobs(rows, seed, **kwargs)
    return Features(x, y, torch.arange(rows))


# ---------------------------------------------------------------- k-NN


def slow_knn(bank, labels, queries, k, temperature, classes):
    """The formula, one query at a time, in float64."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    found = []
    for similarity in unit(queries.double().numpy()) @ unit(bank.double().numpy()).T:
        nearest = np.argsort(-similarity, kind="stable")[:k]
        votes = np.bincount(labels.numpy()[nearest], np.exp(similarity[nearest] / temperature), minlength=classes)
        found.append(votes.argmax())
    return torch.tensor(found)


@pytest.mark.parametrize("k", [1, 7, 200, 1000])
def test_knn_is_the_formula(k: int) -> None:
    (bank, labels), (queries, _) = blobs(500, 0), blobs(120, 1)
    predicted = knn_predict(bank, labels, queries, k=k, classes=4)
    assert torch.equal(predicted, slow_knn(bank, labels, queries, k, 0.07, 4))


@pytest.mark.parametrize("chunk_bytes", [3_000, 50_000, 1_000_000])
def test_knn_does_not_depend_on_the_pieces(chunk_bytes: int) -> None:
    (bank, labels), (queries, _) = blobs(500, 0), blobs(300, 1)
    whole = knn_predict(bank, labels, queries, k=(5, 50, 900), classes=4)
    pieces = knn_predict(bank, labels, queries, k=(5, 50, 900), classes=4, chunk_bytes=chunk_bytes)
    assert whole.keys() == pieces.keys() == {5, 50, 900}
    for k in whole:
        assert torch.equal(whole[k], pieces[k])
        assert torch.equal(whole[k], knn_predict(bank, labels, queries, k=k, classes=4)), "several k at once are as each alone"


@pytest.mark.parametrize("chunk_bytes", [1, 4_000, 256_000_000])
def test_of_equally_near_rows_the_earlier_counts(chunk_bytes: int) -> None:
    """A one-hot bank: every row of the query's kind is exactly as near, and all others are too."""
    kinds = torch.arange(400) % 2
    bank = torch.eye(2)[kinds]
    labels = torch.where(torch.arange(400) < 10, 2, kinds)  # the first five rows of each kind carry label 2
    for k, expected in ((5, [2, 2]), (9, [2, 2]), (11, [0, 1])):
        predicted = knn_predict(bank, labels, torch.eye(2), k=k, classes=3, chunk_bytes=chunk_bytes)
        assert predicted.tolist() == expected


@pytest.mark.parametrize("columns", [7, 40, 1003])
@pytest.mark.parametrize("kinds", [3, 60, 1_000_000])
def test_the_nearest_are_those_of_a_stable_sort(columns: int, kinds: int) -> None:
    """Values of few kinds tie everywhere, within blocks and between them."""
    values = torch.randint(kinds, (50, columns), generator=torch.Generator().manual_seed(columns)).float()
    for k in (1, 5, 21):
        expected = values.sort(dim=1, descending=True, stable=True)
        found, ids = _nearest(values, k)
        assert torch.equal(ids, expected.indices[:, :k])
        assert torch.equal(found, expected.values[:, :k])


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest storage that an operation gives back."""

    bytes = 0
    given: frozenset[int] = frozenset()  # storages of the inputs

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in self.given:
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("tied", [False, True])
def test_knn_keeps_within_its_memory(tied: bool) -> None:
    (bank, labels), (queries, _) = blobs(4000, 0), blobs(300, 1)
    if tied:
        bank, queries = torch.ones_like(bank), torch.ones_like(queries)
    with LargestTensor() as peak:
        peak.given = frozenset(each.untyped_storage().data_ptr() for each in (bank, labels, queries))
        knn_predict(bank, labels, queries, k=20, classes=4, chunk_bytes=400_000)
    assert 400_000 / 25 < peak.bytes <= 400_000, "all similarities would be 4.8 MB"
    for dim, chunk_bytes in ((16, 400_000), (2048, 10_000_000), (512, 256_000_000)):
        rows, columns = tile(10_000, dim, chunk_bytes)
        assert 0.9 * chunk_bytes < 20 * rows * columns + 4 * dim * columns + 8 * dim * rows <= chunk_bytes


def test_knn_at_any_temperature_and_of_dead_features() -> None:
    (bank, labels), (queries, _) = blobs(50, 0), blobs(20, 1)
    nearest = knn_predict(bank, labels, queries, k=1, classes=4)
    assert torch.equal(knn_predict(bank, labels, queries, k=50, temperature=1e-5, classes=4), nearest)
    assert knn_predict(torch.zeros(6, 3), torch.tensor([1, 1, 1, 0, 0, 0]), torch.zeros(1, 3), k=3, classes=2).tolist() == [1]


@pytest.mark.parametrize(
    ("bank", "labels", "k", "message"),
    [
        (torch.ones(3, 2), torch.tensor([0, 1, 2]), 1, "bank_labels must hold 3 classes"),
        (torch.ones(3, 2), torch.tensor([0, 1]), 1, "bank_labels must hold 3 classes"),
        (torch.ones(3, 4), torch.tensor([0, 1, 1]), 1, "the bank must be"),
        (torch.ones(0, 2), torch.empty(0).long(), 1, "the bank must be"),
        (torch.ones(3, 2), torch.tensor([0, 1, 1]), 0, "k must be at least 1"),
    ],
)
def test_knn_refuses_what_does_not_fit(bank, labels, k, message) -> None:
    with pytest.raises(ValueError, match=message):
        knn_predict(bank, labels, torch.ones(1, 2), k=k, classes=2)


# ---------------------------------------------------------------- linear probe


def fit_alone(fit: Features, lr: float, decay: float, batch: int = 64) -> LinearProbes:
    settings = {"epochs": 5, "batch_size": batch, "classes": 4, "seed": 0, "device": "cpu"}
    return LinearProbes.fit(fit.x, fit.y, torch.tensor([lr]), torch.tensor([decay]), **settings)


def test_a_grid_trains_each_probe_as_alone() -> None:
    fit, val = split(300, 0), split(200, 1)
    result = linear_probe(fit.x, fit.y, val.x, val.y, **GRID, classes=4, seed=0)
    assert [row[:2] for row in result.grid] == [(lr, decay) for lr in GRID["lrs"] for decay in GRID["decays"]]
    for lr, decay, top1 in result.grid:
        alone = fit_alone(fit, lr, decay)
        assert alone.top1(val.x, val.y).item() == pytest.approx(top1, abs=1e-9)
        if (lr, decay) == (result.lr, result.decay):
            torch.testing.assert_close(alone.weights[..., 0], result.weights, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(alone.bias[:, 0], result.bias, rtol=1e-5, atol=1e-5)
            assert top1 == result.val_top1


def test_a_probe_is_torchs_sgd() -> None:
    """The closed-form gradient and the update against autograd and torch.optim.SGD, on the unit of the learning rate."""
    fit = split(96, 0)
    lr, decay, steps = 3.0, 1e-2, 10
    z = (fit.x - fit.x.mean(0)) / fit.x.std(0, correction=0)
    unit = 1 / torch.linalg.eigvalsh(z.T @ z / len(z)).max().item()
    layer = torch.nn.Linear(16, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias]}]
    optimiser = torch.optim.SGD(groups, lr=lr * unit, momentum=0.9)
    for step in range(steps):  # one full batch per epoch, so the order of rows does not matter
        for group in optimiser.param_groups:
            group["lr"] = lr * unit * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(layer(z), fit.y).backward()
        optimiser.step()
    probe = LinearProbes.fit(
        fit.x, fit.y, torch.tensor([lr]), torch.tensor([decay]), epochs=steps, batch_size=96, classes=4, seed=0, device="cpu"
    )
    torch.testing.assert_close(probe.weights[..., 0], layer.weight.detach().T, rtol=1e-2, atol=1e-4)  # the unit is estimated
    torch.testing.assert_close(probe.bias[:, 0], layer.bias.detach(), rtol=1e-2, atol=1e-4)


def test_a_seed_decides_everything_and_the_global_generator_nothing() -> None:
    fit, val = split(300, 0), split(200, 1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = linear_probe(fit.x, fit.y, val.x, val.y, **GRID, classes=4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = linear_probe(fit.x, fit.y, val.x, val.y, **GRID, classes=4, seed=0)
    other = linear_probe(fit.x, fit.y, val.x, val.y, **GRID, classes=4, seed=1)
    assert torch.equal(first.weights, again.weights)
    assert first.grid == again.grid
    assert not torch.equal(first.weights, other.weights)


def test_standardisation_comes_from_the_fit_set() -> None:
    fit, val = split(300, 0), split(200, 1)
    moved = dataclasses.replace(val, x=100 * val.x - 7)
    first = linear_probe(fit.x, fit.y, val.x, val.y, **GRID, classes=4, seed=0)
    second = linear_probe(fit.x, fit.y, moved.x, moved.y, **GRID, classes=4, seed=0)
    for result in (first, second):
        torch.testing.assert_close(result.mean, fit.x.mean(0))
        torch.testing.assert_close(result.std, fit.x.std(0, correction=0))
    scaled = linear_probe(50 * fit.x + 3, fit.y, 50 * val.x + 3, val.y, **GRID, classes=4, seed=0)
    torch.testing.assert_close(scaled.weights, first.weights, rtol=1e-3, atol=1e-4)


def test_a_constant_feature_is_harmless() -> None:
    fit, val = split(300, 0), split(200, 1)
    wide = [torch.cat([part.x, torch.full((len(part.x), 1), 0.1)], 1) for part in (fit, val)]
    result = linear_probe(wide[0], fit.y, wide[1], val.y, **GRID, classes=4, seed=0)
    assert result.val_top1 > 0.6
    assert result.weights[-1].abs().max() < 1e-5


def test_ties_go_to_the_smaller_rate_and_the_edge_is_told() -> None:
    fit, val = split(300, 0, noise=0.01), split(100, 1, noise=0.01)
    easy = linear_probe(fit.x, fit.y, val.x, val.y, lrs=(30.0, 3.0, 10.0), decays=(1e-4, 0.0), epochs=5, classes=4, seed=0)
    assert (easy.lr, easy.decay, easy.val_top1) == (3.0, 0.0, 1.0)
    assert not easy.on_edge, "a probe in the middle is as good"
    fit, val = split(300, 0), split(500, 1)
    weak = linear_probe(fit.x, fit.y, val.x, val.y, lrs=(1e-5, 1e-4, 1.0), decays=(0.0,), epochs=5, classes=4, seed=0)
    assert weak.lr == 1.0
    assert weak.on_edge
    single = linear_probe(fit.x, fit.y, val.x, val.y, lrs=(1.0,), decays=(0.0,), epochs=5, classes=4, seed=0)
    assert not single.on_edge, "a grid of one has no edge"


def test_a_diverged_probe_never_wins() -> None:
    fit, val = split(300, 0), split(200, 1)
    result = linear_probe(fit.x, fit.y, val.x, val.y, lrs=(1.0, 1e38), decays=(1.0,), epochs=5, classes=4, seed=0)
    assert result.lr == 1.0
    assert result.grid[1][2] == 0
    with pytest.raises(ConfigError, match=r"^eval\.linear\.lrs: every linear probe diverged"):
        linear_probe(fit.x, fit.y, val.x, val.y, lrs=(1e38,), decays=(1.0,), epochs=5, classes=4, seed=0)


def test_copied_features_change_nothing() -> None:
    """The unit of the learning rate: copies raise the largest eigenvalue, and the rate falls with it."""
    fit, val = split(300, 0, noise=3.0), split(200, 1, noise=3.0)
    settings = {"lrs": (0.3, 3.0), "decays": (0.0,), "epochs": 5, "classes": 4, "seed": 0}
    narrow = linear_probe(fit.x, fit.y, val.x, val.y, **settings)
    wide = linear_probe(fit.x.repeat(1, 20), fit.y, val.x.repeat(1, 20), val.y, **settings)
    torch.testing.assert_close(20 * wide.weights[:16], narrow.weights, rtol=1e-2, atol=5e-3)  # the bias learns more slowly
    assert wide.grid == [(lr, decay, pytest.approx(top1, abs=0.011)) for lr, decay, top1 in narrow.grid]


def test_parts_that_follow_one_another_are_read_as_one() -> None:
    parts = [split(300, 0).x, split(7, 1).x + 3]
    whole, stacked = torch.cat(parts), Stacked(parts)
    chosen = torch.randperm(307, generator=torch.Generator().manual_seed(0))[:100]
    assert torch.equal(stacked[chosen], whole[chosen])
    torch.testing.assert_close(stacked.moments(), (whole.mean(0), whole.std(0, correction=0)))
    mean, std = Stacked(parts[:1]).moments()
    assert torch.equal(mean, parts[0].mean(0))
    assert torch.equal(std, parts[0].std(0, correction=0)), "to the bit, as before there were several"


# ---------------------------------------------------------------- protocol

KNN, PROBE = knn.Config(k=20), linear.Config(lrs=(1e-3, 3.0), decays=(0.0,), epochs=5)


def measure(prefix: str, fit: Features, val: Features, test: Features | None, classes: int) -> dict[str, float]:
    """k-NN and linear probe of features at hand."""
    subject: Any = SimpleNamespace(
        encoders=(prefix,), encode=lambda encoders: None, features=lambda encoder: Parts(fit, val, test), classes=classes, device="cpu", online=False,
        config=SimpleNamespace(seed=0),
    )  # fmt: skip
    return {**knn.evaluate(subject, KNN), **linear.evaluate(subject, PROBE)}


def test_measure_names_and_numbers() -> None:
    fit, val, test = (split(rows, seed, noise=3.0) for seed, rows in enumerate((300, 100, 200)))
    trained = measure("", fit, val, test, 4)
    assert set(trained) == {"knn_val_top1", "linear_val_top1", "knn_top1", "linear_top1"}
    knn = {"k": 20, "temperature": 0.07, "classes": 4}
    assert trained["knn_val_top1"] == knn_top1(fit.x, fit.y, val.x, val.y, **knn)
    bank, labels = torch.cat([fit.x, val.x]), torch.cat([fit.y, val.y])
    assert trained["knn_top1"] == knn_top1(bank, labels, test.x, test.y, **knn), "the test's bank is fit and val"
    probe = linear_probe(fit.x, fit.y, val.x, val.y, lrs=(1e-3, 3.0), decays=(0.0,), epochs=5, classes=4, seed=0)
    everything = torch.cat([fit.x, val.x])
    alone = fit_alone(
        dataclasses.replace(fit, x=everything, y=torch.cat([fit.y, val.y]), ids=torch.arange(400)), probe.lr, 0.0, 256
    )
    assert trained["linear_top1"] == alone.top1(test.x, test.y).item() != probe.top1(test.x, test.y), (
        "picked, then fit to all labels"
    )
    assert trained["linear_val_top1"] == probe.val_top1
    untested = measure("pixels_", fit, val, None, 4)
    assert untested == {f"pixels_{name}": trained[name] for name in ("knn_val_top1", "linear_val_top1")}


def test_k_nn_of_the_embedding_is_of_what_the_loss_compares() -> None:
    """InstDisc's and InvaSpread's published k-NN; the features' own number stays beside it."""
    fit, val, test = (split(rows, seed, noise=3.0) for seed, rows in enumerate((300, 100, 200)))
    whole = Parts(fit, val, test)
    subject: Any = SimpleNamespace(
        encoders=("", "random_", "pixels_"), encode=lambda encoders: None, features=lambda encoder: whole, classes=4, device="cpu", online=False,
        method="trained", untrained="untrained", diagnosis=SimpleNamespace(embed=lambda method, x: x[:, : {"trained": 3, "untrained": 1}[method]]),
    )  # fmt: skip
    plain, found = knn.evaluate(subject, KNN), knn.evaluate(subject, dataclasses.replace(KNN, embedding=True))
    assert {name: found[name] for name in plain} == plain
    own = {f"{prefix}knn_embedding_{name}" for prefix in ("", "random_") for name in ("top1", "val_top1")}
    assert set(found) - set(plain) == own
    for prefix, width in (("", 3), ("random_", 1)):
        bank, labels = torch.cat([fit.x, val.x])[:, :width], torch.cat([fit.y, val.y])
        assert found[f"{prefix}knn_embedding_top1"] == knn_top1(bank, labels, test.x[:, :width], test.y, k=20, classes=4)
    subject.diagnosis.embed, subject.config = lambda method, x: x, SimpleNamespace(method=SimpleNamespace(name="mae"))
    with pytest.raises(ConfigError, match=r"^eval\.knn\.embedding: got true, but the loss of mae"):
        knn.evaluate(subject, knn.Config(embedding=True))


@pytest.mark.parametrize("name", ["instdisc", "invaspread"])
def test_what_these_compare_is_their_unit_head_and_asked_for(name: str) -> None:
    config = RunConfig.make(name, preset="digits")
    assert config.parts["eval.knn"].embedding
    method: Any = model.build(config, 8)
    x = torch.randn(3, method.out_dim)
    torch.testing.assert_close(method.eval().embedding(x), torch.nn.functional.normalize(method.head(x)))


def test_selection_never_sees_the_test_set() -> None:
    """Labels of the test set that only the other probe gets right: the choice stays, and the number is bad."""
    fit, val, test = (split(300, seed, noise=3.0) for seed in range(3))
    settings = {"decays": (0.0,), "epochs": 5, "classes": 4, "seed": 0}
    slow, fast = (linear_probe(fit.x, fit.y, val.x, val.y, lrs=(lr,), **settings) for lr in PROBE.lrs)
    assert fast.val_top1 > slow.val_top1
    scores = (test.x - slow.mean) / slow.std @ slow.weights + slow.bias
    adverse = dataclasses.replace(test, y=scores.argmax(1))
    assert slow.top1(adverse.x, adverse.y) == 1 > fast.top1(adverse.x, adverse.y)
    honest, tempted = (measure("", fit, val, each, 4) for each in (test, adverse))
    whole = fast.refitted([fit.x, val.x], torch.cat([fit.y, val.y]), epochs=5, seed=0, device="cpu")
    assert tempted["linear_top1"] == whole.top1(adverse.x, adverse.y) < 1
    for name in ("knn_val_top1", "linear_val_top1"):
        assert honest[name] == tempted[name]


def test_measure_tells_of_the_edge(caplog) -> None:
    with caplog.at_level(logging.INFO, logger="contray.evaluation.linear"):
        measure("random_", split(300, 0), split(300, 1), None, 4)
    assert "random_linear probe: lr 3, decay 0 is on the edge of eval.linear.lrs" in caplog.text


def test_measure_refuses_labels_that_cannot_serve() -> None:
    fit, val = split(50, 0), split(20, 1)
    with pytest.raises(UserError, match="the images have no labels"):
        measure("", dataclasses.replace(fit, y=None), val, None, 4)
    with pytest.raises(UserError, match="the images have no labels"):
        measure("", fit, val, dataclasses.replace(val, y=None), 4)
    with pytest.raises(UserError, match="all images have the same label"):
        measure("", dataclasses.replace(fit, y=torch.ones_like(fit.y)), val, None, 4)
    with pytest.raises(UserError, match=r"labels run from 0 to 3, must be in \[0, 3\)"):
        measure("", fit, val, None, 3)


def test_features_must_be_finite_and_belong_together() -> None:
    x, y = blobs(5, 0)
    with pytest.raises(NotFinite, match="1 of 5 images have features that are not finite, the first is image 13"):
        Features(x.index_fill(0, torch.tensor([3]), math.nan), y, torch.arange(10, 15))
    with pytest.raises(ValueError, match="do not belong together"):
        Features(x, y[:4], torch.arange(5))


def images(side: int, counts: tuple[int, ...] = (3, 2)):
    """Batches as contray.data.EvalImages gives them, and all pixels (N, H, W, C)."""
    generator = torch.Generator().manual_seed(0)
    views = [torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator) for count in counts]
    ids = torch.tensor([7, 3, 9, 1, 4]).split(counts)
    return [{"views": {"image": view}, "index": index} for view, index in zip(views, ids, strict=True)], torch.cat(views)


def normalise(view: torch.Tensor) -> torch.Tensor:
    return view.permute(0, 3, 1, 2).float() / 255


def test_encode_keeps_order_and_takes_no_gradient() -> None:
    batches, views = images(8)
    layer = torch.nn.Linear(3, 2)
    features, ids = encode(lambda inputs: layer(inputs["image"].mean((2, 3))), batches, normalise=normalise, device="cpu")
    assert ids.tolist() == [7, 3, 9, 1, 4]
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features, layer(normalise(views).mean((2, 3))).detach())


def test_pixels_are_flat_and_at_most_32_wide() -> None:
    batches, views = images(8)
    assert torch.equal(encode(pixels, batches, normalise=normalise, device="cpu")[0], normalise(views).flatten(1))
    large, views = images(64)
    expected = normalise(views).unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean((3, 5))
    torch.testing.assert_close(encode(pixels, large, normalise=normalise, device="cpu")[0], expected.flatten(1))


def test_report() -> None:
    results = {
        "knn_top1": 0.9,
        "linear_top1": 0.96,
        "random_knn_top1": 0.5,
        "random_linear_top1": 0.52,
        "pixels_linear_top1": 0.6,
    }
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report(results, 10_000))
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in capture.get().splitlines()]
    assert ["trained encoder", "90.0 ± 0.3", "96.0 ± 0.2"] in rows
    assert ["untrained encoder", "50.0 ± 0.5", "52.0 ± 0.5"] in rows
    assert ["raw pixels", "-", "60.0 ± 0.5"] in rows
    assert ["gain over untrained encoder", "+40.0", "+44.0"] in rows
    assert ["gain over raw pixels", "-", "+36.0"] in rows


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_column", "other"),
        ("label_column", "position"),
        ("contrast", 1.0),
        ("renderings", 1),
        ("size", 16),
        ("source", "cifar10"),
    ],
)
def test_numbers_of_other_images_never_take_the_place_of_a_runs_own(key, value):
    """Digits drawn otherwise, and another column of pictures, went for the run's own data: its verdict was written over."""
    config = RunConfig.make("simclr")
    kept: list[set[str]] = []
    source = SimpleNamespace(name="digits", tested="", test=())
    run = SimpleNamespace(log_metrics=lambda metrics, step: kept.append(set(metrics)))
    for measured in (config.replace({"data.workers": 0, "eval.knn.k": 1}), config.replace({f"data.{key}": value})):
        opened = Opened(SimpleNamespace(config=config), measured, run)
        opened.keep({"knn_top1": 0.5}, (), opened.data_name(lambda: source))
    assert kept == [{"knn_top1"}, {"digits.knn_top1"}]


def test_images_that_test_under_other_labels_and_trained_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is set aside to test is drawn by the labels: another share, or labels of a list, set other images aside."""
    root = str(folder(tmp_path / "photos", cat=40, dog=40))
    config = RunConfig.make("simclr", {"data.source": root})
    other = config.replace({"data.test_share": 0.3})
    source = data.open_source(other)
    Opened(SimpleNamespace(config=config), other, None).data_name(lambda: source)  # pyright: ignore[reportArgumentType]
    trained = set(data.open_source(config).train.all_keys())
    assert source.test is not None
    count = sum(key in trained for key in source.test.all_keys())
    assert count >= 10
    assert f"{count} of the {len(source.test)} images that test trained the encoder" in capsys.readouterr().err
    less = config.replace({"data.test_share": 0.05})
    Opened(SimpleNamespace(config=config), less, None).data_name(lambda: data.open_source(less))  # pyright: ignore[reportArgumentType]
    assert "trained" not in capsys.readouterr().err
