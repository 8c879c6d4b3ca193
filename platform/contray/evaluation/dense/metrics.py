"""COCO's average precision, by pycocotools, and the mean intersection over union."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .coco import IGNORE, CocoSet


def found_in(part: CocoSet, i: int, prediction: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """What torchvision's detectors say of image i (boxes (N, 4), labels (N,), scores (N,), masks (N, 1, H, W) in [0, 1]) as COCO's results."""
    from pycocotools import mask as rle

    x1, y1, x2, y2 = prediction["boxes"].double().cpu().unbind(1)
    boxes = torch.stack([x1, y1, x2 - x1, y2 - y1], 1).tolist()
    found = []
    for n, (box, label, score) in enumerate(
        zip(boxes, prediction["labels"].tolist(), prediction["scores"].tolist(), strict=True)
    ):
        result = {"image_id": part.images[i]["id"], "category_id": part.ids[label - 1], "bbox": box, "score": score}
        if "masks" in prediction:
            result["segmentation"] = rle.encode(np.asfortranarray(prediction["masks"][n, 0].gt(0.5).byte().cpu().numpy()))
        found.append(result)
    return found


def average_precision(part: CocoSet, found: Sequence[dict[str, Any]], kind: Literal["bbox", "segm"]) -> dict[str, float]:
    """ap (mean over IoU .5 to .95), ap50 and ap75 of COCO's results over all images of a set, in [0, 1]."""
    from pycocotools.cocoeval import COCOeval

    if not found:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(part.truth, part.truth.loadRes([dict(each) for each in found]), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(("ap", "ap50", "ap75"), map(float, judge.stats[:3]), strict=True))


class Confusion:
    """Pixels by true and by predicted class: (classes, classes) counts over all images."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, predicted: Tensor, true: Tensor) -> None:
        """Class of each pixel, (H, W) integers both; pixels whose true class is IGNORE do not count."""
        classes = len(self.counts)
        counted = true != IGNORE
        pairs = true[counted].long() * classes + predicted[counted].long()
        self.counts += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu()

    def miou(self) -> float:
        """Mean over the classes that occur, background included, of intersection over union, in [0, 1]."""
        hits = self.counts.diag().double()
        union = self.counts.sum(0) + self.counts.sum(1) - self.counts.diag()
        occurs = self.counts.sum(1) > 0
        return float((hits / union)[occurs].mean())
