"""Study: CAE's alignment of predicted with encoded features (Chen et al. 2022, ablation)."""

from contray.studies import Above

CLAIM = "the regressor's predictions aligned with the encoder's own features are better than named tokens alone"
SOURCE = "Chen et al. 2022, §5 (ablation of decoder and alignment), https://arxiv.org/abs/2202.03026"
METHOD = "cae"
SPACE = {"aligned": {}, "tokens alone": {"method.alignment": 0.0}}
METRIC = "linear_top1"
EXPECT = [Above("aligned", "tokens alone")]
SCALES = {"digits": {"train.steps": 600}, "paper": {"train.epochs": 300}}
COST = {"digits": 38, "paper": "2 x 300 epochs of ViT-B"}
