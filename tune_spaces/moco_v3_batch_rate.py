"""Study: MoCo v3's batch, and the rate that goes with it (Chen et al. 2021, §4.1 and table 1)."""

from contray.studies import Peak

CLAIM = "a middle batch is best: small ones have few negatives, large ones with their high rates make a ViT unstable"
SOURCE = "Chen et al. 2021, §4.1, https://arxiv.org/abs/2104.02057"
METHOD = "moco_v3"
SPACE = {"train.batch_size": [1024, 2048, 4096, 6144]}
PAPER = {1024: 71.5, 2048: 72.6, 4096: 72.2, 6144: 69.7}
PAPER_METRIC = "ImageNet linear top-1 %, ViT-B, 100 epochs"
METRIC = "linear_top1"
EXPECT = [Peak()]
SCALES = {
    "digits": {  # as many samples
        "method.preset": "digits_vit",
        "SPACE": {
            16: {"train.batch_size": 16, "train.steps": 800},
            64: {},
            256: {"train.batch_size": 256, "train.steps": 50},
        },
    },
    "paper": {"method.preset": "vit_b", "backbone.frozen_patches": False, "optim.lr": 1e-4, "train.epochs": 100},
}
COST = {"digits": 36, "paper": "4 x 100 epochs of ViT-B"}
SMALL = "the same samples in larger batches are few steps: that a batch of 256 is worse here says little of instability"
