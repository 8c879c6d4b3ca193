"""The sections of a config and every key in them: its default, its sentence of help, its unit and range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..methods._base import setting

BACKBONES = (
    "resnet_small", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "alexnet", "vit_mini", "vit_small", "vit_base", "vit_large",
)  # fmt: skip
LIBRARIES = ("timm/", "torchvision/")  # how names of their networks start


@dataclass(frozen=True)
class LibraryConfig:
    """backbone.timm.* and backbone.torchvision.*"""

    options: tuple[str, ...] = setting(
        (), "arguments of the network's constructor: name=value ..., such as patch_size=4 global_pool=avg"
    )


@dataclass(frozen=True)
class BackboneConfig:
    """The network that the method trains; the heads are the method's own."""

    name: str = setting(
        "resnet50",
        "resnet_small (4 stages of one basic block), resnet18, 34, 50, 101, 152, alexnet (with batch norm), vit_mini (4 blocks of 4 heads), vit_small, "
        "vit_base, vit_large; timm/NAME, torchvision/NAME; the path of your own .py file, or an entry point of `contray.backbones`",
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
        0.0,
        "ViTs, timm's and torchvision's: stochastic depth, rising from 0 to this from the first block to the last",
        unit="probability",
        ge=0,
        lt=1,
    )
    registers: int = setting(
        0, "ViTs: tokens of their own between the class token and the patches (Darcet et al. 2024)", unit="tokens", ge=0
    )
    layer_scale: float = setting(0.0, "ViTs: initial scale of each residual branch, trained per channel; 0: none", ge=0)
    init: Literal["moco_v3", "mae", "trunc_normal", "beit"] = setting(
        "moco_v3",
        "ViTs: how weights are drawn: moco_v3 = Xavier, queries, keys and values each by itself; mae = Xavier, the three as one layer; trunc_normal = "
        "a normal of 0.02 (DINO, DeiT); beit = the same cut at 0.02, and less the deeper a branch ends (BEiT, SimMIM, data2vec)",
    )


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from. `source`: digits, a set of torchvision's, or images as files, Parquet, tar or Arrow, by path or address."""

    source: str = setting(
        "digits",
        "digits | cifar10 | cifar100 | stl10 | stl10_unlabelled | folder of images | Parquet, WebDataset's .tar or Hugging Face's .arrow: a file or a folder "
        "of them | an address of one of these (s3://bucket/photos) | your own mine.py, or an installed one's name",
    )
    root: str = setting("data", "where torchvision's named sets lie or are downloaded to", unit="path")
    download: bool = setting(False, "download a torchvision set that is not under data.root yet")
    image_column: str = setting(
        "image",
        "Parquet, Arrow: column of the images (encoded bytes, or a struct of `bytes` and `path`); tar: their extension, image = any",
    )
    label_column: str = setting(
        "label",
        "Parquet, Arrow: column of the labels; tar: extension of their files, or a key of the .json, label = .cls or .json's; "
        "digits: digit, background or position; empty: no labels",
    )
    size: int = setting(32, "digits: side of the drawn images", unit="px", ge=16, le=256)
    renderings: int = setting(
        4, "digits: samples per handwritten digit, each at its own place on its own background", ge=1, le=64
    )
    share: tuple[str, ...] = setting(("digit",), "digits: factors that all views of a sample share: digit, background, position")
    contrast: float = setting(
        0.35, "digits: how loud the background is; the difficulty knob", unit="fraction of full brightness", ge=0, le=1
    )
    shorter_side: int = setting(
        0,
        "folders and Parquet: images are reduced as they are read, so that their shorter side is at most this; 0: they stay as large as they are",
        unit="px",
        ge=0,
    )
    reduce: Literal["area", "dct"] = setting(
        "area",
        "how data.shorter_side is reached: area = exactly, by means of areas, of JPEGs decoded at the next larger scale; dct = JPEGs alone, at a half, a quarter "
        "or an eighth, their shorter side at least that: quickest",
    )
    channels: int = setting(
        0,
        "files, Parquet and shards: channels of each image, taken as the file has them, in more than 8 bits where it has more (TIFF of any bands and pages, "
        "a file per band, .npy, .npz, DICOM, ...); 0: every image becomes RGB of 8 bits",
        ge=0,
        le=1024,
    )
    range: tuple[float, ...] = setting(
        (),
        "LOW HIGH: the values of images of more than 8 bits that become black and white; measured: of integers the bits that a sample's largest "
        "value needs, of floats 0 to 1 or 0 to 255 where they fit, else what was measured; one for the whole set",
        empty="measured",
    )
    workers: int | Literal["auto"] = setting(
        "auto",
        "processes per training worker that prepare batches, of evaluations too; 0: in the training process; auto: the worker's cores less one, 16 at most; "
        "on a CPU one where the images are in memory",
        ge=0,
    )
    augment_on: Literal["auto", "cpu", "device"] = setting(
        "auto",
        "where views are made: cpu = in the processes of data.workers; device = in batches where the network is, crops (linear, cubic, area), flips, jitter, "
        "grey, blur and solarisation of RGB images alone; auto: device on a GPU where it can make all views, decided once for a run and kept",
    )
    shuffle: Literal["full", "blocks"] = setting(
        "full",
        "an epoch's order: full = a permutation of all samples; blocks = of what is read in shards (Parquet, tar, Arrow) the shards are permuted, and the "
        "samples among data.window of them at a time, so that few shards need to be on this machine at once",
    )
    window: int = setting(16, "data.shuffle blocks: shards whose samples are mixed at a time", unit="shards", ge=1)
    memory_gb: float = setting(4.0, "sets whose decoded images fit are decoded once and kept as uint8", unit="GB", ge=0)
    disk_gb: float = setting(
        0.0,
        "room in data.scratch for copies of shards, of which the least recently used leave first; 0: nine tenths of what is free there",
        unit="GB",
        ge=0,
    )
    scratch: str = setting(
        "",
        "folder on this machine's disk to which shards that cannot be read at random where they lie are copied, for all workers to read; "
        "empty: contray-UID in the system's temporary folder",
        unit="path",
    )
    subset: str = setting(
        "",
        "file whose images alone train, of those that do not test: a name a line as `contray curate` writes it, or a .csv or .parquet with a column "
        "name; empty: all train",
        unit="path",
    )
    labels: str = setting(
        "",
        "file of the training images whose labels evaluations may use (a name a line), or that gives them (NAME LABEL; columns name and label); "
        "pretraining never sees them. empty: all that the source has",
        unit="path",
    )
    test_share: float = setting(
        0.1,
        "labels, and no test set: share of each class's images that tests and never trains, by a hash of their names (Parquet: of file and row "
        "number); 0: all train",
        unit="fraction",
        ge=0,
        le=0.5,
    )
    max_broken: float = setting(
        0.05,
        "share of broken images, of training or test, above which it is refused; one is allowed, unless 0",
        unit="fraction",
        ge=0,
        le=1,
    )


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly views differ, on top of each view's own policy (the `views.*` keys)."""

    strength: float = setting(
        1.0, "scales the photometric policy, InfoMin-style: 0 = crop and flip only, 1 = the paper's", ge=0, le=2
    )
    mean: tuple[float, ...] = setting(
        (0.485, 0.456, 0.406),
        "pixel mean that inputs are normalised by, of each channel, or one for all; measured: of the training set, once",
        unit="of [0, 1]",
        ge=0,
        le=1,
        empty="measured",
    )
    std: tuple[float, ...] = setting(
        (0.229, 0.224, 0.225),
        "pixel standard deviation that inputs are normalised by, of each channel, or one for all; measured: of the training set, once",
        unit="of [0, 1]",
        gt=0,
        le=1,
        empty="measured",
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
    clip_lr: bool = setting(
        False,
        "LARS as solo-learn has it: a tensor's rate is trust |w| / (|g| + weight_decay |w|), but no more than the rate; false: the rate times "
        "trust |w| / |g + weight_decay w|",
    )
    rate_in_velocity: bool = setting(
        False,
        "LARS as SimCLR's release has it: the velocity gathers steps, each at the rate of its time; false: gradients, and the rate of now takes them all",
    )
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
    init: str = setting(
        "",
        "weights that the backbone begins with: a public file, a run's name, id or folder, an export, timm/NAME or torchvision/NAME; empty: drawn anew",
        unit="path",
    )
    init_layout: str = setting("", "whose code wrote the file of train.init (`contray import --help`); empty: as its names tell")
    given: tuple[str, ...] = setting(
        (),
        "written by the run: KEY=DIGEST of the weights that it was given; in a config that is repeated, those that they must be",
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
        (),
        "written by the run: which of precision and channels_last were auto, and which of mean, std and range measured; they count as such in its name",
    )
    budget: float = setting(
        30.0,
        "preset auto: how long the run may take, from its start to its verdict (`contray train --budget 2h`)",
        unit="min",
        gt=0,
    )
    planned: tuple[str, ...] = setting(
        (), "written by the run: the keys that preset auto filled; they count as auto in its name; views: all of views.*"
    )
    planned_for: str = setting("", "written by the run: the data and the machine that its plan was made for")
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
    activation_checkpointing: bool = setting(
        False, "compute what is in the networks' blocks again in the backward pass: less memory, a third more time"
    )
    shard_optimizer: bool = setting(False, "a worker keeps the optimiser's state of its part of the weights (ZeRO 1)")
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
    """What is measured while a run trains and at its end; each evaluation's own keys follow. Selection uses held-out training data only."""

    every_epochs: float = setting(10.0, "how often the online evaluations measure while training; 0: never", unit="epochs", ge=0)
    online: tuple[str, ...] = setting(
        ("knn", "geometry"),
        "evaluations that measure while training, on held-out images; without labels those are left out that need them",
    )
    final: tuple[str, ...] = setting(
        ("knn", "linear", "geometry"), "evaluations that measure the trained encoder at the end, on the test set; empty: none"
    )
    holdout: float = setting(
        0.1,
        "share of the training set that selects (k-NN, probes, trials); labels only, pretraining sees all images",
        ge=0.01,
        le=0.5,
    )
    online_limit: int = setting(
        10_000,
        "images that an online evaluation with labels uses at most, of every class its share; geometry, 2048 at most",
        unit="images",
        ge=100,
    )
    crop: tuple[float, float] = setting(
        (0.0, 0.0),
        "area of the random crop wherever an evaluation trains on augmented images; 0 0: 0.08 1 for probes, as papers have it, else as the method's first view",
        unit="fraction",
        ge=0,
        le=1,
    )
    batch_size: int = setting(256, "images encoded at once", unit="images", ge=1)


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
