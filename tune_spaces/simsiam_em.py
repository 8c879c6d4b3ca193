"""Study: SimSiam as an alternation of two sub-problems (Chen & He 2021, §5.2)."""

from contray.studies import Same

CLAIM = "targets that stay for several steps, as in k steps of one sub-problem before the other is solved, serve as well as new ones in each"
SOURCE = "Chen & He 2021, §5.2 (multi-step alternation), https://arxiv.org/abs/2011.10566"
METHOD = "simsiam_em"
SPACE = {"each step": {"method.inner_steps": 1}, "10 steps": {"method.inner_steps": 10}, "long": {"method.inner_steps": 100}}
PAPER = {"each step": 68.1, "10 steps": 68.7, "long": 68.9}
PAPER_METRIC = "ImageNet linear top-1 %, 100 epochs"
METRIC = "linear_top1"
EXPECT = [Same("10 steps", "each step", within=3.0), Same("long", "each step", within=3.0)]
SCALES = {
    "digits": {
        "SPACE": {
            "each step": {"method.inner_steps": 1},
            "10 steps": {"method.inner_steps": 10},
            "long": {"method.inner_steps": 50},
        }
    },
    "cifar": {},
    "paper": {},
}
COST = {"digits": 7, "cifar": "3 x 600 steps", "paper": "3 x 100 epochs of ResNet-50: about 600 GPU hours"}
SMALL = "a run of 200 steps has room for 20 alternations of 10, and for four of 50"
