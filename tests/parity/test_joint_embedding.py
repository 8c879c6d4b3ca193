"""VICReg, NNCLR, LeJEPA, SigLIP and DenseCL against slow, literal transcriptions of their papers and of the authors' losses."""

import cmath
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from contray.methods import densecl, lejepa, nnclr, siglip, vicreg
from contray.methods._base import Batch
from tests.parity.test_transcriptions import CLOCK, built, unit


def batch_of(rows, step=0):
    return Batch({}, torch.arange(rows), torch.arange(rows), rows, seed=1, step=step)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


# ---------------------------------------------------------------- VICReg


def test_vicreg_is_distance_hinge_of_deviations_and_squared_covariances():
    x, y = (0.5 * draw(6, 4)).detach().requires_grad_(), draw(6, 4, seed=1)
    apart = sum((x[i, j] - y[i, j]) ** 2 for i in range(6) for j in range(4)) / 24
    flat = tied = 0.0
    for z in (x, y):
        means = [sum(z[i, j] for i in range(6)) / 6 for j in range(4)]
        covariance = [
            [sum((z[i, a] - means[a]) * (z[i, b] - means[b]) for i in range(6)) / 5 for b in range(4)] for a in range(4)
        ]
        flat += sum(torch.relu(1 - torch.sqrt(covariance[j][j] + 1e-4)) for j in range(4)) / 4 / 2
        tied += sum(covariance[a][b] ** 2 for a in range(4) for b in range(4) if a != b) / 4
    ours = vicreg.regularize(x, y, 6)
    assert_close(torch.stack(ours), torch.stack([apart, flat, tied]))
    weighed = 25 * apart + 25 * flat + tied
    assert_close(torch.autograd.grad(25 * ours[0] + 25 * ours[1] + ours[2], [x, y]), torch.autograd.grad(weighed, [x, y]))


# ---------------------------------------------------------------- NNCLR


def test_nnclr_compares_the_nearest_of_the_queue_with_all_predictions():
    torch.manual_seed(0)
    method = built("nnclr", **{"method.queue_size": 64})
    h = [draw(5, method.out_dim), draw(5, method.out_dim, seed=1).detach()]
    expected = found = 0.0
    z = [method.projector(rows) for rows in h]
    p = [method.predictor(rows) for rows in z]
    for one, other in ((0, 1), (1, 0)):
        for i in range(5):
            similarities = [float(z[one][i].detach() @ q / z[one][i].detach().norm()) for q in method.queue]
            friend = method.queue[max(range(64), key=similarities.__getitem__)]
            scores = torch.stack([torch.exp(friend @ p[other][k] / p[other][k].norm() / 0.2) for k in range(5)])
            expected -= torch.log(scores[i] / scores.sum()) / 10
            found += float(scores.argmax() == i) / 10
    out = method.loss({"first": h[0], "second": h[1]}, batch_of(5), CLOCK)
    assert_close(out["loss"], expected)
    assert float(out["contrast_top1"]) == pytest.approx(found)
    weight = method.projector[0].weight
    assert_close(torch.autograd.grad(out["loss"], weight)[0], torch.autograd.grad(expected, weight)[0])


def test_nnclr_finds_friends_before_it_enqueues_the_first_view():
    torch.manual_seed(0)
    method = built("nnclr", **{"method.queue_size": 64})
    reps = {"first": draw(5, method.out_dim), "second": draw(5, method.out_dim, seed=1).detach()}
    first = method.loss(reps, batch_of(5), CLOCK)
    assert float(first["neighbour_similarity"]) < 0.9
    method.update(reps, batch_of(5), CLOCK)
    assert_close(method.queue[:5], torch.nn.functional.normalize(method.projector(reps["first"]).detach(), dim=1))
    assert int(method.pointer) == 5
    again = method.loss({"first": reps["first"], "second": reps["first"]}, batch_of(5), CLOCK)
    assert float(again["neighbour_similarity"]) == pytest.approx(1.0)


# ---------------------------------------------------------------- LeJEPA


def sigreg(rows, directions):
    """N times the squared distance of characteristic functions, by complex numbers on both sides of zero."""
    knots = np.linspace(-3, 3, 33)
    values = []
    for direction in directions.T:
        along = [float(row @ direction) for row in rows]
        error = [abs(sum(cmath.exp(1j * t * x) for x in along) / len(along) - math.exp(-t * t / 2)) ** 2 for t in knots]
        values.append(len(rows) * np.trapezoid(np.array(error) * np.exp(-knots * knots / 2), knots))
    return float(np.mean(values))


def test_sigreg_is_the_epps_pulley_statistic_along_each_direction():
    rows, directions = draw(7, 3), torch.nn.functional.normalize(draw(3, 4, seed=1).detach(), dim=0)
    knots = torch.linspace(0, 3, 17, dtype=torch.float64)
    assert float(lejepa.epps_pulley(rows.detach(), directions, knots, 7)) == pytest.approx(sigreg(rows.detach(), directions))
    assert torch.autograd.gradcheck(lambda x: lejepa.epps_pulley(x, directions, knots, 7), rows)


def test_a_gaussian_batch_has_a_statistic_of_about_one_and_others_more():
    knots, directions = (
        torch.linspace(0, 3, 17, dtype=torch.float64),
        torch.nn.functional.normalize(draw(8, 16, seed=1).detach(), dim=0),
    )
    batches = draw(200, 128, 8).detach()
    normal, *others = (
        torch.stack([lejepa.epps_pulley(rows, directions, knots, 128) for rows in changed]).mean()
        for changed in (batches, 2 * batches, batches + 0.5, 0 * batches)
    )
    assert float(normal) == pytest.approx(1.06, abs=0.1)  # the integral of (1 - exp(-t^2)) exp(-t^2 / 2)
    assert min(others) > 4


def test_lejepa_counts_every_view_in_both_terms():
    """Views left out were a fault of another implementation."""
    torch.manual_seed(0)
    method = built("lejepa", **{"method.slices": 6})
    reps = {"large": draw(4, 2, method.out_dim), "small": draw(4, 3, method.out_dim, seed=1)}
    z = method.projector(torch.cat([reps["large"], reps["small"]], 1).transpose(0, 1).flatten(0, 1)).unflatten(0, (5, 4))
    seen = []

    def kept(view, directions, knots, size):
        seen.append((view, directions))
        return original(view, directions, knots, size)

    original = lejepa.epps_pulley
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lejepa, "epps_pulley", kept)
        out = method.loss(reps, batch_of(4), CLOCK)
    directions = seen[0][1]
    assert_close(directions.norm(dim=0), torch.ones(6, dtype=torch.float64))
    assert all(torch.equal(each, directions) for _, each in seen)
    centre = (z[0] + z[1]) / 2
    apart = sum((z[v, i] - centre[i]).square().mean() for v in range(5) for i in range(4)) / 20
    statistic = sum(sigreg(view.detach(), directions) for view in z) / 5
    assert_close(out["apart"], apart.detach())
    assert float(out["sigreg"]) == pytest.approx(statistic)
    assert float(out["loss"].detach()) == pytest.approx(0.95 * float(apart.detach()) + 0.05 * statistic)
    assert all((grad.abs().sum((0, 2)) > 0).all() for grad in torch.autograd.grad(out["loss"], list(reps.values())))
    other = method.loss(reps, batch_of(4, step=1), CLOCK)
    assert not torch.equal(other["sigreg"], out["sigreg"]), "directions are drawn anew in each step"
    assert torch.equal(other["apart"], out["apart"])


# ---------------------------------------------------------------- SigLIP


def test_siglip_asks_of_each_pair_whether_it_belongs_together():
    image, text = unit(5, 4).requires_grad_(), unit(5, 4).requires_grad_()
    scale, bias = (
        torch.tensor(3.0, dtype=torch.float64, requires_grad=True),
        torch.tensor(-2.0, dtype=torch.float64, requires_grad=True),
    )
    expected = 0.0
    for i in range(5):
        for j in range(5):
            label = 1 if i == j else -1
            expected -= torch.log(1 / (1 + torch.exp(-label * (scale * (image[i] @ text[j]) + bias)))) / 5
    loss, _ = siglip.pair(image, text, scale, bias, torch.arange(5), 5)
    assert_close(loss, expected)
    leaves = [image, text, scale, bias]
    assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves))


def test_siglip_starts_at_ln_10_and_minus_10_and_has_no_bound():
    method = built("siglip")
    assert float(method.log_scale.detach()) == pytest.approx(math.log(10))
    assert float(method.bias.detach()) == -10
    with torch.no_grad():
        method.log_scale.fill_(9.0)
    method.update({}, batch_of(3), CLOCK)
    assert float(method.log_scale.detach()) == 9


# ---------------------------------------------------------------- DenseCL


def test_densecl_compares_each_place_with_the_place_that_looks_most_like_it():
    torch.manual_seed(0)
    method = built("densecl", **{"method.queue_size": 32, "method.dense": 0.3}).eval()  # batch norm by its running statistics
    dim = method.out_dim
    reps = {
        "query": draw(3, dim),
        "key": draw(3, dim, seed=1).detach(),
        "query_map": draw(3, dim, 2, 3, seed=3),
        "key_map": draw(3, dim, 3, 2, seed=2).detach(),
    }
    single = dense = 0.0
    cosine = torch.nn.functional.cosine_similarity
    projected, keys = method.dense_head(reps["query_map"]), method.key_dense_head(reps["key_map"])
    for i in range(3):
        q, k = method.head(reps["query"])[i], method.key_head(reps["key"])[i]
        scores = torch.stack([cosine(q, other, 0) for other in (k, *method.queue)]) / 0.2
        single -= scores.log_softmax(0)[0] / 3
        for y in range(2):
            for x in range(3):
                alike = {
                    (v, u): float(cosine(reps["query_map"][i, :, y, x].detach(), reps["key_map"][i, :, v, u], 0))
                    for v in range(3)
                    for u in range(2)
                }
                v, u = max(alike, key=alike.__getitem__)
                scores = (
                    torch.stack([cosine(projected[i, :, y, x], other, 0) for other in (keys[i, :, v, u], *method.dense_queue)])
                    / 0.2
                )
                dense -= scores.log_softmax(0)[0] / 18
    out = method.loss(reps, batch_of(3), CLOCK)
    assert_close(out["loss"], 0.7 * single + 0.3 * dense)
    leaves = [reps["query"], reps["query_map"]]
    assert_close(torch.autograd.grad(out["loss"], leaves), torch.autograd.grad(0.7 * single + 0.3 * dense, leaves))
    before = method.queue.clone(), method.dense_queue.clone()
    method.update(reps, batch_of(3), CLOCK)
    assert torch.equal(method.queue[3:], before[0][3:])
    assert torch.equal(method.dense_queue[3:], before[1][3:])
    assert_close(method.dense_queue[:3], torch.nn.functional.normalize(keys.mean((2, 3)), dim=1))


def test_densecl_takes_maps_of_a_transformer_too():
    method = built("densecl", **{"backbone.name": "vit_mini", "backbone.patch": 8})
    view = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    batch = Batch({"query": view, "key": view.flip(3)}, torch.arange(2), torch.arange(2), 2)
    reps = method.represent(batch, CLOCK)
    assert reps["query_map"].shape == (2, 16, 4, 4)
    assert isinstance(method, densecl.DenseCL)
    assert method.loss(reps, batch, CLOCK)["loss"].isfinite()


def test_nearest_of_a_queue():
    queue = unit(6, 3)
    rows, similarity = nnclr.nearest(queue[[4, 1]], queue)
    assert torch.equal(rows, queue[[4, 1]])
    assert_close(similarity, torch.ones(2, dtype=torch.float64))
