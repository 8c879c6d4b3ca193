"""A whole network trained with labels, all or a few: what fine-tuning, its references, teachers and students have in common.

B minibatch, D features, C classes
"""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ... import data, model
from ...config import RunConfig
from ...data.draws import generator
from ...data.listed import named, read_for
from ...data.lists import TABLES
from ...errors import ConfigError, UserError
from ...methods._base import Batch, Method, View
from ...model.anatomy import depths, networks_in, undecayed
from ...model.optim import LARS
from .._base import Subject
from ..linear import MOMENTUM
from .labelled import CroppedImages, Inputs, first_inputs, score
from .samples import check_labels
from .settings import FineTuning

SUBSET = 20_200_617  # seed of the labelled subsets; the date of SimCLR v2's first version

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """The labelled images of an experiment: sorted ids, and a name for metrics such as 1pct or 10perclass."""

    ids: np.ndarray
    name: str


def labelled_subset(split: data.Split, labels: str) -> Subset:
    """`labels` of a training set: a fraction such as "0.01", "1.0", or "10-per-class"; as many of each class, as far as it has them.

    A pure function of the data's labels: the same images for every method, backbone and seed, and fewer labels are a subset of more.
    1.0 means all images, however unequal the classes. Raises UserError for what cannot be read or gives a class no image.
    """
    known = split.labels
    assert known is not None
    ids = split.known
    classes = np.unique(known[ids])
    each = re.fullmatch(r"([1-9]\d*)-per-class", labels)
    try:
        fraction = 0.0 if each else float(labels)
    except ValueError:
        fraction = math.nan
    if not each and not 0 < fraction <= 1:
        raise UserError(
            f"--labels: got {labels!r}, must be a fraction of the labels in (0, 1], a number per class such as 10-per-class, or a list of images "
            "(.txt, .csv or .parquet)"
        )
    count = int(each[1]) if each else round(fraction * len(ids) / len(classes))
    if not count:
        raise UserError(f"--labels: {labels} of {len(ids)} images in {len(classes)} classes is less than one of each")
    if fraction == 1:
        return Subset(ids, "100pct")
    rng = generator(SUBSET, "labels")
    picked = np.concatenate([rng.permutation(np.flatnonzero(known == label))[:count] for label in classes])
    name = f"{count}perclass" if each else f"{100 * fraction:g}pct".replace(".", "_")
    return Subset(np.sort(picked), name)


def listed_subset(source: data.Source, place: str) -> Subset:
    """The training images that a list names, such as SimCLR's 1 % of ImageNet, called by the name of its file. Raises ConfigError, of --labels."""
    listed = read_for(source, "--labels", place)
    ids, note = named(source, listed)
    ids = np.intersect1d(ids, source.train.known)
    if note:
        logger.warning("--labels: of %s%s", place, note.replace(";", ":", 1))
    if len(np.unique(np.asarray(source.train.labels)[ids])) < 2:
        raise UserError(f"--labels: {listed.place} names images of fewer than two classes of {source.name}")
    return Subset(ids, re.sub(r"\W", "_", Path(listed.place).stem))


class Classifier(nn.Module):
    """A method's encoder and a linear layer on it, trainable whole: inputs of B images -> class scores (B, C).

    It goes on from the tap `projector1` where the method has one (SimCLR v2, §2 and figure 5: the projector's first layer is
    kept), else from `encode`. The layer starts at zero, so that pretrained features are not pulled about by a random one.
    """

    def __init__(self, method: Method, inputs: Inputs, classes: int, project: bool = True) -> None:
        super().__init__()
        self.method = copy.deepcopy(method)
        for p in self.method.parameters():
            p.requires_grad_(p.is_floating_point())
        self.method.eval()
        self.project = project and "projector1" in self.method.taps(inputs)
        features = self.features(inputs)  # (1, D)
        reached = torch.autograd.grad(features.float().sum(), list(self.method.parameters()), allow_unused=True)
        for p, gradient in zip(self.method.parameters(), reached, strict=True):
            p.requires_grad_(gradient is not None)  # predictors, other heads and the networks that do not encode have no part
        dtype = next(self.method.parameters()).dtype
        self.head = nn.Linear(features.shape[1], classes, device="meta", dtype=dtype).to_empty(device=features.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, inputs: Inputs) -> Tensor:
        return self.method.taps(inputs)["projector1"] if self.project else self.method.encode(inputs)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.head(self.features(inputs))


def rate_scales(network: Classifier, layer_decay: float, key: str) -> dict[str, float]:
    """The factor of the rate of each trainable parameter, by name: layer_decay^(blocks above), 1 for head and last norm.

    BEiT's and MAE's rule (He et al. 2022, appendix A): patches, class token and positions lie below the first block.
    Raises ConfigError, of the keys that start with `key`, where layer_decay is below 1 and the backbone has no blocks.
    """
    scales = {name: 1.0 for name, p in network.named_parameters() if p.requires_grad}
    if layer_decay == 1:
        return scales
    nets = {name: found for name, net in networks_in(network).items() if (found := depths(net)) is not None}
    if not nets:
        raise ConfigError(f"{key}layer_decay", f"got {layer_decay:g}, but the backbone has no transformer blocks; 1 means none")
    for prefix, layers in nets.items():
        for own, layer in layers.items():
            if f"{prefix}.{own}" in scales:
                scales[f"{prefix}.{own}"] = layer_decay ** (max(layers.values()) - layer)
    return scales


def optimizer_of(network: Classifier, options: FineTuning, key: str) -> Optimizer:
    """Parameter groups carry `scale`; biases, norms, other 1-D parameters and those of no_weight_decay() do not decay.

    LARS adapts all but the classifier, and has the rate in the velocity (google-research/simclr, `model_util.py`): the classifier starts at zero,
    where an adapted rate would be next to none.
    """
    bare = undecayed(network)
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    scales = rate_scales(network, options.layer_decay, key)
    for name, p in network.named_parameters():
        if p.requires_grad:
            decay = options.decay if p.ndim > 1 and id(p) not in bare else 0.0
            groups.setdefault((scales[name], decay, not name.startswith("head.")), []).append(p)
    given = [
        {"params": params, "scale": scale, "weight_decay": decay, "adapted": adapted}
        for (scale, decay, adapted), params in groups.items()
    ]
    if options.optim == "lars":
        return LARS(given, lr=0.0, momentum=MOMENTUM, rate_in_velocity=True)
    if options.optim == "nesterov":
        return SGD(given, lr=0.0, momentum=MOMENTUM, nesterov=True)
    return AdamW(given, lr=0.0)


def warmed_cosine(step: int, steps: int, warmup: float) -> float:
    """The rate of a step as a share of its peak: up over the share `warmup` of the steps, then half a cosine to 0."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(steps - warm, 1))


Loss = Callable[[Classifier, Batch, Tensor], Tensor]  # (network, batch, labels (B,) or (B, C)) -> the mean over the batch


def by_labels(network: Classifier, batch: Batch, y: Tensor) -> Tensor:
    """Cross-entropy with the labels."""
    return F.cross_entropy(network(batch.views).float(), y)


@dataclass(frozen=True)
class Recipe:
    """How fine-tuning trains besides its rates: views of the crops (None: `cropped_views`), loss, and what is changed of a network anew."""

    views: Mapping[str, View] | None = None
    loss: Loss = by_labels
    change: Callable[[Classifier], Classifier] = lambda network: network


def train_classifier(
    network: Classifier,
    config: RunConfig,
    options: FineTuning,
    key: str,
    images: CroppedImages,
    steps: int,
    lr: float,
    told: Callable[[int, float], None],
    loss_of: Loss = by_labels,
) -> None:
    """End to end with batch statistics; `told` gets each step's number and loss. Ends where the loss is no number."""
    optimizer = optimizer_of(network, options, key)
    network.train()
    for step, (batch, y) in enumerate(images(steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr * group["scale"] * warmed_cosine(step, steps, options.warmup)
        with model.autocast(config, images.device), batch.norm("blocks"):
            loss = loss_of(network, batch, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = loss.item()
        told(step + 1, now)
        if not math.isfinite(now):
            break
    network.eval()


@dataclass(frozen=True)
class Budget:
    """What each network gets: images that fit and that pick the rate, minibatch, and steps or epochs; `refit`: then all images at the picked rate."""

    fit: np.ndarray
    val: np.ndarray
    batch_size: int
    steps: int = 0  # 0: the epochs say it
    epochs: int = 0
    refit: bool = False


@dataclass(frozen=True)
class Outcome:
    """The metrics by name, and of each kind the network it ended as and the one that was picked before a refit, in evaluation mode."""

    metrics: dict[str, float]
    networks: dict[str, Classifier]
    picked: dict[str, Classifier]


def best_of(
    names: Mapping[str, Callable[[], Classifier]],
    subject: Subject,
    options: FineTuning,
    key: str,
    budget: Budget,
    loss_of: Loss = by_labels,
    images: CroppedImages | None = None,
    views: Mapping[str, View] | None = None,
) -> Outcome:
    """{name}_val_top1 and, on the test set, {name}_top1 for each kind of network in `names`, which builds one anew at each call.

    The rate with the best held-out top-1 wins, of equals the one with the smaller held-out loss. The test set is opened last.
    options: whose keys start with `key`; images: what is trained on instead of random crops of `budget.fit`; views: of the crops.
    """
    config, source, device, test = subject.config, subject.source, subject.device, subject.test
    lrs = sorted(options.lrs)
    fit = images or CroppedImages(config, source.train, budget.fit, budget.batch_size, device, views)
    both = CroppedImages(
        config, source.train, np.sort(np.concatenate([budget.fit, budget.val])), budget.batch_size, device, views
    )

    def steps_on(images: CroppedImages) -> int:
        return budget.steps or budget.epochs * images.steps_per_epoch

    total = len(names) * (len(lrs) * steps_on(fit) + (steps_on(both) if budget.refit else 0))
    done = 0
    results: dict[str, float] = {}
    finals: dict[str, Classifier] = {}
    picked: dict[str, Classifier] = {}

    def trained(name: str, images: CroppedImages, lr: float) -> Classifier:
        nonlocal done
        network, steps = names[name](), steps_on(images)

        def told(step: int, loss: float) -> None:
            subject.show({"step": done + step, "total": total, "phase": f"{name}, rate {lr:g}", "loss": loss})

        train_classifier(network, config, options, key, images, steps, lr, told, loss_of)
        done += steps
        return network

    def measured(network: Classifier, split: data.Split, ids: np.ndarray) -> tuple[float, float]:
        top1, loss = score(config, split, ids, lambda inputs: network(inputs)[None], device)
        return float(top1[0]), float(loss[0])

    for name in names:
        kept: tuple[tuple[float, float], float, Classifier] | None = None
        for lr in lrs:
            network = trained(name, fit, lr)
            top1, loss = measured(network, source.train, budget.val)
            rank = (top1, -loss)
            if math.isfinite(loss) and (kept is None or rank > kept[0]):
                kept = rank, lr, network
        if kept is None:
            raise ConfigError(f"{key}lrs", f"{name} diverged with each of {' '.join(f'{lr:g}' for lr in lrs)}; give smaller ones")
        (top1, _), lr, network = kept
        picked[name] = network
        if len(lrs) > 1 and lr in (lrs[0], lrs[-1]):
            logger.info("%s: rate %g is on the edge of %slrs", name, lr, key)
        results[f"{name}_val_top1"] = top1
        finals[name] = trained(name, both, lr) if budget.refit else network
        if test is not None:
            results[f"{name}_top1"] = measured(finals[name], test, np.arange(len(test)))[0]
    return Outcome(results, finals, picked)


@dataclass(frozen=True)
class FewLabels:
    """The labelled part of a training set: all of it, what of it fits, and what picks a rate. Raises UserError where nothing is left for that."""

    subset: Subset
    fit: np.ndarray
    val: np.ndarray

    @classmethod
    def of(cls, source: data.Source, labels: str, holdout: float) -> FewLabels:
        check_labels(source)
        listed = Path(labels).suffix.lower() in (".txt", *TABLES)
        subset = listed_subset(source, labels) if listed else labelled_subset(source.train, labels)
        fit, val = data.holdout(source.train, holdout, SUBSET, subset.ids)
        if not len(val):
            raise UserError(
                f"--labels: {labels} leaves nothing to pick a rate by: every class has images of one group only; take more"
            )
        return cls(subset, fit, val)


def finetuned(
    subject: Subject,
    few: FewLabels,
    options: FineTuning,
    key: str,
    budget: Budget,
    kinds: tuple[str, ...] = ("finetune", "scratch"),
    recipe: Recipe | None = None,
) -> Outcome:
    """finetune_1pct_top1 of the pretrained network and scratch_1pct_top1 of the untrained one (1pct: see `labelled_subset`), and _val_top1.

    kinds: the names' beginnings; those of "scratch" start untrained.

    Both get the same images, steps and rates. Only labels of the subset are used: a part of it picks the rate, then the network is
    trained on all of it. Raises UserError and ConfigError before any training.
    """
    subject.alone(key.split(".")[1])
    method = subject.method
    inputs = first_inputs(subject.config, subject.source.train, few.subset.ids, subject.device)
    recipe = recipe or Recipe()
    starts = {kind: subject.untrained if kind.startswith("scratch") else method for kind in kinds}

    def network(kind: str) -> Classifier:
        return recipe.change(Classifier(starts[kind], inputs, subject.classes))

    rate_scales(network(kinds[0]), options.layer_decay, key)
    names = {f"{kind}_{few.subset.name}": partial(network, kind) for kind in kinds}
    return best_of(names, subject, options, key, budget, recipe.loss, views=recipe.views)


def supervised(subject: Subject, options: FineTuning, key: str) -> Outcome:
    """supervised_top1: the untrained encoder of this run trained with the labels, in as many steps and as large batches as pretraining.

    On the images that linear probes fit; the same held-out part as theirs picks the rate.
    """
    config, source = subject.config, subject.source
    subject.alone(key.split(".")[1])
    check_labels(source)
    fit, val = subject.held_out
    batch, steps = min(config.train.batch_size, len(fit)), config.total_steps(len(source.train))
    inputs = first_inputs(config, source.train, fit, subject.device)

    def network() -> Classifier:
        return Classifier(subject.untrained, inputs, subject.classes, project=False)

    rate_scales(network(), options.layer_decay, key)
    return best_of({"supervised": network}, subject, options, key, Budget(fit, val, batch, steps))
