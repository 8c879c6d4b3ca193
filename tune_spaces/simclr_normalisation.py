"""Study: whether what SimCLR compares is normalised, each way at several temperatures (Chen et al. 2020, table 5)."""

from contray.studies import Above

raw = {"method.name": "simclr_ablated", "method.l2": False}

CLAIM = "features normalised and divided by a temperature of 0.1 are above features that are not normalised, whatever their temperature"
SOURCE = "Chen et al. 2020, table 5, https://arxiv.org/abs/2002.05709"
METHOD = "simclr"
SPACE = {
    "l2, 0.1": {"method.temperature": 0.1},
    "l2, 0.5": {"method.temperature": 0.5},
    "no l2, 10": raw | {"method.temperature": 10.0},
    "no l2, 100": raw | {"method.temperature": 100.0},
}
PAPER = {"l2, 0.1": 64.4, "l2, 0.5": 60.7, "no l2, 10": 57.2, "no l2, 100": 57.0}
PAPER_METRIC = "ImageNet linear top-1 %"
METRIC = "linear_top1"
EXPECT = [Above("l2, 0.1", "no l2, 10"), Above("l2, 0.1", "no l2, 100")]
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 7, "cifar": "as many runs of a small net", "paper": "4 x 100 epochs of ResNet-50"}
