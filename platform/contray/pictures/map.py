"""Images that training did not see as points in the plane: t-SNE or UMAP of the encoder's features.

Legend of shapes: N images, D features, C classes.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..drawing import COLOURS, MARKERS, SHORT, drawable
from ..errors import UserError
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES, LEAST, NAMED = 2000, 10, 40  # points at most and at least; classes whose names can be read
LAYERS = 8  # in which points are drawn
PERPLEXITY, NEIGHBOURS = 30, 15  # t-SNE's and UMAP's own defaults


def draw(subject: Subject, out: Path) -> dict[str, float]:
    """A point per image, coloured by class; the class's name where its points gather."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    split, ids, kind = subject.asked()
    asked = len(ids)
    features, ids = subject.features(split, subject.limited(split, ids, IMAGES))
    if len(features) < LEAST:
        few = f"raise --eval.holdout {subject.config.eval.holdout:g}, the share that is drawn where no images test"
        mend = (
            "raise --images"
            if asked >= LEAST > subject.images > 0
            else few
            if subject.source.test is None
            else "give it more of them"
        )
        raise UserError(f"plot map: {len(features)} {kind} are too few for a map, which needs {LEAST}; {mend}")
    points = project(features, subject.by, subject.config.seed)
    figure = Figure(figsize=(7.2, 6.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xticks=[], yticks=[], aspect="equal")
    for side in axes.spines.values():
        side.set_color("0.8")
    if split.labels is None:
        axes.scatter(*points.T, s=size_of(len(points)), color=COLOURS[0], alpha=0.6, linewidths=0)
    else:
        _classes(axes, points, split.labels[ids], split.classes)
    method = {
        "tsne": f"t-SNE, perplexity {perplexity_of(len(ids))}",
        "umap": f"UMAP, {min(NEIGHBOURS, len(ids) - 1)} neighbours",
    }[subject.by]
    column = drawable(subject.config.data.label_column)
    number = f"{len(ids):,}" if len(ids) == asked else f"{len(ids):,} of {asked:,}"
    by = f", coloured by {column}" if column not in ("", "label") else ""
    axes.set_title(f"{subject.name}: {number} {kind}{by}", fontsize=11, loc="left")
    axes.set_xlabel(
        f"{method}, of L2-normalised features; axes and distances between far points mean nothing", fontsize=8, color="0.35"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return {}


def project(features: Tensor, by: str, seed: int) -> np.ndarray:
    """Features (N, D) -> places (N, 2), the same for the same seed: `tsne` (van der Maaten & Hinton 2008) or `umap` (McInnes et al. 2018)."""
    unit = F.normalize(features.double(), dim=1).float().numpy()  # (N, D): Euclidean order is cosine order
    if by == "umap":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its import: what is not installed besides
            # by name, as scikit-learn below: without types, a type checker would read all of them for long
            umap = import_module("umap")
            return umap.UMAP(n_neighbors=min(NEIGHBOURS, len(unit) - 1), random_state=seed, n_jobs=1).fit_transform(unit)
    return (
        import_module("sklearn.manifold")
        .TSNE(perplexity=perplexity_of(len(unit)), init="pca", random_state=seed)
        .fit_transform(unit)
    )


def perplexity_of(count: int) -> int:
    """A third of the points have to be more."""
    return min(PERPLEXITY, (count - 1) // 3)


def size_of(count: int) -> float:
    """Area of a point, in square points."""
    return float(np.clip(18_000 / count, 4, 45))


def _classes(axes: Axes, points: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke

    classes = np.unique(labels)
    few = len(classes) <= NAMED  # told apart by colour and shape together; of more, shades must do
    colours = [COLOURS[i % len(COLOURS)] if few else colormaps["viridis"](i / len(classes)) for i in range(len(classes))]
    shapes = [MARKERS[i % len(MARKERS)] if few else "o" for i in range(len(classes))]
    place = np.searchsorted(classes, labels)
    drawn = dict.fromkeys(shapes)
    order = np.random.default_rng(0).permutation(len(points))  # so that no class lies on top of all others
    for part in np.array_split(order, LAYERS):
        for shape in drawn:
            inside = part[[shapes[i] == shape for i in place[part]]]
            axes.scatter(
                *points[inside].T,
                s=size_of(len(points)),
                color=[colours[i] for i in place[inside]],
                marker=shape,
                alpha=0.75,
                linewidths=0,
            )
    if len(classes) > NAMED:
        return
    handles = [
        axes.scatter([], [], color=colour, marker=shape, s=40, label=drawable(names[each]))
        for colour, shape, each in zip(colours, shapes, classes, strict=True)
    ]
    axes.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        fontsize=9,
        handletextpad=0.1,
        ncols=-(-len(classes) // 25),
    )
    for i, (x, y) in gathered(points, place).items():
        outlined = [withStroke(linewidth=3, foreground="white")]
        dark = [0.6 * channel for channel in to_rgb(colours[i])]
        axes.text(
            x,
            y,
            drawable(names[classes[i]], 2 * SHORT),
            color=dark,
            ha="center",
            va="center",
            fontsize=12,
            fontweight="bold",
            path_effects=outlined,
        )


def gathered(points: np.ndarray, classes: np.ndarray) -> dict[int, np.ndarray]:
    """Where each class of points (N, 2) with classes (N,) is densest: (2,) the member whose nearest quarter of the class is the nearest.

    Classes that are not the majority even there have no place: a name would claim what is not so.
    """
    found: dict[int, np.ndarray] = {}
    for each in np.unique(classes):
        members = points[classes == each]
        quarter = max(1, len(members) // 4)
        distances = np.sort(np.linalg.norm(members[:, None] - members[None], axis=-1), axis=1)  # (members, members)
        place = members[distances[:, min(quarter, len(members) - 1)].argmin()]
        near = np.linalg.norm(points - place, axis=1).argsort()[: 2 * quarter]
        if (classes[near] == each).mean() > 0.5:
            found[int(each)] = place
    return found
