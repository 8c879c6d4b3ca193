"""Study: BYOL and SimCLR in small batches (Grill et al. 2020, §5 and figure 3a)."""

from contray.studies import Above, Minus

CLAIM = "BYOL loses less than SimCLR when batches get smaller, for it has no negatives in them"
SOURCE = "Grill et al. 2020, figure 3a, https://arxiv.org/abs/2006.07733"
METHOD = "byol"
SPACE = {
    "BYOL": {},
    "BYOL, small batch": {"train.batch_size": 256},
    "SimCLR": {"method.name": "simclr"},
    "SimCLR, small batch": {"method.name": "simclr", "train.batch_size": 256},
}
METRIC = "linear_top1"
EXPECT = [Above(Minus("BYOL, small batch", "BYOL"), Minus("SimCLR, small batch", "SimCLR"))]
SCALES = {
    "digits": {
        "SPACE": {  # as many samples
            "BYOL": {},
            "BYOL, small batch": {"train.batch_size": 16, "train.steps": 800},
            "SimCLR": {"method.name": "simclr"},
            "SimCLR, small batch": {"method.name": "simclr", "train.batch_size": 16, "train.steps": 800},
        }
    },
    "paper": {"train.epochs": 300},
}
COST = {"digits": 22, "paper": "4 x 300 epochs of ResNet-50: about 1,800 GPU hours"}
SMALL = (
    "ten classes are told apart with few negatives, and a small batch makes four times the steps, in each of which the target follows as far: the paper "
    "averages gradients over several small batches before a step"
)
