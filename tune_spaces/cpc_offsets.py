"""Study: how far ahead CPC predicts (van den Oord et al. 2018, table 2)."""

from contray.studies import Peak

CLAIM = "predicting several steps ahead is better than few, up to a point"
SOURCE = "van den Oord et al. 2018, table 2, https://arxiv.org/abs/1807.03748"
METHOD = "cpc_sequence"
SPACE = {"method.steps": [2, 4, 8, 12, 16]}
PAPER = {2: 28.5, 4: 57.6, 8: 63.6, 12: 64.6, 16: 63.8}
PAPER_METRIC = "LibriSpeech phones, linear top-1 %"
METRIC = "linear_top1"
EXPECT = [Peak()]
SCALES = {"digits": {"SPACE": {"method.steps": [2, 4, 8, 16]}, "train.batch_size": 32}, "paper": {}}
SEEDS = 3
COST = {"digits": 8, "paper": "5 x 100 epochs of LibriSpeech's 100 hours"}
SMALL = "a digit is 18 to 24 lines high: what is told 16 lines ahead is mostly background"
