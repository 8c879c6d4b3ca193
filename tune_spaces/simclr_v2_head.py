"""Study: how deep the head is from whose first layer fine-tuning starts (Chen et al. 2020)."""

from contray.studies import Order

CLAIM = "with few labels a deeper head, of which the first layer is kept, is better"
SOURCE = "Chen et al. 2020, https://arxiv.org/abs/2006.10029"
METHOD = "simclr_v2_ablated"
SPACE = {"method.layers": [2, 3, 4]}
METRIC = "finetune_10pct_top1"
EXPECT = [Order()]
BASE = {"eval.final": ("linear", "finetune"), "eval.finetune.labels": 0.1}
cheap = {"eval.finetune.epochs": 20, "eval.finetune.lrs": (3e-3,)}
SCALES = {"digits": cheap, "paper": {}}
SEEDS = 3
COST = {"digits": 6, "paper": "3 x 800 epochs of ResNet-50 with selective kernels"}
