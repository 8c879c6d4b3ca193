"""SimCLR: temperature (Chen et al. 2020, table 5), colour strength (table 1) and batch size (figure 9)."""

from ray import tune

ABOUT = "temperature, augmentation strength and batch size of SimCLR; a larger batch means fewer steps for the same epochs"
METHOD = "simclr"
SAMPLES = 16
SPACE = {
    "method.temperature": tune.loguniform(0.05, 1.0),
    "augment.strength": tune.uniform(0.0, 1.5),
    "train.batch_size": tune.choice([64, 128, 256, 512, 1024, 4096]),
}
