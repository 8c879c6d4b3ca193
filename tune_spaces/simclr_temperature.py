"""Study: NT-Xent's temperature (Chen et al. 2020, table 5)."""

from contray.studies import Above, Peak

CLAIM = "an intermediate temperature is best: 0.1 is above 0.05 and above 1"
SOURCE = "Chen et al. 2020, table 5, https://arxiv.org/abs/2002.05709"
METHOD = "simclr"
SPACE = {"method.temperature": [0.05, 0.1, 0.5, 1.0]}
PAPER = {0.05: 59.7, 0.1: 64.4, 0.5: 60.7, 1.0: 58.0}
PAPER_METRIC = "ImageNet linear top-1 %"
METRIC = "linear_top1"
EXPECT = [Peak(), Above(0.1, 0.05), Above(0.1, 1.0)]
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 7, "cifar": "as many runs of a small net", "paper": "4 x 100 epochs of ResNet-50"}
