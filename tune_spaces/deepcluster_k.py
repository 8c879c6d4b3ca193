"""Study: the number of DeepCluster's clusters (Caron et al. 2018, §4.1 and figure 2c)."""

from contray.studies import Above

CLAIM = "several times more clusters than classes are better than as many"
SOURCE = "Caron et al. 2018, figure 2c, https://arxiv.org/abs/1807.05520"
METHOD = "deepcluster"
SPACE = {"classes": {"method.clusters": 1000}, "ten times": {}}
METRIC = "linear_top1"
EXPECT = [Above("ten times", "classes")]
SCALES = {
    "digits": {
        "train.steps": 600,
        "SPACE": {"classes": {"method.clusters": 10}, "six times": {}, "ten times": {"method.clusters": 100}},
    },
    "paper": {},
}
COST = {"digits": 5, "paper": "2 x 200 epochs of AlexNet: about 600 GPU hours"}
