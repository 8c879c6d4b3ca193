"""Study: bigger networks need fewer labels (Chen et al. 2020)."""

from contray.studies import Above

CLAIM = "fine-tuned on a tenth of the labels, the wider network is better"
SOURCE = "Chen et al. 2020, https://arxiv.org/abs/2006.10029"
METHOD = "simclr_v2"
SPACE = {"narrow": {}, "wide": {"method.preset": "resnet152_3x"}}
PAPER = {"narrow": 72.1, "wide": 80.1}
PAPER_METRIC = "ImageNet top-1 %, fine-tuned on 10 % of the labels"
METRIC = "finetune_10pct_top1"
EXPECT = [Above("wide", "narrow")]
BASE = {"eval.final": ("linear", "finetune"), "eval.finetune.labels": 0.1}
smaller = {"narrow": {"backbone.width": 8}, "middle": {"backbone.width": 16}, "wide": {"backbone.width": 32}}
cheap = {"eval.finetune.epochs": 20, "eval.finetune.lrs": (3e-3,)}
SCALES = {"digits": cheap | {"SPACE": smaller}, "paper": {}}
SEEDS = 3
COST = {"digits": 25, "paper": "800 epochs of ResNet-50 and of ResNet-152, three times as wide, both with selective kernels"}
