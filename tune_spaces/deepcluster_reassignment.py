"""Study: clusters found anew each epoch, or once (Caron et al. 2018, §4.1)."""

from contray.studies import Above

CLAIM = "clusters that are found anew in each epoch teach more than those of the untrained network's features"
SOURCE = "Caron et al. 2018, §4.1 (figure 2b: assignments change from epoch to epoch), https://arxiv.org/abs/1807.05520"
METHOD = "deepcluster"
once = {"method.name": "deepcluster_ablated", "method.reassign": False}
SPACE = {"each epoch": {}, "once": once, "once, and one head": once | {"method.new_head": False}}
METRIC = "linear_top1"
EXPECT = [Above("each epoch", "once")]
SCALES = {"digits": {"train.steps": 600}, "paper": {}}
COST = {"digits": 5, "paper": "3 x 200 epochs of AlexNet: about 900 GPU hours"}
SMALL = "a run of 600 steps has fourteen epochs, hence fourteen assignments"
