"""Study: who represents in CAE, encoder or regressor? (Chen et al. 2022, §3.2)."""

from contray.studies import Above

CLAIM = "the encoder's features represent the image better than the regressor's predictions, whose task is the pretext alone"
SOURCE = "Chen et al. 2022, §3.2 (decoupling of representation and pretext task), https://arxiv.org/abs/2202.03026"
METHOD = "cae_probed"
SPACE = {"method.features": ["encoder", "regressor"]}
METRIC = "linear_top1"
EXPECT = [Above("encoder", "regressor")]
SCALES = {"digits": {"train.steps": 600}, "paper": {"train.epochs": 300}}
COST = {"digits": 38, "paper": "2 x 300 epochs of ViT-B"}
SMALL = "alignment makes the two alike, so that the difference may be small"
