"""Recipes on CIFAR that other libraries published, as far as their methods share them. Their numbers are theirs: none was measured here."""

SOLO_LEARN = "solo-learn's recipe (scripts/pretrain/cifar): ResNet-18, batch 256, 1000 epochs; solo-learn measured {} % linear on CIFAR-10 with it, not run here"
_NET = {"backbone.name": "resnet18", "backbone.stem": "cifar", "backbone.zero_init_residual": False}
SOLO = _NET | {
    "augment.mean": (0.4914, 0.4822, 0.4465),
    "augment.std": (0.2470, 0.2435, 0.2616),
    "optim.weight_decay_end": -1.0,
    "optim.warmup_epochs": 10,
    "optim.lr_end": 0.0,
    "train.batch_size": 256,
    "train.norm_groups": 1,
    "train.epochs": 1000,
}
SOLO_LARS = SOLO | {"optim.name": "lars", "optim.trust": 0.02, "optim.clip_lr": True}
SOLO_START = 3e-5  # where its warm-up starts, whatever the rate
SOLO_DIFFERS = (
    "cifar: solo-learn's first convolution pads by 2 px and is drawn as torch draws it, its crops grow by Pillow's cubic kernel (a = -0.5; here OpenCV's, "
    "-0.75, which differs by 1.5 grey levels), and its accuracy is that of a classifier trained along"
)

LIGHTLY = (
    "lightly's benchmark (cifar10_benchmark.py): ResNet-18, batch 512, 200 epochs; lightly measured {} % k-NN on CIFAR-10 with it, the best of all epochs, "
    "in {} minutes on an RTX A6000, not run here"
)
LIGHTLY_DIFFERS = "cifar_lightly: lightly's ResNet-18 has no ReLU after its first norm and convolutions as torch draws them, and its rate falls by epochs, not by steps"
ONE_BATCH = "solo-learn's and lightly's recipes: both crops are one batch to the encoder's norms; to theirs each crop is one"
LIGHTLY_SGD = _NET | {
    "augment.std": (0.229, 0.224, 0.225),
    "optim.name": "sgd",
    "optim.lr": 0.12,  # 0.06 per 128
    "optim.weight_decay": 5e-4,
    "optim.weight_decay_end": -1.0,
    "optim.warmup_epochs": 0,
    "optim.lr_end": 0.0,
    "train.batch_size": 512,
    "train.norm_groups": 1,
    "train.epochs": 200,
}
