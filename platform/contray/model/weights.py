"""Weights that were trained elsewhere: read without unpickling, recognised, and fitted to a network. And encoders made of them.

An address of weights is a file of one of the LAYOUTS, the folder of a run or of an export, a checkpoint of contray's, or timm/NAME or
torchvision/NAME, whose published weights the library finds in its cache or downloads.
"""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import RunConfig
from ..config.sections import LIBRARIES, AugmentConfig
from ..errors import ConfigError, UserError, nearest
from ..storage.checkpoint import BEST, PATTERN, check_records
from . import layouts, libraries
from .encoder import CONFIG, WEIGHTS, Encoder, digest_of_tensors, read_checkpoint
from .layouts import LAYOUTS, State
from .method import build, device_of, settled
from .plain import network_under
from .vit import SHAPES

OWN = "contray"  # the layout of what contray has written
OURS = {"config", "method", "step"}  # what a checkpoint of contray's holds, which is checked otherwise
HEADS = "backbone.heads"
MEAN, STD = "augment.mean", "augment.std"
# Layouts of files of which some were trained on images normalised otherwise than ImageNet's, which no file tells
UNTOLD = ("timm", "dinov3")


@dataclass(frozen=True)
class Given:
    """Weights as they were found at `address`.

    raw: what a file holds; the backbone's state where it is of contray's. digest: of the file's bytes or of the tensors, 64 hex digits.
    settings: keys backbone.* (and views.image.size) of the network that they are of, as its shapes tell; empty where they tell none: then
    `unknown` says why. encoder: of what contray has written. attention: heads of a ViT of contray's shape, which no shape tells, 0 for others;
    guess: whether the file does not tell them either, and they are the usual ones.
    """

    address: str
    layout: str
    raw: Mapping[str, Any]
    digest: str
    settings: Mapping[str, Any]
    unknown: str = ""
    encoder: Encoder | None = None
    attention: int = 0
    guess: bool = False

    def __str__(self) -> str:
        return f"{self.address}, {self.layout}, {self.digest[:12]}"

    @property
    def backbone(self) -> dict[str, Any]:
        """The settings of the network alone."""
        return {key: value for key, value in self.settings.items() if key.startswith("backbone.")}

    @property
    def normalised(self) -> dict[str, tuple[float, ...]]:
        """augment.mean and augment.std of the images that the network was trained on; empty where nothing tells them."""
        if self.encoder is not None:
            return {MEAN: self.encoder.config.augment.mean, STD: self.encoder.config.augment.std}
        if self.layout in UNTOLD and MEAN not in self.settings:
            return {}
        return {
            key: tuple(self.settings.get(key, usual)) for key, usual in ((MEAN, AugmentConfig.mean), (STD, AugmentConfig.std))
        }

    def state_for(self, net: nn.Module, name: str) -> tuple[State, list[str]]:
        """The tensors under the names of `net`, which is called `name`, fitted to its image size and channels, and what was done to them, in words.

        Raises UserError where tensors are missing, too many or of other shapes.
        """
        wanted, library = net.state_dict(), hasattr(net, "classifiers")
        try:
            if self.layout == OWN:
                state = dict(self.raw)
            elif library:
                classifiers: Any = net.classifiers
                state = layouts.select_named(self.raw, LAYOUTS[self.layout], set(wanted), classifiers)
            else:
                state = layouts.torchvision_names(layouts.select(self.raw, LAYOUTS[self.layout]))
        except UserError as error:
            raise UserError(f"{self.address}: {error}") from None
        counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}  # old files lack them
        state = {**{name: value for name, value in counters.items() if name not in state}, **state}
        positioned = 0 if getattr(net, "no_embed_class", False) else getattr(net, "num_prefix_tokens", 1) if library else 1
        state, told = layouts.adapted(state, wanted, positioned)
        if problem := layouts.misfits(state, wanted):
            raise UserError(f"{self.address}: it does not fit {name}: {problem}")
        if problem := layouts.unusable(state):
            raise UserError(f"{self.address}: {problem}")
        return state, told

    def heads(self) -> list[str]:
        """Names of tensors that are there and are of no encoder: heads, projectors, other networks."""
        if self.layout == OWN:
            return []
        names = list(layouts.tensors_in(self.raw, LAYOUTS[self.layout]))
        taken = len(layouts.select(self.raw, LAYOUTS[self.layout]))
        prefix = next((each for each in LAYOUTS[self.layout].prefixes if any(name.startswith(each) for name in names)), "")
        left = [n for n in names if not n.startswith(prefix) or re.match(LAYOUTS[self.layout].heads, n.removeprefix(prefix))]
        return left if taken else []


def given(address: str, layout: str = "") -> Given:
    """The weights at an address. layout: one of LAYOUTS, of a file; empty: as its names tell.

    Raises UserError for what is torn, holds pickled objects, is not there, or is of no layout that its names tell.
    """
    if layout and layout not in LAYOUTS:
        raise UserError(f"got {layout!r}; {nearest(layout, LAYOUTS)}")
    if address.startswith(LIBRARIES):
        return _published(address)
    name = address.rstrip("/").rpartition("/")[2]
    if "://" in address or Path(address).is_dir() or PATTERN.fullmatch(name) or name == BEST:
        return _own(address)
    return of_file(Path(address), layout)


def of_file(file: Path, layout: str = "") -> Given:
    """The weights in a file of one of LAYOUTS; empty: as its names tell. Raises as `given`."""
    raw, digest = read(file), digest_of(file)
    layout = layout or layouts.guessed(raw)
    if not layout and raw.keys() >= OURS:
        raise UserError(f"{file}: is contray's own checkpoint; --checkpoint and --init take it as it is")
    found = {} if layout else layouts.unwrapped(raw)
    if len(found) == 1:
        ((where, raw),) = found.items()
        layout = layouts.guessed(raw)
        if where:
            _say(file, f"taken is the network under {where!r}")
    if not layout:
        if len(found) > 1:
            raise UserError(
                f"{file}: holds several networks, under {', '.join(map(repr, found))}; keep the one that is meant in a file of its own"
            )
        raise UserError(
            f"{file}: its names tell no layout; say whose code wrote it (--layout, of --init --init-layout; of a teacher, contray import --layout, "
            f"and give the folder): one of {', '.join(LAYOUTS)}"
        )
    try:
        settings = recognised(file, raw, layout)
    except UserError as error:
        return Given(str(file), layout, raw, digest, {}, str(error))
    for words in layouts.taken(raw, layout):
        _say(file, words)
    told = _heads_told(file)
    settings |= {HEADS: told} if told and settings["backbone.name"] in SHAPES else {}
    return Given(str(file), layout, raw, digest, settings, attention=attention(settings), guess=not told and layout != "moco_v3")


def _say(file: Path, words: str) -> None:
    print(f"contray: {file}: {words}", file=sys.stderr, flush=True)


def attention(settings: Mapping[str, Any]) -> int:
    """Heads of the built-in ViT of keys backbone.*, 0 where they are of another network."""
    _, usual, _ = SHAPES.get(settings["backbone.name"], (0, 0, 0))
    return usual and (settings.get(HEADS) or usual)


def _heads_told(file: Path) -> int:
    """The heads that a .safetensors file of contray's notes beside its tensors; 0: none."""
    if file.suffix != ".safetensors":
        return 0
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        noted = (held.metadata() or {}).get(HEADS, "")
    return int(noted) if noted.isdecimal() else 0


def _own(address: str) -> Given:
    if Path(address).is_dir() and not (Path(address) / WEIGHTS).is_file() and not any(Path(address).glob("*.pt")):
        raise UserError(f"{address}: there is neither a checkpoint nor an export of contray in this folder")
    encoder = read_checkpoint(address)
    net = network_under(encoder.config, encoder.method)
    flat, state = encoder.config.flat(), net.state_dict()
    settings = {key: value for key, value in flat.items() if key.startswith("backbone.")}
    return Given(address, OWN, state, digest_of_tensors(state), settings, encoder=encoder, attention=attention(settings))


def _published(name: str) -> Given:
    """A library's own weights of timm/NAME or torchvision/NAME, from its cache or the network."""
    plain, _, tag = name.partition(".")  # timm's name of weights may follow
    library, own = libraries.known(plain)
    try:
        state = libraries.pretrained(library, f"{own}.{tag}" if tag else own)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{name}: its weights are not in the library's cache and cannot be downloaded ({reason}); give a file of them"
        ) from None
    settings = {"backbone.name": plain, **libraries.published(plain, tag)}
    return Given(name, library, state, digest_of_tensors(state), settings, attention=libraries.heads_of(plain))


def digest_of(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def encoder_of(found: Given, overrides: Mapping[str, Any] | None = None) -> Encoder:
    """The encoder that the weights are of, ready to encode. overrides: dotted keys of what they do not tell, such as backbone.name.

    Raises UserError where they do not fit their network, and where nothing tells which it is.
    """
    overrides = dict(overrides or {})
    if found.encoder is not None:
        return found.encoder
    given = overrides.get("backbone.name", "")
    name = " ".join(given) if isinstance(given, list) else str(given)
    settings = libraries.published(name) if name.startswith(LIBRARIES) else found.settings
    if not settings:
        raise UserError(found.unknown)
    about = {"method.layout": found.layout, "method.file": Path(found.address).name, "method.sha256": found.digest}
    config = RunConfig.make("imported", {**settings, **overrides}).replace(about)
    for key in (MEAN, STD):
        if not config.flat()[key]:
            raise ConfigError(key, f"is of RGB in public weights; give that of the {config.channels} channels, or one number")
    config = settled(config, device_of(config).type)
    method = build(config, 0).eval()
    state, told = found.state_for(method.backbone, config.backbone.name)
    heads = attention(config.flat())
    if found.guess and heads:
        told.append(f"taken as {heads} heads, which the file does not tell")
    if not found.normalised and not {MEAN, STD} & {*overrides}:
        told.append(f"images are normalised by ImageNet's mean and deviation, for the file tells none; others: --{MEAN}, --{STD}")
    for words in told:
        print(f"contray: {found.address}: {words}", flush=True)
    method.backbone.load_state_dict(state)
    return Encoder(config, method)


# ---------------------------------------------------------------- files


def recognised(file: Path, raw: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """What the shapes in a file say of a network. Raises UserError where no backbone of contray, and no known one of timm, has such shapes."""
    bare = layouts.select(raw, LAYOUTS[layout])
    if not bare:
        other = layouts.guessed(raw)
        seen = f"it looks like {other}" if other else f"it holds {', '.join(list(map(str, raw))[:3]) or 'nothing'}"
        raise UserError(f"{file}: there is no backbone in the layout {layout}; {seen}")
    try:
        if layout == "dinov3":
            return layouts.dinov3_network(bare)
        return _settings(layouts.architecture(layouts.torchvision_names(bare)), layout)
    except UserError as error:
        raise UserError(
            f"{file}: {error}; of another network of timm or torchvision, say which: --backbone.name timm/NAME"
        ) from None


def _settings(found: dict[str, Any], layout: str) -> dict[str, Any]:
    side = found.pop("side", 32 if found.get("backbone.stem") == "cifar" else 224)
    settings = {**found, "views.image.size": side}
    if found["backbone.name"] == "vit_small" and layout != "moco_v3":
        settings[HEADS] = 6  # MoCo v3's has 12 and is alone in that
    if LAYOUTS[layout].fixed_positions and "backbone.patch" in found:
        settings["backbone.positions"] = "sincos"  # not trained; the stored ones are used, for MoCo v3 has rows before columns
    return settings


def _of_torch(file: Path) -> bool:
    """Whether a file begins as torch's do: a zip archive, or a pickle of protocol 2 and later. torch takes anything else for a pickle, a picture too."""
    with file.open("rb") as stream:
        head = stream.read(4)
    return head == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def read(file: Path) -> Mapping[str, Any]:
    """What a .safetensors or torch file holds. Raises UserError when it is torn, no checkpoint, or holds pickled objects."""
    if (file / CONFIG).is_file():
        raise UserError(f"{file}: is contray's own export; --checkpoint and --init take it as it is")
    if not file.is_file():
        raise UserError(f"{file}: there is no such file, and no folder of a run or an export")
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
            "raw = raw.state_dict() if hasattr(raw, 'state_dict') else raw; "
            "torch.save({key: raw[key] for key in ('state_dict', 'model', 'teacher') if key in raw} or raw, 'tensors.pt')\""
        ) from None
    if zipfile.is_zipfile(file) and not (isinstance(raw, Mapping) and raw.keys() >= OURS):
        check_records(file, str(file))
    if not isinstance(raw, Mapping):
        raise UserError(f"{file}: no dictionary of tensors but a {type(raw).__name__}")
    return raw
