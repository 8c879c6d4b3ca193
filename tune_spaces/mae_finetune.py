"""Study: MAE under a linear probe and fine-tuned, beside a contrastive method (He et al. 2022, §4.3)."""

from contray.studies import Above

CLAIM = "MAE is behind MoCo v3 under a linear probe and ahead of it when both are fine-tuned (here on a fifth of the labels)"
SOURCE = (
    "He et al. 2022, table 3 (all labels), §4.3 and the appendix's linear probes (1,600 epochs), https://arxiv.org/abs/2111.06377"
)
METHOD = "mae"
SPACE = {"MAE": {"train.epochs": 1600}, "MoCo v3": {"method.name": "moco_v3", "method.preset": "vit_b"}}
PAPER = {"MAE": 68.0, "MoCo v3": 76.7}
PAPER_METRIC = "ImageNet linear top-1 %, ViT-B"
METRIC = "linear_top1"
EXPECT = [Above("MoCo v3", "MAE"), Above("MAE", "MoCo v3", metric="finetune_20pct_top1")]
SCALES = {
    "digits": {
        "SPACE": {"MAE": {}, "MoCo v3": {"method.name": "moco_v3", "method.preset": "digits_vit"}},
        "train.steps": 600,
        "eval.final": ("knn", "linear", "finetune"),
        "eval.finetune.labels": "0.2",
        "eval.finetune.epochs": 10,
        "eval.finetune.lrs": (1e-3,),
    },
    "paper": {"eval.final": ("linear", "finetune_mae", "finetune"), "eval.finetune.labels": "0.2"},
}
COST = {"digits": 9, "paper": "1,600 and 300 epochs of ViT-B"}
SMALL = "after so few steps neither has learned what fine-tuning on a fifth of the labels would not teach"
