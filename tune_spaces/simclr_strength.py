"""Study: augmentation strength (Tian et al. 2020, InfoMin: accuracy is a reversed U over how much the views share)."""

from ray import tune

ABOUT = "study: five augmentation strengths x two seeds of SimCLR; InfoMin expects a reversed U"
METHOD = "simclr"
SCHEDULER = "none"
SPACE = {
    "augment.strength": tune.grid_search([0.0, 0.5, 1.0, 1.5, 2.0]),
    "seed": tune.grid_search([0, 1]),
}
