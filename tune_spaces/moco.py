"""MoCo: the four knobs of its papers. Queue size and momentum: He et al. 2020, figure 3 and table of §4.1; temperature and augmentation: v2."""

from ray import tune

ABOUT = "temperature, queue size, key momentum and augmentation strength of MoCo; momentum and strength start slowly, so trials get a grace period"
METHOD = "moco"
SAMPLES = 16
SPACE = {
    "method.temperature": tune.loguniform(0.05, 0.5),
    "method.queue_size": tune.choice([256, 512, 1024, 2048, 4096, 16384, 65536]),
    "method.momentum": tune.choice([0.5, 0.8, 0.9, 0.95, 0.99, 0.999]),
    "augment.strength": tune.uniform(0.0, 1.5),
}
