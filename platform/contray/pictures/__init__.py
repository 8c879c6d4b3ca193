"""What `contray plot` draws: one file per kind of picture, named as the kind; each has `draw(subject, out)`, which gives metrics."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError, check_writable, nearest

KINDS = {  # beside each what it shows; `curves` is of runs, all others are of one encoder
    "neighbours": "test images and their nearest training images",
    "map": "test images in the plane",
    "attention": "what the class token of a vision transformer looks at",
    "patch_pca": "patch tokens' principal components as colours, of a vision transformer or a last feature map",
    "reconstruction": "masked images painted by MAE or CAE",
    "prototypes": "the images nearest to prototypes of SwAV or DeepCluster",
    "similarities": "cosine similarities of positives and negatives",
    "curves": "a metric of several runs while they trained",
}
PROJECTIONS = ("tsne", "umap")
ENDINGS = (".png", ".jpg", ".pdf", ".svg")


def check_out(out: Path) -> None:
    """Raises UserError where `out` is no picture's name, or cannot be written."""
    if out.suffix not in ENDINGS:
        raise UserError(f"--out: got {out}, must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    check_writable("--out", out)


def check(what: str, out: Path, by: str, images: int) -> None:
    """Raises UserError for what can be told to be impossible before anything is loaded."""
    from importlib.util import find_spec

    if what not in KINDS:
        raise UserError(f"plot {what}: no such picture; {nearest(what, KINDS)}")
    check_out(out)
    if by not in PROJECTIONS:
        raise UserError(f"--by: got {by!r}; {nearest(by, PROJECTIONS)}")
    if by != "tsne" and what != "map":
        raise UserError(f"--by: {by} is of plot map, not of plot {what}")
    if by == "umap" and find_spec("umap") is None:
        raise UserError("--by: umap needs a package that is not installed: pip install umap-learn")
    if images < 0:
        raise UserError(f"--images: got {images}, must be at least 1, or 0 for the picture's own number")
