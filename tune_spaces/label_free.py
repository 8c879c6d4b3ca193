"""Study: which runs are good, told without labels (Garrido et al. 2023; Wang & Isola 2020)."""

from contray.studies import Agrees

CLAIM = "the effective rank of the features, and how uniformly they fill their space, rank runs as their linear probes do"
SOURCE = "Garrido et al. 2023, https://arxiv.org/abs/2210.02885; Wang & Isola 2020, https://arxiv.org/abs/2005.10242"
METHOD = "simclr"
SPACE = {
    "baseline": {},
    "cold": {"method.temperature": 0.05},
    "hot": {"method.temperature": 1.0},
    "weak views": {"augment.strength": 0.25},
    "low rate": {"optim.lr": 6e-4},
    "few steps": {"train.steps": 50},
}
METRIC = "linear_top1"
EXPECT = [Agrees("rankme"), Agrees("uniformity", rising=False)]
SCALES = {"digits": {"eval.final": ("knn", "linear", "geometry")}, "cifar": {"eval.final": ("knn", "linear", "geometry")}}
COST = {"digits": 18, "cifar": "6 x 300 steps"}
SMALL = (
    "six runs of one method: their ranking can agree by chance, which the test takes into account; ranks are of the features, not of what stands behind "
    "the head, and Wang & Isola's claim is of uniformity together with alignment, not of either alone"
)
