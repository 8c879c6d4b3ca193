"""Study: what keeps BYOL from collapse (Grill et al. 2020, table 5b)."""

from contray.studies import Collapse

CLAIM = "without its predictor or without its average network BYOL collapses"
SOURCE = "Grill et al. 2020, table 5b, https://arxiv.org/abs/2006.07733"
METHOD = "byol"
SPACE = {
    "BYOL": {},
    "no predictor": {"method.name": "byol_ablated", "method.predictor": False},
    "no average": {"method.momentum": 0.0, "method.momentum_schedule": "constant"},
    "neither": {
        "method.name": "byol_ablated",
        "method.predictor": False,
        "method.momentum": 0.0,
        "method.momentum_schedule": "constant",
    },
}
PAPER = {"BYOL": 72.5, "no predictor": 0.2, "no average": 0.3, "neither": 0.1}
PAPER_METRIC = "ImageNet linear top-1 %, 300 epochs"
METRIC = "linear_top1"
EXPECT = [Collapse("no predictor", "BYOL"), Collapse("no average", "BYOL"), Collapse("neither", "BYOL")]
SCALES = {"digits": {}, "cifar": {}, "paper": {"method.preset": "e300"}}
COST = {"digits": 23, "cifar": "4 x 600 steps", "paper": "4 x 300 epochs of ResNet-50: about 1,800 GPU hours"}
SMALL = "short runs have batch norm behind the projector (method.output_norm), which the paper has not and which hinders collapse"
