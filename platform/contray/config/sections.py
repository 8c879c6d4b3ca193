"""The sections of a config and every key in them: its default, its sentence of help, its unit and range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..methods._base import setting


@dataclass(frozen=True)
class BackboneConfig:
    """The network that the method trains; the heads are the method's own."""

    name: Literal[
        "resnet_small",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "alexnet",
        "vit_mini",
        "vit_small",
        "vit_base",
        "vit_large",
    ] = setting(
        "resnet50",
        "residual network (resnet_small: 4 stages of one basic block), AlexNet with batch norm, or vision transformer (vit_mini: 4 blocks of 4 heads)",
    )
    stem: Literal["imagenet", "cifar"] = setting(
        "imagenet", "ResNets: first layers: imagenet = 7x7 stride 2 and max-pool, cifar = 3x3 stride 1"
    )
    width: int = setting(64, "ResNets: channels of the first stage; vit_mini: features of a token", unit="channels", ge=1)
    zero_init_residual: bool = setting(False, "ResNets: start each residual branch at zero (Goyal et al. 2017)")
    norm: Literal["bn", "gn", "gn_ws", "ln", "none"] = setting(
        "bn",
        "ResNets: batch norm, group norm of 16 groups, group norm with weight standardisation (Richemond et al. 2020), layer norm (one group), or none",
    )
    selective_kernels: float = setting(
        0.0, "ResNets: width of the layer that weighs two kernels per channel (SimCLR v2: 0.0625, with ResNet-D's shortcuts); 0: none",
        ge=0, le=1,
    )  # fmt: skip
    patch: int = setting(16, "ViTs: side of a patch", unit="px", ge=1)
    heads: int = setting(
        0, "ViTs: heads of the attention; 0: the architecture's own (vit_small: 12 as MoCo v3's; DINO's has 6)", ge=0
    )
    positions: Literal["learned", "sincos"] = setting(
        "learned", "ViTs: position embedding; sincos is fixed (Chen et al. 2021, §4.1)"
    )
    frozen_patches: bool = setting(False, "ViTs: the patch projection stays as it was drawn (Chen et al. 2021, §4.2)")
    drop_path: float = setting(
        0.0, "ViTs: stochastic depth, rising from 0 to this from the first block to the last", unit="probability", ge=0, lt=1
    )
    layer_scale: float = setting(0.0, "ViTs: initial scale of each residual branch, trained per channel; 0: none", ge=0)


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from. `source`: digits, cifar10, cifar100, stl10, a folder of images, or a Parquet file or folder."""

    source: str = setting(
        "digits",
        "digits | cifar10 | cifar100 | stl10 | folder | file.parquet or folder of Parquet files | your own mine.py, or an installed one's name",
    )
    root: str = setting("data", "where torchvision's named sets lie or are downloaded to", unit="path")
    download: bool = setting(False, "download a torchvision set that is not under data.root yet")
    image_column: str = setting("image", "Parquet: column of the images (encoded bytes, or a struct of `bytes` and `path`)")
    label_column: str = setting("label", "Parquet: column of the labels; digits: digit, background or position; empty: no labels")
    size: int = setting(32, "digits: side of the drawn images", unit="px", ge=16, le=256)
    renderings: int = setting(
        4, "digits: samples per handwritten digit, each at its own place on its own background", ge=1, le=64
    )
    share: tuple[str, ...] = setting(("digit",), "digits: factors that all views of a sample share: digit, background, position")
    contrast: float = setting(
        0.35, "digits: how loud the background is; the difficulty knob", unit="fraction of full brightness", ge=0, le=1
    )
    workers: int = setting(1, "processes per training worker that prepare batches; 0: in the training process", ge=0)
    cache_gb: float = setting(4.0, "sets whose decoded images fit are decoded once and kept as uint8", unit="GB", ge=0)
    scratch: str = setting(
        "",
        "folder on this machine's disk to which large Parquet columns are copied once, uncompressed, for all workers to map; "
        "empty: contray-USER in the system's temporary folder",
        unit="path",
    )
    max_broken: float = setting(
        0.05, "share of broken images, of training or test, above which it is refused", unit="fraction", ge=0, le=1
    )


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly views differ, on top of each view's own policy (the `views.*` keys)."""

    strength: float = setting(
        1.0, "scales the photometric policy, InfoMin-style: 0 = crop and flip only, 1 = the paper's", ge=0, le=2
    )
    mean: tuple[float, float, float] = setting(
        (0.485, 0.456, 0.406), "pixel mean that inputs are normalised by", unit="of [0, 1]", ge=0, le=1
    )
    std: tuple[float, float, float] = setting(
        (0.229, 0.224, 0.225), "pixel standard deviation that inputs are normalised by", unit="of [0, 1]", gt=0, le=1
    )


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedules. Rates are per 256 samples and scale linearly with train.batch_size unless lr_scaling says otherwise."""

    name: Literal["sgd", "lars", "larc", "adamw"] = setting(
        "sgd",
        "optimiser; larc: SGD whose rate of each tensor, biases and norms included, is scaled by trust |w| / (|g| + weight_decay |w|)",
    )
    lr: float = setting(0.03, "base learning rate", unit="per 256 samples", gt=0)
    lr_scaling: Literal["linear", "sqrt", "none"] = setting(
        "linear", "how the base rate grows with batch_size / 256 (sqrt: with the root of batch_size itself)"
    )
    momentum: float = setting(0.9, "momentum of SGD, LARS and LARC", ge=0, lt=1)
    betas: tuple[float, float] = setting((0.9, 0.999), "AdamW's betas", ge=0, lt=1)
    weight_decay: float = setting(1e-4, "weight decay", ge=0)
    weight_decay_end: float = setting(-1.0, "weight decay at the end, on half a cosine; -1: constant", ge=-1)
    decay_norms: bool = setting(True, "whether 1-D parameters (biases, norms) decay too; LARS never decays nor adapts them")
    trust: float = setting(0.001, "trust coefficient of LARS and LARC", gt=0)
    warmup_epochs: float = setting(0.0, "linear warm-up from warmup_start", unit="epochs", ge=0)
    warmup_start: float = setting(0.0, "where the warm-up starts", unit="fraction of the scaled rate", ge=0, le=1)
    schedule: Literal["cosine", "step", "constant"] = setting("cosine", "decay of the rate after the warm-up")
    milestones: tuple[float, ...] = setting(
        (0.6, 0.8), "step schedule: where the rate drops", unit="fraction of the run", ge=0, le=1
    )
    gamma: float = setting(0.1, "step schedule: factor at each milestone", gt=0, le=1)
    lr_end: float = setting(0.0, "cosine schedule: rate at the end", unit="fraction of the scaled rate", ge=0, le=1)
    clip: float = setting(0.0, "largest gradient norm; 0: no clipping", ge=0)
    clip_by: Literal["model", "tensor"] = setting("model", "clip the norm over the whole model, or each tensor's own (DINO)")


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how large, how precise."""

    epochs: int = setting(200, "passes over the training set", unit="epochs", ge=1)
    steps: int = setting(0, "optimiser steps; wins over epochs when above 0", unit="steps", ge=0)
    extend: Literal["no", "exact", "anyway"] = setting(
        "no",
        "go on with the run track.name, finished or not, for more epochs or steps: exact, only where it then is what it had been from the start; "
        "anyway, with the schedules of the longer run from here on",
    )
    batch_size: int = setting(256, "GLOBAL batch over all workers; every batch is full", unit="samples", ge=2)
    norm_groups: int = setting(1, "groups of the global batch that batch norm runs over; 1 = synchronised over all of it", ge=1)
    precision: Literal["auto", "bf16", "fp32", "fp64"] = setting(
        "auto",
        "bf16: autocast over fp32 weights; fp64: for proofs of exactness; auto: bf16 where the hardware has units for it (AMX, AVX512-BF16, "
        "a GPU's), else fp32, decided once for a run and kept",
    )
    channels_last: Literal["auto", "true", "false"] = setting(
        "auto",
        "memory layout of images and convolutions; auto: true for convolutional networks, except on a CPU where torch would crash",
    )
    settled: tuple[str, ...] = setting(
        (), "written by the run: which of precision and channels_last were auto; they count as auto in its name"
    )
    compile: bool = setting(False, "torch.compile the backbones")
    deterministic: bool = setting(
        True,
        "on a GPU: deterministic kernels, no autotuning, no TF32, so that the same run twice is bit-equal; a CPU is so anyway",
    )
    device: Literal["cpu", "cuda", "best"] = setting("best", "where to train; best: a GPU where there is one")
    log_every: int = setting(10, "how often metrics are read and logged", unit="steps", ge=1)
    checkpoint_seconds: float = setting(30.0, "a checkpoint at least this often", unit="s", gt=0)
    checkpoint_steps: int = setting(0, "a checkpoint every so many steps as well; 0: by time alone", unit="steps", ge=0)
    keep: int = setting(2, "newest checkpoints kept, the best one (by knn_val_top1) besides", ge=1)
    on_nan: Literal["stop", "skip"] = setting(
        "stop", "gradients that are no numbers: stop and keep the newest checkpoint, or go back to it and leave that step out"
    )
    on_collapse: Literal["warn", "stop"] = setting(
        "warn", "features that have collapsed at two online evaluations in a row: say so, or end the run too, with a checkpoint"
    )
    log_layers: bool = setting(False, "log the gradient's norm of each layer of backbone and heads besides, as grad_norm/LAYER")
    audit: bool = setting(
        False,
        "write every step's loss and sample ids to audit/ beside the checkpoints, to hold two runs against each other (log_every 1)",
    )
    allow_changes: bool = setting(False, "resume although library versions or the data set differ from the checkpoint's")


@dataclass(frozen=True)
class ScaleConfig:
    """What the run may use. Nothing here changes what it computes."""

    workers: tuple[int, int] = setting(
        (1, 1), "least and most Ray Train workers (MIN MAX); 0 0: in this process, without Ray", ge=0
    )
    cpus_per_worker: int = setting(
        0, "CPUs (and torch threads) of a worker; 0: as many as let all workers be placed on the nodes that there are", ge=0
    )
    gpus_per_worker: int = setting(0, "GPUs of a worker; 0 on a machine with GPUs: one, unless train.device is cpu", ge=0, le=1)
    max_batch_per_worker: int = setting(
        0,
        "most rows that go through a worker's backbones at once; a larger share goes in chunks of whole norm groups, the loss stays undivided; 0: no limit",
        unit="samples",
        ge=0,
    )
    storage: str = setting("contray_runs", "where runs and checkpoints are kept: a path or an s3://, gs:// address")
    max_unsaved_minutes: float = setting(
        30.0,
        "how long a run goes on whose checkpoints cannot be written, or hang, before it stops; 0: for ever",
        unit="min",
        ge=0,
    )
    max_failures: int = setting(3, "failures in a row without a new checkpoint that a run outlives; -1: any number", ge=-1)
    address: str = setting(
        "", "Ray cluster to join; empty: RAY_ADDRESS where it is set, else a cluster of this machine for this run"
    )


@dataclass(frozen=True)
class EvalConfig:
    """Online k-NN and geometry during training, and k-NN and linear probe at its end. Selection uses held-out training data only."""

    every_epochs: float = setting(
        10.0, "how often k-NN (with labels) and geometry (without) are measured while training; 0: never", unit="epochs", ge=0
    )
    holdout: float = setting(
        0.1,
        "share of the training set that selects (k-NN, probes, trials); labels only, pretraining sees all images",
        ge=0.01,
        le=0.5,
    )
    online_limit: int = setting(
        10_000,
        "images that the online k-NN uses at most, of every class its share; the geometry, 2048 at most, without labels",
        unit="images",
        ge=100,
    )
    knn_k: int = setting(200, "neighbours that vote", ge=1)
    knn_temperature: float = setting(0.07, "temperature of the votes", gt=0)
    probe_lrs: tuple[float, ...] = setting(
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "linear probe: learning rates of the grid",
        unit="1 / largest eigenvalue of the features' correlation",
        gt=0,
    )
    probe_decays: tuple[float, ...] = setting((0.0, 1e-3, 1e-2), "linear probe: weight decays of the grid", ge=0)
    probe_epochs: int = setting(60, "linear probe: passes over the cached features", unit="epochs", ge=1)
    crop: tuple[float, float] = setting(
        (0.0, 0.0),
        "area of the random crop wherever an evaluation trains on augmented images; 0 0: as the method's first view is cropped",
        unit="fraction",
        ge=0,
        le=1,
    )
    paper_optim: Literal["sgd", "nesterov", "lars"] = setting("sgd", "paper and attentive probes: optimiser, of momentum 0.9")
    paper_lrs: tuple[float, ...] = setting(
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "paper and attentive probes: learning rates, trained side by side on the same crops",
        unit="per 256 samples",
        gt=0,
    )
    paper_decay: float = setting(0.0, "paper and attentive probes: weight decay", ge=0)
    paper_epochs: int = setting(90, "paper and attentive probes: passes over the augmented images", unit="epochs", ge=1)
    paper_batch: int = setting(256, "paper and attentive probes: minibatch", unit="images", ge=2)
    paper_schedule: Literal["cosine", "step"] = setting(
        "cosine", "paper and attentive probes: cosine to 0, or a tenth of the rate at 60 and at 80 % (MoCo)"
    )
    paper_norm: bool = setting(False, "paper probes: batch norm without scale and shift before the linear layer (MAE)")
    last_n: int = setting(4, "last_n probes: class tokens of how many of the last blocks (DINO: 4)", unit="blocks", ge=1)
    last_average: bool = setting(False, "last_n probes: the last block's mean patch token as well (DINO's ViT-B, with last_n 1)")
    finetune_optim: Literal["adamw", "nesterov", "lars"] = setting(
        "adamw", "fine-tuning, from scratch and supervised: optimiser; momentum 0.9"
    )
    finetune_lrs: tuple[float, ...] = setting(
        (3e-4, 1e-3, 3e-3),
        "fine-tuning, from scratch and supervised: peak rates, one picked on held-out images; warm-up over a tenth, then a cosine to 0",
        unit="absolute: not scaled by the batch",
        gt=0,
    )
    finetune_decay: float = setting(0.0, "fine-tuning, from scratch and supervised: weight decay, not of biases and norms", ge=0)
    finetune_epochs: int = setting(60, "fine-tuning and from scratch: passes over the labelled images", unit="epochs", ge=1)
    finetune_batch: int = setting(64, "fine-tuning and from scratch: minibatch", unit="images", ge=2)
    finetune_holdout: float = setting(
        0.2, "fine-tuning and from scratch: share of the labelled images that picks the rate", ge=0.01, le=0.5
    )
    distill_epochs: int = setting(60, "distillation: the student's passes over all images", unit="epochs", ge=1)
    distill_temperature: float = setting(
        1.0, "distillation: temperature of both predictions (SimCLR v2: 0.1 to itself, 1 to a smaller one)", gt=0
    )
    distill_labelled: float = setting(
        0.0, "soft_labels: weight w of the labelled images' cross-entropy, 1 - w of the distillation (SimCLR v2, eq. 3: 1 - alpha)", ge=0, lt=1,
    )  # fmt: skip
    distill_start: Literal["untrained", "pretrained"] = setting(
        "untrained", "distillation: the student's first weights; pretrained: those of --student-run or --student-checkpoint"
    )
    crd_weight: float = setting(0.8, "crd: weight of the contrast of the student's and the teacher's features (paper: 0.8)", gt=0)
    crd_labelled: float = setting(1.0, "crd: weight of the labelled images' cross-entropy (paper: 1)", ge=0)
    crd_soft: float = setting(1.0, "crd: weight of the teacher's soft labels (paper: CRD 0, CRD + KD 1)", ge=0)
    crd_negatives: int = setting(1024, "crd: other images that each one is contrasted with (paper: 16384)", ge=1)
    crd_temperature: float = setting(0.07, "crd: temperature of the similarities (paper: 0.07)", gt=0)
    crd_momentum: float = setting(0.5, "crd: share of the old row in a memory bank's new one (paper: 0.5)", ge=0, lt=1)
    crd_dim: int = setting(128, "crd: features of the two linear embeddings (paper: 128)", ge=1)
    noisy_iterations: int = setting(3, "noisy_student: students in a row, each the next one's teacher (paper: 3)", ge=1)
    noisy_threshold: float = setting(
        0.3, "noisy_student: images of which the teacher is less sure are left out (paper: 0.3)", unit="probability", ge=0, lt=1
    )
    noisy_per_class: int = setting(
        0,
        "noisy_student: pseudo-labelled images of each class: the surest ones, copies where they are fewer (paper: 130000); 0: unlabelled images / classes",
        unit="images",
        ge=0,
    )
    noisy_labels: Literal["soft", "hard"] = setting(
        "soft", "noisy_student: the teacher's probabilities or its likeliest class (paper: soft)"
    )
    noisy_ratio: float = setting(14.0, "noisy_student: pseudo-labelled images to a labelled one (paper: 14, at last 28)", gt=0)
    noisy_randaugment: tuple[int, int] = setting(
        (2, 9), "noisy_student: RandAugment of the student's images: operations and magnitude, 0 to 10 (paper: 2 and 27 of 30)", ge=0, le=10,
    )  # fmt: skip
    noisy_dropout: float = setting(
        0.5, "noisy_student: dropout before the last layer (paper: 0.5)", unit="probability", ge=0, lt=1
    )
    noisy_drop_path: float = setting(
        0.2,
        "noisy_student: stochastic depth of a ViT at its last block (paper: 0.2, survival 0.8)",
        unit="probability",
        ge=0,
        lt=1,
    )
    layer_decay: float = setting(
        1.0, "fine-tuning ViTs: factor of the rate from each block to the one before it (MAE: 0.65); 1: none", gt=0, le=1
    )
    dense_steps: int = setting(
        300, "detection and segmentation: optimiser steps (MoCo on VOC: 24 000); for the built-in scenes", unit="steps", ge=1
    )
    dense_batch: int = setting(16, "detection and segmentation: minibatch (papers: 16)", unit="images", ge=2)
    dense_lr: float = setting(
        0.02,
        "detection and segmentation: rate of SGD, all layers trained (papers: 0.02); warmed up, a tenth after 3/4, a hundredth after 11/12 of the steps",
        unit="absolute: not scaled by the batch",
        gt=0,
    )
    dense_decay: float = setting(1e-4, "detection and segmentation: weight decay (papers: 1e-4)", ge=0)
    dense_size: int = setting(
        0, "detection and segmentation: images' shorter side (papers: 800 on VOC and COCO); 0: the data's median", unit="px", ge=0
    )
    dense_flip: float = setting(
        0.5, "detection and segmentation: horizontal flip; the built-in scenes are digits and never flipped", unit="probability",
        ge=0, le=1,
    )  # fmt: skip
    dense_proposals: int = setting(
        64, "detection: proposals that train the box head, per image; twice as many are tested (papers: 512)", ge=8
    )
    batch_size: int = setting(256, "images encoded at once", unit="images", ge=1)
    final: bool = setting(True, "measure the trained encoder, the untrained one and raw pixels on the test set at the end")


@dataclass(frozen=True)
class TrackConfig:
    """Where MLflow keeps the outcomes."""

    uri: str = setting("", "MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder")
    experiment: str = setting("contray", "MLflow experiment")
    name: str = setting("", "name of the run; empty: method-preset-hash of the config")
    again: bool = setting(
        False, "where the run's MLflow run is gone (deleted, or kept in a store that was lost): begin a new one in its place"
    )
    model: bool = setting(True, "keep the encoder as an MLflow model (safetensors, no pickle)")
    listeners: tuple[str, ...] = setting(
        (), "who is told of the run besides MLflow: your own mine.py, or an installed one's name"
    )
