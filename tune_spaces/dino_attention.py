"""Study: does DINO's class token look at the object? (Caron et al. 2021, §4.2.2 and figure 4)."""

from contray.studies import Above, At

CLAIM = "the attention of DINO's class token is the object's more than an untrained network's, and more than MAE's"
SOURCE = "Caron et al. 2021, figure 4, https://arxiv.org/abs/2104.14294"
METHOD = "dino"
SPACE = {"DINO": {}, "MAE": {"method.name": "mae"}}
METRIC = "attention_jaccard"
EXPECT = [Above("DINO", At("DINO", "random_attention_jaccard")), Above("DINO", "MAE")]
SCALES = {
    "digits": {
        "eval.final": ("knn", "linear", "attention"),
        "SPACE": {"DINO": {"method.preset": "digits_vit"}, "MAE": {"method.name": "mae"}},
    }
}
COST = {"digits": 5}
SMALL = "what is seen of 64 patches after 200 steps is little"
