"""Study: two patches of an image, near and far (Tian et al. 2020)."""

from contray.studies import Peak

CLAIM = "accuracy is a reversed U over the distance of the two different patches that are contrasted"
SOURCE = "Tian et al. 2020, https://arxiv.org/abs/2005.10243"
METHOD = "simclr_patches"
SPACE = {"method.distance": [0, 1, 2, 3]}
METRIC = "linear_top1"
EXPECT = [Peak(1, 2, 3)]
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 10, "cifar": "as many runs of a small net", "paper": "4 x 100 epochs of ResNet-50"}
SMALL = "a digit is hardly larger than a patch: those that are far apart show parts of it; at distance 0 a patch is contrasted with itself"
