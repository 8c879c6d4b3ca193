"""Study: the batch that CLIP's softmax runs over (Zhai et al. 2023)."""

from contray.studies import Order

CLAIM = "over as many pairs seen, a larger batch is better"
SOURCE = "Zhai et al. 2023 (the softmax beside the sigmoid), https://arxiv.org/abs/2303.15343"
METHOD = "clip"
SPACE = {"train.batch_size": [512, 4096, 32768]}
METRIC = "linear_top1"
EXPECT = [Order()]
BASE = {"train.steps": 0}
SCALES = {"digits": {"SPACE": {"train.batch_size": [16, 64, 256]}, "train.epochs": 5}, "paper": {}}
SEEDS = 3
COST = {"digits": 9, "paper": "3 x 32 epochs of 400 million pairs"}
SMALL = "in so few epochs a large batch means a few dozen steps; captions name ten digits, so that a large batch holds many equal ones"
