"""RankMe, alignment, uniformity and distillation against reference values; and no golden file lies unused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from contray.evaluation import geometry
from contray.evaluation.common.losses import distillation_kl, label_weights, labelled_cross_entropy

VALUES = {"rel": 1e-4, "abs": 1e-5}


def test_rankme(golden):
    g = golden("rankme")
    assert geometry.rankme(torch.from_numpy(g["features"])) == pytest.approx(float(g["rankme"]), **VALUES)


def test_rankme_counts_dimensions():
    x = torch.randn(5000, 3) @ torch.linalg.qr(torch.randn(8, 3)).Q.T
    assert geometry.rankme(x) == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("tile", [1, 7 * 7, 2**22])
def test_alignment_and_uniformity(golden, tile, monkeypatch):
    g = golden("align_uniform")
    monkeypatch.setattr(geometry, "TILE", tile)
    x, y = torch.from_numpy(g["x"]), torch.from_numpy(g["y"])
    assert geometry.alignment(x, y) == pytest.approx(float(g["alignment"]), **VALUES)
    assert geometry.uniformity(x) == pytest.approx(float(g["uniformity"]), **VALUES)
    assert geometry.uniformity(3 * x) == pytest.approx(float(g["uniformity"]), **VALUES), "rows are normalised inside"


def test_uniformity_is_of_pairs():
    assert geometry.uniformity(torch.ones(4, 3)) == pytest.approx(0)
    with pytest.raises(ValueError, match="got 1 row"):
        geometry.uniformity(torch.ones(1, 3))


def test_spread_is_one_over_the_root_of_the_width_and_0_after_collapse():
    generator = torch.Generator().manual_seed(0)
    assert geometry.spread(torch.randn(4000, 64, generator=generator)) == pytest.approx(1 / 8, rel=0.02)
    assert geometry.spread(torch.ones(10, 64) * torch.rand(10, 1, generator=generator)) == pytest.approx(0, abs=1e-12)


def test_distillation_kl(golden):
    g = golden("kd_kl")
    student, teacher = (
        torch.from_numpy(g["student_logits"]).requires_grad_(),
        torch.from_numpy(g["teacher_logits"]).requires_grad_(),
    )
    loss = distillation_kl(student, teacher, float(g["temperature"]))
    assert_close(loss, torch.from_numpy(g["loss"]), rtol=1e-4, atol=1e-5)
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_labelled_images_count_as_their_own_mean():
    scores, y = torch.randn(10, 3), torch.arange(10) % 3
    weights = label_weights(np.array([1, 4, 7, 8]), 10)
    alone = torch.nn.functional.cross_entropy(scores[[1, 4, 7, 8]], y[[1, 4, 7, 8]])
    assert_close(labelled_cross_entropy(scores, y, weights), alone)


def test_every_golden_file_is_used():
    folder = Path(__file__).parent
    sources = "".join(path.read_text() for path in folder.glob("test_*.py"))
    used = set(re.findall(r'golden\("(\w+)"\)', sources))
    assert used == {path.stem for path in (folder.parent / "golden").glob("*.npz")}
