"""Study: from how many sides CPC predicts (Hénaff et al. 2020, §4.1)."""

from contray.studies import Above

CLAIM = "predictions in four directions are above predictions in one"
SOURCE = "Hénaff et al. 2020, §4.1, https://arxiv.org/abs/1905.09272"
METHOD = "cpc"
SPACE = {"method.directions": [1, 4]}
METRIC = "linear_top1"
EXPECT = [Above(4, 1)]
SCALES = {"digits": {"backbone.width": 8}, "paper": {"method.preset": "v2"}}
SEEDS = 3
COST = {"digits": 6, "paper": "2 x 200 epochs of ResNet-152 on 36 patches an image"}
