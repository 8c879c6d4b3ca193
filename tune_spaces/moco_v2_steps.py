"""Study: from MoCo v1 to v2, step by step (Chen et al. 2020, table 1)."""

from contray.studies import Above

mlp = {"method.head": "mlp", "method.temperature": 0.2}
augmented = {
    **{"views.query.jitter_p": 0.8, "views.query.gray_order": "after_jitter", "views.query.blur": 0.5},
    **{"views.key.jitter_p": 0.8, "views.key.gray_order": "after_jitter", "views.key.blur": 0.5},
}
# v2's hue is a quarter of v1's; the digits' jitter is gentler in all arms
released = augmented | dict.fromkeys(("views.query.jitter", "views.key.jitter"), (0.4, 0.4, 0.4, 0.1))


def steps(augmentation):
    """From v1 to v2, with this augmentation."""
    return {
        "v1": {},
        "+ MLP": mlp,
        "+ aug": augmentation,
        "+ MLP + aug": mlp | augmentation,
        "v2": mlp | augmentation | {"optim.schedule": "cosine"},
    }


CLAIM = "an MLP head and blur each improve on v1, and together they are best"
SOURCE = "Chen et al. 2020, table 1, https://arxiv.org/abs/2003.04297"
METHOD = "moco"
SPACE = steps(released)
PAPER = {"v1": 60.6, "+ MLP": 66.2, "+ aug": 63.4, "+ MLP + aug": 67.3, "v2": 67.5}
PAPER_METRIC = "ImageNet linear top-1 %, 200 epochs"
METRIC = "linear_top1"
EXPECT = [Above("+ MLP", "v1"), Above("+ aug", "v1"), Above("+ MLP + aug", "+ MLP"), Above("+ MLP + aug", "+ aug")]
SCALES = {
    "digits": {"method.preset": "digits_v1", "SPACE": steps(augmented)},
    "paper": {"method.preset": "v1"},
}
SEEDS = 3
COST = {"digits": 15, "paper": "5 x 200 epochs of ResNet-50"}
SMALL = "a digit of 20 px that is blurred is hard to read"
