"""Study: does DINO's class token look at the object? (Caron et al. 2021, §4.2.2 and figure 4)."""

from contray.studies import Above, At

CLAIM = "the attention of DINO's class token is on the object, more than an untrained network's"
SOURCE = "Caron et al. 2021, figure 4, https://arxiv.org/abs/2104.14294"
METHOD = "dino"
SPACE = {"DINO": {"method.preset": "digits_vit"}, "MAE": {"method.name": "mae"}}
METRIC = "attention_jaccard"
EXPECT = [Above("DINO", At("DINO", "random_attention_jaccard"))]
SCALES = {"digits": {"train.steps": 300, "eval.final": ("knn", "linear", "attention")}}
COST = {"digits": 10}
SMALL = "what is seen of 64 patches after so few steps is little"
