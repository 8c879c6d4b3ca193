"""CPC against a slow, literal transcription of its equations: no golden vectors exist."""

import pytest
import torch
from torch.testing import assert_close

from contray import model
from contray.config import RunConfig
from contray.methods._base import Batch, Clock
from contray.methods.cpc import Block

CLOCK = Clock(0, 10, 10, 5)


def built(preset):
    config = RunConfig.make("cpc", {"backbone.width": 4, "train.precision": "fp64"}, preset=preset)
    return model.build(config, 100)


def turned(grid, times):
    """(N, G, G, ...) rotated counter-clockwise, by hand."""
    for _ in range(times):
        side = grid.shape[1]
        grid = torch.stack([grid[:, :, side - 1 - i] for i in range(side)], 1)
    return grid


@pytest.mark.parametrize("preset", ["digits", "digits_v2"])
def test_loss_is_info_nce_of_each_prediction_among_all_patches(preset):
    torch.manual_seed(0)
    method = built(preset)
    size, side, features = 5, 4, method.out_dim
    grid = torch.randn(size, side, side, features, dtype=torch.float64)
    slot = torch.arange(size)
    batch = Batch({}, slot, slot, size)
    ours = method.loss({"grid": grid}, batch, CLOCK)["loss"]

    target = grid @ method.target.weight.T
    losses = []
    for turns in range(method.config.directions):
        seen = method.contexts[turns](turned(grid, turns).permute(0, 3, 1, 2)).relu()
        aims = turned(target, turns)
        for number, down in enumerate(range(method.config.nearest, method.config.farthest + 1)):
            terms = []
            for n in range(size):
                for i in range(side - down):
                    for j in range(side):
                        predicted = method.predictors[turns](seen[n : n + 1, :, i : i + 1, j : j + 1]).flatten()[64 * number :][
                            :64
                        ]
                        scores = torch.stack([predicted @ aim / 64**0.5 for aim in target.flatten(0, 2)])
                        right = predicted @ aims[n, i + down, j] / 64**0.5
                        terms.append(-(right - scores.logsumexp(0)))
            losses.append(torch.stack(terms).mean())
    assert_close(ours, torch.stack(losses).mean(), rtol=1e-9, atol=1e-9)


def test_the_context_never_sees_the_rows_below():
    torch.manual_seed(0)
    context = torch.nn.Sequential(Block(6, 5), Block(6, 5)).double()
    grid = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    before = context(grid)
    grid[:, :, 2:] += 1.0
    after = context(grid)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2:], after[:, :, 2:])


def test_features_are_of_each_patch_alone():
    method = built("digits").eval()
    patches = torch.randn(3, 16, 3, 14, 14, dtype=torch.float64)
    whole = method.features(patches)
    for n, i, j in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):
        assert_close(whole[n, i, j], method.backbone(patches[n, 4 * i + j][None])[0])
