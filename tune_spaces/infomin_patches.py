"""Study: two patches of an image, near and far (Tian et al. 2020, figure 3)."""

from contray.studies import Peak

CLAIM = "accuracy is a reversed U over the distance of the two patches that are contrasted"
SOURCE = "Tian et al. 2020, §3.2, https://arxiv.org/abs/2005.10243"
METHOD = "simclr_patches"
SPACE = {"method.distance": [1, 2, 3, 4, 5]}
METRIC = "linear_top1"
EXPECT = [Peak()]
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"cifar": "as many runs of a small net", "digits": 5, "paper": "5 x 100 epochs of ResNet-50"}
SMALL = "a digit is as large as two patches: those that are far apart show texture alone"
