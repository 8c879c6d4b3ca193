"""SimCLR with one view augmented and the other as it is, as augmentations were compared alone and in pairs (Chen et al. 2020, §3.1, figure 5)."""

from dataclasses import replace

from .._base import View
from ..simclr import METRICS, PAPER, RECIPE, Config, SimCLR
from ..simclr import PRESETS as WHOLE

PLAIN = View(crop=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)  # what the loss and the evaluation see of it is the same image
CROPPED = replace(PLAIN, crop=(0.08, 1.0), ratio=(3 / 4, 4 / 3), geometry="image")  # one crop for both, before they part
VIEWS = {"view0": CROPPED, "view1": CROPPED}
SMALL = {name: replace(PLAIN, size=32) for name in ("view0", "view1")}
PRESETS = {
    "paper": replace(
        WHOLE["paper"],
        about="views.view1 is to be augmented; both have one crop in common, as images of several sizes must be cut",
    ),
    "cifar_short": replace(
        WHOLE["cifar_short"], about="views.view1 is to be augmented, in runs of a few hundred steps", views=SMALL
    ),
    "digits": replace(WHOLE["digits"], about="views.view1 is to be augmented, on the built-in digits", views=SMALL),
}


class Asymmetric(SimCLR):
    """Its views are named so that SimCLR takes them for the two crops of one entry."""
