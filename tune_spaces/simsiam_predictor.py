"""Study: SimSiam's predictor (Chen & He 2021, §4.2 and table 1)."""

from contray.studies import Collapse

CLAIM = "without a predictor, or with one that stays as it was drawn, SimSiam does not learn"
SOURCE = "Chen & He 2021, table 1, https://arxiv.org/abs/2011.10566"
METHOD = "simsiam"
SPACE = {
    "learned": {},
    "fixed": {"method.name": "simsiam_ablated", "method.predictor": "fixed"},
    "none": {"method.name": "simsiam_ablated", "method.predictor": "none"},
}
PAPER = {"learned": 68.1, "fixed": 1.5, "none": 0.1}
PAPER_METRIC = "ImageNet linear top-1 %, 100 epochs"
METRIC = "linear_top1"
EXPECT = [Collapse("fixed", "learned"), Collapse("none", "learned")]
SCALES = {"digits": {}, "cifar": {}, "paper": {}}
COST = {"digits": 6, "cifar": "3 x 600 steps", "paper": "3 x 100 epochs of ResNet-50: about 450 GPU hours"}
