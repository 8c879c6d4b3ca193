"""Study: how wide the space is in which SimCLR compares (Chen et al. 2020, figure 8)."""

from contray.studies import Same

CLAIM = "the width of the head's output hardly matters, from 32 to 2048"
SOURCE = "Chen et al. 2020, §4.2 and figure 8, https://arxiv.org/abs/2002.05709"
METHOD = "simclr"
SPACE = {"method.projector_dim": [32, 128, 512, 2048]}
METRIC = "linear_top1"
EXPECT = [Same(32, 2048), Same(128, 2048), Same(512, 2048)]
BASE = {"eval.knn.embedding": True}  # as simclr_h_against_z, whose runs these are
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 7, "cifar": "as many runs of a small net", "paper": "4 x 100 epochs of ResNet-50"}
