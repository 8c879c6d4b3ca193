"""Study: SimCLR's projection head (Chen et al. 2020, figure 8)."""

from contray.studies import Above

CLAIM = "a non-linear head is above a linear one, and that above none"
SOURCE = "Chen et al. 2020, §4.2 and figure 8 (3 points and over 10 points), https://arxiv.org/abs/2002.05709"
METHOD = "simclr"
SPACE = {
    "none": {"method.name": "simclr_ablated", "method.head": "none"},
    "linear": {"method.name": "simclr_ablated", "method.head": "linear"},
    "mlp": {},
}
METRIC = "linear_top1"
EXPECT = [Above("mlp", "linear"), Above("linear", "none")]
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 5, "cifar": "as many runs of a small net", "paper": "3 x 100 epochs of ResNet-50"}
