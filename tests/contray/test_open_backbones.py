"""Backbones that are not built in: networks of timm and torchvision, one's own by path and by entry point, under the same laws."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import contray
from contray import RunConfig, data, model
from contray.cli import main
from contray.config import registry
from contray.data import scenes
from contray.errors import ConfigError, UserError
from contray.evaluation.common.classifier import Classifier, rate_scales
from contray.evaluation.common.tokens import last_blocks, tokens
from contray.evaluation.dense.bodies import Last, Pyramid, body_of
from contray.evaluation.dense.detector import detector
from contray.exchange.cards import Origin
from contray.exchange.exporting import export_to
from contray.exchange.importing import import_file
from contray.methods._base import Method
from contray.methods.simclr import SimCLR
from contray.model import backbones, optim
from contray.model.encoder import Encoder, read_checkpoint
from contray.pictures.attention import attended
from contray.storage.folder import Storage
from contray.training.loop import Listener, train
from tests.contray.test_doors import install
from tests.methods.test_contract import assert_same, begun, one_step
from tests.ranks import run_ranks

OWN = str(Path(__file__).parents[2] / "docs" / "examples" / "vit_like.py")
SMALL = ("patch_size=8", "depth=2", "embed_dim=32", "num_heads=2")
VIT = {"backbone.name": "timm/vit_tiny_patch16_224", "backbone.timm.options": SMALL}
TINY = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "train.batch_size": 16, "train.precision": "fp32", "train.log_every": 1,
    "train.checkpoint_seconds": 1e6, "eval.final": (), "eval.every_epochs": 0.0, "scale.workers": (0, 0),
    "eval.detection.steps": 2, "eval.detection.batch": 2, "eval.detection.proposals": 8, "eval.detection.lr": 1e-3,
}  # fmt: skip


def config_of(name: str, method: str = "simclr", size: int = 32, **keys: Any) -> RunConfig:
    return RunConfig.make(method, {"backbone.name": name, **keys}, preset="digits").replace(
        {f"views.{view}.size": size for view in RunConfig.make(method, preset="digits").views} if size != 32 else {}
    )


def encoder_of(keys: dict[str, Any], method: str = "simclr", **more: Any) -> Encoder:
    """Its numbers drawn anew, so that no two tensors are alike and no branch is scaled to nothing."""
    config = RunConfig.make(method, {**keys, **more}, preset="digits")
    made, drawn = model.build(config, 100).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point() and name.startswith("backbone"):
                noise = torch.rand(value.shape, generator=drawn) * 0.1
                value.add_(noise if name.endswith("running_var") else noise - 0.05)
    return Encoder(config, made)


# ---------------------------------------------------------------- names and keys


def test_ones_own_is_found_by_path_and_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(OWN, tmp_path / "others_vit.py")
    install(tmp_path, "contray.backbones", monkeypatch, theirs="others_vit")
    for name, part in ((OWN, "vit_like"), ("theirs", "theirs")):
        config = RunConfig.make("simclr", {"backbone.name": name, f"backbone.{part}.depth": 2, f"backbone.{part}.width": 16})
        assert config.flat()[f"backbone.{part}.patch"] == 4
        net = backbones.factory(config)(3)
        assert (net.out_dim, len(net.blocks)) == (16, 2)
        assert RunConfig.from_yaml(config.to_yaml()).run_name == config.run_name
    with pytest.raises(ConfigError, match=r"backbone.vit_like.dept.*did you mean backbone.vit_like.depth"):
        RunConfig.make("simclr", {"backbone.name": OWN, "backbone.vit_like.dept": 2})


def test_code_that_only_a_file_names_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = RunConfig.make("simclr", {"backbone.name": OWN}).to_yaml()
    monkeypatch.setattr(registry, "_named", {})
    with pytest.raises(ConfigError, match=r"backbone.name: the config names the code .*vit_like.py"):
        RunConfig.from_yaml(text)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet5", "did you mean resnet50"),
        ("timm/convnext_ato", "did you mean convnext_atto"),
        ("timm/convnext_atto.d2_in1k", "convnext_atto"),
        ("timm/qqqqqqqqqqqq", r"such as \w+, \w+, \w+ \(timm has 1,\d\d\d\)"),
        ("torchvision/resnet19", "did you mean resnet18"),
        ("hf_hub/x", "timm/NAME, torchvision/NAME"),
    ],
)
def test_unknown_names_are_told_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"backbone.name: got .*{words}") as caught:
        backbones.sketch(config_of(name))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("pretrained=True", "untrained"),
        ("checkpoint_path=x.pth", "untrained"),
        ("features_only=True", "one vector"),
        ("drop_path_rate=0.1", "backbone.drop_path"),
        ("depth", "name=value"),
        ("dephts=3", "dephts"),
        ("depths=()", "cannot be built with .*depths=()"),
    ],
)
def test_arguments_that_are_not_the_networks(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        backbones.sketch(config_of("timm/convnext_atto", **{"backbone.timm.options": (word,)}))


def test_without_timm_its_pip_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'timm/NAME needs timm: pip install "contray\[timm\]"'):
        backbones.sketch(config_of("timm/convnext_atto"))


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "name",
    ["timm/convnext_atto", "timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224", "torchvision/shufflenet_v2_x0_5", OWN],
)
def test_any_number_of_channels(name: str, channels: int) -> None:
    config = config_of(name, size=48)
    net, again = backbones.factory(config)(channels).eval(), backbones.factory(config)(channels)
    assert net(torch.randn(2, channels, 48, 48)).shape == (2, net.out_dim)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "timm/convnext_atto", OWN])
def test_any_side(name: str) -> None:
    net = backbones.factory(config_of(name))(3).eval()
    assert net(torch.randn(2, 3, 64, 96)).shape == (2, net.out_dim)


def test_stochastic_depth_is_what_the_key_says() -> None:
    """torchvision's EfficientNets and Swins have rates of their own; timm's are asked for."""
    for name, rate in (("torchvision/efficientnet_b0", 0.3), ("torchvision/efficientnet_b0", 0.0), ("timm/convnext_atto", 0.3)):
        net = backbones.factory(config_of(name, **{"backbone.drop_path": rate}))(3)
        rates = [layer.rate for layer in net.modules() if type(layer).__name__ == "DropPath"]
        assert max(rates, default=0.0) == pytest.approx(rate)
    with pytest.raises(ConfigError, match=r"backbone.drop_path: got 0.1"):
        backbones.factory(config_of("torchvision/resnet18", **{"backbone.drop_path": 0.1}))(3)


# ---------------------------------------------------------------- the laws

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("byol", {
        "backbone.name": "timm/convnext_atto", "backbone.drop_path": 0.3,
        "backbone.timm.options": ("depths=(1,1,1,1)", "dims=(8,8,16,16)", "ls_init_value=1."),
    }),
    "batch norm": ("moco", {"backbone.name": "timm/resnet18", "backbone.drop_path": 0.2, "backbone.timm.options": ("channels=(4,8,8,16)",)}),
    "norm and activation in one": ("simclr", {"backbone.name": "timm/mobilenetv3_small_050"}),
    "vit": ("moco_v3", {
        **VIT, "backbone.drop_path": 0.3, "backbone.timm.options": (*SMALL, "proj_drop_rate=0.1", "attn_drop_rate=0.1", "pos_drop_rate=0.1"),
    }),
    "tokens folded into rows": ("simclr", {"backbone.name": "timm/levit_128s"}),
    "windows folded into rows": ("simclr", {
        "backbone.name": "timm/swin_tiny_patch4_window7_224", "backbone.drop_path": 0.2,
        "backbone.timm.options": ("depths=(1,1)", "num_heads=(2,2)", "embed_dim=16", "window_size=4", "proj_drop_rate=0.2"),
    }),
    "own": ("dino", {
        "backbone.name": OWN, "backbone.vit_like.depth": 2, "backbone.vit_like.width": 32, "backbone.vit_like.patch": 8,
        "backbone.vit_like.dropout": 0.2,
    }),
}  # fmt: skip
SIZE, GROUPS = 13, 3


def exact(case: str, limit: int = 0) -> RunConfig:
    method, keys = CASES[case]
    return RunConfig.make(method, keys, preset="digits").replace(
        {
            "train.batch_size": SIZE, "train.precision": "fp64", "train.norm_groups": GROUPS, "train.channels_last": False,
            "optim.name": "sgd", "optim.lr": 0.01, "optim.lr_scaling": "none", "optim.warmup_epochs": 0, "optim.clip": 0,
            "scale.max_batch_per_worker": limit,
        }
    )  # fmt: skip


def some_steps(rank: int, world: int, parts: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Of each case, for each (steps, most rows at once), what came of it."""
    registry.name_code(OWN)
    found = []
    for count, limit in parts:
        done = {}
        for case in CASES:
            config = exact(case, limit)
            method = begun(config)
            optimizer = optim.build(config, method)
            steps = [one_step(config, method, optimizer, step, rank, world) for step in range(count)]
            done[case] = {"steps": steps, "state": method.state_dict()}
        found.append(done)
    return found


@pytest.fixture(scope="module")
def worlds() -> dict[str, dict[str, Any]]:
    (alone,) = some_steps(0, 1, ((2, 0),))
    together, chunks = run_ranks(some_steps, 2, ((2, 0), (1, 5)))[1]
    return {"alone": alone, "together": together, "in chunks": chunks}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_and_chunks_compute_what_one_does(worlds: dict[str, dict[str, Any]], case: str) -> None:
    alone, together, chunks = (worlds[key][case] for key in ("alone", "together", "in chunks"))
    assert_same(together, alone, 1e-9, 1e-9, case)
    assert_same(chunks["steps"], alone["steps"][:1], 1e-9, 1e-9, f"{case} in chunks")


@pytest.mark.parametrize("case", CASES)
def test_they_keep_the_laws_and_draw_where_they_say(case: str) -> None:
    config = exact(case)
    backbones.check_laws(config)
    drawing = [layer for layer in backbones.factory(config)(3).modules() if getattr(layer, "rate", 0)]
    assert bool(drawing) == (case in ("convnext", "batch norm", "vit", "windows folded into rows", "own"))


LAWLESS = """
import torch
from torch import nn
ABOUT = "breaks a law"
class Net(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.out_dim, self.inner = 48, Inner()
    def forward(self, x):
        return self.inner(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48))
        self.register_buffer("seen", torch.zeros(48))
        {layers}
    def forward(self, x):
        x = x * self.weight
        {forward}
def build(config, channels, side):
    return Net(side)
"""


@pytest.mark.parametrize(
    ("layers", "forward", "words"),
    [
        ("pass", "return nn.functional.dropout(x, 0.5, self.training)", r"inner \(Inner\) draws from torch's global generator"),
        ("pass", "self.seen.lerp_(x.mean(0).float().detach().to(self.seen), 0.1); return x", "inner.seen changes while it trains"),
        ("pass", "return x - x.mean(0)", "depend on other rows"),
        ("self.calls = 0", "self.calls += 1; return x * self.calls", "same images have other features when it sees them again"),
        ("pass", "import random; return x * random.random()", "same images have other features when it sees them again"),
        ("pass", "return x[:, :40]", r"it gives \(\d+, 40\), must give"),
        ("pass", "return (x, x)", "it gives tuple, must give"),
        ("self.scale = nn.Parameter(torch.zeros(48))", "return x + self.scale * (x - x.mean(0))", "depend on other rows"),
        ("self.norm = nn.BatchNorm1d(48, momentum=None)", "return self.norm(x)", r"inner.norm \(BatchNorm1d\) keeps no moving average"),
        ("self.norm = nn.BatchNorm1d(48, track_running_stats=False)", "return self.norm(x)", "keeps no moving average"),
        ("self.drop = nn.AlphaDropout(0.5)", "return self.drop(x)", r"inner.drop \(AlphaDropout\) draws"),
    ],
)  # fmt: skip
def test_what_breaks_the_laws_is_refused(layers: str, forward: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "lawless.py").write_text(LAWLESS.replace("{layers}", layers).replace("{forward}", forward))
    with pytest.raises(ConfigError, match=rf"backbone.name: .*{words}"):
        model.check(config_of(str(tmp_path / "lawless.py")), 1000)


def test_rounding_is_no_broken_law() -> None:
    """On 32 px its last maps are of one pixel each."""
    backbones.check_laws(config_of("torchvision/efficientnet_b0"))


def test_a_layer_of_a_library_that_draws_is_named() -> None:
    config = config_of(
        "timm/vit_tiny_patch16_224", **{"backbone.timm.options": ("patch_drop_rate=0.5", "patch_size=8", "depth=1")}
    )
    with pytest.raises(ConfigError, match=r"patch_drop \(PatchDropout\) draws"):
        model.check(config, 1000)


# ---------------------------------------------------------------- what methods and optimisers ask of them


def test_methods_that_mask_ask_for_patches_in_reach() -> None:
    with pytest.raises(
        ConfigError, match=r"backbone.name: got timm/resnet18, but mae .* no patches, tokens, positions, patch_size, image_size"
    ):
        model.check(config_of("timm/resnet18", "mae"), 1000)
    for method in ("mae", "cae"):
        keys = {"backbone.name": OWN, "train.batch_size": SIZE}
        config = RunConfig.make(method, keys, preset="digits")
        model.check(config, 1000)


def test_position_embeddings_do_not_decay() -> None:
    method = model.build(RunConfig.make("moco_v3", VIT, preset="digits"), 100)
    for decay_norms in (False, True):
        config = RunConfig.make("moco_v3", {**VIT, "optim.decay_norms": decay_norms}, preset="digits")
        net: Any = method.backbone
        decayed = {id(p) for group in optim.build(config, method).param_groups if group["decay_scale"] for p in group["params"]}
        assert (id(net.pos_embed) in decayed, id(net.cls_token) in decayed) == (decay_norms, decay_norms)
        assert id(net.blocks[0].attn.qkv.weight) in decayed


# ---------------------------------------------------------------- what evaluations read of them


@pytest.mark.parametrize(
    ("keys", "cells"),
    [
        (VIT, 16), ({"backbone.name": "timm/convnext_atto"}, 1), ({"backbone.name": "timm/mobilenetv3_small_050"}, 1),
        ({"backbone.name": OWN}, 64), ({"backbone.name": "torchvision/resnet18"}, 1), ({"backbone.name": "timm/swin_tiny_patch4_window7_224"}, 1),
    ],
)  # fmt: skip
def test_tokens_are_patches_or_cells(keys: dict[str, Any], cells: int) -> None:
    made = encoder_of(keys).method
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = tokens(made, {"image": x})
        assert found.shape[:2] == (2, cells)
        if keys["backbone.name"] == OWN:
            assert_close(found.mean(1), made.encode({"image": x}))


def test_blocks_serve_last_n_and_layer_decay() -> None:
    x = torch.rand(2, 3, 32, 32)
    for keys, last in (
        (VIT, "norm."),
        ({"backbone.name": OWN, "backbone.vit_like.depth": 2, "backbone.vit_like.width": 32}, "norm."),
    ):
        method = encoder_of(keys).method
        net: Any = method.backbone
        with torch.no_grad():
            assert last_blocks(method, {"image": x}, 2, True).shape == (2, 3 * 32)
            if keys is VIT:
                assert_close(last_blocks(method, {"image": x}, 1, False), net(x))
        scales = rate_scales(Classifier(method, {"image": x}, 3, project=False), 0.5, "eval.finetune.")
        own = {name.removeprefix("method.backbone."): scale for name, scale in scales.items()}
        assert own[f"{last}weight"] == 1
        assert {scale for name, scale in own.items() if name.startswith("blocks.1.")} == {0.5}
        assert {scale for name, scale in own.items() if name.startswith("blocks.0.")} == {0.25}
        assert {scale for name, scale in own.items() if re.match("patch_embed|embed|places|pos_embed|cls_token", name)} == {0.125}


def test_attention_of_timms_is_what_its_block_computes() -> None:
    method = encoder_of(VIT).method
    net: Any = method.backbone
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = attended(method, {"image": x}, "image")
        net.blocks[-1].attn.fused_attn = False
        kept: list[torch.Tensor] = []
        net.blocks[-1].attn.attn_drop.register_forward_hook(lambda layer, given, output: kept.append(given[0]))
        method.encode({"image": x})
    assert_close(found.flatten(2), kept[0][:, :, 0, 1:])


# ---------------------------------------------------------------- detection and segmentation


@pytest.mark.parametrize(
    ("keys", "strides"),
    [
        ({"backbone.name": "timm/convnext_atto"}, [4, 8, 16, 32]),
        ({"backbone.name": "timm/swin_tiny_patch4_window7_224"}, [4, 8, 16, 32]),
        ({"backbone.name": "torchvision/mobilenet_v3_small"}, [4, 8, 16, 32]),
        ({"backbone.name": "alexnet", "views.view.size": 96}, [4, 8, 16, 32]),
        (VIT, [4, 8, 16]),
        ({"backbone.name": "vit_mini", "backbone.width": 16, "backbone.patch": 16}, [4, 8, 16, 32]),
        ({"backbone.name": OWN, "backbone.vit_like.patch": 8}, [4, 8, 16]),
    ],
)
def test_pyramids_of_any_network(keys: dict[str, Any], strides: list[int]) -> None:
    found = encoder_of(keys)
    pyramid = Pyramid(body_of(found.config, found.method), 4).build().eval()
    assert pyramid.strides == strides
    maps = pyramid(torch.rand(1, 3, 96, 160))
    assert list(maps) == [*map(str, range(len(strides))), "pool"]
    for x, stride in zip(maps.values(), strides, strict=False):
        assert x.shape[1] == pyramid.out_channels
        assert all(abs(cells - side / stride) < 1.1 for cells, side in zip(x.shape[-2:], (96, 160), strict=True))
    body = Last(body_of(found.config, found.method), 16).eval()
    x = body(torch.rand(1, 3, 96, 160))
    assert x.shape[1] == body.channels
    sum(x.sum() for x in pyramid(torch.rand(1, 3, 96, 160)).values()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in pyramid.body.parameters())


def test_a_grid_of_patches_is_where_they_are() -> None:
    """The last map of a transformer at a patch is the token of that patch, also where images are filled up and patches are no power of two."""
    found = encoder_of({"backbone.name": "vit_mini", "backbone.width": 16, "backbone.patch": 8})
    net: Any = body_of(found.config, found.method).eval()
    x = torch.rand(1, 3, 60, 64)
    with torch.no_grad():
        grid = Last(net, 16).eval()(x)
        seen = net.tokens(net.patches(nn.functional.pad(x, (0, 0, 0, 4))))[:, 1:]
    assert_close(grid.flatten(2).transpose(1, 2), seen)
    odd = encoder_of({"backbone.name": "vit_mini", "backbone.width": 16, "backbone.patch": 10})
    assert Last(body_of(odd.config, odd.method), 16).eval()(torch.rand(1, 3, 96, 160)).shape[-2:] == (12, 20)


def test_c4_takes_resnets_alone() -> None:
    found = encoder_of(VIT)
    with pytest.raises(UserError, match="c4, whose box head is the fourth stage of a ResNet"):
        detector("c4", body_of(found.config, found.method), 3, size=64, mean=(0.5,) * 3, std=(0.2,) * 3, proposals=8)


def test_networks_of_one_size_are_refused() -> None:
    found = encoder_of({**VIT, "backbone.timm.options": (*SMALL, "dynamic_img_size=False")})
    with pytest.raises(ConfigError, match="does not take images of any size"):
        body_of(found.config, found.method)


# ---------------------------------------------------------------- leaving and coming back

LEAVING = {
    "timm/convnext_atto": {"backbone.drop_path": 0.1}, "timm/mobilenetv3_small_050": {},
    "timm/vit_tiny_patch16_224": {"backbone.timm.options": ("patch_size=8", "depth=2")},
    "timm/resnet18": {}, "torchvision/mobilenet_v3_small": {}, "torchvision/resnet18": {},
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVING)
def test_weights_load_into_the_library_and_come_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = name.partition("/")[0]
    found = encoder_of({"backbone.name": name, **LEAVING[name]})
    path = export_to(found, library, tmp_path / "out", Origin("a test"))
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    card: dict[str, Any] = {"__name__": "card"}
    with torch.no_grad():
        exec(code, card)
        assert not any(type(layer).__module__.startswith("contray") for layer in card["net"].modules())
        expected = found.method.encode({"image": (card["images"] - card["mean"]) / card["std"]})
    assert_close(card["features"], expected, rtol=1e-4, atol=1e-5)
    keys = {"backbone.name": name, "views.image.size": 32, **LEAVING[name]}
    again = import_file(path, library, tmp_path / "back", {**keys, "backbone.drop_path": 0.0})
    assert_same(again.method.backbone.state_dict(), found.method.get_submodule("backbone").state_dict(), 0, 0, name)
    other = {"timm": "torchvision", "torchvision": "timm"}[library]
    with pytest.raises(ConfigError, match=rf"{name} is no network of {other}; --to {library} takes this one"):
        export_to(found, other, tmp_path / "other", Origin("a test"))


def test_a_librarys_own_weights_come_without_their_classifier(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("convnext_atto", pretrained=False)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    found = import_file(
        tmp_path / "theirs.pth", "timm", tmp_path / "out", {"backbone.name": "timm/convnext_atto", "views.image.size": 64}
    )
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(found.method.encode({"image": x}), theirs.eval().forward_head(theirs.forward_features(x), pre_logits=True))
    assert RunConfig.from_yaml((tmp_path / "out" / "config.yaml").read_text()).augment.mean == pytest.approx(
        (0.485, 0.456, 0.406)
    )
    with pytest.raises(UserError, match=r"of another network of timm or torchvision, say which|there is no backbone"):
        import_file(tmp_path / "theirs.pth", "timm", tmp_path / "other")


def test_onnx_of_a_network_that_folds(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    found = encoder_of({"backbone.name": OWN, "backbone.vit_like.depth": 1})
    path = export_to(found, "onnx", tmp_path / "out", Origin("a test"))
    x = torch.rand(3, 3, 32, 32)
    (features,) = onnxruntime.InferenceSession(str(path)).run(None, {"image": x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(features), found.method.encode({"image": x}), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="is no network of timm; --to safetensors and --to onnx take any encoder"):
        export_to(found, "timm", tmp_path / "other", Origin("a test"))


# ---------------------------------------------------------------- end to end


@pytest.mark.parametrize("name", ["timm/convnext_atto", OWN])
def test_train_resume_export_and_detect(
    name: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 4), ("val", 2)):
        monkeypatch.setitem(scenes.COUNTS, part, count)
    keys = {
        **TINY,
        "backbone.name": name,
        "track.uri": store,
        "train.steps": 4,
        "train.checkpoint_steps": 2,
        "track.name": "whole",
    }
    config = RunConfig.make("simclr", {**keys, "scale.storage": "runs"}, preset="digits")
    whole = contray.train(config, quiet=True)
    (tmp_path / "cut").mkdir()
    for path in (tmp_path / "runs" / "whole").glob("step-*2.pt"):
        shutil.copy(path, tmp_path / "cut")
    listener, begun_at = Listener(), []
    monkeypatch.setattr(listener, "restore", lambda state: begun_at.append(state["step"]))
    resumed = train(config, data.open_source(config.data), Storage(str(tmp_path / "cut")), listener)
    assert begun_at == [2]
    assert_same(
        resumed.method.state_dict(), read_checkpoint(str(tmp_path / "runs" / "whole")).method.state_dict(), 0, 0, "resumed"
    )
    code = ["--code", OWN] if name == OWN else []
    where = ["--run", whole.run_id, "--track.uri", store, *code]
    assert main(["export", "--to", "timm" if name != OWN else "onnx", "--out", "encoder", *where]) == 0
    assert main(["eval", "detection", "--supervised", "none", *where]) == 0
    assert "detection_fpn_ap" in capsys.readouterr().out


# ---------------------------------------------------------------- feature maps


class Places(Method):
    """A method that wants a feature map."""

    @classmethod
    def needs_map(cls, config: Any) -> bool:
        return True


@pytest.mark.parametrize(
    ("keys", "shape"),
    [
        ({"backbone.name": "resnet_small", "backbone.width": 8}, (64, 8, 12)),
        ({"backbone.name": "alexnet"}, (256, 1, 2)),
        ({"backbone.name": "vit_mini", "backbone.width": 16}, (16, 4, 6)),
        ({"backbone.name": OWN, "backbone.vit_like.depth": 2, "backbone.vit_like.width": 16}, (16, 16, 16)),
        (VIT, (32, 8, 12)),
        ({"backbone.name": "torchvision/shufflenet_v2_x0_5"}, (1024, 2, 3)),
    ],
)
def test_a_network_s_last_map_is_in_reach(keys: dict[str, Any], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its features, with their gradient; the copy of a network gives its own."""
    monkeypatch.setattr(SimCLR, "needs_map", Places.needs_map)
    config = RunConfig.make("simclr", keys, preset="digits").replace({"views.view.size": 64})
    net: Any = backbones.factory(config)(3).eval()
    side = (64, 64) if shape[1] == shape[2] else (64, 96)
    x, other = torch.rand(2, 3, *side), copy.deepcopy(net)
    features, cells = net.feature_map(x)
    assert torch.equal(features, net(x))
    assert cells.shape == (2, *shape)
    assert shape[0] == net.map_dim == other.map_dim
    assert torch.autograd.grad(cells.sum(), next(net.parameters()))[0].abs().sum() > 0
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1)
    assert torch.equal(other.feature_map(x)[0], other(x))
    assert not torch.equal(other.feature_map(x)[1], cells)
    assert torch.equal(net.feature_map(x)[1], cells)


def test_a_network_without_a_map_is_refused_where_one_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimCLR, "needs_map", Places.needs_map)
    flat = "from torch import nn\nABOUT = ''\n\ndef build(config, channels, side):\n    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, 8))\n"
    (tmp_path / "flat.py").write_text(flat + "    net.out_dim = 8\n    return net\n")
    config = RunConfig.make("simclr", {"backbone.name": str(tmp_path / "flat.py")}, preset="digits")
    with pytest.raises(ConfigError, match=r"backbone.name: got .*flat.py, but simclr compares places of a feature map"):
        model.check(config, 1000)
