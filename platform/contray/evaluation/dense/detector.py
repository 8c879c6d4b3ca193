"""torchvision's Faster and Mask R-CNN on an encoder's network, with a feature pyramid or the C4 head of MoCo's papers.

He et al. 2020 (arXiv 1911.05722), §4.2: all layers are trained, batch norm too, and pyramid and C4's last stage get batch norm; box and mask
heads have none (facebookresearch/moco, issue 34).
The widths of what is added go with the backbone's: torchvision's own at 64 channels in the first stage.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import ResNet
from torchvision.ops import MultiScaleRoIAlign

from ...errors import UserError
from .bodies import Pyramid, stages_of

ANCHORS = (0.04, 0.08, 0.16, 0.32, 0.64)  # sides, of the image's shorter side: 32 to 512 px of the 800 that the papers test at
RATIOS = (0.5, 1.0, 2.0)
FINEST = 4  # px: the pyramid stands on the stages from this stride on, as the papers' does (the cifar stem's begin at 1)


def detector(
    head: str, net: Any, classes: int, *, size: int, mean: tuple[float, ...], std: tuple[float, ...], proposals: int
) -> FasterRCNN:
    """head: fpn (Faster R-CNN), mask (Mask R-CNN, both on a pyramid) or c4. `net` becomes part of it and is trained whole.

    classes: without the background; size: shorter side that images in [0, 1] are resized to, the longer at most 1333 / 800 of it;
    proposals: per image, that train the box head, out of four times as many; twice as many are looked at in testing (papers: 512, 2000, 1000).
    """
    options = {
        "min_size": size, "max_size": round(size * 1333 / 800), "image_mean": mean, "image_std": std,
        "rpn_post_nms_top_n_train": 4 * proposals, "rpn_post_nms_top_n_test": 2 * proposals, "box_batch_size_per_image": proposals,
    }  # fmt: skip
    return _c4(net, classes, size, proposals, options) if head == "c4" else _pyramid(net, classes, size, head == "mask", options)


def _c4(net: Any, classes: int, size: int, proposals: int, options: dict[str, Any]) -> FasterRCNN:
    """Proposals from the third stage; the fourth is the box head, and a batch norm follows it (detectron2's Res5ROIHeadsExtraNorm for MoCo)."""
    if not isinstance(net, ResNet):
        raise UserError(
            "--head: got c4, whose box head is the fourth stage of a ResNet, and this backbone is none; fpn and mask take it"
        )
    stages = stages_of(net)
    body: Any = IntermediateLayerGetter(net, {"layer3": "0"})
    body.out_channels = stages["layer3"].channels
    out = stages["layer4"].channels
    return FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator((_sides(ANCHORS, size),), (RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
        box_head=nn.Sequential(net.layer4, nn.BatchNorm2d(out), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        box_predictor=FastRCNNPredictor(out, classes + 1),
        rpn_pre_nms_top_n_train=24 * proposals,  # detectron2's 12 000 and 6 000 without a pyramid
        rpn_pre_nms_top_n_test=12 * proposals,
        **options,
    )


def _pyramid(net: Any, classes: int, size: int, masks: bool, options: dict[str, Any]) -> FasterRCNN:
    """The anchors' sizes are spread over the levels: one each where there are five, else neighbouring levels share some."""
    body = Pyramid(net, FINEST)
    width, levels = body.out_channels, len(body.strides) + 1  # and the coarsest once more, pooled
    shared = len(ANCHORS) - levels + 1
    names = [str(i) for i in range(len(body.strides))]
    options |= {
        "rpn_anchor_generator": AnchorGenerator(
            tuple(_sides(ANCHORS[i : i + shared], size) for i in range(levels)), (RATIOS,) * levels
        ),
        "box_roi_pool": MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(49 * width, 4 * width),
        "box_predictor": FastRCNNPredictor(4 * width, classes + 1),
    }
    body.build()
    if not masks:
        return FasterRCNN(body, **options)
    return MaskRCNN(
        body,
        mask_roi_pool=MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, classes + 1),
        **options,
    )


def _sides(shares: tuple[float, ...], size: int) -> tuple[int, ...]:
    return tuple(max(1, round(share * size)) for share in shares)
