"""Study: the rate of SimSiam's predictor (Chen & He 2021, table 1)."""

from contray.studies import Above

CLAIM = "a predictor whose rate stays, so that it keeps up with the representations, is better than one whose rate decays"
SOURCE = "Chen & He 2021, table 1, https://arxiv.org/abs/2011.10566"
METHOD = "simsiam"
SPACE = {"constant": {}, "decay": {"method.predictor_schedule": "decay"}}
PAPER = {"constant": 68.1, "decay": 67.7}
PAPER_METRIC = "ImageNet linear top-1 %, 100 epochs"
METRIC = "linear_top1"
EXPECT = [Above("constant", "decay")]
SCALES = {"digits": {}, "cifar": {}, "paper": {}}
COST = {"digits": 4, "cifar": "2 x 600 steps", "paper": "2 x 100 epochs of ResNet-50: about 300 GPU hours"}
SMALL = "the paper's difference is 0.4 points: three seeds at this scale do not see that"
