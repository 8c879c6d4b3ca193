"""Study: SwAV's balanced codes (Caron et al. 2020, §3.1)."""

from contray.studies import Collapse

CLAIM = "without the constraint that all prototypes are used alike SwAV collapses"
SOURCE = "Caron et al. 2020, §3.1 (the constraint prevents that every image has the same code), https://arxiv.org/abs/2006.09882"
METHOD = "swav"
SPACE = {"balanced": {}, "softmax": {"method.name": "swav_ablated", "method.balanced": False}}
METRIC = "linear_top1"
EXPECT = [Collapse("softmax", "balanced")]
SCALES = {"digits": {"train.steps": 600}, "cifar": {}, "paper": {"train.epochs": 100}}
COST = {"digits": 6, "cifar": "2 x 600 steps", "paper": "2 x 100 epochs of ResNet-50 with 8 crops: about 400 GPU hours"}
SMALL = "short runs have batch norm behind the projector and frozen prototypes, both of which hinder collapse"
