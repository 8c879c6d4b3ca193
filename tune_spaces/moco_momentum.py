"""Study: how slowly MoCo's keys move (He et al. 2020, §4.1)."""

from contray.studies import Above

CLAIM = "keys of a slowly moving encoder are better than those of a fast one and than those of a copy"
SOURCE = "He et al. 2020, §4.1 (ablation: momentum), https://arxiv.org/abs/1911.05722"
METHOD = "moco"
SPACE = {"method.momentum": [0.0, 0.9, 0.99, 0.999, 0.9999]}
PAPER = {0.9: 55.2, 0.99: 57.8, 0.999: 59.0, 0.9999: 58.9}  # 0: fails
PAPER_METRIC = "ImageNet linear top-1 %, 4096 keys"
METRIC = "linear_top1"
EXPECT = [Above(0.999, 0.9), Above(0.999, 0.0)]
SCALES = {
    "digits": {"SPACE": {"method.momentum": [0.0, 0.5, 0.9, 0.99, 0.999]}},
    "cifar": {"SPACE": {"method.momentum": [0.0, 0.5, 0.9, 0.99, 0.999]}},
    "paper": {"method.preset": "v1", "method.queue_size": 4096},
}
SEEDS = 3
COST = {"digits": 14, "cifar": "as many runs of a small net", "paper": "5 x 200 epochs of ResNet-50"}
SMALL = "a momentum of 0.999 remembers 1000 steps, more than the run has; batch norm in the head keeps momentum 0 from failing"
