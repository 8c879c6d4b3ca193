"""Study: what views share is what is learned (Tian et al. 2020, the colourful moving digits)."""

from contray.studies import Above, At

still = {"views.view.crop": (1.0, 1.0), "views.view.ratio": (1.0, 1.0), "augment.strength": 0.0}

CLAIM = "views that share one factor teach that factor, and a shared background keeps the digit from being learned"
SOURCE = "Tian et al. 2020, §4.2, https://arxiv.org/abs/2005.10243"
METHOD = "simclr"
SPACE = {
    "digit": {"data.share": ("digit",)},
    "position": {"data.share": ("position",)},
    "background": {"data.share": ("background",)},
    "digit and background": {"data.share": ("digit", "background")},
}
METRIC = "factor_digit_top1"
EXPECT = [
    Above(At("digit", "factor_digit_top1"), At("background", "factor_digit_top1")),
    Above(At("position", "factor_position_top1"), At("digit", "factor_position_top1")),
    Above(At("background", "factor_background_top1"), At("digit", "factor_background_top1")),
    Above(At("digit", "factor_digit_top1"), At("digit and background", "factor_digit_top1")),
]
BASE = still | {"eval.final": ("knn", "linear", "factors")}
SCALES = {"digits": {}}
SEEDS = 3
COST = {"digits": 9}
