"""Study: the depth of MAE's decoder (He et al. 2022, table 1a)."""

from contray.studies import Above

CLAIM = "a deeper decoder leaves the encoder better features for a linear probe, for reconstruction is then the decoder's"
SOURCE = "He et al. 2022, table 1a, https://arxiv.org/abs/2111.06377"
METHOD = "mae"
SPACE = {"one block": {"method.decoder_depth": 1}, "more": {"method.decoder_depth": 8}}
METRIC = "linear_top1"
EXPECT = [Above("more", "one block")]
SCALES = {
    "digits": {"train.steps": 600, "SPACE": {"one block": {}, "more": {"method.decoder_depth": 4}}},
    "paper": {"method.preset": "vit_l"},
}
COST = {"digits": 7, "paper": "2 x 800 epochs of ViT-L"}
SMALL = "an encoder of four blocks has few that a decoder could relieve"
