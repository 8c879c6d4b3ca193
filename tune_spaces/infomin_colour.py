"""Study: which colour space's channels to contrast (Tian et al. 2020)."""

from contray.studies import Above

CLAIM = "lightness against colour is above red against green and blue, which share more"
SOURCE = "Tian et al. 2020, https://arxiv.org/abs/2005.10243"
METHOD = "cmc"
SPACE = {"rgb": {"views.view.space": "rgb"}, "lab": {"views.view.space": "lab"}, "ycbcr": {"views.view.space": "ycbcr"}}
METRIC = "linear_top1"
EXPECT = [Above("lab", "rgb"), Above("ycbcr", "rgb")]
BASE = {"augment.mean": (0.5, 0.5, 0.5), "augment.std": (0.25, 0.25, 0.25)}
SCALES = {"digits": {"method.preset": "digits_lab", "train.steps": 500, "data.renderings": 1}, "cifar": {}, "paper": {}}
SEEDS = 3
COST = {"digits": 15, "cifar": "as many runs of a small net", "paper": "3 x 240 epochs of two half-width ResNet-50"}
SMALL = "the digits are bright on textures of any colour: colour says nothing of the digit"
