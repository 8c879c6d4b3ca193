"""Study: how much MAE masks, and where (He et al. 2022, figure 5 and table 1f)."""

from contray.studies import Above

CLAIM = "for the linear probe masking 75 % is above masking 10 %, and random patches are above blocks and above a grid"
SOURCE = "He et al. 2022, figure 5 and table 1f, https://arxiv.org/abs/2111.06377"
METHOD = "mae"
SPACE = {
    "10 %": {"method.mask_ratio": 0.1},
    "75 %": {"method.mask_ratio": 0.75},
    "75 % in blocks": {"method.name": "mae_masks", "method.masks": "blocks", "method.mask_ratio": 0.75},
    "75 % by a grid": {"method.name": "mae_masks", "method.masks": "grid", "method.mask_ratio": 0.75},
}
PAPER = {"10 %": 54.6, "75 %": 73.5, "75 % in blocks": 63.9, "75 % by a grid": 66.0}
PAPER_METRIC = "ImageNet linear top-1 %, ViT-L, 800 epochs"
METRIC = "linear_top1"
EXPECT = [Above("75 %", "10 %"), Above("75 %", "75 % in blocks"), Above("75 %", "75 % by a grid")]
SCALES = {"digits": {"train.steps": 600}, "paper": {"method.preset": "vit_l", "method.target": "pixels"}}
COST = {"digits": 12, "paper": "4 x 800 epochs of ViT-L"}
SMALL = "a digit fills a few of the 64 patches: three quarters of them leave little to guess the rest from"
