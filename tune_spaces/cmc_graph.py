"""Study: which pairs of views are contrasted (Tian et al. 2019, §3.3; on NYU their two graphs end level)."""

from contray.studies import Same

CLAIM = "the first view's encoder becomes as good where it alone is contrasted with the others as where every pair is"
SOURCE = "Tian et al. 2019, §3.3 and the segmentation of NYU Depth, https://arxiv.org/abs/1906.05849"
METHOD = "cmc"
SPACE = {"method.graph": ["core", "full"]}
METRIC = "linear_top1"
EXPECT = [Same("full", "core", within=3.0)]
SCALES = {"digits": {"method.preset": "digits_scene", "train.steps": 500, "data.renderings": 1}}
SEEDS = 3
COST = {"digits": 15}
