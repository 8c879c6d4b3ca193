"""Study: how strongly views are augmented (Tian et al. 2020: the less views share but the object, the better, up to a point)."""

from contray.studies import Peak

CLAIM = "accuracy is a reversed U over augmentation strength"
SOURCE = "Tian et al. 2020, https://arxiv.org/abs/2005.10243"
METHOD = "simclr"
SPACE = {"augment.strength": [0.0, 0.5, 1.0, 1.5, 2.0]}
METRIC = "linear_top1"
EXPECT = [Peak()]
BASE = {"eval.final": ("knn", "linear", "information")}
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 15, "cifar": "as many runs of a small net", "paper": "5 x 100 epochs of ResNet-50"}
