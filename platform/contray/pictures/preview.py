"""A picture of the views as a method will see them: a row per sample, the original first."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..data import byte_pairs
from ..data.batches import GlobalBatches
from ..data.splits import Split
from ..drawing import SHORT, drawable
from ..methods._base import View
from .look import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHARACTERS = 14.5  # of the caption's size that an inch holds


def draw(
    split: Split, views: Mapping[str, View], *, strength: float, seed: int, samples: int = 6, out: Path, look: Look | None = None
) -> Path:
    """Draw the first `samples` of the first epoch's order into the image file `out` and return it. look: how images of any channels are shown.

    Broken images are replaced as in training. Lab and YCbCr are shown converted back to RGB, patches as a grid with gaps.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    samples, look = min(samples, len(split)), look or Look()
    batches = GlobalBatches(split, views, strength=strength, batch_size=samples, seed=seed)
    batch = batches.load(0, range(samples))
    columns = {key: view for name, view in views.items() for key in view.names(name)}
    width = max(4.5, 1.5 * (1 + len(columns)))
    caption = _caption(views, strength, split.generated, look, int(width * CHARACTERS))
    figure, axes = plt.subplots(
        samples,
        1 + len(columns),
        figsize=(width, 1.5 * samples + 0.8 + 0.15 * len(caption)),
        squeeze=False,
        layout="constrained",
    )
    try:
        for row, i in enumerate(batch["index"].tolist()):
            _show(axes[row, 0], look(split.image(i, None)), _label(split, i), below=True)
            for column, (name, view) in enumerate(columns.items(), start=1):
                values = batch["views"][name][row].numpy()
                if view.kind == "tokens":
                    lines = [drawable(line) for line in textwrap.wrap(_text(values, view), 20)]
                    axes[row, column].text(0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=7)
                    axes[row, column].set_axis_off()
                else:
                    _show(axes[row, column], as_seen(values, view, look))
        axes[0, 0].set_title("sample", fontsize=8)
        for column, (name, view) in enumerate(columns.items(), start=1):
            axes[0, column].set_title(
                f"{name}\n{view.size} {'tokens' if view.kind == 'tokens' else 'values' if view.kind == 'array' else 'px'}",
                fontsize=8,
            )
        figure.suptitle("\n".join(caption), fontsize=8, x=0.01, ha="left")
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=110)
    finally:
        plt.close(figure)
    return out


def as_seen(pixels: np.ndarray, view: View, look: Look) -> np.ndarray:
    """(H, W, 3) RGB of a drawn view: colour spaces converted back, patches (P, h, w, 3) laid out in their grid, arrays as a curve."""
    if view.kind == "array":
        return _curve(pixels)
    pixels = look(pixels)
    if view.kind == "patches":
        rows, (_, height, width, _) = view.grid[0], pixels.shape
        gap = max(1, height // 8)
        sheet = np.full((rows * (height + gap) - gap, rows * (width + gap) - gap, 3), 255, np.uint8)
        for place, patch in enumerate(pixels):
            y, x = place // rows * (height + gap), place % rows * (width + gap)
            sheet[y : y + height, x : x + width] = _rgb(patch, view.space)
        return sheet
    return _rgb(pixels, view.space)


def _curve(values: np.ndarray, height: int = 96, width: int = 192) -> np.ndarray:
    """(height, width, 3) picture of the channels (C, T) of an array as curves over each other."""
    sheet = np.full((height, width, 3), 255, np.uint8)
    low, high = float(values.min()), float(values.max())
    for channel, colour in zip(values, np.tile([[0, 114, 178], [213, 94, 0], [0, 158, 115]], (len(values), 1)), strict=False):
        y = np.interp(np.linspace(0, len(channel) - 1, width), np.arange(len(channel)), channel)
        points = np.stack([np.arange(width), (height - 1) * (1 - (y - low) / max(high - low, 1e-9))], 1).round().astype(np.int32)
        cv2.polylines(sheet, [points[:, None]], False, colour.tolist())
    return sheet


def _text(values: np.ndarray, view: View) -> str:
    """What tokens say."""
    if view.merges:
        return byte_pairs.read(view.merges, "merges").text(values.tolist())
    return bytes(int(value) - 1 for value in values if 0 < value < 257).decode(errors="replace")


def _rgb(pixels: np.ndarray, space: str) -> np.ndarray:
    if space == "lab":
        return cv2.cvtColor(pixels, cv2.COLOR_LAB2RGB)
    if space == "ycbcr":
        return cv2.cvtColor(np.ascontiguousarray(pixels[:, :, [0, 2, 1]]), cv2.COLOR_YCrCb2RGB)
    return pixels


def _show(axis: Axes, image: np.ndarray, text: str = "", below: bool = False) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    if below:
        axis.set_xlabel(text, fontsize=7, labelpad=2)


def _label(split: Split, i: int) -> str:
    return (
        f"id {i}" if split.labels is None or split.labels[i] < 0 else f"id {i}: {drawable(split.classes[split.labels[i]], SHORT)}"
    )


def _caption(views: Mapping[str, View], strength: float, generated: bool, look: Look, width: int) -> list[str]:
    """Lines of at most `width` characters: what would stand out of the picture would be cut off."""
    lines = [f"augment.strength {strength:g}" + (" (crop and flip only)" if strength == 0 else "")]
    lines += [f"{name}: {policy_of(view, strength, bool(look.chosen))}" for name, view in views.items()]
    if look.chosen:
        first, second, third = (each + 1 for each in look.chosen)
        several = f"channels {first}, {second} and {third} are shown as red, green and blue"
        lines.append(f"channel {first} is shown in grey" if first == second == third else several)
    if generated:
        lines.append("every view is a fresh rendering; it shares data.share with its sample")
    return [each for line in lines for each in textwrap.wrap(line, width, subsequent_indent="    ")]


def policy_of(view: View, strength: float, native: bool = False) -> str:
    """One line of what is drawn at random for a view, in the numbers that its specification gives. native: of images with data.channels, which
    have neither saturation nor hue."""
    if view.kind in ("array", "tokens"):
        units = "byte pairs" if view.merges else "bytes"
        return f"{'a window' if view.kind == 'array' else f'the first {units}'} of column {view.source}"
    low, high = view.crop
    found = ["centre crop" if (low, high) == (0, 0) else f"crop {low:g}-{high:g} of the area"]
    found += [f"flip {view.flip:g}"] if view.flip else []
    if strength:
        found += [f"rotation to {view.rotation:g} deg"] if view.rotation else []
        found += [f"{name} {getattr(view, name):g}" for name in ("shear", "elastic") if getattr(view, name)]
        whose = {"torchvision": "", "tensorflow": "TensorFlow's ", "added": "TensorFlow's, brightness added, "}[view.jitter_as]
        if native:
            jitter = "brightness and contrast by {:g}/{:g}".format(*view.jitter)
        else:
            jitter = f"{whose}jitter {'/'.join(f'{value:g}' for value in view.jitter)}"
        found += [f"{jitter} at {view.jitter_p:g}"] if view.jitter_p else []
        order = "" if view.gray_order == "after_jitter" else f" ({view.gray_order.replace('_', ' the ')})"
        found += [f"gray {view.gray:g}{order}"] if view.gray else []
        for name in ("blur", "solarize", "cutout", "noise"):
            found += [f"{name} {getattr(view, name):g}"] if getattr(view, name) else []
        count, magnitude = view.randaugment
        whose = "timm's " if view.randaugment_as == "timm" else ""
        found += [f"{whose}RandAugment {count} of magnitude {magnitude}"] if count else []
        found += ["all of it for each patch by itself"] if view.per_patch else []
    found += ["Sobel"] if view.sobel else []
    found += ["in grey"] if view.space == "gray" else []
    found += [f"{view.space} (shown as RGB)"] if view.space in ("lab", "ycbcr") else []
    if view.kind == "patches":
        found.append(
            "{0} x {0} patches of {1} px at stride {2}".format(*view.grid)
            + (f", each moved by up to {view.grid_shift}" if view.grid_shift else "")
            + (f", of each a random {view.grid_kept} px square" if view.grid_kept else "")
        )
    found += [f"geometry shared in {view.geometry!r}"] if view.geometry else []
    return ", ".join(found)
