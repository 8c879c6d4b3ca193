"""Study: what distillation adds to fine-tuning (Chen et al. 2020)."""

from contray.studies import Above, At

CLAIM = "a student that learns from a fine-tuned network what it says of all images is above that network, which is its like"
SOURCE = "Chen et al. 2020, https://arxiv.org/abs/2006.10029"
METHOD = "simclr_v2"
SPACE = {"narrow": {}, "wide": {"backbone.width": 128}}
METRIC = "distill_10pct_top1"
EXPECT = [Above(At(width, "distill_10pct_top1"), At(width, "finetune_10pct_top1")) for width in ("narrow", "wide")]
BASE = {"eval.final": ("linear", "distill"), "eval.distill.labels": 0.1, "eval.distill.temperature": 0.1}
SCALES = {
    "digits": {
        "SPACE": {"narrow": {"backbone.width": 8}, "wide": {"backbone.width": 16}},
        "eval.distill.epochs": 8,
        "eval.distill.finetune_epochs": 20,
        "eval.distill.lrs": (3e-3,),
    },
    "paper": {"eval.distill.epochs": 400},
}
SEEDS = 3
COST = {"digits": 5, "paper": "800 epochs of ResNet-50 with selective kernels, single and double, and 400 of each one's student"}
