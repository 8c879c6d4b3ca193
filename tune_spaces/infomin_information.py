"""Study: what views share, in nats, and what it is worth (Tian et al. 2020)."""

from contray.studies import At, Order, Peak

CLAIM = "stronger augmentation leaves less information in common, and accuracy is a reversed U over it"
SOURCE = "Tian et al. 2020, https://arxiv.org/abs/2005.10243"
METHOD = "simclr"
SPACE = {"augment.strength": [0.0, 0.5, 1.0, 1.5, 2.0]}
METRIC = "linear_top1"
EXPECT = [Order(*(At(strength, "information") for strength in (2.0, 1.5, 1.0, 0.5, 0.0))), Peak()]
BASE = {"eval.final": ("knn", "linear", "information")}
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 15, "cifar": "as many runs of a small net", "paper": "5 x 100 epochs of ResNet-50"}
SMALL = "the bound is at most the log of the pairs it is estimated from; where views share more than that, it says nothing"
