"""Runs that begin with given weights: what is loaded is what the file holds, at any number of ranks and once; what does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contray import data, model
from contray.config import RunConfig
from contray.errors import ConfigError, UserError
from contray.exchange.cards import Origin
from contray.exchange.exporting import export_to
from contray.model import encoder, weights
from contray.model.layouts import guessed
from contray.storage.folder import Storage
from contray.training.agreement import Ranks
from contray.training.launch import plan_of
from contray.training.loop import train
from contray.training.start import Start, begin, marks, resolved, started
from tests.contray.test_importing import RELEASES, dino, mae, moco, moco_v3, resnet, simsiam, timm_vit, torchvision_vit
from tests.contray.test_loop import Losses, tiny
from tests.ranks import run_ranks


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """torchvision's ResNet-18 in small, with its classifier, as moco's network of `tiny` is."""
    torch.save(
        {**backbone_of(tiny("simclr", seed=7)), "fc.weight": torch.ones(3, 32), "fc.bias": torch.ones(3)}, tmp_path / "theirs.pth"
    )
    return tmp_path / "theirs.pth"


def backbone_of(config: RunConfig) -> dict[str, Tensor]:
    return dict(model.build(config, 100).backbone.state_dict())


def begun(config: RunConfig) -> Any:
    config, start = started(config)
    start.words(config)
    return model.build(config, 200, begin(config, Ranks()))


def same(net: nn.Module, state: dict[str, Tensor]) -> bool:
    own = net.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def test_every_backbone_and_target_begins_with_the_file_and_no_head_does(file: Path) -> None:
    held = {name: value for name, value in torch.load(file).items() if not name.startswith("fc.")}
    plain, method = (begun(tiny("moco", train__init=init)) for init in ("", str(file)))
    assert not same(plain.backbone, held)
    assert same(method.backbone, held)
    for online, target in method.ema_pairs():
        assert all(torch.equal(a, b) for a, b in zip(online.state_dict().values(), target.state_dict().values(), strict=True))
    heads = [
        name for name, _ in method.named_parameters() if "backbone" not in name and "target" not in name and "key" not in name
    ]
    assert heads
    assert all(torch.equal(plain.get_parameter(name), method.get_parameter(name)) for name in heads)


def test_what_was_loaded_is_on_record_and_does_not_name_the_run_anew(file: Path) -> None:
    asked = tiny("simclr", train__init=str(file))
    config, start = started(asked)
    assert config.run_name == asked.run_name != tiny("simclr").run_name
    assert tiny("simclr", train__init="").run_name == tiny("simclr").run_name
    assert config.train.given == (f"train.init={weights.digest_of(file)}",)
    assert marks(config) == {"the weights of train.init": weights.digest_of(file)}
    said = "; ".join(start.words(config))
    assert "torchvision" in said
    assert "2 tensors that are no part of it are left out (fc.weight, fc.bias)" in said
    again = RunConfig.from_yaml(config.to_yaml())
    assert started(again)[0] == config
    torch.save({**torch.load(file), "fc.bias": torch.zeros(3)}, file)
    with pytest.raises(ConfigError, match=r"train.init: holds other weights \(\w{12}\) than the run was given"):
        started(again)
    assert (
        RunConfig.from_yaml(config.to_yaml(), {"train.init": "x"}).train.given
        == config.replace({"train.init": "x"}).train.given
        == ()
    )


def test_a_run_goes_on_without_the_file(file: Path, tmp_path: Path) -> None:
    config = started(tiny("simclr", train__init=str(file), train__steps=4))[0]
    source, whole, parts = data.open_source(config.data), Losses(), Losses()
    train(config, source, None, whole)

    class Stopping(Losses):
        def stop(self) -> bool:
            return 2 in self.loss

    folder = Storage(str(tmp_path / "run"))
    folder.create()
    folder.write("config.yaml", config.to_yaml().encode())
    train(config, source, folder, Stopping())
    file.unlink()
    adopted, start = started(tiny("simclr", train__init=str(file), train__steps=4), folder)
    assert adopted == config
    assert start.init is None
    train(adopted, source, folder, parts)
    assert parts.loss == {step: loss for step, loss in whole.loss.items() if step in parts.loss}
    assert parts.loss
    with pytest.raises(ConfigError, match="no such file"):  # one that has not begun
        started(tiny("simclr", train__init=str(file)), Storage(str(tmp_path / "other")))


def losses(rank: int, world: int, text: str) -> dict[int, float]:
    config, heard = RunConfig.from_yaml(text), Losses()
    train(config, data.open_source(config.data), None, heard)
    return heard.loss


def test_two_ranks_begin_as_one(file: Path) -> None:
    config = started(tiny("simclr", train__init=str(file), train__precision="fp64", train__steps=2))[0]
    alone, (first, _) = losses(0, 1, config.to_yaml()), run_ranks(losses, 2, config.to_yaml())
    assert first == pytest.approx(alone, abs=1e-9)
    assert alone != pytest.approx(losses(0, 1, tiny("simclr", train__precision="fp64", train__steps=2).to_yaml()), abs=1e-9)


# ---------------------------------------------------------------- whose file it is


def dinov2(registers: int = 0, patch: int = 4, side: int = 16) -> dict[str, Tensor]:
    """A ViT under the names of facebookresearch/dinov2, of which `timm_vit` is the same network."""
    net = timm_vit(init_values=0.1)
    return {
        **net.state_dict(),
        "mask_token": torch.zeros(1, 32),
        **({"register_tokens": torch.ones(1, registers, 32)} if registers else {}),
    }


def test_layouts_are_told_by_their_names() -> None:
    files = {
        "torchvision": resnet().state_dict(), "timm": timm_vit(classes=3).state_dict(), "moco": moco(dict(resnet().state_dict())),
        "moco_v3": moco_v3(dict(timm_vit().state_dict())), "mae": mae(dict(timm_vit().state_dict())), "dinov2": dinov2(),
        "dino": dino(dict(timm_vit().state_dict())), "simsiam": simsiam(dict(resnet().state_dict())),
        "barlow_twins": RELEASES["barlow twins"][2](dict(resnet().state_dict())),
        "dinov3": {**dinov2(), "storage_tokens": torch.zeros(1, 4, 32), "rope_embed.periods": torch.zeros(2)},
        "": {"weight": torch.zeros(3)},
    }  # fmt: skip
    assert {name: guessed(held) for name, held in files.items()} == {name: name for name in files}
    assert guessed(torchvision_vit().state_dict()) == "torchvision"


def test_dinov2s_blocks_may_stand_in_chunks_and_its_positions_are_interpolated(tmp_path: Path) -> None:
    plain = dinov2()
    chunked = {
        name.replace("blocks.", f"blocks.{name.split('.')[1]}.") if name.startswith("blocks.") else name: value
        for name, value in plain.items()
    }
    torch.save(plain, tmp_path / "plain.pth")
    torch.save({"teacher": {f"backbone.{name}": value for name, value in chunked.items()}}, tmp_path / "chunked.pth")
    read = [weights.encoder_of(weights.given(str(tmp_path / f"{name}.pth"))) for name in ("plain", "chunked")]
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    features = [each.method.encode({"image": x}) for each in read]
    assert torch.equal(*features)
    larger = tiny(
        "simclr",
        **{
            "backbone.name": "vit_mini",
            "backbone.width": 32,
            "backbone.patch": 4,
            "backbone.layer_scale": 1e-5,
            "views.view.size": 24,
        },
    )
    method = begun(larger.replace({"train.init": str(tmp_path / "plain.pth")})).eval()
    assert "16 px" in repr(read[0])
    torch.testing.assert_close(method.backbone(x), features[0], rtol=1e-5, atol=1e-5)  # as a network of 16 px sees 24


def test_dinov3s_tensors_are_timms(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    config = RunConfig.make(
        "imported",
        {
            "backbone.name": "timm/vit_tiny_patch16_dinov3_qkvb",
            "backbone.timm.options": "global_pool=token",
            "views.image.size": 32,
        },
    )
    net = model.build(config, 0).backbone.eval()
    renames = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    theirs = {"mask_token": torch.zeros(1, 192), "rope_embed.periods": torch.zeros(16)}
    for name, value in net.state_dict().items():
        for ours, own in renames.items():
            name = name.replace(ours, own)
        theirs[name] = value
    for block in range(12):
        q, v = (theirs.pop(f"blocks.{block}.attn.{kind}_bias") for kind in "qv")
        theirs[f"blocks.{block}.attn.qkv.bias"] = torch.cat([q, torch.full_like(q, 9.0), v])
        theirs[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(3 * 192)
    torch.save(theirs, tmp_path / "dinov3.pth")
    found = weights.given(str(tmp_path / "dinov3.pth"))
    assert found.backbone == {
        "backbone.name": "timm/vit_tiny_patch16_dinov3_qkvb",
        "backbone.timm.options": ("global_pool=token",),
    }
    assert same(net, found.state_for(net, "it")[0])


def test_an_export_a_checkpoint_and_other_channels(tmp_path: Path) -> None:
    config = tiny("simclr", seed=3)
    encoder.export(config, model.build(config, 100), tmp_path / "export")
    other = tiny("moco", **{"train.init": str(tmp_path / "export")})
    assert same(begun(other).backbone, backbone_of(config))
    wide = {"data.channels": 5, "augment.mean": "0.5", "augment.std": "0.2"}
    five = begun(other.replace(wide))
    mean = backbone_of(config)["conv1.weight"].mean(1)
    assert torch.allclose(five.backbone.conv1.weight, (mean * 3 / 5)[:, None].expand(-1, 5, -1, -1))
    assert resolved(other.replace({"train.init": "moco-run", "scale.storage": "runs"})).train.init == "runs/moco-run"
    assert resolved(other.replace({"train.init": "~/weights.pth"})).train.init == os.path.expanduser("~/weights.pth")


def test_published_weights_of_the_libraries_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    net = models.get_model("resnet18", weights=None)
    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(net.state_dict(), place / "resnet18-f37072fd.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = weights.given("torchvision/resnet18")
    assert found.settings["backbone.name"] == "torchvision/resnet18"
    config = RunConfig.make("simclr", {"backbone.name": "resnet18", "train.init": "torchvision/resnet18"}, preset="paper")
    assert torch.equal(begun(config).backbone.state_dict()["layer4.1.conv2.weight"], net.state_dict()["layer4.1.conv2.weight"])
    monkeypatch.setattr("contray.model.libraries.pretrained", lambda *names: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(
        UserError, match=r"torchvision/resnet18: its weights are not in the library's cache .*no route to host.*give a file"
    ):
        weights.given("torchvision/resnet18")


@pytest.mark.parametrize(
    ("name", "side", "mean"),
    [
        ("timm/vit_base_patch16_224", 224, 0.5),
        ("timm/vit_base_patch16_224.mae", 224, 0.485),
        ("timm/vit_large_patch16_dinov3.sat493m", 256, 0.43),
        ("torchvision/resnet50", 224, 0.485),
        ("torchvision/efficientnet_v2_l", 480, 0.5),
        ("torchvision/vit_h_14", 518, 0.485),
    ],
)
def test_published_weights_know_their_images(name: str, side: int, mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the weights that are named, not of the network's usual ones."""
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setattr("contray.model.libraries.pretrained", lambda library, own: {"asked": torch.zeros(1)})
    monkeypatch.setattr("contray.model.libraries.heads_of", lambda name: 0)
    settings = weights.given(name).settings
    assert settings["backbone.name"] == name.partition(".")[0]
    assert settings["views.image.size"] == side
    assert settings["augment.mean"][0] == pytest.approx(mean, abs=1e-3)


def test_a_run_that_normalises_otherwise_than_its_weights_is_told(file: Path, tmp_path: Path) -> None:
    def told(**keys: Any) -> str:
        config, start = started(tiny("simclr", **{"train__init": str(file)} | keys))
        return "; ".join(start.words(config))

    assert "normalised" not in told()
    assert "its images were normalised otherwise than this run's; as there: --augment.mean 0.485 0.456 0.406" in told(
        augment__mean=(0.5, 0.5, 0.5)
    )
    assert not dataclasses.replace(weights.of_file(file), layout="timm", settings={}).normalised, "a file of timm's tells nothing"
    config = tiny("simclr", augment__mean=(0.1, 0.2, 0.3))
    encoder.export(config, model.build(config, 100), tmp_path / "export")
    assert "--augment.mean 0.1 0.2 0.3" in told(train__init=str(tmp_path / "export"))


# ---------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_refused_by_name_with_what_works(file: Path, tmp_path: Path) -> None:
    state = torch.load(file)

    def refused(change: dict[str, Any], without: str = "", **keys: Any) -> str:
        torch.save({name: value for name, value in {**state, **change}.items() if name != without}, tmp_path / "bad.pth")
        with pytest.raises(UserError) as problem:
            begun(tiny("simclr", train__init=str(tmp_path / "bad.pth"), **keys))
        return str(problem.value)

    assert "missing: layer2.0.conv1.weight" in refused({}, "layer2.0.conv1.weight")
    assert "too many: layer1.0.se.weight" in refused({"layer1.0.se.weight": torch.zeros(3)})
    assert "layer1.0.conv1.weight is 4x4x1x1, not 4x4x3x3" in refused({"layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1)})
    assert "its names tell no layout; say whose code wrote it" in refused({}, "conv1.weight")
    assert "did you mean dinov2" in refused({}, train__init_layout="dinov22")
    other = refused({}, backbone__width=8)
    assert "It is a resnet_small, which this takes: contray train simclr --preset digits" in other
    assert "--backbone.width 4" in other


def test_a_plan_takes_the_network_of_the_file(file: Path, tmp_path: Path) -> None:
    """Preset auto; the command's name stays what it was before anything was read."""
    torch.save(torchvision_vit().state_dict(), file)
    asked = RunConfig.make(
        "simclr",
        {"train.init": str(file), "data.renderings": 1, "train.budget": 1, "scale.storage": str(tmp_path)},
        preset="auto",
    )
    config, plan = plan_of(asked, data.open_source(asked.data), Storage(str(tmp_path / "none")), quiet=True)
    assert (config.backbone.name, config.backbone.width, config.backbone.patch) == ("vit_mini", 32, 4)
    assert "which it begins with" in str(plan)
    assert config.run_name == asked.run_name


def test_heads_that_no_shape_tells(file: Path, tmp_path: Path) -> None:
    """Of 4 heads is taken what does not say otherwise; what is given counts more than a guess, and less than what the file notes."""
    torch.save(torchvision_vit().state_dict(), file)
    net = {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 4}

    def words(init: Path, heads: int) -> str:
        config = tiny("simclr", **net, **({"backbone.heads": heads} if heads else {}), **{"train.init": str(init)})
        config, start = started(config)
        return "; ".join(start.words(config))

    assert "taken as 4 heads, which the file does not tell" in words(file, 0)
    assert "taken as 8 heads" in words(file, 8)
    trained = encoder.Encoder(config := tiny("simclr", **net, **{"backbone.heads": 2}), model.build(config, 100))
    for to in ("torchvision", "timm", "safetensors"):
        path = export_to(trained, to, tmp_path / to, Origin("a test", "digits", "0", {}))
        init = path.parent if to == "safetensors" else path
        assert "taken as" not in words(init, 2)
        for heads in (0, 8):
            with pytest.raises(ConfigError, match=r"it has 2 heads, and vit_mini so configured has \d.*--backbone.heads 2"):
                words(init, heads)
        assert weights.encoder_of(weights.given(str(init))).config.backbone.heads == 2
    torch.save(vit_small(), file)
    small = RunConfig.make("simsiam", {"backbone.name": "vit_small", "train.init": str(file)}, preset="digits")
    with pytest.raises(ConfigError, match=r"taken for 6 heads, which it does not tell, .* has 12 .*--backbone.heads 6"):
        begun(small)
    assert "taken as 12 heads" in "; ".join(Start(weights.given(str(file))).words(small.replace({"backbone.heads": 12})))


def vit_small() -> dict[str, Tensor]:
    config = RunConfig.make("simsiam", {"backbone.name": "vit_small"}, preset="digits")
    return dict(model.build(config, 100).backbone.state_dict())


def test_tensors_of_no_such_network_and_numbers_that_are_none_are_named(file: Path, tmp_path: Path) -> None:
    residual, vit = torch.load(file), dict(timm_vit().state_dict())
    registers = {**dinov2(), "register_tokens": torch.ones(3), "mask_token": torch.zeros(1, 32)}

    def refused(state: dict[str, Tensor], layout: str = "", **keys: Any) -> str:
        torch.save(state, tmp_path / "bad.pth")
        with pytest.raises(UserError, match=re.escape(str(tmp_path / "bad.pth"))) as problem:
            begun(tiny("simclr", train__init=str(tmp_path / "bad.pth"), train__init_layout=layout, **keys))
        return str(problem.value)

    assert "no ViT of DINOv3: there is no patch_embed.proj.weight" in refused(residual, "dinov3")
    mini: Any = {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 4}
    for shape in ((), (17,), (17, 32), (1, 0, 32)):
        for keys in ({}, mini):
            assert "pos_embed is" in refused({**vit, "pos_embed": torch.zeros(shape)}, **keys)
    assert "register_tokens is 3, which must have 3 dimensions" in refused(registers, **mini)
    assert "patch_embed.proj.weight is 32x3, which" in refused({**vit, "patch_embed.proj.weight": torch.zeros(32, 3)}, **mini)
    assert "conv1.weight is a scalar" in refused({**residual, "conv1.weight": torch.zeros(())})
    assert "norm.bias is 1x3x2x2, not 32" in refused({**vit, "norm.bias": torch.zeros(1, 3, 2, 2)}, **mini)
    name, held = "layer2.0.conv1.weight", residual["layer2.0.conv1.weight"]
    assert f"{name} holds numbers that are not finite" in refused({**residual, name: held * float("nan")})
    assert f"{name} holds numbers that are not finite" in refused({**residual, name: held / 0})
    spread = "layer2.0.bn1.running_var"
    assert f"{spread} holds a variance below 0" in refused({**residual, spread: residual[spread] - 9})
    assert f"{name} holds complex numbers" in refused({**residual, name: held + 0j})


@pytest.mark.parametrize("method", ["ijepa", "simmim", "data2vec"])
def test_a_run_whose_features_are_of_patches_gives_its_network(method: str, tmp_path: Path) -> None:
    config = RunConfig.make(method, {"seed": 5}, preset="digits")
    built: Any = model.build(config, 100)
    encoder.export(config, built, tmp_path / "export")
    net = {key: value for key, value in config.flat().items() if key.startswith("backbone.")}
    other = RunConfig.make("simsiam", {**net, "views.view.size": 32, "train.init": str(tmp_path / "export")}, preset="digits")
    assert same(begun(other).backbone, dict((built.teacher if method == "ijepa" else built.backbone).state_dict()))
    with pytest.raises(
        ConfigError, match=f"method.teacher: the features of {method} are not the output of one plain network on the image$"
    ):
        started(RunConfig.make("distill", {"method.teacher": str(tmp_path / "export")}, preset="digits"))


def test_two_networks_are_no_start(tmp_path: Path) -> None:
    config = RunConfig.make("cmc", preset="digits")
    encoder.export(config, model.build(config, 100), tmp_path / "export")
    with pytest.raises(ConfigError, match=r"train.init: cmc encodes an image by 2 networks, not by one"):
        started(RunConfig.make("simsiam", {"train.init": str(tmp_path / "export")}, preset="digits"))
