"""Study: how many keys MoCo's queue holds, in accuracy, memory and time (He et al. 2020, figure 3)."""

from contray.studies import Order

CLAIM = "the more keys, the better"
SOURCE = "He et al. 2020, figure 3, https://arxiv.org/abs/1911.05722"
METHOD = "moco"
SPACE = {"method.queue_size": [1024, 4096, 16384, 65536]}
PAPER = {4096: 59.0, 65536: 60.6}
PAPER_METRIC = "ImageNet linear top-1 %"
METRIC = "linear_top1"
EXPECT = [Order()]
SCALES = {
    "digits": {"SPACE": {"method.queue_size": [64, 256, 1024]}},
    "cifar": {"SPACE": {"method.queue_size": [64, 1024, 4096]}},
    "paper": {"method.preset": "v1"},
}
SEEDS = 3
COST = {"digits": 5, "cifar": "as many runs of a small net", "paper": "4 x 200 epochs of ResNet-50"}
SMALL = "of the digits' 2876 images ten classes share the queue: most keys of a long one are of the query's own class"
