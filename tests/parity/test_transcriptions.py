"""DeepCluster, CLIP, CAE, CPC on sequences, SimCLR v2's memory, InfoMin's jigsaw: against slow, literal transcriptions of their papers.

No golden vectors exist for these.
"""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch.testing import assert_close

from contray import model
from contray.config import RunConfig
from contray.methods import clip, deepcluster, deepcluster_v2
from contray.methods._base import Batch, Clock
from contray.methods._parts import kmeans, nt_xent, patchify, whiten

CLOCK = Clock(0, 10, 10, 5)
END = 257  # of a text of bytes


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_kmeans_is_lloyds():
    torch.manual_seed(0)
    x = torch.randn(300, 5, dtype=torch.float64)
    start = x[torch.randperm(300, generator=torch.Generator().manual_seed(3))[:7]]
    theirs = KMeans(7, init=start.numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x.numpy())
    centroids, assigned = kmeans(x, 7, 300, seed=3)
    assert_close(centroids, torch.from_numpy(theirs.cluster_centers_))
    assert assigned.tolist() == theirs.labels_.tolist()


def test_spherical_kmeans_keeps_unit_centroids_and_its_empty_clusters():
    torch.manual_seed(0)
    x = unit(3, 4).repeat_interleave(20, 0)  # three places for five clusters
    centroids, assigned = kmeans(x, 5, 4, seed=0, spherical=True, split_empty=False)
    assert_close(centroids.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert_close(centroids[assigned], x)  # every row lies at its centroid
    assert len(assigned.unique()) < 5


def test_an_empty_cluster_takes_a_part_of_the_largest():
    x = torch.cat([torch.zeros(1, 2), torch.zeros(1, 2), torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) + 5])
    order = torch.randperm(202, generator=torch.Generator().manual_seed(2))[:2]
    x[order] = 0.0  # both clusters start at one point: the second is empty
    assigned = kmeans(x, 2, 10, seed=2)[1]
    assert len(assigned.unique()) == 2
    assert len(kmeans(x, 2, 0, seed=2)[1].unique()) == 1


def test_kmeans_names_what_is_too_many():
    with pytest.raises(ValueError, match="clusters: got 9, must be at most the 4 rows"):
        kmeans(torch.zeros(4, 2), 9, 1, seed=0)


def test_whitening_is_pca_at_unit_variance_then_unit_rows():
    x = np.random.default_rng(0).normal(size=(200, 6)) @ np.diag([5, 3, 2, 1, 0.5, 0.1]) + 4
    theirs = PCA(4, whiten=True).fit_transform(x)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = whiten(torch.from_numpy(x), 4).numpy()
    assert np.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-8)  # equal up to a rotation


def built(name, preset="digits", **settings):
    config = RunConfig.make(name, {"backbone.width": 16, "train.precision": "fp64", **settings}, preset=preset)
    return model.build(config, 100)


def test_deepcluster_weights_stand_for_sampling_clusters_alike():
    """The expectation over images drawn uniformly equals the mean over clusters of the mean over their images."""
    torch.manual_seed(0)
    method = built("deepcluster", **{"method.clusters": 8, "method.pca": 4})
    features = torch.randn(100, method.out_dim, dtype=torch.float64)
    reset = list(method.begin_epoch(CLOCK, lambda: features))
    assert {id(p) for p in reset} == {id(p) for p in method.classifier.parameters()}
    assert method.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    logits = torch.randn(100, 8, dtype=torch.float64)
    own = method.assignments
    losses = -logits.log_softmax(1)[torch.arange(100), own]
    alike = torch.stack([losses[own == k].mean() for k in own.unique()]).mean()
    assert_close(deepcluster.classify(logits, own, method.weights, 100)[0], alike)


def test_sobel_is_the_gradient_of_the_mean_channel():
    ramp = torch.arange(6.0).expand(1, 3, 6, 6)  # rises by one per column
    across, down = deepcluster.sobel(ramp)[0, :, 1:-1, 1:-1]
    assert_close(across, torch.full((4, 4), -8.0))
    assert_close(down, torch.zeros(4, 4))


def test_deepcluster_v2_classifies_every_crop_in_every_head():
    torch.manual_seed(0)
    z, prototypes, targets = unit(3, 4, 5), unit(2, 6, 5), torch.randint(0, 6, (2, 4))
    expected = 0.0
    for h in range(2):
        for v in range(3):
            for b in range(4):
                p = torch.stack([torch.exp(z[v, b] @ c / 0.1) for c in prototypes[h]])
                expected -= torch.log(p[targets[h, b]] / p.sum()) / (2 * 3 * 4)
    assert_close(deepcluster_v2.classify(z, prototypes, targets, 0.1, 4)[0], expected)


def test_deepcluster_v2_clusters_the_last_epochs_features_of_the_crops_in_turn():
    torch.manual_seed(0)
    method = built("deepcluster_v2", **{"method.prototypes": 5})
    method.begin_epoch(CLOCK, lambda: torch.randn(100, method.out_dim, dtype=torch.float64))
    method.bank.copy_(unit(2, 100, method.bank.shape[2]))
    method.begin_epoch(Clock(10, 20, 10, 5), lambda: pytest.fail("only the first epoch asks for features"))
    for head, crop in enumerate((0, 1, 0)):
        nearest = (method.bank[crop] @ method.prototypes[head].T).argmax(1)
        assert torch.equal(method.assignments[head], nearest)
    assert not torch.equal(method.assignments[0], method.assignments[2])  # from another start


def test_clip_is_symmetric_info_nce():
    torch.manual_seed(0)
    image, text = unit(5, 4), unit(5, 4)
    expected = 0.0
    for i in range(5):
        by_image = torch.stack([torch.exp(7 * image[i] @ text[j]) for j in range(5)])
        by_text = torch.stack([torch.exp(7 * text[i] @ image[j]) for j in range(5)])
        expected -= (torch.log(by_image[i] / by_image.sum()) + torch.log(by_text[i] / by_text.sum())) / 10
    loss, _ = clip.match(image, text, torch.tensor(7.0, dtype=torch.float64), torch.arange(5), 5)
    assert_close(loss, expected)


@pytest.mark.parametrize("towers", ["digits", "digits_shared"])
def test_clip_reads_a_text_up_to_its_end(towers):
    """Padding behind the end changes nothing for the text's own tower; the shared one reads zeros there."""
    torch.manual_seed(0)
    method = built("clip", towers)
    tokens = torch.tensor([[5, 6, 7, END, 0, 0, 0, 0], [8, 9, 10, 11, 12, END, 0, 0]])
    read = method.read(tokens)
    assert read.shape[0] == 2
    if towers == "digits":
        assert_close(read[0], method.read(tokens[:1, :4])[0])
    changed = tokens.clone()
    changed[0, 1] = 99
    assert not torch.allclose(method.read(changed)[0], read[0])


def test_simclr_memory_joins_the_negatives():
    torch.manual_seed(0)
    a, b, memory = unit(4, 5), unit(4, 5), unit(3, 5)
    views = [*a, *b]
    expected = 0.0
    for i, anchor in enumerate(views):
        others = [torch.exp(anchor @ z / 0.5) for j, z in enumerate(views) if j != i]
        others += [torch.exp(anchor @ z / 0.5) for z in memory]
        expected -= torch.log(torch.exp(anchor @ views[(i + 4) % 8] / 0.5) / sum(others)) / 8
    assert_close(nt_xent(a, b, 0.5, torch.arange(4), 4, memory)[0], expected)


def test_infomin_puzzle_joins_pieces_in_the_drawn_order():
    torch.manual_seed(0)
    method = built("infomin").eval()
    pieces = torch.randn(3, 9, method.out_dim, dtype=torch.float64)
    order = torch.stack([torch.randperm(9) for _ in range(3)])
    expected = [
        method.join(torch.cat([method.piece_head(pieces[row, order[row, place]][None])[0] for place in range(9)])[None])[0]
        for row in range(3)
    ]
    assert_close(method.solve(pieces, order), torch.stack(expected))


def cae_step(method, images):
    slot = torch.arange(len(images))
    batch = Batch({"view": images}, slot, slot, len(images), seed=1)
    reps = method.represent(batch, CLOCK)
    return batch, reps, method.loss(reps, batch, CLOCK)


def test_cae_loss_is_token_cross_entropy_plus_twice_the_alignment():
    torch.manual_seed(0)
    method = built("cae", **{"method.vocabulary": 6})
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    _, reps, out = cae_step(method, images)
    codes, patches = reps["codes"], patchify(images, 4)
    predicted = method.regress(reps["seen"], reps["masked"], reps["visible"])
    logits = method.name(method.decoder(predicted + method.places(reps["masked"])))
    named = aligned = 0.0
    count = reps["masked"].shape[1]
    for row in range(4):
        for place, patch in enumerate(reps["masked"][row].tolist()):
            token = torch.stack([(patches[row, patch] - code).square().sum() for code in codes]).argmin()
            named -= logits[row, place].log_softmax(0)[token] / (4 * count)
            aligned += (predicted[row, place] - reps["goal"][row, place]).square().mean() / (4 * count)
    assert_close(out["loss"], named + 2 * aligned)
    assert_close(out["alignment"], aligned.detach())


def test_cae_encoder_and_regressor_never_see_a_masked_patch():
    torch.manual_seed(0)
    method = built("cae", **{"method.vocabulary": 6})
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    batch, reps, _ = cae_step(method, images)
    grid = images.unflatten(3, (8, 4)).unflatten(2, (8, 4)).clone()  # (B, 3, row, 4, column, 4)
    for row in range(2):
        for patch in reps["masked"][row].tolist():
            grid[row, :, patch // 8, :, patch % 8] = 0.0
    changed = method.represent(Batch({"view": grid.flatten(4, 5).flatten(2, 3)}, batch.slot, batch.slot, 2, seed=1), CLOCK)
    assert torch.equal(changed["seen"], reps["seen"])
    assert not torch.equal(changed["goal"], reps["goal"])
    assert not reps["goal"].requires_grad
    both = torch.cat([reps["masked"], reps["visible"]], 1).sort(1).values
    assert torch.equal(both, torch.arange(64).expand(2, -1))


def test_cpc_on_sequences_is_info_nce_of_each_prediction_among_all_frames():
    torch.manual_seed(0)
    method = built("cpc_sequence", **{"method.features": 6, "method.context": 5, "method.steps": 3})
    frames = torch.randn(3, 7, 6, dtype=torch.float64)
    slot = torch.arange(3)
    ours = method.loss({"frames": frames}, Batch({}, slot, slot, 3), CLOCK)["loss"]
    context = method.context(frames)[0]
    losses = []
    for ahead in (1, 2, 3):
        terms = []
        for row in range(3):
            for t in range(7 - ahead):
                guess = method.predictors[ahead - 1].weight @ context[row, t]
                scores = torch.stack([torch.exp(guess @ frame / 6**0.5) for frame in frames.flatten(0, 1)])
                terms.append(-torch.log(scores[row * 7 + t + ahead] / scores.sum()))
        losses.append(torch.stack(terms).mean())
    assert_close(ours, torch.stack(losses).mean())


def test_cpc_frames_do_not_see_the_future():
    method = built("cpc_sequence")
    signal = torch.randn(1, 1, 1024, dtype=torch.float64)
    frames = method.backbone(signal)
    assert frames.shape[1] == 32
    changed = signal.clone()
    changed[..., 512:] = 0.0
    assert torch.equal(method.backbone(changed)[:, :16], frames[:, :16])
    assert not torch.equal(method.backbone(changed)[:, 16:], frames[:, 16:])
