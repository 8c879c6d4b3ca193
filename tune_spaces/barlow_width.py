"""Study: the width of Barlow Twins' embedding (Zbontar et al. 2021, §4 and figure 4)."""

from contray.studies import Order

CLAIM = "the wider the embedding, the better"
SOURCE = "Zbontar et al. 2021, figure 4, https://arxiv.org/abs/2103.03230"
METHOD = "barlow_twins"
SPACE = {"method.dim": [256, 2048, 8192]}
METRIC = "linear_top1"
EXPECT = [Order()]
SCALES = {
    "digits": {"SPACE": {"method.dim": [8, 32, 128, 512]}},
    "cifar": {"SPACE": {"method.dim": [8, 32, 128, 512]}},
    "paper": {"train.epochs": 300},
}
COST = {"digits": 20, "cifar": "4 x 600 steps", "paper": "3 x 300 epochs of ResNet-50: about 1,350 GPU hours"}
