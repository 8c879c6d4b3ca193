"""Study: DINO's small crops (Caron et al. 2021, §5.4 and table 8)."""

from contray.studies import Order

CLAIM = "the more small crops the student sees, the better"
SOURCE = "Caron et al. 2021, table 8, https://arxiv.org/abs/2104.14294"
METHOD = "dino"
SPACE = {"views.small.count": [2, 6, 10]}
METRIC = "linear_top1"
EXPECT = [Order()]
SCALES = {
    "digits": {
        "method.preset": "multicrop_digits",
        "train.steps": 300,
        "data.renderings": 4,
        "SPACE": {"views.small.count": [1, 4]},
    },
    "paper": {},
}
COST = {"digits": 10, "paper": "3 x 100 epochs of ViT-S with 4 to 12 crops"}
SMALL = "digits of 32 px have no parts that a crop of a third of the area would show"
