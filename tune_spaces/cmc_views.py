"""Study: the first view's encoder, taught by one, two and three others (Tian et al. 2019, §4.3)."""

from contray.studies import Order

CLAIM = "the more views teach it, the better a view's encoder"
SOURCE = "Tian et al. 2019, §4.3, https://arxiv.org/abs/1906.05849"
METHOD = "cmc_first"
SPACE = {
    "L, ab": {"method.preset": "digits_lab"},
    "L, ab, edges": {"method.preset": "digits_edges"},
    "L, ab, edges, mask": {"method.preset": "digits_scene", "method.graph": "core"},
}
METRIC = "linear_top1"
EXPECT = [Order()]
SCALES = {"digits": {}}
SEEDS = 3
COST = {"digits": 9}
