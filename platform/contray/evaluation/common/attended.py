"""What a vision transformer's class token looks at, and how much of it is the object (Caron et al. 2021, https://arxiv.org/abs/2104.14294, §4.2.2).

Legend of shapes: B images, A heads, h x w the grid of patches, H x W the pixels that it covers.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import UserError
from ...methods._base import Method
from ...model.anatomy import attention, attention_in, transformers_in
from .tokens import inputs_of

MASS = 0.6  # of the attention that is kept
COLUMN = "mask"  # of the data: the object's


def overlap(attention: Tensor, objects: Tensor) -> Tensor:
    """(B,) the Jaccard overlap of objects (B, H, W) bool with what holds MASS of the attention (B, A, h, w) of the head that has the largest."""
    return jaccard(enlarged(keep(attention, MASS), objects.shape[1:]), objects[:, None]).amax(1)


def attended(method: Method, inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """(B, A, h, w) attention of the class token to patches of the input `name` in the last block, a share of 1 in sum with its own."""
    nets = [net for net in transformers_in(method) if net.prefix]
    layers = {layer: net for net in nets if (layer := attention_in(net.blocks[-1])) is not None}
    image = inputs[name]
    for layer, x in inputs_of(method, inputs, list(layers)).items():  # (B, P+L, D), what queries and keys are made of
        net = layers[layer]
        grid = net.grid(image) if image.ndim == 4 else (0, 0)
        if x.shape[:2] == (len(image), net.prefix + grid[0] * grid[1]):
            return attention(layer, x)[:, :, 0, net.prefix :].unflatten(2, grid)  # (B, A, h, w)
    raise UserError(
        "this encoder has no class token that looks at patches of the whole image; it takes a vision transformer "
        "(--backbone.name vit_mini and the like when it is trained)"
    )


def keep(attention: Tensor, mass: float) -> Tensor:
    """(..., h, w) attention -> (..., h, w) bool: the fewest patches that hold this share of it, as in the release's figures.

    The patches that get least go, as long as they hold no more than 1 - mass together.
    """
    shares, order = (attention / attention.sum((-2, -1), keepdim=True)).flatten(-2).double().sort(-1)  # (..., L), the least first
    kept = shares.cumsum(-1) > 1 - mass
    return kept.gather(-1, order.argsort(-1)).unflatten(-1, attention.shape[-2:])


def enlarged(cells: Tensor, size: tuple[int, ...]) -> Tensor:
    """(..., h, w) -> (..., H, W): each patch's value on all its pixels. `size` is a multiple of the grid."""
    rows, columns = size[0] // cells.shape[-2], size[1] // cells.shape[-1]
    return cells.repeat_interleave(rows, -2).repeat_interleave(columns, -1)


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of masks (..., H, W) bool -> (...), float64; 0 where both are empty."""
    both, either = (a & b).sum((-2, -1)).double(), (a | b).sum((-2, -1)).double()
    return both / either.clamp_min(1)
