"""Study: NT-Xent's temperature (Chen et al. 2020, table 5: 0.05, 0.1, 0.5, 1 gave 59.7, 64.4, 60.7, 58.0 % on ImageNet)."""

from ray import tune

ABOUT = "study: five temperatures x two seeds of SimCLR, beside table 5 of its paper"
METHOD = "simclr"
SCHEDULER = "none"
SPACE = {
    "method.temperature": tune.grid_search([0.05, 0.1, 0.2, 0.5, 1.0]),
    "seed": tune.grid_search([0, 1]),
}
