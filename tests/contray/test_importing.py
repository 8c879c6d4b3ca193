"""Public checkpoints: every layout gives the features of the network it came from; what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from contray.cli import main
from contray.errors import UserError
from contray.exchange.importing import import_file
from contray.methods._parts import sincos_2d
from contray.model import layouts
from contray.model.encoder import read_checkpoint

SIDE, PATCH, WIDTH = 16, 4, 32


def lively(net: nn.Module) -> nn.Module:
    """Every tensor drawn anew, so that none can be lost or swapped unseen."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator) * 0.1
            tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else tensor + drawn)
    return net.eval()


def resnet(classes: int = 7) -> nn.Module:
    return lively(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes))


def timm_vit(classes: int = 0, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    sizes = {"img_size": SIDE, "patch_size": PATCH, "depth": 4, "num_heads": 4, "embed_dim": WIDTH}
    return lively(timm.VisionTransformer(**sizes, num_classes=classes, **options))


def torchvision_vit() -> nn.Module:
    return lively(VisionTransformer(SIDE, PATCH, 4, 4, WIDTH, 4 * WIDTH, num_classes=7))


def headless(net: nn.Module, x: Tensor) -> Tensor:
    """(B, D) before the classifier."""
    for head in ("fc", "heads", "head"):
        if hasattr(net, head):
            setattr(net, head, nn.Identity())
    with torch.no_grad():
        return net(x)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def moco(state: dict[str, Tensor]) -> dict[str, Any]:
    other = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    queue = {"module.queue": torch.zeros(3), "module.queue_ptr": torch.zeros(1)}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": prefixed("module.encoder_q.", state) | prefixed("module.encoder_k.", other) | queue,
    }


def moco_v3(state: dict[str, Tensor]) -> dict[str, Any]:
    other = {name: value + 1 for name, value in state.items()}
    heads = {"module.base_encoder.head.0.weight": torch.ones(3, 3), "module.predictor.0.weight": torch.ones(3)}
    return {"state_dict": prefixed("module.base_encoder.", state) | prefixed("module.momentum_encoder.", other) | heads}


def mae(state: dict[str, Tensor]) -> dict[str, Any]:
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_blocks.0.norm1.weight": torch.zeros(8),
    }
    return {"model": state | decoder}


def dino(state: dict[str, Tensor]) -> dict[str, Any]:
    student = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    return {
        "student": prefixed("module.backbone.", student),
        "teacher": prefixed("backbone.", state) | {"head.mlp.0.weight": torch.zeros(3)},
        "epoch": 3,
    }


def simsiam(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "state_dict": prefixed("module.encoder.", state)
        | {"module.encoder.fc.0.weight": torch.ones(3), "module.predictor.0.weight": torch.ones(3)}
    }


def barlow(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "model": prefixed("module.backbone.", state)
        | {"module.projector.0.weight": torch.ones(3), "module.bn.running_mean": torch.ones(3)}
    }


RELEASES: dict[str, tuple[str, Callable[[], nn.Module], Callable[[dict[str, Tensor]], Any]]] = {
    "torchvision resnet": ("torchvision", resnet, dict),
    "torchvision training script": ("torchvision", resnet, lambda state: {"model": state, "epoch": 3}),
    "torchvision vit": ("torchvision", torchvision_vit, dict),
    "torchvision vit before 0.13": (
        "torchvision",
        torchvision_vit,
        lambda state: {name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value for name, value in state.items()},
    ),
    "timm resnet": ("timm", resnet, dict),
    "timm vit": ("timm", lambda: timm_vit(classes=7), dict),
    "timm vit with layer scale": ("timm", lambda: timm_vit(init_values=0.1), dict),
    "timm vit with registers": ("timm", lambda: timm_vit(reg_tokens=3, no_embed_class=True), dict),
    "moco": ("moco", resnet, moco),
    "simsiam": ("simsiam", resnet, simsiam),
    "barlow twins": ("barlow_twins", resnet, barlow),
    "barlow twins release": ("barlow_twins", lambda: lively(_without_fc()), dict),
    "dino resnet": ("dino", resnet, dino),
    "dino vit": ("dino", timm_vit, dino),
    "dino vit release": ("dino", timm_vit, dict),
    "mae": ("mae", timm_vit, mae),
    "moco v3": ("moco_v3", timm_vit, moco_v3),
}  # fmt: skip


def _without_fc() -> nn.Module:
    net = ResNet(Bottleneck, [3, 4, 6, 3])
    net.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return net


@pytest.mark.parametrize("release", RELEASES)
def test_imported_features_are_those_of_the_original_network(release: str, tmp_path: Path) -> None:
    layout, build, wrap = RELEASES[release]
    net = build()
    torch.save(wrap(dict(net.state_dict())), tmp_path / "theirs.pth")
    side = SIDE if not isinstance(net, ResNet) else 64
    x = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(2))
    import_file(tmp_path / "theirs.pth", layout, tmp_path / "ours")
    ours = read_checkpoint(str(tmp_path / "ours"))
    with torch.no_grad():
        features = ours.method.encode({"image": x})
    torch.testing.assert_close(features, headless(net, x), rtol=1e-5, atol=1e-5)
    assert ours.config.method.name == "imported"
    assert ours.config.method.layout == layout
    assert len(ours.config.method.sha256) == 64


def test_stored_positions_are_used_and_not_ours(tmp_path: Path) -> None:
    """MoCo v3 encodes the row in the first half of the features, MAE and contray the column."""
    net = timm_vit()
    ours = sincos_2d(WIDTH, 4, 4)  # (L, D)
    theirs = torch.cat([ours[:, WIDTH // 2 :], ours[:, : WIDTH // 2]], 1)
    state = net.state_dict() | {"pos_embed": torch.cat([torch.zeros(1, WIDTH), theirs])[None]}
    torch.save(moco_v3(state), tmp_path / "theirs.pth")
    read = import_file(tmp_path / "theirs.pth", "moco_v3", tmp_path / "ours")
    positions: Any = read.method.backbone.encoder.pos_embedding  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(positions[0, 1:], theirs)
    assert not positions.requires_grad
    assert not torch.allclose(positions[0, 1:], ours)


@pytest.mark.parametrize(("layout", "heads"), [("dino", 6), ("timm", 6), ("mae", 6), ("moco_v3", 12)])
def test_a_small_vit_has_its_authors_heads(layout: str, heads: int, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    net = lively(timm.VisionTransformer(img_size=16, patch_size=16, depth=12, num_heads=heads, embed_dim=384, num_classes=0))
    wrap = {"dino": dino, "timm": dict, "mae": mae, "moco_v3": moco_v3}[layout]
    torch.save(wrap(dict(net.state_dict())), tmp_path / "theirs.pth")
    ours = import_file(tmp_path / "theirs.pth", layout, tmp_path / "ours").method
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours.encode({"image": x}), net(x), rtol=1e-5, atol=2e-5)


def test_names_of_timm_map_both_ways() -> None:
    names = list(timm_vit(init_values=0.1).state_dict())
    assert [layouts.to_timm(layouts.from_timm(name)) for name in names] == names
    assert len({layouts.from_timm(name) for name in names}) == len(names)


def test_counters_that_old_files_lack_are_no_fault(tmp_path: Path) -> None:
    state = {name: value for name, value in resnet().state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "old.safetensors")
    import_file(tmp_path / "old.safetensors", "torchvision", tmp_path / "ours")
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {"config.yaml", "encoder.safetensors"}


class Loaded:
    """Unpickled, this leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path, state = tmp_path_factory.mktemp("files"), dict(resnet().state_dict())
    torch.save(state, tmp_path / "resnet.pth")
    torch.save(moco(state), tmp_path / "moco.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "resnet.pth").read_bytes()[:-900])
    save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-900])
    torch.save({"state_dict": state, "args": Loaded(tmp_path / "unpickled")}, tmp_path / "pickled.pth")
    torch.save({**state, "layer1.0.se.weight": torch.zeros(3)}, tmp_path / "extra.pth")
    torch.save({name: value for name, value in state.items() if name != "layer2.0.conv1.weight"}, tmp_path / "missing.pth")
    torch.save({**state, "layer1.0.conv2.weight": torch.zeros(64, 32, 3, 3)}, tmp_path / "grouped.pth")
    torch.save({name: value for name, value in state.items() if not name.startswith("layer4")}, tmp_path / "short.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404: not found</html>")
    (tmp_path / "empty.pth").touch()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"conv_proj.weight": torch.zeros(8, 3, 4, 4)}, tmp_path / "stub.pth")
    torch.save({"conv1.weight": torch.zeros(())}, tmp_path / "scalar.pth")
    return tmp_path


REFUSED = {
    "gone.pth --layout moco": ("gone.pth", "no such file"),
    "resnet.pth --layout mocco": ("--layout", "'mocco'", "did you mean moco"),
    "resnet.pth --layout moco": ("no backbone in the layout moco", "it looks like torchvision"),
    "moco.pth --layout torchvision": ("no backbone in the layout torchvision", "it looks like moco"),
    "torn.pth --layout torchvision": ("torn.pth", "torn or no checkpoint"),
    "torn.safetensors --layout torchvision": ("torn.safetensors", "torn or no safetensors"),
    "pickled.pth --layout timm": ("pickled.pth", "pickled objects, which are never loaded", "python -c", "tensors.pt"),
    "photo.jpg --layout dino": ("photo.jpg", "torn or no checkpoint"),
    "page.pth --layout dino": ("page.pth", "torn or no checkpoint"),
    "empty.pth --layout dino": ("empty.pth", "torn or no checkpoint"),
    "extra.pth --layout torchvision": ("resnet_small", "too many: layer1.0.se.weight"),
    "missing.pth --layout torchvision": ("resnet_small", "missing: layer2.0.conv1.weight"),
    "grouped.pth --layout torchvision": ("layer1.0.conv2.weight is 64x32x3x3, not 64x64x3x3",),
    "short.pth --layout torchvision": ("another architecture", "[1, 1, 1, 0] BasicBlocks", "resnet152"),
    "list.pth --layout torchvision": ("list.pth", "no dictionary of tensors but a list"),
    "other.pth --layout torchvision": ("no backbone", "it holds weight"),
    "stub.pth --layout torchvision": ("a ViT without class_token and encoder.pos_embedding", "pos_embed"),
    "scalar.pth --layout torchvision": ("another architecture", "a scalar"),
    "resnet.pth --layout torchvision --optim.lr 3": ("optim.lr", "backbone.*"),
    "resnet.pth --layout torchvision --out .": ("--out", "exists already"),
    "other.pth": ("its names tell no layout", "--layout", "moco_v3"),
    "resnet.pth --layout timn": ("--layout", "did you mean timm"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED.items(), ids=list(REFUSED))
def test_refused_in_one_line(
    words: str, said: tuple[str, ...], files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    assert main(["import", *words.split(), *([] if "--out" in words else ["--out", "ours"])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    for part in said:
        assert part in err
    assert sorted(files.iterdir()) == before, "nothing written, and nothing unpickled"


def test_published_weights_are_imported_with_what_they_are_used_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tag that is named, without a layout."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = lively(timm.create_model("vit_tiny_patch16_224"))
    monkeypatch.setattr("contray.model.libraries.pretrained", lambda library, own: dict(net.state_dict()))
    monkeypatch.chdir(tmp_path)
    assert main(["import", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"]) == 0
    read = read_checkpoint(str(tmp_path / "vit_tiny_patch16_224.augreg_in21k_ft_in1k"))
    assert read.config.augment.mean == (0.5, 0.5, 0.5)
    assert read.config.views["image"].size == 224


def test_the_pickled_file_is_converted_by_what_the_message_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As typed, but for the object, which is trusted here to be a harmless one."""
    import subprocess

    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": dict(resnet().state_dict()), "args": Loaded(tmp_path / "unpickled")}, "pickled.pth")
    with pytest.raises(UserError) as refused:
        import_file(tmp_path / "pickled.pth", "timm", tmp_path / "ours")
    command = str(refused.value).partition(": python")[2]
    subprocess.run(f"python{command}", shell=True, check=True, executable="/bin/bash", env=_path())
    import_file(tmp_path / "tensors.pt", "timm", tmp_path / "ours")


def _path() -> dict[str, str]:
    import os
    import sys

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_imported_weights_are_not_trained_further(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "imported", "--scale.workers", "0", "0"]) == 2
    assert "method.name: imported weights are measured, not trained" in capsys.readouterr().err


def test_an_imported_encoder_is_evaluated_beside_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision_vit().state_dict(), "theirs.pth")
    assert main(["import", "theirs.pth", "--layout", "torchvision", "--augment.mean", "0.5", "0.5", "0.5"]) == 0
    said = "contray: theirs.pth: taken as 4 heads, which the file does not tell\nwrote theirs: vit_mini of 16 px images\n"
    assert capsys.readouterr().out == said
    assert read_checkpoint("theirs").config.augment.mean == (0.5, 0.5, 0.5)
    assert main(["eval", "knn", "--checkpoint", "theirs", "--data.renderings", "1"]) == 0
    assert "knn_top1" in capsys.readouterr().out
