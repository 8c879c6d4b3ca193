"""What the papers say happens, on networks of a few channels and random textures: seconds each."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contray import model
from contray.config import RunConfig
from contray.evaluation import geometry
from contray.methods import byol, dino, simsiam, swav
from contray.methods._base import Batch, Clock, Method
from contray.methods._parts import negative_cosine, normalize

SIZE, DATASET = 64, 256


def build(name: str, settings: dict[str, object] | None = None, preset: str = "digits") -> Method:
    config = RunConfig.make(name, {"backbone.width": 8, "train.precision": "fp32", **(settings or {})}, preset=preset)
    return model.build(config, DATASET).train()


def textures() -> Tensor:
    """(256, 3, 16, 16) smooth random pictures."""
    coarse = torch.randn(DATASET, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=16, mode="bilinear", align_corners=False)


def batch_of(step: int, names: tuple[str, ...]) -> Batch:
    """The step's rows, each view with noise of its own."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.arange(SIZE) + step * SIZE % DATASET
    pictures = textures()[rows]
    views = {name: pictures + 0.3 * torch.randn(pictures.shape, generator=generator) for name in names}
    return Batch(views, rows, torch.arange(SIZE), SIZE, seed=1, step=step)


def clock_of(step: int, steps: int) -> Clock:
    return Clock(step * SIZE, steps * SIZE, DATASET, SIZE)


# ---------------------------------------------------------------- collapse


def simsiam_after(steps: int, stopped: bool, output_norm: str, rate: float, decay: float) -> list[Tensor]:
    """Projections (64, 32) of the last batch's two views, after training with or without the stop-gradient."""
    method = build("simsiam", {"method.output_norm": output_norm, "method.dim": 32, "method.hidden": 16})
    assert isinstance(method, simsiam.SimSiam)
    optimizer = torch.optim.SGD(method.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    reps: dict[str, Tensor] = {}
    for step in range(steps):
        batch = batch_of(step, ("view0", "view1"))
        reps = method.represent(batch, clock_of(step, steps))
        if stopped:
            loss = method.loss(reps, batch, clock_of(step, steps))["loss"]
        else:
            z0, z1 = (method.projector(h) for h in reps.values())
            loss = (negative_cosine(method.predictor(z0), z1, SIZE) + negative_cosine(method.predictor(z1), z0, SIZE)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [method.projector(h) for h in reps.values()]


@pytest.mark.parametrize("stopped", [True, False])
def test_simsiam_collapses_without_its_stop_gradient(stopped: bool) -> None:
    """90 steps and much weight decay, with an affine norm at the output: one without scale keeps each feature's spread at one (Chen & He 2021, §4.1)."""
    spread = geometry.spread(simsiam_after(90, stopped, "bn", 0.2, 0.05)[0])
    healthy = 1 / math.sqrt(32)
    assert (spread > 0.5 * healthy) if stopped else (spread < 0.1 * healthy), spread / healthy


def test_simsiam_as_released_loses_dimensions_without_its_stop_gradient() -> None:
    """60 steps. The released norm has no scale, so no feature dies and the spread says little; the rank tells, and so do neighbours.

    Neighbours: how often a picture's nearest among the other views is its own.
    """
    healthy, broken = (simsiam_after(60, stopped, "bn_plain", 0.1, 0.001) for stopped in (True, False))
    assert geometry.rankme(broken[0]) < geometry.rankme(healthy[0]) / 2
    assert geometry.spread(broken[0]) > 0.5 / math.sqrt(32)
    own = [(normalize(z0) @ normalize(z1).T).argmax(1).eq(torch.arange(SIZE)).double().mean() for z0, z1 in (healthy, broken)]
    assert own[1] < own[0] - 0.1


@pytest.mark.parametrize("predicts", [True, False])
def test_byol_collapses_without_its_predictor(predicts: bool) -> None:
    """160 steps and much weight decay, momentum 0.9 (Grill et al. 2020, table 5b: 72.5 % with a predictor, 0.3 without)."""
    method = build("byol", {"method.momentum": 0.9, "method.dim": 32, "method.hidden": 16, "method.output_norm": "none"})
    assert isinstance(method, byol.BYOL)
    if not predicts:
        method.predictor = nn.Identity()
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.2, momentum=0.9, weight_decay=0.02)
    spread = torch.zeros(())
    for step in range(160):
        clock = Clock(step * SIZE, 10000 * SIZE, DATASET, SIZE)
        batch = batch_of(step, ("first", "second"))
        reps = method.represent(batch, clock)
        optimizer.zero_grad()
        method.loss(reps, batch, clock)["loss"].backward()
        optimizer.step()
        for online, target in method.ema_pairs():
            for a, b in zip(online.parameters(), target.parameters(), strict=True):
                b.data.lerp_(a.data, 1 - method.ema_momentum(clock))
        spread = simsiam.spread(method.projector(reps["online0"].detach()), SIZE)
    healthy = 1 / math.sqrt(32)
    assert (spread > 0.3 * healthy) if predicts else (spread < 0.1 * healthy), float(spread / healthy)


@pytest.mark.parametrize(("centred", "sharp"), [(True, True), (False, True), (True, False)])
def test_dino_collapses_without_centring_or_without_sharpening(centred: bool, sharp: bool) -> None:
    """150 steps, momentum 0.95: to one output without centring, to the uniform distribution without sharpening (Caron et al. 2021, §5.3)."""
    temperature = 0.04 if sharp else 1.0
    keys = {"method.teacher_temperature": temperature, "method.momentum": 0.95, "method.freeze_epochs": 0.0, "method.outputs": 64, "method.head_norm": "none",
            "method.bottleneck": 64, "method.student_temperature": 0.1 if sharp else 1.0}  # fmt: skip
    method = build("dino", keys)
    assert isinstance(method, dino.DINO)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    entropies = []
    for step in range(150):
        clock = Clock(step * SIZE, 10000 * SIZE, DATASET, SIZE)
        batch = batch_of(step, ("large_a", "large_b"))
        reps = method.represent(batch, clock)
        out = method.loss(reps, batch, clock)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        for online, target in method.ema_pairs():
            for a, b in zip(online.parameters(), target.parameters(), strict=True):
                b.data.lerp_(a.data, 1 - method.ema_momentum(clock))
        if centred:
            method.update(reps, batch, clock)
        entropies.append(float(out["teacher_entropy"]))
    last = sum(entropies[-10:]) / 10
    if centred and sharp:
        assert 0.05 < last < 0.95
    elif sharp:
        assert last < 0.05
    else:
        assert last > 0.95


def test_swav_uses_all_prototypes_even_where_all_features_are_alike() -> None:
    """What keeps SwAV from collapse (Caron et al. 2020, §3.1): a code is a distribution, and codes are spread over the prototypes."""
    method = build("swav")
    assert isinstance(method, swav.SwAV)
    z = normalize(1 + 0.3 * torch.randn(SIZE, method.prototypes.shape[1], generator=torch.Generator().manual_seed(0)))
    codes, plain = method.assign(z, 0), (z @ method.prototypes.T / method.config.epsilon).softmax(1).detach()  # (N, K)
    assert codes.sum(1) == pytest.approx(torch.ones(SIZE), abs=1e-5)
    spread, unspread = (
        float(-(p.mean(0) * p.mean(0).clamp(min=1e-12).log()).sum()) / math.log(p.shape[1]) for p in (codes, plain)
    )
    assert spread >= 0.9 > unspread, (spread, unspread)


# ---------------------------------------------------------------- who sees what


def test_a_positive_is_never_in_moco_s_queue_at_its_own_step() -> None:
    method = build("moco", {"method.queue_size": 128})
    for step in range(3):
        batch = batch_of(step, ("query", "key"))
        reps = method.represent(batch, clock_of(step, 3))
        method.loss(reps, batch, clock_of(step, 3))
        keys = reps["enqueue"][0]
        assert (keys @ method.queue.T).max() < 0.999999
        method.update(reps, batch, clock_of(step, 3))
        assert (keys @ method.queue.T).amax(1) == pytest.approx(torch.ones(SIZE), abs=1e-5)


def test_moco_of_two_directions_is_two_of_one_each_with_its_queue() -> None:
    """solo-learn's `mocov2plus.py`: the mean of both losses; the queue that a view asks holds keys of the other."""
    method = build("moco", {"method.queue_size": 128, "method.directions": "2"})
    batch, clock = batch_of(0, ("query", "key")), clock_of(0, 3)
    reps = method.represent(batch, clock)
    loss = method.loss(reps, batch, clock)["loss"]
    terms = []
    for i, (mine, other) in enumerate((("query", "key"), ("key", "query"))):
        q = normalize(method.head(method.backbone(batch.views[mine])))
        k = normalize(method.key_head(method.key_backbone(batch.views[other])))
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ method.queue[i].T], 1) / method.config.temperature
        terms.append(F.cross_entropy(logits, torch.zeros(SIZE, dtype=torch.long)))
        assert torch.allclose(reps["enqueue"][i], k, atol=1e-5)
    assert float(loss.detach()) == pytest.approx(float(torch.stack(terms).mean().detach()), rel=1e-5)
    method.update(reps, batch, clock)
    assert torch.equal(method.queue[:, :SIZE], reps["enqueue"])


def test_mae_s_encoder_never_sees_a_masked_patch() -> None:
    method = build("mae", {"backbone.width": 16})
    pictures = torch.randn(SIZE, 3, 32, 32)
    batch = Batch({"view": pictures}, torch.arange(SIZE), torch.arange(SIZE), SIZE)
    before = method.represent(batch, clock_of(0, 1))
    order = before["order"]
    visible = torch.zeros(SIZE, 64).scatter(1, order[:, : before["tokens"].shape[1] - 1], 1.0)
    mask = F.interpolate(visible.view(SIZE, 1, 8, 8), scale_factor=4)
    changed = Batch({"view": pictures * mask + 9 * (1 - mask)}, batch.index, batch.slot, SIZE)
    after = method.represent(changed, clock_of(0, 1))
    assert torch.equal(after["order"], order)
    assert torch.equal(after["tokens"], before["tokens"])
    seen = Batch({"view": pictures * (1 - mask)}, batch.index, batch.slot, SIZE)
    assert not torch.equal(method.represent(seen, clock_of(0, 1))["tokens"], before["tokens"])


def test_moco_v3_s_patch_projection_gets_no_gradient() -> None:
    method = build("moco_v3", {"backbone.width": 16}, "digits_vit")
    projection = dict(method.named_parameters())["backbone.conv_proj.weight"]
    batch = Batch({name: torch.randn(8, 3, 32, 32) for name in ("first", "second")}, torch.arange(8), torch.arange(8), 8)
    method.loss(method.represent(batch, clock_of(0, 1)), batch, clock_of(0, 1))["loss"].backward()
    assert projection.grad is None
    assert not projection.requires_grad
    assert dict(method.named_parameters())["backbone.class_token"].grad is not None


def test_byol_without_batch_statistics_has_no_batch_norm() -> None:
    from contray.methods._norms import BatchNorm

    method = build("byol", preset="digits_gn_ws")
    norms = [module for module in method.modules() if isinstance(module, (BatchNorm, nn.modules.batchnorm._BatchNorm))]
    assert not norms
    assert any(isinstance(module, nn.GroupNorm) for module in method.modules())


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_the_last_layer_stays_as_it_was_drawn_for_a_while(name: str) -> None:
    keys = {"swav": {"method.frozen_steps": 2}, "dino": {"method.freeze_epochs": 2 * SIZE / DATASET}}[name]
    method = build(name, keys)
    last = dict(method.named_parameters())["prototypes" if name == "swav" else "head.last"]
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    names = ("large0", "large1") if name == "swav" else ("large_a", "large_b")
    for step in range(4):
        before, batch, clock = last.detach().clone(), batch_of(step, names), clock_of(step, 4)
        reps = method.represent(batch, clock)
        method.loss(reps, batch, clock)["loss"].backward()
        method.after_backward(clock)
        optimizer.step()
        optimizer.zero_grad()
        moved = float((normalize(last.detach()) - normalize(before)).abs().max())
        assert (moved < 1e-6) == (step < 2), step
        method.update(reps, batch, clock)
