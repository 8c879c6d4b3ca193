"""Study: SimSiam's stop-gradient (Chen & He 2021, §4.1 and figure 2)."""

from contray.studies import Collapse

CLAIM = "without the stop-gradient SimSiam collapses"
SOURCE = "Chen & He 2021, figure 2, https://arxiv.org/abs/2011.10566"
METHOD = "simsiam"
SPACE = {"SimSiam": {}, "no stop-gradient": {"method.name": "simsiam_ablated", "method.stop_gradient": False}}
PAPER = {"SimSiam": 67.7, "no stop-gradient": 0.1}
PAPER_METRIC = "ImageNet linear top-1 %, 100 epochs"
METRIC = "linear_top1"
EXPECT = [Collapse("no stop-gradient", "SimSiam")]
SCALES = {"digits": {}, "cifar": {}, "paper": {}}
COST = {"digits": 4, "cifar": "2 x 600 steps", "paper": "2 x 100 epochs of ResNet-50: about 300 GPU hours"}
