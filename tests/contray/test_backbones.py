"""Backbones: plain torchvision networks in shapes, norms and sizes, and what their papers say of them."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet50
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from contray.config import RunConfig
from contray.methods._base import View
from contray.methods._norms import BatchNorm, norm_scope
from contray.methods._parts import apart
from contray.model import backbones, resnet
from contray.model.vit import _Bicubic, _bicubic


def built(channels=3, method="simclr", **settings):
    config = RunConfig.make(method, {f"backbone.{key}": value for key, value in settings.items()}, preset="paper")
    return backbones.factory(config)(channels)


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_resnet_is_torchvisions():
    ours, theirs = built(name="resnet50"), resnet50()
    theirs.fc = nn.Identity()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert_close(ours.eval()(x), theirs.eval()(x))


def test_vit_is_torchvisions_at_its_own_size():
    ours = built(method="moco_v3", name="vit_mini", width=32, patch=16)
    theirs = TorchvisionViT(224, 16, 4, 4, 32, 128, norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6))
    theirs.heads = nn.Identity()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 224, 224)
    assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


def test_vit_interpolates_its_positions_for_other_sizes():
    net = built(method="moco_v3", name="vit_mini", width=32, patch=16)
    assert net(torch.randn(2, 3, 96, 96)).shape == (2, 32)
    assert net.positions(14, 14) is not None
    assert torch.equal(net.positions(14, 14), net.encoder.pos_embedding[:, 1:])
    smooth = torch.linspace(0, 1, 14)[:, None].expand(14, 14).reshape(1, 196, 1).expand(-1, -1, 32)
    with torch.no_grad():
        net.encoder.pos_embedding[:, 1:] = smooth
    down = net.positions(6, 6)[0, :, 0].view(6, 6)
    assert (down.diff(dim=0) > 0).all()
    assert down.diff(dim=1).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["resnet_small", "resnet18", "alexnet", "vit_mini"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(name, channels):
    net = built(channels, name=name, width=16, patch=8)
    assert net(torch.randn(2, channels, 64, 64)).shape == (2, net.out_dim)


@pytest.mark.parametrize("width", [16, 48])
def test_width_scales_every_stage(width):
    net = built(name="resnet18", width=width)
    assert [stage[0].conv1.out_channels for stage in (net.layer1, net.layer2, net.layer3, net.layer4)] == [
        width, 2 * width, 4 * width, 8 * width
    ]  # fmt: skip
    assert net.out_dim == 8 * width


@pytest.mark.parametrize("norm", ["gn", "gn_ws", "ln", "none"])
@pytest.mark.parametrize("kernels", [0.0, 0.0625])
def test_no_batch_statistics_without_batch_norm(norm, kernels):
    """A row's features do not depend on its company."""
    net = built(name="resnet_small", width=16, norm=norm, selective_kernels=kernels).train()
    assert not [layer for layer in net.modules() if isinstance(layer, (BatchNorm, nn.BatchNorm2d))]
    x = torch.randn(4, 3, 32, 32)
    assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-4)


def test_batch_norm_is_ours_everywhere():
    for kernels in (0.0, 0.0625):
        net = built(name="resnet50", selective_kernels=kernels)
        assert not [layer for layer in net.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


def test_selective_kernels_make_the_papers_networks():
    """SimCLR v2, table 1: ResNet-50 has 24 and 35 million parameters without and with them, twice as wide 94 and 140."""
    found = [count(built(name="resnet50", width=w, selective_kernels=k)) / 1e6 for w in (64, 128) for k in (0.0, 0.0625)]
    assert found == pytest.approx([24, 35, 94, 140], abs=0.6)


def test_shortcuts_of_selective_kernels_average_at_stride_1_too():
    """google-research/simclr, `resnet.py`: 2x2 means, with padding SAME, which TensorFlow does not count."""
    net = built(name="resnet50", selective_kernels=0.0625)
    assert isinstance(net.layer1[0].downsample[0], resnet.Neighbours)
    x = torch.randn(2, 3, 4, 5)
    wanted = torch.empty_like(x)
    for i in range(4):
        for j in range(5):
            wanted[:, :, i, j] = x[:, :, i : i + 2, j : j + 2].mean((2, 3))
    torch.testing.assert_close(resnet.Neighbours()(x), wanted)


def test_alexnet_is_drawn_as_deepcluster_s():
    """facebookresearch/deepcluster, `models/alexnet.py`: deviations sqrt(2 / (k^2 outputs)) and 0.01."""
    net = built(name="alexnet")
    convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    for conv in convs:
        wanted = (2 / (conv.kernel_size[0] ** 2 * conv.out_channels)) ** 0.5
        assert float(conv.weight.detach().std()) == pytest.approx(wanted, rel=0.03)
    linear = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    assert [float(layer.weight.detach().std()) for layer in linear] == pytest.approx([0.01] * len(linear), rel=0.03)
    assert len(convs) == 5
    assert len(linear) == 2
    assert not any(layer.bias.any() for layer in linear)


def test_selective_kernels_weigh_two_kernels_per_channel():
    torch.manual_seed(0)
    layer = resnet.SelectiveKernel(nn.Conv2d(3, 8, 3, 2, 1), 0.5).eval()
    x = torch.randn(2, 3, 8, 8)
    first, second = torch.relu(layer.norm(layer.conv(x))).chunk(2, 1)
    seen = (first + second).mean((2, 3), keepdim=True)
    a, b = layer.weigh(torch.relu(layer.squeeze_norm(layer.squeeze(seen)))).chunk(2, 1)
    share = torch.sigmoid(a - b)
    assert_close(layer(x), share * first + (1 - share) * second)
    assert layer(x).shape == (2, 8, 4, 4)


def test_a_backbone_is_the_same_at_each_call():
    config = RunConfig.make("simclr", {"backbone.name": "resnet_small", "backbone.width": 8})
    build = backbones.factory(config)
    first, _, again = build(), build(2), build()
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


def test_drop_path_draws_by_row():
    net = built(method="dino", name="vit_mini", width=16, patch=8, drop_path=0.5, heads=4).train()
    x = torch.randn(1, 3, 32, 32).expand(8, -1, -1, -1)
    slot = torch.arange(8)
    draws = torch.rand(8, 1, generator=torch.Generator().manual_seed(0))
    with norm_scope(slot, 8, 1, rand=lambda name, shape=(): draws.expand(8, *shape)):
        y = net(x)
    kept = draws[:, 0] >= 0.5
    assert 0 < kept.sum() < 8
    assert_close(y[kept], y[kept][:1].expand(int(kept.sum()), -1))
    assert not torch.allclose(y[kept][0], y[~kept][0])


def test_what_is_no_image_has_no_side():
    assert backbones.image_side(View(size=77, kind="tokens")) == 0
    assert backbones.image_side(View(size=1024, kind="array")) == 0
    assert backbones.image_side(View(size=260, kind="patches", grid=(6, 80, 36))) == 80
    assert backbones.image_side(View(size=96)) == 96


def test_the_gradient_of_interpolated_positions_is_torchs() -> None:
    grid = torch.randn(1, 5, 14, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    up = torch.randn(1, 5, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, plain = (torch.autograd.grad((way(grid, (6, 7)) * up).sum(), grid)[0] for way in (_Bicubic.apply, _bicubic))
    assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_tokens_of_a_vit_in_parts() -> None:
    """Patches are projected ones with positions; the last inner tokens, normed, are the tokens; registers stand after the class token."""
    x = torch.randn(2, 3, 64, 64)
    for registers in (0, 3):
        net = built(method="moco_v3", name="vit_mini", width=32, patch=16, registers=registers)
        patches = net.patches(x)
        assert torch.equal(patches, net.project(x) + net.positions(4, 4))
        inner = net.inner(patches, 2)
        assert [tuple(each.shape) for each in inner] == [(2, 1 + registers + 16, 32)] * 2
        assert torch.equal(net.encoder.layers[-1](inner[0]), inner[1])
        assert torch.equal(net.encoder.ln(inner[1]), net.tokens(patches))
        assert torch.equal(apart(net, net.tokens(patches))[0], net(x))
        assert apart(net, net.tokens(patches))[1].shape == patches.shape
    plain = built(method="moco_v3", name="vit_mini", width=32, patch=16)
    with torch.no_grad():
        net.registers += torch.randn(3, 32)
        entered = [each.inner(patches, 4) for each in (net, plain)]
    assert not torch.allclose(entered[0][0][:, 4:], entered[1][0][:, 1:], atol=1e-3), "patches look at registers"
    assert all(torch.equal(net.state_dict()[name], value) for name, value in plain.state_dict().items()), (
        "the rest is drawn alike"
    )
