"""CLIP's text tower and temperature against the release: openai/CLIP, clip/model.py, initialize_parameters; the paper's §2.5."""

import math

import pytest
import torch

from contray import model
from contray.checking.steps import batch_of, begun, clock_of, one_step, small
from contray.config import RunConfig
from contray.methods._base import Batch, Clock
from contray.methods._towers import text_tower
from contray.model import optim

WIDTH, BLOCKS = 64, 3


def std(tensor: torch.Tensor) -> float:
    return float(tensor.detach().std())


def test_the_text_tower_starts_as_the_release_does():
    """Standard deviations of initialize_parameters, each block drawn by itself."""
    torch.manual_seed(0)
    settings = {"method.text_width": WIDTH, "method.text_blocks": BLOCKS, "method.dim": 48}
    method = model.build(RunConfig.make("clip", settings, preset="digits"), 100)
    added = WIDTH**-0.5 * (2 * BLOCKS) ** -0.5
    for block in method.text.layers:
        assert std(block.self_attn.in_proj_weight) == pytest.approx(WIDTH**-0.5, rel=0.05)
        assert std(block.self_attn.out_proj.weight) == pytest.approx(added, rel=0.05)
        assert std(block.linear1.weight) == pytest.approx((2 * WIDTH) ** -0.5, rel=0.05)
        assert std(block.linear2.weight) == pytest.approx(added, rel=0.05)
    for first, second in zip(method.text.layers[0].parameters(), method.text.layers[1].parameters(), strict=True):
        constant = std(first) == 0  # norms, and the biases of attention
        assert torch.equal(first, second) == constant
    assert std(method.words.weight) == pytest.approx(0.02, rel=0.05)
    assert std(method.places) == pytest.approx(0.01, rel=0.05)
    assert std(method.text_head.weight) == pytest.approx(WIDTH**-0.5, rel=0.05)
    assert std(method.image_head.weight) == pytest.approx(method.out_dim**-0.5, rel=0.05)


def test_the_tower_is_pre_norm_and_causal_whatever_its_blocks():
    torch.manual_seed(0)
    tower, x = text_tower(16, 2, 4).eval(), torch.randn(2, 5, 16)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    expected = x
    for block in tower.layers:
        y = block.norm1(expected)
        expected = expected + block.self_attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        expected = expected + block.linear2(torch.nn.functional.gelu(block.linear1(block.norm2(expected))))
    torch.testing.assert_close(tower(x, mask=mask, is_causal=True), tower.norm(expected))


def test_the_temperature_stops_at_its_bound_and_still_learns():
    """The parameter is limited after the step, so that its gradient at the bound is that of any other place."""
    config = small("clip", "digits", "fp64", 12, 1).replace({"method.largest_scale": 15.0, "optim.lr": 0.5})
    method = begun(config)
    assert math.exp(-float(method.log_scale.detach())) == pytest.approx(0.07)
    bound, optimizer = math.log(15.0), optim.build(config, method)
    with torch.no_grad():
        method.log_scale.fill_(bound + 1.0)  # as a step may leave it
    method.update({}, batch_of(config, 0, 0, 1), clock_of(0))
    assert float(method.log_scale.detach()) == pytest.approx(bound)
    slot = torch.arange(3)
    wrong = {"image": torch.eye(3, method.out_dim).double(), "text": torch.randn(3, method.text_head.in_features).double()}
    method.loss(wrong, Batch({}, slot, slot, 3), Clock(0, 10, 10, 5))["loss"].backward()
    assert method.log_scale.grad is not None
    assert abs(float(method.log_scale.grad)) > 1e-3
    method.zero_grad()
    for step in range(3):
        one_step(config, method, optimizer, step, 0, 1)
        assert float(method.log_scale.detach()) <= bound
