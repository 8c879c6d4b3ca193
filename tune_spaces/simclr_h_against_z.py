"""Study: which layer to keep, h before the head or z after it (Chen et al. 2020, §4.2)."""

from contray.studies import Above, At

CLAIM = "the features before the projection head are better than those after it"
SOURCE = "Chen et al. 2020, §4.2 (over 10 points), https://arxiv.org/abs/2002.05709"
METHOD = "simclr"
SPACE = {"method.projector_dim": [32, 2048]}
METRIC = "knn_top1"
EXPECT = [Above(At(dim, "knn_top1"), At(dim, "knn_embedding_top1")) for dim in (32, 2048)]
BASE = {"eval.knn.embedding": True}
SCALES = {"digits": {}, "cifar": {}, "paper": {"train.epochs": 100}}
SEEDS = 3
COST = {"digits": 3, "cifar": "as many runs of a small net", "paper": "2 x 100 epochs of ResNet-50"}
SMALL = "neighbours stand for the paper's linear probe, by cosine, which is what the loss makes z good at"
