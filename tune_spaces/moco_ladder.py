"""Study: three dictionaries of one pretext task (He et al. 2020, figure 3)."""

from contray.studies import Above

CLAIM = "a queue of a slow encoder's keys is above a memory bank of as many, and above end-to-end training, whose dictionary is the batch"
SOURCE = "He et al. 2020, §4.1 and figure 3, https://arxiv.org/abs/1911.05722"
METHOD = "moco"
SPACE = {
    "end-to-end": {"method.name": "moco_end_to_end"},
    "bank": {"method.name": "moco_bank"},
    "moco": {},
}
PAPER = {"bank": 58.0, "moco": 60.6}
PAPER_METRIC = "ImageNet linear top-1 %"
METRIC = "linear_top1"
EXPECT = [Above("moco", "bank"), Above("moco", "end-to-end")]
SCALES = {"digits": {}, "cifar": {}, "paper": {"method.preset": "v1"}}
SEEDS = 3
COST = {"digits": 5, "cifar": "as many runs of a small net", "paper": "3 x 200 epochs of ResNet-50"}
SMALL = "in few steps the encoder moves fast and the queue's keys are as stale as a bank's; the digits' batch holds a fair share of all there is to tell apart"
