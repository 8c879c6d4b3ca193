"""Whether a vision transformer's class token looks at the object."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Citation, Measured, Subject, setting

ABOUT = "how well what a vision transformer's class token looks at in its last block is the object of the image, beside the untrained encoder's"
PAPER = Citation("Emerging Properties in Self-Supervised Vision Transformers", 2021, "https://arxiv.org/abs/2104.14294")
NEEDS = ("transformer blocks", "masks")
METRICS = ()


@dataclass(frozen=True)
class Config:
    """Keys eval.attention.*."""

    images: int = setting(2000, "test images that are looked at, at most", unit="images", ge=1)


def evaluate(subject: Subject, options: Config) -> Measured:
    """attention_jaccard and random_attention_jaccard: the overlap of the object with the patches that hold 60 % of the attention of the head where it
    is largest, the mean over images; as `contray plot attention`. Raises UserError where the encoder has no class token or the data no masks.
    """
    import numpy as np
    import torch

    from .. import data, model
    from ..errors import UserError
    from ..methods._base import View, evaluation_view
    from .common.attended import COLUMN, attended, overlap

    config, split = subject.config, subject.source.test if subject.tests else None
    if split is None:
        raise UserError("eval attention: it looks at test images, and there are none")
    if split.columns.get(COLUMN) != "image":
        raise UserError(
            f"eval attention: {subject.source.name} has no column {COLUMN} of the objects' masks; the built-in digits have one"
        )
    views = type(subject.method).eval_views(config.views)
    name, view = next(iter(views.items()))
    drawn = views | {COLUMN: evaluation_view(View(size=view.size, source=COLUMN))}  # cut as the image is
    ids = data.part(np.arange(len(split)), split.labels, options.images, config.seed, "pictures")
    normalise = model.normaliser(config, subject.device)
    found: dict[str, list[torch.Tensor]] = {"": [], "random_": []}
    for batch in data.EvalImages(split, drawn, ids, config.eval.batch_size):
        pixels = {key: torch.as_tensor(value) for key, value in batch["views"].items()}
        objects = pixels.pop(COLUMN)[..., 0] > 127  # (B, S, S)
        inputs = {key: normalise(value) for key, value in pixels.items()}
        for prefix, method in (("", subject.method), ("random_", subject.untrained)):
            with torch.no_grad(), model.autocast(config, subject.device):
                looked = attended(method.eval(), inputs, name).float().cpu()  # (B, A, h, w)
            side = objects.shape[1] // looked.shape[2] * looked.shape[2]
            found[prefix].append(overlap(looked, objects[:, :side, :side]))
    return Measured({f"{prefix}attention_jaccard": float(torch.cat(each).mean()) for prefix, each in found.items()})
