"""Public checkpoints as encoders of contray: `contray import`. Nothing is unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import model
from ..config import RunConfig
from ..config.sections import LIBRARIES
from ..errors import ConfigError, UserError, nearest
from ..model import encoder, libraries
from . import drafts, layouts

SECTIONS = ("backbone.", "views.", "augment.", "data.")  # what a file does not tell


def import_file(file: Path, layout: str, out: Path, overrides: Mapping[str, Any] | None = None) -> encoder.Encoder:
    """Write the backbone in `file` to the new folder `out`, from which `contray eval --checkpoint` and `read_checkpoint` take it.

    overrides: dotted keys of what the file does not tell: backbone.name of a network that is not built in (timm/NAME), backbone.heads of an
    unusual ViT, augment.mean and .std, views.image.size.
    Raises UserError, before anything is written, for a file that is no checkpoint, of another layout or of another architecture.
    """
    overrides = dict(overrides or {})
    if layout not in layouts.LAYOUTS:
        raise UserError(f"--layout: got {layout!r}; {nearest(layout, layouts.LAYOUTS)}")
    foreign = [key for key in overrides if not key.startswith(SECTIONS)]
    if foreign:
        raise UserError(f"{foreign[0]}: an import takes {', '.join(f'{section}*' for section in SECTIONS)}")
    drafts.check(out)
    raw = read(file)
    given = overrides.get("backbone.name", "")
    name = " ".join(given) if isinstance(given, list) else str(given)
    library = name.startswith(LIBRARIES)
    settings, state = (libraries.published(name), {}) if library else _recognised(file, raw, layout)
    config = RunConfig.make("imported", {**settings, **overrides}).replace(
        {"method.layout": layout, "method.file": file.name, "method.sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    )
    for key in ("augment.mean", "augment.std"):
        if not config.flat()[key]:
            raise ConfigError(key, f"is of RGB in public weights; give that of the {config.channels} channels, or one number")
    config = model.settled(config, model.device_of(config).type)
    method = model.build(config, 0).eval()
    net: Any = method.backbone
    if library:
        state = layouts.select_named(raw, layouts.LAYOUTS[layout], set(net.state_dict()), net.classifiers)
    wanted = method.backbone.state_dict()
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}  # old files lack them
    state = {**{name: value for name, value in counters.items() if name not in state}, **state}
    if config.channels != 3:
        rgb, state = state, layouts.spread(state, wanted)
        if any(rgb[name] is not state[name] for name in rgb):
            print(
                f"contray: {file} is of RGB; its first layer's weights for {config.channels} channels are their mean, rescaled",
                flush=True,
            )
    problem = layouts.misfits(state, wanted)
    if problem:
        raise UserError(f"{file}: it does not fit {config.backbone.name}: {problem}")
    method.backbone.load_state_dict(state)
    with drafts.draft(out) as folder:
        encoder.export(config, method, folder)
    return encoder.Encoder(config, method)


def _recognised(file: Path, raw: Mapping[str, Any], layout: str) -> tuple[dict[str, Any], layouts.State]:
    """What the shapes in a file say of a built-in backbone, and its tensors under that one's names. Raises UserError."""
    bare = layouts.select(raw, layouts.LAYOUTS[layout])
    if not bare:
        others = [name for name, other in layouts.LAYOUTS.items() if layouts.select(raw, other)]
        seen = f"it looks like {' or '.join(others)}" if others else f"it holds {', '.join(list(map(str, raw))[:3]) or 'nothing'}"
        raise UserError(f"{file}: there is no backbone in the layout {layout}; {seen}")
    state = layouts.torchvision_names(bare)
    try:
        return _settings(layouts.architecture(state), layout), state
    except UserError as error:
        raise UserError(
            f"{file}: {error}; of another network of timm or torchvision, say which: --backbone.name timm/NAME"
        ) from None


def _settings(found: dict[str, Any], layout: str) -> dict[str, Any]:
    side = found.pop("side", 32 if found.get("backbone.stem") == "cifar" else 224)
    settings = {**found, "views.image.size": side}
    if found["backbone.name"] == "vit_small" and layout != "moco_v3":
        settings["backbone.heads"] = 6  # MoCo v3's has 12 and is alone in that
    if layouts.LAYOUTS[layout].fixed_positions and "backbone.patch" in found:
        settings["backbone.positions"] = "sincos"  # not trained; the stored ones are used, for MoCo v3 has rows before columns
    return settings


def _of_torch(file: Path) -> bool:
    """Whether a file begins as torch's do: a zip archive, or a pickle of protocol 2 and later. torch takes anything else for a pickle, a picture too."""
    with file.open("rb") as stream:
        head = stream.read(4)
    return head == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def read(file: Path) -> Mapping[str, Any]:
    """What a .safetensors or torch file holds. Raises UserError when it is torn, no checkpoint, or holds pickled objects."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file}: it is torn or no safetensors file ({error})") from None
    try:
        raw = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if "Weights only load failed" not in str(error) or not _of_torch(file):
            raise UserError(f"{file}: it is torn or no checkpoint") from None
        raise UserError(
            f"{file}: it holds pickled objects, which are never loaded. If you trust where it is from, keep its tensors alone: "
            f"python -c \"import torch; raw = torch.load({str(file)!r}, 'cpu', weights_only=False); "
            "torch.save({key: raw[key] for key in ('state_dict', 'model', 'teacher') if key in raw} or raw, 'tensors.pt')\""
        ) from None
    if not isinstance(raw, Mapping):
        raise UserError(f"{file}: no dictionary of tensors but a {type(raw).__name__}")
    return raw
