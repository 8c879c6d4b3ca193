"""Study: DINO's centring and sharpening (Caron et al. 2021, §5.3 and figure 7)."""

from contray.studies import Collapse

CLAIM = "centring and sharpening need each other: without either of them the outputs collapse"
SOURCE = "Caron et al. 2021, figure 7, https://arxiv.org/abs/2104.14294"
METHOD = "dino"
SPACE = {
    "both": {},
    "no centring": {"method.centre_momentum": 1.0},  # the centre stays zero
    "no sharpening": {"method.teacher_temperature": 1.0, "method.teacher_warmup_temperature": 1.0},
}
METRIC = "linear_top1"
EXPECT = [Collapse("no centring", "both"), Collapse("no sharpening", "both")]
SCALES = {"digits": {"train.steps": 300, "data.renderings": 4}, "cifar": {}, "paper": {}}
COST = {"digits": 15, "cifar": "3 x 600 steps", "paper": "3 x 100 epochs of ViT-S with 10 crops"}
SMALL = (
    "short runs have batch norm in the head (method.head_norm), which centres too, and a last layer that stays as it was drawn"
)
