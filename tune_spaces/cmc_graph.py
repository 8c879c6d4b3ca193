"""Study: which pairs of views are contrasted (Tian et al. 2019, §3.3)."""

from contray.studies import Above

CLAIM = "contrasting every pair of views is above contrasting each with the first alone"
SOURCE = "Tian et al. 2019, §3.3, https://arxiv.org/abs/1906.05849"
METHOD = "cmc"
SPACE = {"method.graph": ["core", "full"]}
METRIC = "linear_top1"
EXPECT = [Above("full", "core")]
SCALES = {"digits": {"method.preset": "digits_scene", "train.steps": 500, "data.renderings": 1}}
SEEDS = 3
COST = {"digits": 15}
