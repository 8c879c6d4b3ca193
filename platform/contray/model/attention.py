"""Attention on a CPU under bf16 autocast: in fp32, as a GPU's kernels have it inside."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.library import Library

attend = torch.ops.aten.scaled_dot_product_attention


def _in_fp32(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`; what comes out is bf16 as ever. In fp64 nothing is cast, by autocast neither."""
    dtype = query.dtype if query.dtype == torch.float64 else torch.get_autocast_dtype("cpu")
    inside = torch.promote_types(dtype, torch.float32)
    mask = attn_mask.to(inside) if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    with torch.autocast("cpu", enabled=False):
        out = attend(
            query.to(inside), key.to(inside), value.to(inside), mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    return out.to(dtype)


@cache
def attend_in_fp32() -> Library:
    """Have every network of this process do so, whoever wrote its blocks.

    torch's own kernel for bf16 works out the gradients of short sequences slowly: 128 images of 65 tokens, three heads of 64, take 104 ms forward
    and backward on one core with AVX512-BF16, and 39 ms so (fp32 throughout: 31 ms); 785 tokens take about the same.
    """
    library = Library("aten", "IMPL")
    library.impl("scaled_dot_product_attention", _in_fp32, "AutocastCPU")
    return library  # which undoes it when nobody holds it
