"""Study: the weight of Barlow Twins' redundancy term (Zbontar et al. 2021, §4)."""

from contray.studies import Same

CLAIM = "Barlow Twins is not very sensitive to the weight of its redundancy term"
SOURCE = "Zbontar et al. 2021, §4 (sensitivity to lambda), https://arxiv.org/abs/2103.03230"
METHOD = "barlow_twins"
SPACE = {"a quarter": {"method.redundancy": 0.00125}, "lambda": {}, "four times": {"method.redundancy": 0.02}}
METRIC = "linear_top1"
EXPECT = [Same("a quarter", "lambda", within=3.0), Same("four times", "lambda", within=3.0)]
SCALES = {
    "digits": {"SPACE": {"a quarter": {"method.redundancy": 0.005}, "lambda": {}, "four times": {"method.redundancy": 0.08}}},
    "cifar": {"SPACE": {"a quarter": {"method.redundancy": 0.005}, "lambda": {}, "four times": {"method.redundancy": 0.08}}},
    "paper": {"train.epochs": 300},
}
COST = {"digits": 6, "cifar": "3 x 600 steps", "paper": "3 x 300 epochs of ResNet-50: about 1,350 GPU hours"}
