"""What is left to the hardware: decided once for a run, kept with it, and no part of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contray import RunConfig, api, model
from contray.cli import dryrun
from contray.errors import ConfigError, UserError
from contray.model import hardware
from contray.model.encoder import read_checkpoint
from contray.planning.facts import Images
from contray.planning.trial import measure
from contray.storage import sealed
from contray.storage.checkpoint import dump
from contray.storage.folder import Storage
from contray.training import launch, records
from contray.training.settle import settle

SMALL = {
    "data.size": 16, "data.renderings": 1, "data.workers": 0, "views.view.size": 16, "backbone.width": 16, "method.projector_hidden": 16,
    "method.projector_dim": 8, "train.batch_size": 32, "train.steps": 3, "eval.every_epochs": 0, "eval.final": (), "scale.workers": (0, 0),
    "track.model": False,
}  # fmt: skip


def config(**settings: Any) -> RunConfig:
    given = {key.replace("__", "."): value for key, value in settings.items()}
    known = RunConfig.make("simclr", preset="digits").flat()
    return RunConfig.make("simclr", {key: value for key, value in {**SMALL, **given}.items() if key in known}, preset="digits")


def processor(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setenv(hardware.OVERRIDE, "yes" if bf16 else "no")


@pytest.mark.parametrize(
    ("amx", "avx512", "quick", "words"),
    [(True, False, True, "AMX"), (False, True, True, "AVX512-BF16"), (False, False, False, "neither AMX nor AVX512-BF16")],
)
def test_bf16_is_quick_where_there_are_units_for_it(
    amx: bool, avx512: bool, quick: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(hardware.OVERRIDE, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    found, why = hardware.quick_bf16("cpu")
    assert found == quick
    assert words in why
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert hardware.quick_bf16("cuda") == (False, "this GPU has no bf16")


def test_the_override_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hardware.OVERRIDE, "maybe")
    with pytest.raises(UserError, match=r"^CONTRAY_BF16: got 'maybe', must be yes or no"):
        hardware.quick_bf16("cpu")


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_follows_the_hardware_and_the_name_does_not(bf16: bool) -> None:
    asked = config()
    found = model.settled(asked, "cpu", bf16)
    assert (asked.train.precision, asked.train.channels_last) == ("auto", "auto")
    assert (found.train.precision, found.train.channels_last) == ("bf16" if bf16 else "fp32", "true")
    assert found.run_name == asked.run_name
    assert RunConfig.from_yaml(found.to_yaml()) == found
    assert model.settled(found, "cpu", not bf16) == found
    explicit = config(train__precision=found.train.precision)
    assert explicit.run_name != asked.run_name
    for changed in (
        found.replace({"train.precision": "fp64"}),
        RunConfig.from_yaml(found.to_yaml(), {"train.precision": "fp64"}),
    ):
        assert changed.train.settled == ("train.channels_last", "data.augment_on")
        assert changed.run_name not in (asked.run_name, explicit.run_name)


def test_true_and_false_are_read_from_yaml_and_words() -> None:
    for given, read in ((True, "true"), (False, "false"), ("true", "true"), (["false"], "false"), ([], "true"), ("auto", "auto")):
        assert config(train__channels_last=given).train.channels_last == read
    assert RunConfig.from_yaml("train: {channels_last: false}").train.channels_last == "false"


def test_channels_last_where_it_is_safe_and_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def layout(kind: str, method: str = "simclr", **settings: Any) -> str:
        given = {key.replace("__", "."): value for key, value in settings.items()}
        return model.settled(RunConfig.make(method, given, preset="digits"), kind, False).train.channels_last

    assert layout("cpu", backbone__width=16) == "true"
    assert layout("cpu", backbone__width=8) == "false"  # a 1x1 convolution of stride 2 over 8 channels
    assert layout("cuda", backbone__width=8) == "true"
    assert layout("cpu", backbone__width=8, backbone__selective_kernels=0.5) == "true"  # its shortcuts pool and have no stride
    assert layout("cpu", "mae", train__channels_last="auto") == layout("cuda", "mae", train__channels_last="auto") == "false"
    narrow = RunConfig.make("simclr", {"backbone.width": 8, "train.channels_last": "true"}, preset="digits")
    with pytest.raises(ConfigError, match=r"^train\.channels_last: got true, .*backbone\.layer2\.0\.downsample\.0 .*8 channels"):
        model.settled(narrow, "cpu")
    assert model.settled(narrow, "cuda", True).train.channels_last == "true"


def test_a_narrow_network_trains_at_full_size() -> None:
    """In channels last its backward pass aborted the process."""
    given = {"backbone.width": 8, "views.view.size": 224, "train.batch_size": 8, "train.precision": "fp32", "data.workers": 0}
    trial = measure(model.settled(RunConfig.make("simclr", given, preset="digits"), "cpu"), Images(1000))
    assert trial.seconds > 0


# ---------------------------------------------------------------- runs


def test_a_run_keeps_what_it_began_with(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processor(monkeypatch, True)
    asked = config(scale__storage=str(tmp_path / "runs"), track__uri=store, train__checkpoint_steps=1)
    stopped = asked.replace({"train.steps": 3})
    real = launch.work

    def dies(*args: Any, **options: Any) -> Any:
        real(*args, **options)
        raise RuntimeError("power cut")

    monkeypatch.setattr(launch, "work", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        api.train(stopped, quiet=True)
    folder = tmp_path / "runs" / asked.run_name
    assert RunConfig.from_file(folder / "config.yaml").train.precision == "bf16"
    assert read_checkpoint(str(folder)).config.train.precision == "bf16"

    monkeypatch.setattr(launch, "work", real)
    processor(monkeypatch, False)
    capsys.readouterr()
    result = api.train(stopped, quiet=True)
    assert result.name == asked.run_name
    assert "train.precision stays bf16, as the run began; this hardware would take fp32" in capsys.readouterr().out
    assert RunConfig.from_file(folder / "config.yaml").train.precision == "bf16"
    assert read_checkpoint(str(folder)).config.train.precision == "bf16"

    from contray import track

    assert track.client(store).get_run(result.run_id).data.params["train.precision"] == "bf16"
    again = api.train(RunConfig.from_file(folder / "config.yaml"), quiet=True)  # the run once more, by its own config, elsewhere
    assert again.name == f"{asked.run_name}-2"
    assert read_checkpoint(again.checkpoint).config.train.precision == "bf16"


def test_another_precision_is_refused_by_name(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, False)
    asked = config(scale__storage=str(tmp_path / "runs"), track__uri=store, track__name="mine", train__checkpoint_steps=1)
    folder = Storage(str(tmp_path / "runs")) / "mine"
    api.train(asked, quiet=True)
    for name in (records.RECORD, records.COPY):  # as an unfinished run has it; one that is finished is not gone on with
        facts = sealed.read(folder, name, records.KINDS)
        assert facts is not None
        sealed.write(folder, name, {**facts, "finished": False})
    with pytest.raises(UserError, match=r"differs in train\.precision\. "):
        api.train(asked.replace({"train.precision": "fp64"}), quiet=True)
    assert settle(asked, folder).train.precision == "fp32"


def test_what_a_run_took_is_mended_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, asked = Storage(str(tmp_path)), config()
    processor(monkeypatch, True)
    began = settle(asked, folder)
    whole = folder.read("hardware.json")
    state = {"format": 1, "step": 1, "method": {}, "config": began.to_yaml()}
    processor(monkeypatch, False)
    folder.remove("hardware.json")
    assert settle(asked, folder).train.precision == "fp32", "nothing tells of another"
    folder.write("step-000000001.pt", dump(state))
    capsys.readouterr()
    for damaged in (None, b"", b"{}", b"null", whole[:-9], whole.replace(b"bf16", b"fp32")):
        folder.remove("hardware.json") if damaged is None else folder.write("hardware.json", damaged)
        assert settle(asked, folder) == began
        assert "it was mended from the newest checkpoint" in capsys.readouterr().out
        assert settle(asked, folder) == began
        assert "mended" not in capsys.readouterr().out


def test_the_dry_run_says_which_precision_and_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    processor(monkeypatch, True)
    found, _ = dryrun.describe(config())
    told = " ".join(capsys.readouterr().out.split())
    assert found.train.precision == "bf16"
    assert "bf16, channels last (auto: CONTRAY_BF16 is yes)" in told
    assert "drawn when they are asked for" in told
