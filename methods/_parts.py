"""What several methods share: heads, contrastive losses, memory banks, schedules.

Legend: B rows of this rank, N rows of the global batch, R = V*B rows of V crops, D features.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Batch, Limit, Reps
from ._norms import BatchNorm, DropPath
from ._ranks import full, gather, total
from ._similarity import hits, identify, tiled


def normalize(x: Tensor) -> Tensor:
    """L2-normalised rows, in at least float32."""
    return F.normalize(full(x), dim=-1)


def precise(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Similarities and losses are computed outside autocast: bf16 has three digits, a temperature of 0.07 needs more."""

    @functools.wraps(loss)
    def run(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return loss(first, *args, **kwargs)

    return run


# ---------------------------------------------------------------- layers and heads


def norm_layer(kind: str, width: int) -> nn.Module:
    """A norm for (R, width): bn, bn_scale (no shift), bn_plain (no scale, no shift), ln, gn (16 groups), none."""
    if kind == "gn":
        return nn.GroupNorm(next(groups for groups in range(16, 0, -1) if width % groups == 0), width)
    if kind == "ln":
        return nn.LayerNorm(width)
    if kind == "none":
        return nn.Identity()
    return BatchNorm(width, scale=kind != "bn_plain", shift=kind == "bn")


def mlp(
    *widths: int,
    norm: str = "bn",
    last_norm: str = "none",
    activation: type[nn.Module] = nn.ReLU,
    last_bias: bool = True,
) -> nn.Sequential:
    """Linear layers of these widths, each but the last followed by `norm` and `activation`, the last by `last_norm` (see `norm_layer`).

    A layer before a norm has no bias: it would have no effect, and AdamW would blow its rounding noise up. last_bias: whether the last has one
    where no norm follows it.
    """
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        kind = last_norm if last else norm
        layers += [
            nn.Linear(inputs, outputs, bias=kind == "none" and (last_bias or not last)),
            norm_layer(kind, outputs),
            nn.Identity() if last else activation(),
        ]
    return nn.Sequential(*[layer for layer in layers if not isinstance(layer, nn.Identity)])


def transformer(width: int, heads: int, blocks: int, eps: float = 1e-5) -> nn.Sequential:
    """(B, L, width) -> (B, L, width): pre-norm blocks without dropout, four times as wide inside, and a norm behind them; eps: of the norms."""
    options: dict[str, Any] = {
        "dropout": 0.0,
        "activation": "gelu",
        "layer_norm_eps": eps,
        "batch_first": True,
        "norm_first": True,
    }
    layers = [nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.LayerNorm(width, eps=eps))


def narrow(weight: Tensor | None) -> Tensor:
    """Draws `weight` from a normal of 0.02 cut at one standard deviation (BEiT and its followers); what is left has one of 0.0108."""
    assert weight is not None
    return nn.init.trunc_normal_(weight, std=0.02, a=-0.02, b=0.02)


def xavier(net: nn.Module) -> None:
    """Draws all linear layers within `net` by Xavier, without biases (He et al. 2022, `models_mae.py`); attention has q, k and v in one, as torch draws them."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def sincos_2d(width: int, rows: int, columns: int) -> Tensor:
    """Fixed position embedding of a grid (Chen et al. 2021, He et al. 2022): (rows * columns, width), row by row.

    The first half of the features encodes the column, the second the row, each half sine before cosine. width: a multiple of 4.
    """
    omega = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))  # (width / 4,)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * omega for place in (x, y)]  # (L, width / 4) each
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()


def average_of(net: nn.Module) -> Any:
    """What is to become a network's slow average: an exact copy, without gradients, that leaves no residual branch out."""
    target = copy.deepcopy(net).requires_grad_(False)
    for module in target.modules():
        if isinstance(module, DropPath):
            module.rate = 0.0
    return target


# ---------------------------------------------------------------- patches


def pick(x: Tensor, places: Tensor) -> Tensor:
    """Rows of (B, L, D) at `places` (B, M): (B, M, D)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))


def apart(net: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """A transformer's tokens (B, P+L, D) -> its class token (B, D), or the mean patch where there is none, and its patches (B, L, D).

    Registers, which stand between the two, belong to neither.
    """
    prefix = int(getattr(net, "num_prefix_tokens", 1))
    patches = tokens[:, prefix:]
    return tokens[:, 0] if prefix else patches.mean(1), patches


@precise
def standard(x: Tensor) -> Tensor:
    """Features (..., D) of each token with mean 0 and variance 1, in at least float32."""
    return F.layer_norm(full(x), x.shape[-1:])


def input_channels(net: nn.Module) -> int:
    """Channels of the images that a network takes, by its first convolution; 3 where it has none."""
    return next((layer.in_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)), 3)


def encode_crops(net: nn.Module, batch: Batch, *names: str) -> Reps:
    """Features of all crops of these view entries, one pass for each, for their sizes differ: (B, V, F) by name. Entries that the batch lacks are left out."""
    counts = {name: sum(key.startswith(name) for key in batch.views) for name in names}
    return {name: net(batch.crops(name)).unflatten(0, (count, -1)).transpose(0, 1) for name, count in counts.items() if count}


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, L, P), P in the order row, column, channel."""
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    cells = images[:, :, : rows * patch, : columns * patch].unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, columns: int, channels: int = 3) -> Tensor:
    """(B, L, P) of a grid of so many columns -> (B, C, H, W): `patchify` undone."""
    patch = math.isqrt(patches.shape[2] // channels)
    cells = patches.unflatten(2, (patch, patch, channels)).unflatten(1, (-1, columns))  # (B, rows, columns, patch, patch, 3)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


# ---------------------------------------------------------------- losses


@precise
def nt_xent(
    a: Tensor, b: Tensor, temperature: float, slot: Tensor, size: int, memory: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """NT-Xent of two views (Chen et al. 2020, eq. 1), the mean over the 2N anchors of the global batch.

    a, b: (B, D), L2-normalised rows of this rank; slot: (B,); memory: (K, D) further negatives of every anchor. Returns this rank's shares of
    the loss and of the share of anchors whose positive is the nearest. (google-research/simclr sums the two directions: twice this value.)
    """
    keys = torch.cat([gather(a, size), gather(b, size)])  # (2N, D)
    own = torch.cat([slot, slot + size])  # (2B,), the anchor itself among the keys
    positive = torch.cat([slot + size, slot])  # (2B,)
    if memory is not None:
        keys = torch.cat([keys, memory.to(keys.dtype)])  # (2N+K, D)
    loss, found = identify(torch.cat([a, b]), keys, positive, temperature, excluded=own)
    return loss / (2 * size), found / (2 * size)


@precise
def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float, size: int) -> tuple[Tensor, Tensor]:
    """InfoNCE against a queue (He et al. 2020, eq. 1): query, key (B, D), queue (K, D), all L2-normalised; mean over the N queries.

    Returns this rank's shares of the loss and of the share of queries whose own key is the nearest.
    """
    loss, found = tiled(_info_nce, (query, key), (queue.to(query.dtype), temperature), 1 + len(queue))
    return loss / size, found / size


def _info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The sum over queries (R, D), each with its own key (R, D) before the queue (K, D)."""
    positive = (query * key).sum(1, keepdim=True)  # (R, 1)
    logits = torch.cat([positive, query @ queue.T], 1) / temperature  # (R, 1+K)
    target = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, target, reduction="sum"), hits(logits, target)


@precise
def compare(predicted: Tensor, targets: Tensor, own: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """InfoNCE (van den Oord et al. 2018, eq. 4) of predictions (R, D) among all targets (N*G*G, D), the right ones at `own` (R,).

    Returns this rank's shares, over `total` predictions, of the loss and of the predictions whose target is the nearest. Products are
    divided by the root of D, as in attention: neither side is normalised.
    """
    loss, found = identify(full(predicted), full(targets), own, predicted.shape[1] ** 0.5)
    return loss / total, found / total


@precise
def negative_cosine(prediction: Tensor, target: Tensor, size: int) -> Tensor:
    """Minus the mean cosine similarity of (B, D) predictions and targets over the global batch (Chen & He 2021, eq. 1): this rank's share.

    BYOL's loss (Grill et al. 2020, eq. 2) is 2 plus twice this. The caller stops the gradient where its paper does.
    """
    return -(normalize(prediction) * normalize(target)).sum() / size


# ---------------------------------------------------------------- memory banks


def new_bank(samples: int, dim: int) -> Tensor:
    """A memory bank (samples, dim) of unit rows, drawn uniformly, then normalised (InstDisc's release leaves the lengths near 1)."""
    return normalize(torch.rand(samples, dim) * 2 - 1)


@precise
def bank_scores(query: Tensor, bank: Tensor, index: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """exp(v . f / T) of (B, D) queries with their own bank row and with drawn ones: (B, 1+K), the own one first.

    index: (B,) sample ids; draws: (B, K) uniform in [0, 1), candidates with replacement.
    """
    drawn = (draws * len(bank)).long().clamp(max=len(bank) - 1)  # (B, K)
    rows = bank[torch.cat([index[:, None], drawn], 1)].to(query.dtype)  # (B, 1+K, D)
    return (torch.einsum("bkd,bd->bk", rows, query) / temperature).exp()


@precise
def nce(scores: Tensor, constant: Tensor, samples: int, size: int) -> Tensor:
    """Noise-contrastive estimation (Wu et al. 2018, eq. 4 to 7) of (B, 1+K) scores over the constant Z: this rank's share of the mean."""
    probabilities = scores / constant  # (B, 1+K)
    noise = (scores.shape[1] - 1) / samples  # K times the uniform noise's density
    positive = (probabilities[:, 0] / (probabilities[:, 0] + noise + 1e-7)).log().sum()
    negative = (noise / (probabilities[:, 1:] + noise + 1e-7)).log().sum()
    return -(positive + negative) / size


@torch.no_grad()
def constant_of(scores: Tensor, samples: int, size: int) -> Tensor:
    """Z, estimated from the scores (B, 1+K) of a global batch (Wu et al. 2018, §3.2): the same on every rank."""
    return total(scores.detach().sum()) / (size * scores.shape[1]) * samples


@torch.no_grad()
def write_bank(bank: Tensor, index: Tensor, rows: Tensor, momentum: float) -> None:
    """Moves the bank's rows of the sample ids `index` (N,) towards `rows` (N, D) and normalises them; ids of a batch differ."""
    bank[index] = normalize(momentum * bank[index] + (1 - momentum) * rows.to(bank.dtype)).to(bank.dtype)


# ---------------------------------------------------------------- clusters


def whiten(x: Tensor, keep: int) -> Tensor:
    """The `keep` largest principal directions of (N, D) rows at unit variance, rows then L2-normalised (Caron et al. 2018, §3.3): (N, keep)."""
    centred = x.double() - x.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending
    variances, directions = variances[-keep:], directions[:, -keep:]
    scale = variances.clamp(min=float(variances.max()) * 1e-9 + 1e-30).rsqrt()
    return F.normalize(centred @ directions * scale, dim=1).to(x.dtype)


@torch.no_grad()
def kmeans(
    x: Tensor, clusters: int, iterations: int, seed: int, *, spherical: bool = False, split_empty: bool = True
) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means of (N, D) rows: centroids (K, D) and the cluster of each row (N,), from K rows that `seed` draws.

    spherical: rows and centroids are unit vectors, compared by cosine. An empty cluster becomes a slightly moved copy of a large
    one and both share its rows from then on (Caron et al. 2018, §3.3), or stays where it was (split_empty=False).
    Raises ValueError where there are fewer rows than clusters.
    """
    if len(x) < clusters:
        raise ValueError(f"clusters: got {clusters}, must be at most the {len(x)} rows there are")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    centroids = x[order[:clusters].to(x.device)].clone()  # (K, D)
    assigned = nearest_centroid(x, centroids)
    for _ in range(iterations):
        counts = torch.bincount(assigned, minlength=clusters)  # (K,)
        means = torch.zeros_like(centroids).index_add_(0, assigned, x) / counts.clamp(min=1)[:, None].to(x.dtype)
        means = F.normalize(means, dim=1) if spherical else means
        centroids = torch.where(counts[:, None] > 0, means, centroids)
        empty = (counts == 0).nonzero().flatten()
        if split_empty and len(empty):
            largest = counts.argsort(descending=True, stable=True)[torch.arange(len(empty), device=x.device) % clusters]
            sign = 1 - 2 * (torch.arange(x.shape[1], device=x.device) % 2).to(x.dtype)  # (D,)
            centroids[empty] = centroids[largest] * (1 + sign / 1024)
            centroids[largest] = centroids[largest] * (1 - sign / 1024)
        assigned = nearest_centroid(x, centroids)
    return centroids, assigned


@torch.no_grad()
def nearest_centroid(x: Tensor, centroids: Tensor) -> Tensor:
    """The nearest of (K, D) centroids for each of (N, D) rows: (N,). In pieces, so that memory stays linear in N."""
    half = centroids.square().sum(1) / 2  # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2)
    return torch.cat([(rows @ centroids.T - half).argmax(1) for rows in x.split(16384)])


# ---------------------------------------------------------------- schedules


def cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` to `end` as `fraction` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2


def queue_limit(samples: int, batch: int) -> Limit:
    """Of a queue of the keys of past batches that are negatives. Above half of the data most keys are older than the encoder learns slowly."""
    older = "the samples less a batch: beyond it a sample's own older keys are among its negatives"
    return Limit(batch, samples - batch, "the global batch, which it takes in each step", older, samples // 2)
