"""Study: DINO's teacher (Caron et al. 2021, §5.2 and figure 6)."""

from contray.studies import Above

CLAIM = "a slow average of the student is a better teacher than a copy of it, and than a network that stays as it was drawn"
SOURCE = "Caron et al. 2021, figure 6; a teacher as it was drawn: Grill et al. 2020, table 5a; https://arxiv.org/abs/2104.14294"
METHOD = "dino"
SPACE = {
    "average": {},
    "copy": {"method.momentum": 0.0, "method.momentum_schedule": "constant"},
    "drawn once": {"method.momentum": 1.0},
}
PAPER = {"average": 72.8, "copy": 0.1}
PAPER_METRIC = "ImageNet k-NN top-1 %"
METRIC = "linear_top1"
EXPECT = [Above("average", "copy"), Above("average", "drawn once")]
SCALES = {"digits": {"train.steps": 300, "data.renderings": 4}, "cifar": {}, "paper": {}}
COST = {"digits": 14, "cifar": "3 x 600 steps", "paper": "3 x 100 epochs of ViT-S with 10 crops"}
