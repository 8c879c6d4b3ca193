"""Study: batch size, in short and in long runs (Chen et al. 2020, figure 9)."""

from contray.studies import Above, Minus

small = {
    "small, short": {"train.batch_size": 32, "train.epochs": 3},
    "large, short": {"train.batch_size": 128, "train.epochs": 3},
    "small, long": {"train.batch_size": 32, "train.epochs": 8},
    "large, long": {"train.batch_size": 128, "train.epochs": 8},
}

CLAIM = "a larger batch is better where training is short, and longer training closes the gap"
SOURCE = "Chen et al. 2020, figure 9 and table B.1, https://arxiv.org/abs/2002.05709"
METHOD = "simclr"
SPACE = {
    "small, short": {"train.batch_size": 256, "train.epochs": 100},
    "large, short": {"train.batch_size": 4096, "train.epochs": 100},
    "small, long": {"train.batch_size": 256, "train.epochs": 800},
    "large, long": {"train.batch_size": 4096, "train.epochs": 800},
}
PAPER = {"small, short": 57.5, "large, short": 64.6, "small, long": 66.6, "large, long": 68.9}
PAPER_METRIC = "ImageNet linear top-1 %, rates that grow with the batch"
METRIC = "linear_top1"
EXPECT = [
    Above("large, short", "small, short"),
    Above(Minus("large, short", "small, short"), Minus("large, long", "small, long")),
]
BASE = {"train.steps": 0}
SCALES = {"digits": {"SPACE": small}, "cifar": {"SPACE": small}, "paper": {}}
SEEDS = 3
COST = {"digits": 11, "cifar": "4 x 3 to 8 epochs of a small net", "paper": "2 x 100 and 2 x 800 epochs of ResNet-50"}
SMALL = (
    "the rate grows with the batch, as in the paper, whose appendix finds that rates which grow with its root close much of the gap of short runs; "
    "and after eight epochs both batches are near 90 %, where no gap is left to be seen"
)
