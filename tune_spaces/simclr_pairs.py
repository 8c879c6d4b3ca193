"""Study: augmentations alone and in pairs, of one of the two views (Chen et al. 2020, figure 5)."""

from contray.studies import Above

parts = {
    "crop": {"views.view1.crop": (0.2, 1.0), "views.view1.ratio": (3 / 4, 4 / 3)},
    "cutout": {"views.view1.cutout": 1.0},
    "colour": {"views.view1.jitter": (0.8, 0.8, 0.8, 0.2), "views.view1.jitter_p": 0.8, "views.view1.gray": 0.2},
    "sobel": {"views.view1.sobel": True},
    "noise": {"views.view1.noise": 1.0},
    "blur": {"views.view1.blur": 1.0},
    "rotate": {"views.view1.rotation": 45.0},
}
gentle = parts | {"crop": {"views.view1.crop": (0.6, 1.0)}}  # less of a digit is no digit
whole = parts | {
    "crop": {"views.view1.geometry": "", "views.view1.crop": (0.08, 1.0)}
}  # a crop of its own; else both have one in common


def pairs(of):
    """Each alone and each with each other."""
    return {(one, other): of[one] | of[other] for place, one in enumerate(of) for other in [*of][place:]}


CLAIM = "crop and colour together are above every augmentation alone"
SOURCE = "Chen et al. 2020, §3.1 and figure 5, https://arxiv.org/abs/2002.05709"
METHOD = "simclr_asymmetric"
SPACE = pairs(parts)
METRIC = "linear_top1"
EXPECT = [Above(("crop", "colour"), (one, one)) for one in parts]
SCALES = {
    "digits": {"SPACE": pairs(gentle), "eval.final": ("linear",)},
    "cifar": {},
    "paper": {"SPACE": pairs(whole), "train.epochs": 100},
}
SEEDS = 3
COST = {"digits": 45, "cifar": "as many runs of a small net", "paper": "28 x 100 epochs of ResNet-50"}
SMALL = "a digit is told from its texture by its place and size as well as by colour, so other pairs than the paper's can win"
