"""Study: MoCo v3's patch projection, frozen as it was drawn (Chen et al. 2021, §4.2 and table 4)."""

from contray.studies import Above

CLAIM = "at a high rate, where a learned patch projection is unstable, a frozen one is better"
SOURCE = "Chen et al. 2021, §4.2, https://arxiv.org/abs/2104.02057"
METHOD = "moco_v3"
SPACE = {
    "learned": {"backbone.frozen_patches": False, "optim.lr": 1e-4},
    "frozen": {"optim.lr": 1e-4},
    "learned, high rate": {"backbone.frozen_patches": False, "optim.lr": 1.5e-4},
    "frozen, high rate": {"optim.lr": 1.5e-4},
}
PAPER = {"learned": 72.2, "frozen": 72.8, "learned, high rate": 71.7, "frozen, high rate": 73.4}
PAPER_METRIC = "ImageNet linear top-1 %, ViT-B, 100 epochs"
METRIC = "linear_top1"
EXPECT = [Above("frozen, high rate", "learned, high rate")]
SCALES = {
    "digits": {
        "method.preset": "digits_vit",
        "SPACE": {
            "learned": {"backbone.frozen_patches": False},
            "frozen": {},
            "learned, high rate": {"backbone.frozen_patches": False, "optim.lr": 8e-3},
            "frozen, high rate": {"optim.lr": 8e-3},
        },
    },
    "paper": {"method.preset": "vit_b", "train.epochs": 100},
}
COST = {"digits": 34, "paper": "4 x 100 epochs of ViT-B"}
SMALL = "four blocks on 64 patches do not show the instability of twelve blocks over tens of thousands of steps"
