"""The encoder outside of training: written and read back, what its transform makes of images, which files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from contray import RunConfig, model, track
from contray.errors import UserError
from contray.model.encoder import Encoder, export, read_checkpoint, read_folder

SIZE = 16
KEYS = {"backbone.width": 4, "views.view.size": SIZE, "method.projector_hidden": 16, "method.projector_dim": 8}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.make("simclr", KEYS, preset="digits")


@pytest.fixture(scope="module")
def encoder(config: RunConfig) -> Encoder:
    """Untrained, but with running statistics that a new one does not have."""
    method = model.build(config, 100).eval()
    for name, buffer in method.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(0.1)
    return Encoder(config, method)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (5, SIZE, SIZE, 3), dtype=np.uint8)


def save(encoder: Encoder, path: Path, **changes: object) -> None:
    torch.save({"method": encoder.method.state_dict(), "config": encoder.config.to_yaml(), **changes}, path)


def test_what_is_exported_is_read_back(encoder: Encoder, images: np.ndarray, tmp_path: Path) -> None:
    export(encoder.config, encoder.method, tmp_path / "encoder")
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {"config.yaml", "encoder.safetensors"}
    again = read_folder(tmp_path / "encoder")
    assert again.config == encoder.config
    assert not again.method.training
    assert torch.equal(again(images), encoder(images))


def test_no_images_are_refused_in_one_line(encoder: Encoder) -> None:
    with pytest.raises(UserError, match=r"^encoder: got no images; give one or more$"):
        encoder([])


@pytest.mark.parametrize("name", ["mae", "moco_v3"])
def test_encoders_of_runs_from_before_are_read(name: str, tmp_path: Path) -> None:
    """Their mask tokens had one axis, and MoCo v3's predictor a bias."""
    config = RunConfig.make(name, preset="digits")
    method = model.build(config, 10)
    state = dict(method.state_dict())
    if name == "mae":
        state["mask_token"] = state["mask_token"][0]
    else:
        state["predictor.3.bias"] = torch.zeros(64)
    torch.save({"method": state, "config": config.to_yaml()}, tmp_path / "step-000000001.pt")
    read = read_checkpoint(str(tmp_path)).method.state_dict()
    assert all(torch.equal(read[key], value) for key, value in method.state_dict().items())


def test_weights_of_another_network_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    export(encoder.config, encoder.method, tmp_path)
    (tmp_path / "config.yaml").write_text(encoder.config.replace({"backbone.width": 8}).to_yaml())
    with pytest.raises(UserError, match="the weights do not fit the config's simclr on resnet_small") as refused:
        read_folder(tmp_path)
    assert "\n" not in str(refused.value)


def test_features_are_rows_of_finite_numbers_that_do_not_depend_on_company(encoder: Encoder, images: np.ndarray) -> None:
    features = encoder(images)
    assert features.shape == (5, 32)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    torch.testing.assert_close(encoder(images[2:3]), features[2:3], rtol=1e-5, atol=1e-6)


def test_an_image_of_the_right_size_is_only_normalised(encoder: Encoder, images: np.ndarray) -> None:
    (image,) = encoder.transform(images[0]).values()
    mean, std = (torch.tensor(each) for each in (encoder.config.augment.mean, encoder.config.augment.std))
    expected = (torch.from_numpy(images[0]) / 255 - mean) / std
    torch.testing.assert_close(image[0].permute(1, 2, 0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(SIZE, 2 * SIZE), (3 * SIZE, SIZE), (64, 100), (5, 7)])
def test_other_shapes_are_resized_and_cropped_to_the_centre(shape: tuple[int, int], encoder: Encoder) -> None:
    """The sides of the longer axis are cut off: what is painted only there is not seen."""
    short, long = min(shape), max(shape)
    plain = np.full((*shape, 3), 120, np.uint8)
    painted, margin = plain.copy(), (long - short) // 4
    ends = painted if shape[0] == long else painted.swapaxes(0, 1)
    ends[:margin], ends[long - margin :] = 255, 255
    (seen,), (expected,) = encoder.transform(painted).values(), encoder.transform(plain).values()
    assert seen.shape == (1, 3, SIZE, SIZE)
    assert torch.equal(seen, expected)


def test_images_of_many_sizes_make_one_batch(encoder: Encoder) -> None:
    sizes = [(16, 16), (20, 40), (40, 20), (8, 8)]
    assert encoder([np.full((*size, 3), 90, np.uint8) for size in sizes]).shape == (4, 32)


def test_a_checkpoint_is_read_by_name_and_the_newest_of_a_folder(encoder: Encoder, images: np.ndarray, tmp_path: Path) -> None:
    newer = Encoder(encoder.config, model.build(encoder.config.replace({"seed": 1}), 100).eval())
    save(encoder, tmp_path / "step-000000002.pt")
    save(newer, tmp_path / "step-000000010.pt")
    save(encoder, tmp_path / "best.pt")
    assert torch.equal(read_checkpoint(str(tmp_path))(images), newer(images))
    assert torch.equal(read_checkpoint(f"{tmp_path}/")(images), newer(images))
    for name in ("step-000000002.pt", "best.pt"):
        assert torch.equal(read_checkpoint(str(tmp_path / name))(images), encoder(images))


def test_what_is_no_whole_checkpoint_is_refused_by_name(encoder: Encoder, tmp_path: Path) -> None:
    save(encoder, tmp_path / "whole.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-500])
    save(encoder, tmp_path / "pickled.pt", extra=Path("an object"))
    (tmp_path / "empty").mkdir()
    for name, reason in {
        "torn.pt": "torn.pt: it is torn", "pickled.pt": "pickled.pt: it holds pickled objects", "gone.pt": "there is no file .*gone.pt",
        "empty": "there is no checkpoint in .*empty",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=reason):
            read_checkpoint(str(tmp_path / name))


def test_mlflow_serves_it_and_keeps_what_is_said_of_it(encoder: Encoder, images: np.ndarray, store: str, tmp_path: Path) -> None:
    run = track.begin(store, "encoders", "one", params={}, tags={})
    export(encoder.config, encoder.method, tmp_path / "encoder")
    model_id = track.log_encoder(run, tmp_path / "encoder", metadata={"linear_top1": 0.75})
    from mlflow.pyfunc import load_model

    served = load_model(track.client(store).get_logged_model(model_id).artifact_location)
    assert served.metadata.metadata == {"linear_top1": 0.75}
    features = served.predict(images)
    assert features.dtype == np.float32
    assert np.array_equal(features, encoder(images).numpy())
