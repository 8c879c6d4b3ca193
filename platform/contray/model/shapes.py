"""Whether a method's networks can take the views that it is configured with, found out without computing anything."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import model
from ..config import RunConfig
from ..data.views import VOCABULARY
from ..errors import ConfigError
from ..methods._base import Batch, Clock, Method, View
from . import backbones
from .vit import SHAPES

_FITTING: set[str] = set()  # keys of what was found to fit
_ROWS = 4  # of the batch that goes through


def check(config: RunConfig) -> None:
    """Refuse views that the backbone cannot take. Raises ConfigError naming the view.

    The method's `represent` and `encode` run on the meta device, where tensors have shapes and no numbers. What fails there is tried once more
    with numbers before it is refused, since a user's method may ask for some.
    """
    key = model.shape_key(config)
    if key in _FITTING:
        return
    _check_patches(config)
    backbones.check_output(config)
    problem = _problem(config)
    if problem:
        name, view = _smallest(config)
        field, got = ("grid", " ".join(map(str, view.grid))) if view.kind == "patches" else ("size", view.size)
        words = f"got {got}, which {config.backbone.name} cannot take in {config.method.name} ({problem})"
        raise ConfigError(f"views.{name}.{field}", words)
    backbones.check_laws(config)
    _FITTING.add(key)


def _problem(config: RunConfig) -> str:
    """Why the views do not go through, in words; empty: they do."""
    method = model.sketch(config)
    try:
        _run(config, method)
        return ""
    except backbones.FAILURES as error:
        failure: Exception = error
    if next(method.parameters()).is_meta:
        try:
            with torch.random.fork_rng(devices=[]):
                _run(config, model.build(config, max(_ROWS, config.train.batch_size)))
            return ""
        except backbones.FAILURES as error:
            failure = error
    return " ".join(str(failure).split())[:200] or type(failure).__name__


def noise(view: View, rows: int, device: torch.device, dtype: torch.dtype, channels: int = 3) -> Tensor:
    """Random inputs of the shape that a view has; channels: of images."""
    if view.kind == "tokens":
        return torch.randint(1, VOCABULARY, (rows, view.size), device=device)
    count, side, _ = view.grid
    shape = {"array": (view.channels, view.size), "patches": (count * count, channels, side, side)}.get(
        view.kind, (channels, view.size, view.size)
    )
    return torch.rand(rows, *shape, device=device, dtype=dtype)


def _check_patches(config: RunConfig) -> None:
    """A transformer sees whole patches alone: what is left of a side would never be seen."""
    if config.backbone.name not in SHAPES:
        return
    patch = config.backbone.patch
    for name, view in config.views.items():
        side = backbones.image_side(view)
        if side and side % patch:
            size = f"views.{name}.{'grid' if view.kind == 'patches' else 'size'}"
            what = "is larger than" if patch > side else f"leaves {side % patch} px of a side unseen at"
            fits = patch * max(1, round(side / patch))
            raise ConfigError(
                "backbone.patch",
                f"got {patch}, which {what} the {side} px of {size}; one must divide the other, as {fits} px would",
            )


def _run(config: RunConfig, method: Method) -> None:
    device, dtype = next(method.parameters()).device, next(method.parameters()).dtype
    views = {
        key: noise(view, _ROWS, device, dtype, config.channels) for name, view in config.views.items() for key in view.names(name)
    }
    slot = torch.arange(_ROWS, device=device)
    batch, clock = Batch(views, slot, slot, _ROWS, track=False), Clock(0, _ROWS, _ROWS, _ROWS)
    with torch.no_grad(), batch.norm("blocks"):
        method.train()
        reps = method.represent(batch, clock)
    empty = [name for name, rep in reps.items() if not rep.numel()]
    if empty:
        raise ValueError(f"{empty[0]} has the shape {tuple(reps[empty[0]].shape)}: nothing is left of the image")
    inputs = {
        name: noise(view, _ROWS, device, dtype, config.channels) for name, view in type(method).eval_views(config.views).items()
    }
    with torch.no_grad():
        method.eval()
        method.encode(inputs)


def _smallest(config: RunConfig) -> tuple[str, View]:
    """The view of the smallest images, or the first one where there are none."""
    images = {name: side for name, view in config.views.items() if (side := backbones.image_side(view))}
    name = min(images, key=lambda name: images[name]) if images else next(iter(config.views))
    return name, config.views[name]
