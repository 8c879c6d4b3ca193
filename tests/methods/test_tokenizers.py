"""DALL-E's tokens from a local file: the network is the release's, nothing else loads, another file is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from contray import data, model
from contray.config import RunConfig
from contray.errors import ConfigError
from contray.methods import cae
from contray.methods._base import Batch, Clock
from contray.methods._parts import patchify
from contray.methods._tokenizers import DalleEncoder, PatchTokenizer, read_dalle
from contray.training.loop import train

WIDTH, VOCABULARY, SIZE = 4, 24, 6


def shapes_of(width: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The weights of the release's convolutions, by name; it has width 256 and vocabulary 8192."""
    shapes = {"blocks.input": (width, 3, 7, 7), "blocks.output.conv": (vocabulary, 8 * width, 1, 1)}
    for group, inputs, outputs in ((1, 1, 1), (2, 1, 2), (3, 2, 4), (4, 4, 8)):
        for block in (1, 2):
            before, after, hidden = width * (inputs if block == 1 else outputs), width * outputs, width * outputs // 4
            place = f"blocks.group_{group}.block_{block}"
            if before != after:
                shapes[f"{place}.id_path"] = (after, before, 1, 1)
            shapes[f"{place}.res_path.conv_1"] = (hidden, before, 3, 3)
            shapes[f"{place}.res_path.conv_2"] = shapes[f"{place}.res_path.conv_3"] = (hidden, hidden, 3, 3)
            shapes[f"{place}.res_path.conv_4"] = (after, hidden, 1, 1)
    return shapes


def release(seed: int = 0) -> dict[str, Tensor]:
    """A state dict with the release's names, a 64th of its width."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes_of(WIDTH, VOCABULARY).items():
        made[f"{name}.w"] = 2 * torch.randn(shape, generator=generator) / (shape[1] * shape[2] * shape[3]) ** 0.5
        made[f"{name}.b"] = 0.1 * torch.randn(shape[0], generator=generator)
    return made


def logits_of(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The release's encoder, step by step: (B, 3, H, W) in [0, 1] -> (B, K, H / 8, W / 8)."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"blocks.{name}.w"]
        return F.conv2d(x, weight, state[f"blocks.{name}.b"], padding=(weight.shape[2] - 1) // 2)

    x = conv("input", (1 - 2 * 0.1) * pixels + 0.1)
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            place = f"group_{group}.block_{block}"
            y = x
            for i in (1, 2, 3, 4):
                y = conv(f"{place}.res_path.conv_{i}", y.relu())
            x = (conv(f"{place}.id_path", x) if f"blocks.{place}.id_path.w" in state else x) + y / 64
        x = F.max_pool2d(x, 2) if group < 4 else x
    return conv("output.conv", x.relu())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(release(), tmp_path / "encoder.pt")
    return tmp_path / "encoder.pt"


def config_of(file: Path | str, **changes: object) -> RunConfig:
    """CAE on 4 x 4 patches of 8 px, the tokenizer's view as large as the encoder's."""
    keys = {"method.tokenizer": "dalle", "method.tokenizer_file": str(file), "method.vocabulary": VOCABULARY, "backbone.width": 16,
            "backbone.patch": 8, "train.precision": "fp32", "train.batch_size": SIZE}  # fmt: skip
    config = RunConfig.make("cae", {**keys, **changes}, preset="digits")
    view = dataclasses.replace(config.views["view"], geometry="image")
    return dataclasses.replace(config, views={"view": view, "pixels": view})


def test_the_encoder_is_the_release_s(file: Path) -> None:
    encoder, pixels = read_dalle(str(file)), torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    assert_close(encoder(pixels), logits_of(release(), pixels))
    assert encoder(pixels).shape == (2, VOCABULARY, 4, 3)
    with torch.device("meta"):
        full_size = DalleEncoder(256, 8192).state_dict()
    expected = {f"{name}.weight": shape for name, shape in shapes_of(256, 8192).items()}
    assert {name: tuple(value.shape) for name, value in full_size.items() if value.ndim == 4} == expected


def spoil(what: str, file: Path) -> None:
    state = release()
    if what == "missing":
        file.unlink()
    elif what == "pickled":
        torch.save(nn.Linear(2, 2), file)
    elif what == "torn":
        file.write_bytes(file.read_bytes()[:1000])
    elif what == "of another network":
        torch.save(nn.Linear(2, 2).state_dict(), file)
    elif what == "of another shape":
        torch.save(state | {"blocks.group_3.block_2.res_path.conv_2.w": torch.zeros(4, 4, 1, 1)}, file)
    elif what == "incomplete":
        torch.save({key: value for key, value in state.items() if "group_4" not in key}, file)


@pytest.mark.parametrize("what", ["missing", "pickled", "torn", "of another network", "of another shape", "incomplete"])
def test_no_other_file_is_taken(what: str, file: Path) -> None:
    model.check(config_of(file), 100)
    spoil(what, file)
    with pytest.raises(ConfigError, match=r"^method.tokenizer_file: got .*encoder.pt"):
        model.check(config_of(file), 100)


def test_settings_that_do_not_belong_together_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^method.vocabulary: got 23, must be the 24 tokens"):
        model.check(config_of(file, **{"method.vocabulary": 23}), 100)
    config = config_of(file)
    view = config.views["view"]
    for pixels, key in ((dataclasses.replace(view, geometry=""), "geometry"), (dataclasses.replace(view, size=64), "64 px")):
        with pytest.raises(ConfigError, match=rf"^method.tokenizer: got dalle.*{key}"):
            model.check(dataclasses.replace(config, views={"view": view, "pixels": pixels}), 100)
    with pytest.raises(ConfigError, match=r"^method.tokenizer_file: got ''"):
        model.check(RunConfig.make("cae", preset="dalle"), 5000)


def test_tokens_are_those_of_the_pixels_before_they_were_normalised(file: Path) -> None:
    coarse = torch.randint(0, 256, (SIZE, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    raw = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)  # (B, 32, 32, 3)
    state, pixels = release(), raw.permute(0, 3, 1, 2) / 255
    state["blocks.output.conv.b"] -= logits_of(state, pixels).mean((0, 2, 3))  # else one token would win everywhere
    torch.save(state, file)
    config = config_of(file)
    method = model.build(config, 100).train()
    assert isinstance(method, cae.CAE)
    images, slot = model.normaliser(config, torch.device("cpu"))(raw), torch.arange(SIZE)
    batch, clock = Batch({"view": images, "pixels": images}, slot, slot, SIZE), Clock(0, 100, 100, SIZE)
    reps = method.represent(batch, clock)
    found = method.tokens_of(reps, batch, clock)
    expected = logits_of(state, pixels).argmax(1).flatten(1)
    assert len(expected.unique()) > 3
    assert torch.equal(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.tokens_of(reps, batch, clock), expected)
    small = Batch({"view": images, "pixels": images[:, :, :24, :24]}, slot, slot, SIZE)
    with pytest.raises(ValueError, match="24 px give 9 tokens for 16 patches"):
        method.tokens_of(reps, small, clock)


def test_a_run_keeps_the_digest_not_the_weights_and_refuses_another_file(file: Path, tmp_path: Path) -> None:
    config = config_of(file, **{"train.steps": 2, "eval.every_epochs": 0, "data.workers": 0, "data.source": "digits"})
    source = data.open_source(config.data)
    state = train(config, source).method.state_dict()
    digest = state["tokenizer.codes"]
    assert bytes(digest.tolist()) == hashlib.sha256(file.read_bytes()).digest()
    assert [name for name in state if name.startswith("tokenizer")] == ["tokenizer.codes"]

    torch.save(release(seed=1), file)
    method = model.build(config, len(source.train))
    method.load_state_dict(state)
    images, slot = torch.rand(SIZE, 3, 32, 32), torch.arange(SIZE)
    batch, clock = Batch({"view": images, "pixels": images}, slot, slot, SIZE), Clock(2 * SIZE, 100, 100, SIZE)
    reps = method.represent(batch, clock)
    with pytest.raises(ValueError, match=r"^tokenizer_file: .* is not the file that this run began with"):
        method.loss(reps, batch, clock)
    file.unlink()
    assert method.encode({"image": images}).shape == (SIZE, 16), "a trained encoder needs no tokenizer"


def test_few_images_have_fewer_patches_than_codes() -> None:
    """Two images of four patches for 32 codes: every patch is named, by one that is itself."""
    tokenizer, images = PatchTokenizer(32, 4), torch.randn(2, 3, 8, 8)
    codes = tokenizer.fit(images, 2)
    assert codes.shape == (32, 48)
    tokens = tokenizer(images, codes)
    assert len(tokens.unique()) == 8
    assert_close(codes[tokens], patchify(images, 4))
