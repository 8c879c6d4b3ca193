"""How weights begin and what one update does to them, held against what the releases' code does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contray import model
from contray.config import RunConfig
from contray.config.sections import BackboneConfig
from contray.methods import _self_distillation, barlow_twins, swav
from contray.methods._base import Clock
from contray.methods._parts import xavier
from contray.model.optim import LARS
from contray.model.resnet import resnet
from contray.model.vit import VisionTransformer


def last_norms(net: nn.Module) -> list[float]:
    """Of each residual branch, the largest weight of the norm that it ends with."""
    blocks = [module for module in net.modules() if hasattr(module, "downsample")]
    return [float(getattr(block, "bn3" if hasattr(block, "bn3") else "bn2").weight.detach().abs().max()) for block in blocks]  # pyright: ignore[reportAttributeAccessIssue]


def test_residual_branches_start_at_zero_as_released() -> None:
    """google-research/simclr `resnet.py` (init_zero), dm-haiku `resnet.py` (BYOL), zero_init_residual of barlowtwins, moco-v3 and simsiam, CLIP's `model.py`."""
    for name in ("simclr", "simclr_v2", "byol", "barlow_twins", "moco_v3", "simsiam", "clip"):
        assert RunConfig.make(name, preset="paper").backbone.zero_init_residual, name
    for net, ratio in (("resnet_small", 0.0), ("resnet_small", 0.0625), ("resnet50", 0.0)):
        built = resnet(BackboneConfig(name=net, zero_init_residual=True, stem="cifar", width=8, selective_kernels=ratio))
        assert set(last_norms(built)) == {0.0}, net


def test_without_being_asked_they_do_not() -> None:
    assert set(last_norms(resnet(BackboneConfig(name="resnet_small", width=8)))) == {1.0}
    for name, preset in (("simclr", "cifar"), ("byol", "cifar_lightly"), ("barlow_twins", "digits")):
        assert not RunConfig.make(name, preset=preset).backbone.zero_init_residual


def vit(init: str) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(BackboneConfig(name="vit_mini", width=64, patch=4, init=init), 32)  # pyright: ignore[reportArgumentType]


def bounds(net: VisionTransformer) -> tuple[float, ...]:
    """The largest weight of a block's joint q, k, v, of its output projection, of its MLP's first layer and of the patch projection."""
    block = net.encoder.layers[0]
    tensors = (
        block.self_attention.in_proj_weight,
        block.self_attention.out_proj.weight,
        block.mlp[0].weight,
        net.conv_proj.weight,
    )
    return tuple(float(each.detach().abs().max()) for each in tensors)


@pytest.mark.parametrize(("init", "joint"), [("moco_v3", 1), ("mae", 3)])
def test_vits_are_drawn_by_xavier_of_moco_v3_or_mae(init: str, joint: int) -> None:
    wide, patch = 64, 3 * 4 * 4
    fans = [(1 + joint) * wide, 2 * wide, 5 * wide, patch + wide]
    assert bounds(vit(init)) == pytest.approx([math.sqrt(6 / fan) for fan in fans], rel=0.02)


def test_vits_of_dino_are_drawn_from_a_normal() -> None:
    net = vit("trunc_normal")
    block = net.encoder.layers[0]
    for weight in (
        block.self_attention.in_proj_weight,
        block.self_attention.out_proj.weight,
        block.mlp[0].weight,
        block.mlp[3].weight,
    ):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.03)
        assert float(weight.detach().abs().max()) > 0.06, "a uniform draw would end at 0.035"
    assert bounds(net)[3] == pytest.approx(1 / math.sqrt(3 * 4 * 4), rel=0.02), "a convolution's own"


def test_vits_of_beit_s_followers_are_cut_at_one_deviation() -> None:
    """A normal cut there has a deviation of 0.54; the branches' last layers are less with depth."""
    net, narrow = vit("beit"), 0.02 * 0.5396
    for depth, block in enumerate(net.encoder.layers, 1):
        for weight, part in (
            (block.self_attention.in_proj_weight, 1.0),
            (block.mlp[0].weight, 1.0),
            (block.self_attention.out_proj.weight, (2 * depth) ** -0.5),
            (block.mlp[3].weight, (2 * depth) ** -0.5),
        ):
            assert float(weight.detach().std()) == pytest.approx(narrow * part, rel=0.04)
            assert float(weight.detach().abs().max()) <= 0.02 * part * 1.0001
        assert not block.self_attention.in_proj_bias.any()
    assert not net.conv_proj.bias.any()
    assert float(net.conv_proj.weight.detach().std()) == pytest.approx(narrow, rel=0.06)
    assert float(net.class_token.detach().abs().max()) <= 0.02


def test_each_method_draws_its_vit_as_its_release_does() -> None:
    drawn = {name: RunConfig.make(name, preset=preset).backbone.init for name, preset in
             (("moco_v3", "vit_b"), ("dino", "paper"), ("mae", "paper"), ("cae", "paper"))}  # fmt: skip
    assert drawn == {"moco_v3": "moco_v3", "dino": "trunc_normal", "mae": "mae", "cae": "mae"}
    decoder = model.build(RunConfig.make("mae", preset="digits"), 64).decoder  # pyright: ignore[reportAttributeAccessIssue]
    layer = decoder[0]
    assert float(layer.self_attn.in_proj_weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / (4 * 64)), rel=0.02)
    assert float(layer.linear1.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / (5 * 64)), rel=0.02)
    plain = nn.Linear(4, 4)
    xavier(plain)
    assert not plain.bias.any()
    built: Any = model.build(RunConfig.make("cae", preset="digits"), 64)
    for layer in (built.name, built.decoder[0].linear2, built.regressor[0].mlp[0], built.regressor[0].attention.out_proj):
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / sum(layer.weight.shape)), rel=0.05)
        assert not layer.bias.any()


def test_moco_v3_s_linear_layers_have_no_bias() -> None:
    """facebookresearch/moco-v3, `moco/builder.py`: bias=False of every layer."""
    method: Any = model.build(RunConfig.make("moco_v3", preset="digits"), 64)
    assert all(
        layer.bias is None for net in (method.projector, method.predictor) for layer in net if isinstance(layer, nn.Linear)
    )


# ---------------------------------------------------------------- one update


class Released(nn.Module):
    """DINO's last layer as released: a linear layer under weight norm, whose g is one."""

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(width, outputs, bias=False))
        self.layer.parametrizations.weight.original0.data.fill_(1)  # pyright: ignore[reportAttributeAccessIssue]
        self.layer.parametrizations.weight.original0.requires_grad_(False)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.normalize(x, dim=-1))


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_one_update_turns_dinos_last_layer_as_far_as_in_the_release(optimiser: str) -> None:
    """At the release's rates, 2e-3 of AdamW and 0.12 of SGD. Rows of norm 16, as from a plain normal, would turn 28 and 760 times less."""
    torch.manual_seed(0)
    head = _self_distillation.Head(384, 512, 2048, 256)
    rows = head.last.detach().norm(dim=1)
    assert float(rows.mean()) == pytest.approx(1 / math.sqrt(3), rel=0.01)
    assert float(head.last.detach().abs().max()) <= 1 / 16
    released = Released(512, 256)
    released.layer.parametrizations.weight.original1.data.copy_(head.last.detach())  # pyright: ignore[reportAttributeAccessIssue]
    x = torch.randn(64, 256)
    target = (torch.randn(64, 512) / 0.04).softmax(-1)
    turned = []
    for weight, logits in ((head.last, _self_distillation.cosines(F.normalize(x, dim=-1), head.last)),
                           (released.layer.parametrizations.weight.original1, released(x))):  # fmt: skip  # pyright: ignore[reportAttributeAccessIssue]
        before = F.normalize(weight.detach().clone(), dim=-1)
        step = torch.optim.AdamW([weight], lr=2e-3) if optimiser == "adamw" else torch.optim.SGD([weight], lr=0.12)
        (-(target * (logits / 0.1).log_softmax(-1)).sum(-1).mean()).backward()
        step.step()
        turned.append((F.normalize(weight.detach(), dim=-1) - before).norm(dim=1).mean())
    assert turned[0] == pytest.approx(float(turned[1]), rel=1e-3)
    assert float(turned[0]) > (0.03 if optimiser == "adamw" else 1e-4)


def literal_solo_lars(
    params: list[Tensor], grads: list[Tensor], state: list[Tensor], lr: float, decay: float, trust: float
) -> None:
    """vturrisi/solo-learn, `solo/utils/lars.py`, with clip_lr and exclude_bias_n_norm."""
    for p, g, buffer in zip(params, grads, state, strict=True):
        update = g
        if p.ndim != 1 and p.norm() != 0 and g.norm() != 0:
            rate = trust * p.norm() / (g.norm() + decay * p.norm() + 1e-8)
            update = (g + decay * p) * min(float(rate) / lr, 1)
        buffer.mul_(0.9).add_(update)
        p.add_(buffer, alpha=-lr)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_lars_with_clip_lr_is_solo_learns(size: float) -> None:
    """Small gradients are clipped to the rate, large ones are not."""
    torch.manual_seed(0)
    shapes = [(5, 4), (3, 2, 3, 3), (7,)]
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    theirs, state = [p.detach().clone() for p in ours], [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    optimizer = LARS(ours, lr=0.4, weight_decay=1e-2, trust=0.02, clip_lr=True)
    for lr in (3e-5, 0.2, 0.4, 0.1):
        grads = [size * torch.randn_like(p) for p in theirs]
        for p, g in zip(ours, grads, strict=True):
            p.grad = g.clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        literal_solo_lars(theirs, grads, state, lr, 1e-2, 0.02)
    torch.testing.assert_close([p.detach() for p in ours], theirs)


def literal_simclr_lars(w: Tensor, g: Tensor, v: Tensor, lr: float, decay: float) -> Tensor:
    """google-research/simclr, `lars_optimizer.py` with classic_momentum: the weight, and in place the velocity."""
    g = g + decay * w
    v.mul_(0.9).add_(g, alpha=lr * 0.001 * float(w.norm() / g.norm()))
    return w - v


@pytest.mark.parametrize("inside", [True, False])
def test_the_rate_is_inside_the_velocity_as_simclr_has_it(inside: bool) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    theirs, v = weight.detach().clone(), torch.zeros(4, 3, dtype=torch.float64)
    optimizer = LARS([weight], lr=0.3, weight_decay=1e-4, rate_in_velocity=inside)
    for lr in (4.8, 2.4, 0.6):
        weight.grad = torch.randn_like(weight)
        theirs = literal_simclr_lars(theirs, weight.grad, v, lr, 1e-4)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    assert torch.allclose(weight.detach(), theirs, rtol=1e-12) is inside


def test_barlows_released_gradient_is_that_of_one_of_its_ranks() -> None:
    """facebookresearch/barlowtwins `main.py`: all_reduce has no gradient, and DistributedDataParallel takes the mean over ranks. Here 4."""
    torch.manual_seed(0)
    ranks, size = 4, 32
    weight = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(2, size, 6, dtype=torch.float64)

    def standardised(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / x.std(0, unbiased=False)

    first, second = (standardised(x @ weight) for x in rows)
    on, off = barlow_twins.cross_correlation(first, second, size)
    (exact,) = torch.autograd.grad(on + 0.0051 * off, weight, retain_graph=True)
    whole = (first.T @ second / size).detach()
    shares = []
    for a, b in zip(first.chunk(ranks), second.chunk(ranks), strict=True):  # each rank's loss knows its own rows' correlation
        own = a.T @ b / size
        c = own + (whole - own.detach())
        diagonal = c.diagonal()
        loss = (diagonal - 1).square().sum() + 0.0051 * (c.square().sum() - diagonal.square().sum())
        shares.append(torch.autograd.grad(loss, weight, retain_graph=True)[0])
    torch.testing.assert_close(torch.stack(shares).mean(0) * ranks, exact)
    paper = RunConfig.make("barlow_twins", preset="paper")
    assert paper.method.bias_lr * paper.optim.lr == pytest.approx(0.0048 / 32), "the paper's 32 GPUs"


# ---------------------------------------------------------------- widths, and what bf16 may not touch


def test_projectors_are_as_wide_as_released() -> None:
    """google-research/simclr `model_util.py`: the hidden layers are as wide as the features; Chen & He 2021, appendix D: two layers."""
    wide = RunConfig.make("simclr_v2", preset="resnet152_3x")
    assert wide.method.projector_hidden == 2048 * wide.backbone.width / 64 == 6144
    short = {"backbone.name": "resnet_small", "backbone.width": 8, "method.dim": 16, "method.hidden": 8}
    heads = {
        preset: model.build(RunConfig.make("simsiam", short, preset=preset), 1000).projector
        for preset in ("cifar", "cifar_paper")
    }  # pyright: ignore[reportAttributeAccessIssue]
    assert {preset: sum(isinstance(layer, nn.Linear) for layer in head) for preset, head in heads.items()} == {
        "cifar": 3,
        "cifar_paper": 2,
    }


def test_a_momentum_may_end_elsewhere_or_stay() -> None:
    """solo-learn's MoCo v2+ goes from 0.99 to 0.999; lightly's BYOL and DINO stay at 0.99."""
    clocks = [Clock(0, 100, 100, 10), Clock(50, 100, 100, 10), Clock(100, 100, 100, 10)]
    found = {}
    for name, preset in (("moco", "cifar"), ("byol", "cifar_lightly"), ("byol", "cifar"), ("dino", "cifar_lightly")):
        config = RunConfig.make(name, preset=preset).method
        method = type(model.build(RunConfig.make(name, preset="digits"), 600)).ema_momentum
        found[name, preset] = [round(method(type("M", (), {"config": config})(), clock), 6) for clock in clocks]  # pyright: ignore[reportArgumentType]
    assert found["moco", "cifar"] == [0.99, 0.9945, 0.999]
    assert found["byol", "cifar_lightly"] == found["dino", "cifar_lightly"] == [0.99] * 3
    assert found["byol", "cifar"] == [0.99, 0.995, 1.0]


def test_codes_and_logits_are_no_bf16() -> None:
    torch.manual_seed(0)
    z, prototypes = F.normalize(torch.randn(32, 16), dim=1), F.normalize(torch.randn(24, 16), dim=1)
    plain = swav.codes(z, prototypes, 0.05, 3), _self_distillation.cosines(z, prototypes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = swav.codes(z, prototypes, 0.05, 3), _self_distillation.cosines(z, prototypes)
        assert not torch.equal((z @ prototypes.T).float(), plain[1]), "autocast would have told"
    for before, within in zip(plain, cast, strict=True):
        assert within.dtype == torch.float32
        assert torch.equal(before, within)
