"""Study: what MAE paints (He et al. 2022, table 1d)."""

from contray.studies import Above

CLAIM = "pixels normalised patch by patch are a better target than pixels as they are"
SOURCE = "He et al. 2022, table 1d, https://arxiv.org/abs/2111.06377"
METHOD = "mae"
SPACE = {"method.target": ["norm_pix", "pixels"]}
PAPER = {"norm_pix": 73.9, "pixels": 73.5}
PAPER_METRIC = "ImageNet linear top-1 %, ViT-L, 800 epochs"
METRIC = "linear_top1"
EXPECT = [Above("norm_pix", "pixels")]
SCALES = {"digits": {"train.steps": 600}, "paper": {"method.preset": "vit_l"}}
COST = {"digits": 6, "paper": "2 x 800 epochs of ViT-L"}
SMALL = "most patches of a digit's picture are texture, whose contrast normalising raises to that of the digit"
