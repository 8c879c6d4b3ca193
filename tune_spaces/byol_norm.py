"""Study: does BYOL live on batch statistics? (Fetterman & Albrecht's blog, and Richemond et al. 2020, its rebuttal)."""

from contray.studies import Collapse

CLAIM = "initialised as usual and without any norm BYOL does not learn, but what it needs are not batch statistics: group norm with weight standardisation serves"
SOURCE = "Richemond et al. 2020, §3 and §4, against Fetterman & Albrecht's blog of August 2020, https://arxiv.org/abs/2010.10241"
METHOD = "byol"
SPACE = {
    "batch norm": {},
    "batch norm in the encoder alone": {
        "method.projector_norm": "none",
        "method.output_norm": "none",
        "method.predictor_norm": "none",
    },
    "none": {
        "backbone.norm": "none",
        "method.projector_norm": "none",
        "method.output_norm": "none",
        "method.predictor_norm": "none",
    },
    "group norm": {
        "backbone.norm": "gn_ws",
        "method.projector_norm": "gn",
        "method.output_norm": "none",
        "method.predictor_norm": "gn",
    },
}
PAPER = {"batch norm": 74.3, "batch norm in the encoder alone": 72.1, "none": 0.1, "group norm": 73.9}
PAPER_METRIC = "ImageNet linear top-1 %"
METRIC = "linear_top1"
EXPECT = [Collapse("none", "batch norm"), Collapse("none", "group norm")]
SCALES = {"digits": {}, "paper": {}}
COST = {"digits": 24, "paper": "4 x 1000 epochs of ResNet-50: about 6,000 GPU hours"}
SMALL = "200 steps of a net of width 16: what norms of an example do for deep ones in many epochs is hardly to be seen"
