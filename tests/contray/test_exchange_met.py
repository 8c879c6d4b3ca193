"""Encoders outside training, as people meet them: files of other trainers, damage, what a card promises, features that a list is made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from contray import RunConfig, model
from contray.api.export import _measured
from contray.cli import main
from contray.data.views import centred_from
from contray.errors import UserError
from contray.exchange import cards
from contray.exchange.curation.features import PLAN
from contray.exchange.exporting import export_to
from contray.model import weights
from contray.model.encoder import WEIGHTS, export, read_checkpoint, read_folder

ORIGIN = cards.Origin("a test")


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return torchvision.models.resnet18().state_dict()


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def tiny(folder: Path, **settings: Any) -> Path:
    """The folder of an encoder of digits' size."""
    keys = {"backbone.width": 4, "method.dim": 8, "method.hidden": 4, **settings}
    config = RunConfig.make("simsiam", keys, preset="digits")
    export(config, model.build(config, 100).eval(), folder)
    return folder


def pictures(folder: Path, count: int = 6, side: int = 32) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i // 2).integers(0, 255, (side, side, 3), dtype=np.uint8)  # two of each
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in a folder of its own: (exit code, what it printed, what it said besides)."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        code = main(line.split())
        return code, *capsys.readouterr()

    return run


# ---------------------------------------------------------------- files of others


@pytest.mark.parametrize(
    ("wrapped", "where"),
    [
        (lambda state: {"state_dict": prefixed("model.", state), "epoch": 3}, "'state_dict model.'"),
        (lambda state: {"state_dict": prefixed("backbone.", state) | prefixed("projector.", {"0.weight": torch.ones(2, 2)})}, "'state_dict backbone.'"),
        (lambda state: {"student": prefixed("module.backbone.", state)}, "'student module.backbone.'"),
        (lambda state: {"state_dict": prefixed("_orig_mod.net.", state)}, "'state_dict net.'"),
        (lambda state: prefixed("_orig_mod.", state), ""),
    ],
)  # fmt: skip
def test_a_network_under_other_names_is_taken_and_said(
    wrapped: Any, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tensors()
    torch.save(wrapped(state), tmp_path / "theirs.ckpt")
    found = weights.encoder_of(weights.of_file(tmp_path / "theirs.ckpt"))
    assert torch.equal(found.method.backbone.state_dict()["layer4.0.conv2.weight"], state["layer4.0.conv2.weight"])
    assert (f"taken is the network under {where}" in capsys.readouterr().err) == bool(where)


def test_of_several_networks_it_is_said_which_one_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tensors(0), tensors(1)
    torch.save({"model": first, "model_ema": second}, tmp_path / "ema.pth")
    weights.of_file(tmp_path / "ema.pth")
    assert "taken is 'model'; it also holds 'model_ema'" in capsys.readouterr().err
    torch.save({"a": prefixed("net.", first), "b": prefixed("net.", second)}, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"holds several networks, under 'a net\.', 'b net\.'"):
        weights.of_file(tmp_path / "two.pth")


def test_a_byte_that_flipped_in_a_public_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "flip.pth"
    torch.save(tensors(), file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    torch.load(file, weights_only=True)  # torch itself does not look
    with pytest.raises(UserError, match="it is damaged, its contents do not fit their checksums"):
        weights.given(str(file))


def test_positions_that_may_be_read_in_two_ways_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """4 x 6 patches and a class token are as many as 5 x 5 without."""
    import timm

    torch.save(timm.create_model("vit_small_patch16_224", img_size=(64, 96)).state_dict(), tmp_path / "vit.pth")
    weights.of_file(tmp_path / "vit.pth")
    assert "positions are taken as 5 x 5, none of them the class token's" in capsys.readouterr().err


# ---------------------------------------------------------------- folders and cards


def test_a_byte_that_flipped_in_an_exported_folder_is_noticed(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "e")
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-9] ^= 255
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match=r"encoder\.safetensors is damaged, its tensors are not those that were exported"):
        read_folder(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"{", b""])
def test_a_config_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "e")
    (folder / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"^{folder}"):
        read_folder(folder)


def test_where_only_the_best_checkpoint_is_left_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"")
    with pytest.raises(UserError, match=rf"there is no checkpoint in {tmp_path}; there is best\.pt: give {tmp_path}/best\.pt"):
        read_checkpoint(str(tmp_path))


def test_a_card_has_the_numbers_of_its_own_checkpoint_alone(tmp_path: Path) -> None:
    from contray.storage import sealed
    from contray.storage.folder import Storage

    for name in ("step-000000002.pt", "step-000000004.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"")
    sealed.write(Storage(str(tmp_path)), "verdict.json", {"knn_top1": 0.5})
    assert _measured(tmp_path) == _measured(tmp_path / "step-000000004.pt") == {"knn_top1": 0.5}
    assert _measured(tmp_path / "step-000000002.pt") == _measured(tmp_path / "best.pt") == {}


def test_a_card_tells_the_range_and_how_images_are_resized(tmp_path: Path) -> None:
    trained = read_folder(tiny(tmp_path / "e", **{"data.range": (0.0, 4095.0)}))
    for to in ("torchvision", "onnx", "safetensors"):
        told = cards.snippet(trained, to)
        assert "(x - 0) / 4095" in told, to
    assert "`data.range` | 0.0 4095.0" in cards.card(trained, "safetensors", tmp_path / "e" / WEIGHTS, ORIGIN)
    plain = read_folder(tiny(tmp_path / "p"))
    assert "shorter side 32 px (bilinear, antialiased), of which the central 32 px" in cards.snippet(plain, "torchvision")
    assert [centred_from(size) for size in (32, 64, 96, 224)] == [32, 64, 110, 256]


@pytest.mark.parametrize("kind", ["resnet18", "vit", "registers"])
def test_timm_makes_network_and_transform_of_the_folder(kind: str, tmp_path: Path) -> None:
    import timm

    name, more = ("resnet18", {}) if kind == "resnet18" else ("vit_small_patch16_224", {"img_size": 96})
    if kind == "registers":
        more |= {"reg_tokens": 2, "no_embed_class": True}
    torch.save(timm.create_model(name, **more).state_dict(), tmp_path / "theirs.pth")
    trained = weights.encoder_of(weights.of_file(tmp_path / "theirs.pth"), {"views.image.size": 96})
    export_to(trained, "timm", tmp_path / "out", ORIGIN)
    net = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    prepare: Any = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    pixels = np.random.default_rng(0).integers(0, 255, (110, 150, 3), dtype=np.uint8)
    theirs = net(prepare(Image.fromarray(pixels))[None])[0].detach()
    torch.testing.assert_close(theirs, trained([pixels])[0], atol=5e-3 * float(theirs.abs().max()), rtol=0)


def test_the_folder_that_a_command_runs_in_is_not_replaced(here: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "e")
    (tmp_path / "empty").mkdir()
    import os

    os.chdir(tmp_path / "empty")
    code, _, said = here(f"export --checkpoint {tmp_path / 'e'} --to safetensors --out .")
    assert (code, "--out: . is the folder that this runs in" in said) == (2, True)


# ---------------------------------------------------------------- features and lists


def test_an_imported_encoder_embeds_and_a_list_is_made_of_it(here: Any, tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "theirs.pth")
    pictures(tmp_path / "photos")
    assert here("import theirs.pth --out imported --views.image.size 32")[0] == 0
    assert here("embed photos --checkpoint imported --out features")[0] == 0
    code, out, _ = here("curate features --epsilon 0.001 --data.source photos --data.test_share 0 --out list.txt")
    assert (code, "wrote list.txt" in out) == (0, True)
    assert len([line for line in Path("list.txt").read_text().splitlines() if not line.startswith("#")]) == 3
    assert Path("list.png").is_file()
    assert here("curate features --keep 0.5 --out list.png")[0] == 2, "the picture would take the list's place"


def test_a_part_that_was_cut_is_done_again_and_said(here: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "e")
    pictures(tmp_path / "photos")
    assert here("embed photos --checkpoint e --out features")[0] == 0
    whole = pq.read_table("features/part-000000.parquet")
    for content in (b"", Path("features/part-000000.parquet").read_bytes()[:-20]):
        Path("features/part-000000.parquet").write_bytes(content)
        code, out, said = here("embed photos --checkpoint e --out features")
        assert (code, "6 images" in out, "part-000000.parquet is damaged" in said) == (0, True, True)
        assert pq.read_table("features/part-000000.parquet").equals(whole)


def test_features_do_not_go_among_the_images(here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path / "e")
    monkeypatch.chdir(pictures(tmp_path / "photos"))
    code, _, said = here(f"embed . --checkpoint {tmp_path / 'e'}")
    assert (code, "lies among the images" in said) == (2, True)


def test_a_list_is_made_by_the_column_and_channels_that_features_were(here: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "e")
    (tmp_path / "shop").mkdir()
    photos = [(file.read_bytes()) for file in sorted(pictures(tmp_path / "photos").iterdir())]
    pq.write_table(pa.table({"photo": photos}), tmp_path / "shop" / "train.parquet")
    assert here("embed shop --data.image_column photo --checkpoint e --out features")[0] == 0
    code, _, said = here("curate features --epsilon 0.001 --data.source shop --data.test_share 0 --out list.txt")
    assert (code, Path("list.png").is_file()) == (0, True), said
    tiny(tmp_path / "five", **{"data.channels": 5, "augment.mean": (0.5,) * 5, "augment.std": (0.2,) * 5})
    (tmp_path / "bands").mkdir()
    for i in range(6):
        np.save(tmp_path / "bands" / f"{i}.npy", np.random.default_rng(i // 2).integers(0, 255, (32, 32, 5), dtype=np.uint8))
    assert here("embed bands --checkpoint five --out bandwise")[0] == 0
    code, _, said = here("curate bandwise --epsilon 0.001 --data.source bands --data.test_share 0 --out bands.txt")
    assert (code, Path("bands.png").is_file()) == (0, True), said


def test_features_of_before_channels_were_noted_are_gone_on_with(here: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "e")
    pictures(tmp_path / "photos")
    assert here("embed photos --checkpoint e --out features")[0] == 0
    plan = json.loads(Path("features", PLAN).read_text())
    Path("features", PLAN).write_text(json.dumps({key: plan[key] for key in ("encoder", "sees", "column", "images")}))
    assert here("embed photos --checkpoint e --out features")[0] == 0
    shutil.rmtree("photos")
    pictures(tmp_path / "photos", count=4)
    assert here("embed photos --checkpoint e --out features")[0] == 2
