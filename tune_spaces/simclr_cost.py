"""SimCLR: what accuracy costs. Width of the network, batch size (Chen et al. 2020, figure 9) and width of the projector."""

from ray import tune

ABOUT = "width, batch size and projector of SimCLR, for --against seconds, memory_gb or images_per_second"
METHOD = "simclr"
SAMPLES = 16
SPACE = {
    "backbone.width": tune.choice([16, 32, 64, 128]),
    "train.batch_size": tune.choice([32, 64, 128, 256]),
    "method.projector_hidden": tune.choice([32, 128, 512, 2048]),
}
