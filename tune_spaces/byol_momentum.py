"""Study: how fast BYOL's target follows (Grill et al. 2020, table 5a)."""

from contray.studies import Above

CLAIM = "a target that follows slowly is better than one that stays as it was drawn, and than a copy of the online network"
SOURCE = "Grill et al. 2020, table 5a, https://arxiv.org/abs/2006.07733"
METHOD = "byol"
SPACE = {
    "drawn once": {"method.momentum": 1.0},
    "slow": {"method.momentum": 0.999},
    "middle": {"method.momentum": 0.99},
    "fast": {"method.momentum": 0.9},
    "copy": {"method.momentum": 0.0, "method.momentum_schedule": "constant"},
}
PAPER = {"drawn once": 18.8, "slow": 69.8, "middle": 72.5, "fast": 68.4, "copy": 0.3}
PAPER_METRIC = "ImageNet linear top-1 %, 300 epochs"
METRIC = "linear_top1"
EXPECT = [Above("middle", "drawn once"), Above("middle", "copy")]
SCALES = {
    "digits": {
        "SPACE": {  # a short run looks back on few steps
            "drawn once": {"method.momentum": 1.0},
            "slow": {"method.momentum": 0.95},
            "middle": {},
            "copy": {"method.momentum": 0.0, "method.momentum_schedule": "constant"},
        }
    },
    "cifar": {},
    "paper": {"method.preset": "e300"},
}
COST = {"digits": 21, "cifar": "5 x 600 steps", "paper": "5 x 300 epochs of ResNet-50: about 2,250 GPU hours"}
SMALL = "SimSiam (Chen & He 2021) has shown since that a copy need not collapse where the predictor learns fast enough, as in short runs"
