"""Study: CLIP learns its temperature, so that where it starts is no matter (Radford et al. 2021, §2.5)."""

from contray.studies import Same

CLAIM = "wherever the learned temperature starts, the encoder becomes as good"
SOURCE = "Radford et al. 2021, §2.5, https://arxiv.org/abs/2103.00020"
METHOD = "clip"
SPACE = {"method.temperature": [0.02, 0.07, 0.5]}
METRIC = "linear_top1"
EXPECT = [Same(0.02, 0.07), Same(0.5, 0.07)]
SCALES = {"digits": {}, "paper": {}}
SEEDS = 3
COST = {"digits": 7, "paper": "3 x 32 epochs of 400 million pairs"}
SMALL = "200 steps are too few for a learned temperature to arrive; that it does in long runs is inferred, the paper says only that it is learned"
