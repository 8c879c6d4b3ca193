"""Study: the first view's encoder, taught by one other view and by two (Tian et al. 2019, §4.3)."""

from contray.studies import Above

CLAIM = "three views teach a view's encoder more than two"
SOURCE = "Tian et al. 2019, §4.3, https://arxiv.org/abs/1906.05849"
METHOD = "cmc_first"
SPACE = {
    "picture, edges": {},
    "picture, edges, mask": {"method.preset": "digits_three"},
}
METRIC = "linear_top1"
EXPECT = [Above("picture, edges, mask", "picture, edges")]
SCALES = {"digits": {"train.steps": 500, "data.renderings": 1}}  # a bank of rows takes epochs to mean something
SEEDS = 3
COST = {"digits": 11}
SMALL = "the third view is the digit itself without its ground: which view is added counts as well as how many there are"
