"""The trained encoder outside of training: exported without pickle, loaded again, from a run, a checkpoint or MLflow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import model
from ..config import RunConfig
from ..data.form import Form
from ..data.given import image_of, images_of
from ..data.pixels import reduced
from ..data.views import Pipeline
from ..errors import ConfigError, UserError, shown
from ..methods._base import Method
from ..storage.checkpoint import BEST, latest, load
from ..storage.folder import Storage
from .backbones import image_side
from .vit import SHAPES

WEIGHTS, CONFIG = "encoder.safetensors", "config.yaml"
DIGEST = "tensors.sha256"  # in the metadata of WEIGHTS


@dataclass(frozen=True)
class Encoder:
    """A trained encoder and its evaluation transform. `encoder(images)` gives a row of features for each image.

    Images are paths, bytes of files, PIL images, arrays, tensors, one or several: see `contray.data.given`.
    """

    config: RunConfig
    method: Method

    def __repr__(self) -> str:
        side = image_side(next(iter(type(self.method).eval_views(self.config.views).values())))
        sees = f", sees {side} x {side} px" if side else ""
        made = f"{Path(self.config.method.name).stem} {self.config.method.preset}, {Path(self.config.backbone.name).stem}"
        return f"Encoder({made}: {self.method.out_dim} features{sees})"

    @property
    def form(self) -> Form:
        """What images become: RGB of 8 bits, or as many channels as it was trained on, of its range."""
        return Form.of(self.config.data)

    def transform(self, image: Any) -> dict[str, Tensor]:
        """One image (in any form that `encoder(images)` takes) -> its evaluation inputs, each (1, C, H, W): reduced to data.shorter_side, resized,
        centre-cropped, normalised.

        Methods that encode several columns of a sample (CMC of depth and colour) take a dict of them.
        """
        sample = image if isinstance(image, Mapping) else {"image": image_of(image, self.config.data.shorter_side, self.form)}
        views = type(self.method).eval_views(self.config.views)
        lacking = sorted({view.source for view in views.values()} - sample.keys())
        if lacking:
            raise UserError(f"{self.config.method.name} encodes more than an image: give a dict with {', '.join(lacking)} too")
        side, pictures = (
            self.config.data.shorter_side if self.form.reduce == "area" else 0,
            {view.source for view in views.values() if view.kind in ("image", "patches")},
        )
        sample = {name: reduced(held, side) if name in pictures else held for name, held in sample.items()}
        drawn = Pipeline(views, 0.0, self.config.data.channels)(lambda column, rng: sample[column], (0, 0, 0))
        normalise = model.normaliser(self.config, next(self.method.parameters()).device)
        return {
            name: normalise(torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None]) for name, pixels in drawn.items()
        }

    @torch.no_grad()
    def __call__(self, images: Any) -> Tensor:
        """Images of any sizes, or dicts of columns -> (n, D) float32 features on the CPU, a row for each; eval.batch_size are encoded at once.

        images: one or several of `contray.data.given`: uint8 (H, W, 3), floats in [0, 1], paths, ... Raises UserError where there are none.
        """
        given, features = images_of(images, self.config.data.shorter_side, self.form), []
        while chunk := [self.transform(image) for image in islice(given, self.config.eval.batch_size)]:
            features.append(self.encode(chunk))
        if not features:
            raise UserError("encoder: got no images; give one or more")
        return torch.cat(features)

    @torch.no_grad()
    def encode(self, inputs: list[dict[str, Tensor]]) -> Tensor:
        """What `transform` made of n images -> (n, D) float32 features on the CPU."""
        return self.method.encode({name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}).float().cpu()


def export(config: RunConfig, method: Method, folder: Path) -> None:
    """Write config.yaml and encoder.safetensors (the method's whole state) into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in method.state_dict().items()}
    save_file(state, folder / WEIGHTS, {**noted(config), DIGEST: digest_of_tensors(state)})
    (folder / CONFIG).write_text(config.to_yaml())
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read it


def noted(config: RunConfig) -> dict[str, str]:
    """What a file of weights says of its network that no shape tells: a ViT's heads."""
    _, usual, _ = SHAPES.get(config.backbone.name, (0, 0, 0))
    return {"backbone.heads": str(config.backbone.heads or usual)} if usual else {}


def read_folder(folder: Path) -> Encoder:
    """Read what `export` wrote. Raises UserError where it is not whole."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        text, state = (folder / CONFIG).read_text(), load_file(folder / WEIGHTS)
        with safe_open(folder / WEIGHTS, "pt") as file:
            digest = (file.metadata() or {}).get(DIGEST, "")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: no whole encoder ({error})") from None
    if digest and digest != digest_of_tensors(state):  # older folders have none
        raise UserError(f"{folder}: {WEIGHTS} is damaged, its tensors are not those that were exported")
    try:
        config = RunConfig.from_yaml(text, encoder=True)
    except ConfigError:
        raise
    except UserError as error:
        raise UserError(f"{folder}/{CONFIG}: {error}") from None
    return _restore(config, state)


def digest_of_tensors(state: Mapping[str, Tensor]) -> str:
    """sha256 of tensors: of their names, kinds, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_checkpoint(address: str) -> Encoder:
    """From a checkpoint file, the newest one in a run's folder, or a folder that `export` wrote. Raises UserError when there is none or it is not whole."""
    folder, _, name = address.rstrip("/").rpartition("/")
    if not name.endswith(".pt"):
        if (Path(address) / WEIGHTS).is_file():
            return read_folder(Path(address))
        if Path(address).is_file():
            raise UserError(f"--checkpoint: {address} is no checkpoint (step-N.pt) and no folder with one")
        state = latest(Storage(address, "--checkpoint"))
        if state is None:
            other = next((each for each in ("model.safetensors", "model.onnx") if (Path(address) / each).is_file()), "")
            taken = (
                f"contray import {shown(Path(address) / other)} --out FOLDER makes one of it"
                if other.endswith("safetensors")
                else "ONNX cannot be read back"
            )
            best = f"; there is {BEST}: give {address.rstrip('/')}/{BEST}" if BEST in Storage(address).names() else ""
            raise UserError(f"--checkpoint: there is no checkpoint in {address}{f'; {taken}' if other else best}")
        return _restore(RunConfig.from_yaml(state["config"], encoder=True), state["method"])
    storage = Storage(folder or ".")
    if name not in storage.names():
        raise UserError(f"--checkpoint: there is no file {address}")
    state = load(storage.read(name), address)
    return _restore(RunConfig.from_yaml(state["config"], encoder=True), state["method"])


def _restore(config: RunConfig, state: Mapping[str, Tensor]) -> Encoder:
    method = model.build(config, int(state.get("samples", 0)))
    try:
        method.load_state_dict(dict(state))
    except RuntimeError as error:
        raise UserError(
            f"the weights do not fit the config's {config.method.name} on {config.backbone.name}: {' '.join(str(error).split())[:300]}"
        ) from None
    return Encoder(config, method.eval())


def kind_of(config: RunConfig) -> np.dtype:
    """Of the pixels as MLflow's model takes them: floats in [0, 1] of the range where images have more than 8 bits."""
    return np.dtype(np.float32 if config.data.channels and config.data.range else np.uint8)


class _Pyfunc:
    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def predict(self, images: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """uint8 (n, H, W, 3), or of the encoder's channels uint8 or floats in [0, 1] -> float32 (n, D)."""
        return self.encoder(np.asarray(images, dtype=kind_of(self.encoder.config))).numpy()


def _load_pyfunc(path: str) -> _Pyfunc:
    """What `mlflow.pyfunc.load_model` calls: an encoder whose predict takes images."""
    return _Pyfunc(read_folder(Path(path)))


__all__ = ["BEST", "Encoder", "export", "read_checkpoint", "read_folder"]
