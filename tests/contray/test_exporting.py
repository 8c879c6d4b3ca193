"""An exported encoder gives the same features in the plain library, loaded by the code that its model card shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contray import RunConfig, model
from contray.cli import main
from contray.errors import ConfigError, UserError
from contray.exchange.cards import Origin
from contray.exchange.exporting import export_to
from contray.model.encoder import Encoder, read_checkpoint

SMALL = {"backbone.name": "resnet_small", "backbone.width": 64}
NETS: dict[str, dict[str, Any]] = {
    "resnet": SMALL,
    "resnet of the cifar stem": {**SMALL, "backbone.stem": "cifar"},
    "narrow resnet": {**SMALL, "backbone.width": 16, "backbone.stem": "cifar"},
    "wide bottlenecks": {"backbone.name": "resnet50", "backbone.width": 8},
    "group norm": {**SMALL, "backbone.width": 24, "backbone.norm": "gn"},
    "group norm, standardised weights": {**SMALL, "backbone.norm": "gn_ws"},
    "layer norm": {**SMALL, "backbone.norm": "ln"},
    "no norm": {**SMALL, "backbone.norm": "none"},
    "vit": {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 4},
    "vit of two heads": {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 4, "backbone.heads": 2},
    "vit with layer scale": {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 4, "backbone.layer_scale": 0.1},
    "vit with registers": {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 4, "backbone.registers": 3},
    "vit of fixed positions": {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 4, "backbone.positions": "sincos"},
    "vit whose patches leave a rest": {"backbone.name": "vit_mini", "backbone.width": 32, "backbone.patch": 5},
}  # fmt: skip
TO_TORCHVISION = [(name, "torchvision") for name in NETS if name != "vit with registers"]
TO_TIMM = [(name, "timm") for name in ("resnet", "resnet of the cifar stem", *(name for name in NETS if name.startswith("vit")))]
ORIGIN = Origin("a test", "digits", "0123abc", {"linear_top1": 0.75, "loss": 3.0})


def lively(config: RunConfig) -> Encoder:
    """Untrained, but with every tensor of the backbones drawn anew, so that none can be lost unseen."""
    method = model.build(config, 100).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in method.state_dict().items():
            if tensor.is_floating_point() and ("backbone" in name or "teacher." in name):
                drawn = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else tensor + drawn)
    return Encoder(config, method)


def small(method: str = "simsiam", **keys: Any) -> Encoder:
    """Of 32 px, with narrow heads."""
    return lively(RunConfig.make(method, preset="digits").replace(keys))


def encoder_of(name: str, method: str = "simsiam", **keys: Any) -> Encoder:
    return small(method, **NETS[name], **keys)


def run_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the card's code leaves, run as typed in the folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {"__name__": "card"}
    exec(code, found)
    return found


@pytest.mark.parametrize(("name", "to"), TO_TORCHVISION + TO_TIMM)
def test_the_plain_network_gives_the_same_features(name: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(to, reason=f"{to} is not installed")
    encoder = encoder_of(name)
    assert export_to(encoder, to, tmp_path / "out", ORIGIN) == tmp_path / "out" / "model.safetensors"
    with torch.no_grad():
        found = run_card(tmp_path / "out", monkeypatch)
        assert not type(found["net"]).__module__.startswith("contray")
        expected = encoder.method.encode({"image": (found["images"] - found["mean"]) / found["std"]})
    torch.testing.assert_close(found["features"], expected, rtol=1e-5, atol=1e-5)


def test_positions_are_those_of_the_exported_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backbone learns the positions of its largest view; the plain network is given those of the evaluation view."""
    encoder = encoder_of("vit", "dino", **{"views.large_a.size": 24})
    positions: Any = encoder.method.get_submodule("teacher.encoder").pos_embedding
    assert positions.shape[1] == 65
    export_to(encoder, "torchvision", tmp_path / "out", ORIGIN)
    with torch.no_grad():
        found = run_card(tmp_path / "out", monkeypatch)
        assert found["images"].shape[-1] == 24
        expected = encoder.method.encode({"image": (found["images"] - found["mean"]) / found["std"]})
    torch.testing.assert_close(found["features"], expected, rtol=1e-5, atol=1e-5)


def test_what_encodes_is_exported_and_not_its_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of("vit", "dino")
    export_to(encoder, "torchvision", tmp_path / "out", ORIGIN)
    found = run_card(tmp_path / "out", monkeypatch)
    teacher, student = (encoder.method.get_submodule(name).state_dict()["conv_proj.weight"] for name in ("teacher", "backbone"))
    assert torch.equal(found["net"].conv_proj.weight, teacher)
    assert not torch.equal(teacher, student)


@pytest.mark.parametrize("method", ["simsiam", "mae", "cae", "cmc", "deepcluster"])
def test_onnx_gives_the_same_features(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `encode` does: several networks, several inputs, means of tokens, Sobel filters; for any number of rows."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    encoder = small(method)
    export_to(encoder, "onnx", tmp_path / "out", ORIGIN)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "config.yaml", "model.onnx"}
    found = run_card(tmp_path / "out", monkeypatch)
    for rows in (2, 5):
        inputs = {name: np.concatenate([value] * 3)[:rows] for name, value in found["inputs"].items()}
        (features,) = found["session"].run(None, inputs)
        with torch.no_grad():
            expected = encoder.method.encode({name: torch.from_numpy(value) for name, value in inputs.items()})
        scale = expected.abs().max().item()  # another library adds up in another order
        torch.testing.assert_close(torch.from_numpy(features) / scale, expected / scale, rtol=0, atol=1e-5)


def test_its_own_folder_is_read_and_evaluated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small("simsiam")
    export_to(encoder, "safetensors", tmp_path / "out", ORIGIN)
    found = run_card(tmp_path / "out", monkeypatch)
    assert torch.equal(found["features"], encoder(found["images"]))
    again = read_checkpoint(str(tmp_path / "out"))
    assert again.config == encoder.config
    assert {name for name in again.method.state_dict()} == {name for name in encoder.method.state_dict()}, "heads and all"


def test_the_card_says_what_it_is_and_what_it_scored(tmp_path: Path) -> None:
    path = export_to(small("simsiam"), "torchvision", tmp_path / "out", ORIGIN)
    text = (tmp_path / "out" / "README.md").read_text()
    assert path.stat().st_mode == (tmp_path / "out" / "README.md").stat().st_mode, (
        "whoever may read the card may read the weights"
    )
    for part in (
        "https://arxiv.org/abs/2011.10566", "exported by contray from a test", "100 training images of digits", "commit 0123abc",
        "| linear_top1 | 0.7500 |", "| `backbone.name` | resnet_small |", "library_name: torchvision",
    ):  # fmt: skip
        assert part in text
    assert "| loss |" not in text
    import hashlib

    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert RunConfig.from_yaml((tmp_path / "out" / "config.yaml").read_text()).method.name == "simsiam"


@pytest.mark.parametrize(
    ("method", "keys", "to", "said"),
    [
        ("simsiam", {"backbone.name": "alexnet"}, "timm", "backbone.name: alexnet"),
        ("simsiam", {"backbone.selective_kernels": 0.5}, "torchvision", "backbone.selective_kernels"),
        ("simsiam", {}, "timm", "backbone.width: timm's ResNets start at 64"),
        ("simsiam", NETS["vit with registers"], "torchvision", "backbone.registers: torchvision's ViTs have none; --to timm"),
        ("cmc", {}, "torchvision", "the features of cmc are not the output of one plain network"),
        ("cae", {}, "timm", "the features of cae are not"),
        ("deepcluster", {}, "torchvision", "the features of deepcluster are not"),
        ("simsiam", {}, "tensorflow", "--to: got 'tensorflow'"),
    ],
)  # fmt: skip
def test_what_a_library_cannot_build_is_refused(method: str, keys: dict[str, Any], to: str, said: str, tmp_path: Path) -> None:
    encoder = small(method, **keys)
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        export_to(encoder, to, tmp_path / "out", ORIGIN)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        export_to(small("simsiam"), "torchvision", tmp_path / "out", ORIGIN)
    assert not list(tmp_path.iterdir())


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.heads: got 5, must divide the width of 32"):
        encoder_of("vit", **{"backbone.heads": 5})


REFUSED = {
    "export": ("--to FORMAT --out FOLDER", "--register NAME"),
    "export --to timm": ("--to FORMAT --out FOLDER",),
    "export --to timm --out x": ("either --run RUN_ID or --checkpoint PATH",),
    "export --to timn --out x --run y": ("--to", "'timn'", "did you mean timm"),
    "export --to timm --out . --run y": ("--out", "exists already"),
    "export --to timm --out kept.txt/x --run y": ("--out", "cannot write to"),
    "export --to timm --out x --checkpoint kept.txt": ("--checkpoint", "kept.txt"),
    "export --to timm --out x --checkpoint gone.pt": ("--checkpoint", "no file", "gone.pt"),
    "export --to timm --out x --run y": ("track.uri", "mlflow.db"),
    "export --to timm --out x --checkpoint gone.pt --register z": ("--register", "give --run"),
    "export --register z": ("--register", "give --run"),
    "export --register z --run y": ("track.uri", "mlflow.db"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED.items(), ids=list(REFUSED))
def test_refused_in_one_line(
    words: str, said: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.txt").write_text("kept")
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    for part in said:
        assert part in err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
