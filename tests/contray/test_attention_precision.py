"""Attention of a CPU under bf16 autocast: fp32 inside, bf16 outside, for networks of any make."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from contray import RunConfig, model

CPU = torch.device("cpu")


def bf16() -> torch.autocast:
    return model.autocast(RunConfig.make("simclr", {"train.precision": "bf16"}, preset="digits"), CPU)


def drawn(dtype: torch.dtype, tokens: int = 17) -> list[Tensor]:
    """Queries, keys and values of large logits, where bf16 would show."""
    generator = torch.Generator().manual_seed(0)
    return [(4 * torch.randn(2, 3, tokens, 8, generator=generator)).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("mask", ["none", "bool", "float", "causal"])
def test_it_is_computed_in_fp32(mask: str) -> None:
    options = {
        "none": {},
        "bool": {"attn_mask": torch.ones(17, 17, dtype=torch.bool).tril()},
        "float": {"attn_mask": torch.randn(17, 17, generator=torch.Generator().manual_seed(1))},
        "causal": {"is_causal": True},
    }[mask]
    here, there = drawn(torch.bfloat16), [x.detach().float().requires_grad_() for x in drawn(torch.bfloat16)]
    with bf16():
        found = scaled_dot_product_attention(*here, **options, scale=0.3)
    assert found.dtype == torch.bfloat16
    wanted = scaled_dot_product_attention(*there, **options, scale=0.3)
    assert_close(found, wanted.bfloat16(), rtol=0, atol=0)
    found.float().square().sum().backward()
    wanted.bfloat16().float().square().sum().backward()
    for x, y in zip(here, there, strict=True):
        assert_close(x.grad, y.grad.bfloat16(), rtol=0, atol=0)  # pyright: ignore[reportOptionalMemberAccess]


def test_what_autocast_leaves_alone_stays() -> None:
    with bf16():
        assert scaled_dot_product_attention(*drawn(torch.float64)).dtype == torch.float64
        assert scaled_dot_product_attention(*drawn(torch.float32)).dtype == torch.bfloat16
    assert scaled_dot_product_attention(*drawn(torch.float32)).dtype == torch.float32
    query, key, value = drawn(torch.float32)
    with bf16():  # one that a norm left in fp32, beside others
        assert scaled_dot_product_attention(query, key.bfloat16(), value.bfloat16()).dtype == torch.bfloat16


def test_it_can_be_compiled() -> None:
    layer = nn.MultiheadAttention(16, 2, batch_first=True)
    tokens = torch.randn(2, 5, 16)

    def attended(x: Tensor) -> Tensor:
        return layer(x, x, x, need_weights=False)[0]

    with bf16():
        assert_close(torch.compile(attended, backend="aot_eager")(tokens), attended(tokens), rtol=0, atol=0)
