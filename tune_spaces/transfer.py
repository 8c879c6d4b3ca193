"""Study: unsupervised against supervised features, transferred (He et al. 2020, §4.2)."""

from contray.studies import Above, At

CLAIM = "features learned without labels transfer better to other tasks than those of the same network trained with labels"
SOURCE = "He et al. 2020, §4.2 (seven tasks of detection and segmentation), https://arxiv.org/abs/1911.05722"
METHOD = "simclr"
SPACE = {"eval.transfer.column": ["background", "position"]}
METRIC = "transfer_top1"
EXPECT = [
    Above("background", At("background", "supervised_transfer_top1")),
    Above("position", At("position", "supervised_transfer_top1")),
]
BASE = {"data.share": ("digit", "background", "position")}  # what the views of a picture have in common, as crops of one photo
SCALES = {"digits": {"eval.final": ("knn", "linear", "transfer"), "eval.transfer.lrs": (3e-3,)}}
COST = {"digits": 5}
SMALL = (
    "other labels of the same pictures under a frozen probe stand for the paper's detection and segmentation, and the two views of a picture have "
    "these labels in common, which labels of the digit teach a network to forget"
)
