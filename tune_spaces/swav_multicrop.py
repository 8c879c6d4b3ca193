"""Study: small crops besides the large ones, at an equal budget of pixels (Caron et al. 2020, §4.3 and figure 3)."""

from contray.studies import Above

CLAIM = "small crops besides the two large ones help clustering methods, SimCLR and DINO alike, also for the same pixels through encoders"
SOURCE = (
    "Caron et al. 2020, figure 3 (SimCLR: 200 epochs), and the released models, https://github.com/facebookresearch/swav; for DINO Caron et al. 2021; "
    "https://arxiv.org/abs/2006.09882"
)
METHOD = "swav"
SPACE = {  # 32 and 20 px: four small crops besides two large ones are 1.78 times the pixels, 1.39 times where an average network sees the large ones too
    "SwAV": {"train.steps": 400},
    "SwAV, multi-crop": {"method.preset": "digits_multicrop", "train.steps": 224},
    "DeepCluster v2": {"method.name": "deepcluster_v2", "train.steps": 400},
    "DeepCluster v2, multi-crop": {"method.name": "deepcluster_v2", "method.preset": "digits_multicrop", "train.steps": 224},
    "SimCLR": {"method.name": "simclr", "train.steps": 400},
    "SimCLR, multi-crop": {"method.name": "simclr", "method.preset": "multicrop_digits", "train.steps": 224},
    "BYOL": {"method.name": "byol", "train.steps": 400},
    "BYOL, multi-crop": {"method.name": "byol_multicrop", "method.preset": "multicrop_digits", "train.steps": 288},
    "DINO": {"method.name": "dino", "train.steps": 400},
    "DINO, multi-crop": {"method.name": "dino", "method.preset": "multicrop_digits", "train.steps": 288},
}
PAPER = {
    "SwAV": 70.1,
    "SwAV, multi-crop": 74.1,
    "DeepCluster v2": 70.2,
    "DeepCluster v2, multi-crop": 74.3,
    "SimCLR": 68.2,
    "SimCLR, multi-crop": 70.6,
}
PAPER_METRIC = "ImageNet linear top-1 %, 400 epochs, batch 4096; multi-crop: 2 x 160 + 4 x 96 px"
METRIC = "linear_top1"
EXPECT = [
    Above("SwAV, multi-crop", "SwAV"),
    Above("DeepCluster v2, multi-crop", "DeepCluster v2"),
    Above("SimCLR, multi-crop", "SimCLR"),
    Above("DINO, multi-crop", "DINO"),
]
SCALES = {"digits": {}}
COST = {"digits": 19}
SMALL = (
    "digits of 32 px have no parts that a crop of a third of the area would show, half the steps are few, and prototypes stay as they were drawn for all "
    "of them; BYOL is measured beside (DINO's appendix finds it worse with small crops)"
)
