"""Study: how many prototypes SwAV takes (Caron et al. 2020, §4.1 and appendix)."""

from contray.studies import Same

CLAIM = "the number of prototypes hardly matters as long as there are enough"
SOURCE = "Caron et al. 2020, appendix, https://arxiv.org/abs/2006.09882"
METHOD = "swav"
SPACE = {"few": {"method.prototypes": 1000}, "middle": {}, "many": {"method.prototypes": 10000}}
METRIC = "linear_top1"
EXPECT = [Same("few", "middle", within=3.0), Same("many", "middle", within=3.0)]
SCALES = {
    "digits": {
        "train.steps": 600,
        "SPACE": {
            "few": {"method.prototypes": 30},
            "middle": {},
            "many": {"method.prototypes": 120, "method.queue_size": 128, "method.queue_epoch": 0.0},
        },
    },
    "paper": {"train.epochs": 100},
}
COST = {"digits": 22, "paper": "3 x 100 epochs of ResNet-50 with 8 crops: about 600 GPU hours"}
SMALL = "more prototypes than a batch and its queue have rows are refused, so that many are 120 here, with a queue of 128, and prototypes are frozen for most of the run"
