"""SimMIM, data2vec, I-JEPA, iBOT, DINOv2: against slow, literal transcriptions of what their releases compute."""

import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from contray import model
from contray.config import RunConfig
from contray.methods import data2vec, dinov2, ibot, ijepa
from contray.methods._base import Batch, Clock
from contray.methods._masks import blocks, front
from contray.methods._parts import unpatchify
from contray.model import optim

CLOCK, ROWS = Clock(50, 100, 10, 5), 5


def built(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = RunConfig.make(
        name, {"backbone.width": 16, "backbone.patch": 4, "train.precision": "fp64", **settings}, preset="digits"
    )
    return model.build(config, 100)


def step_of(method: Any, *views: str, step: int = 0) -> tuple[Batch, Any, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    images = {view: torch.randn(ROWS, 3, 32, 32, dtype=torch.float64, generator=generator) for view in views}
    slot = torch.arange(ROWS)
    batch = Batch(images, slot, slot, ROWS, seed=1, step=step)
    reps = method.represent(batch, CLOCK)
    return batch, reps, method.loss(reps, batch, CLOCK)


def cells(images: torch.Tensor, patches: torch.Tensor, value: float) -> torch.Tensor:
    """Images (B, 3, 32, 32) with `value` in patches (B, 64) of 4 px."""
    return torch.where(F.interpolate(patches.double().view(-1, 1, 8, 8), scale_factor=4) > 0, value, images)


def softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.exp() / scores.exp().sum()


def smooth(error: torch.Tensor, beta: float) -> float:
    return sum(0.5 * e * e / beta if abs(e) < beta else abs(e) - 0.5 * beta for e in error.tolist()) / len(error)


def standard(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()


# ---------------------------------------------------------------- SimMIM


def test_simmim_is_the_absolute_error_of_hidden_pixels() -> None:
    method = built("simmim", **{"method.mask_patch": 8})
    batch, reps, out = step_of(method, "view")
    painted = unpatchify(method.paint(reps["patches"]), 8)
    mask = F.interpolate(reps["hidden"].double().view(ROWS, 1, 8, 8), scale_factor=4)
    assert_close(out["loss"], ((batch.views["view"] - painted).abs() * mask).sum() / mask.sum() / 3)
    squares = reps["hidden"].view(ROWS, 4, 2, 4, 2).transpose(2, 3).flatten(3)
    assert torch.equal(squares.all(3), squares.any(3)), "squares are hidden whole"
    assert squares.all(3).sum((1, 2)).tolist() == [math.ceil(0.6 * 16)] * ROWS
    assert not torch.equal(reps["hidden"][0], reps["hidden"][1])


@pytest.mark.parametrize(
    ("name", "views"),
    [("simmim", ["view"]), ("data2vec", ["view"]), ("ibot", ["large_a", "large_b"]), ("dinov2", ["large_a", "large_b"])],
)
def test_students_never_see_a_hidden_patch(name: str, views: list[str]) -> None:
    method = built(name)
    batch, reps, _ = step_of(method, *views)
    if name == "data2vec":
        count = reps["hidden"].shape[1]
        hidden = [front(blocks(batch.rand("blocks", (32, 4)), 8, 16 / 196, count), count)]
    else:
        hidden = list(reps["hidden"].unbind(1)) if len(views) == 2 else [reps["hidden"]]
    assert any(each.any() for each in hidden)
    student = {"simmim": ["patches"], "data2vec": ["hidden"], "ibot": ["whole", "patches"], "dinov2": ["whole", "patches"]}[name]
    for value, same in ((9.0, True), (0.0, False)):
        mask = hidden if same else [~each for each in hidden]
        changed = {view: cells(batch.views[view], each, value) for view, each in zip(views, mask, strict=True)}
        after = method.represent(Batch(changed, batch.index, batch.slot, ROWS, seed=1), CLOCK)
        assert all(torch.equal(after[key], reps[key]) == same for key in student)
    assert not any(value.requires_grad for key, value in reps.items() if key.startswith(("teacher", "targets")))


# ---------------------------------------------------------------- data2vec


def test_data2vec_predicts_the_mean_of_normed_blocks_normed_again() -> None:
    method = built("data2vec", **{"method.blocks": 3, "method.beta": 0.5})
    batch, reps, out = step_of(method, "view")
    net = method.teacher
    x = torch.cat(
        [(net.class_token + net.encoder.pos_embedding[:, :1]).expand(ROWS, -1, -1), net.patches(batch.views["view"])], 1
    )
    outputs = [x := block(x) for block in net.encoder.layers][-3:]
    count = round(0.612 * 64)
    order = blocks(batch.rand("blocks", (32, 4)), 8, 16 / 196, count)
    predicted, loss = method.predictor(reps["hidden"]), 0.0
    for row in range(ROWS):
        for place, patch in enumerate(order[row, :count].tolist()):
            target = standard(sum(standard(each[row, 1 + patch]) for each in outputs) / 3)
            assert_close(reps["targets"][row, place], target)
            loss += smooth((predicted[row, place] - target).detach(), 0.5) / (ROWS * count)
    assert_close(float(out["loss"].detach()), loss)


def beit(side: int, count: int, least: int) -> torch.Tensor:
    """2000 masks of BEiT's generator, literally, as the releases of CAE, data2vec, iBOT and DINOv2 have it: (2000, side, side)."""
    drawn, masks = random.Random(0), torch.zeros(2000, side, side)
    for mask in masks:
        delta = left = count
        while left > 0 and delta > 0:
            delta = 0
            for _ in range(10):
                area, aspect = drawn.uniform(least, left), math.exp(drawn.uniform(math.log(0.3), -math.log(0.3)))
                h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if h < side and w < side:
                    top, first = drawn.randint(0, side - h), drawn.randint(0, side - w)
                    block = mask[top : top + h, first : first + w]
                    delta = int((1 - block).sum())
                    if 0 < delta <= left:
                        block.fill_(1)
                        break
                    delta = 0
            left -= delta
    return masks.double()


def assert_hidden_as(ours: torch.Tensor, release: torch.Tensor) -> None:
    """Above and below alike, edges and the middle as often, and the same chance that a hidden patch's neighbour is hidden."""
    side = ours.shape[-1]
    inner = slice(side // 2 - 2, side // 2 + 2)
    for mean in (
        lambda x: x[:, : side // 2].mean() - x[:, side // 2 :].mean(),
        lambda x: x[:, 0].mean(),
        lambda x: x[:, inner, inner].mean(),
        lambda x: (x[:, 1:] * x[:, :-1]).mean(),
    ):
        assert abs(float(mean(ours)) - float(mean(release))) < 0.02


@pytest.mark.parametrize(("name", "count"), [("data2vec", 120), ("cae", 98)])
def test_blocks_are_hidden_as_the_releases_do(name: str, count: int) -> None:
    """Of 196 patches, in blocks of 16 and more."""
    slot = torch.arange(2000)
    batch = Batch({"view": torch.zeros(2000, 3, 56, 56, dtype=torch.float64)}, slot, slot, 2000, seed=1)
    method = built(name, **{"views.view.size": 56})
    method.backbone.patches = lambda images: torch.zeros(2000, 196, 1)  # the masks alone
    method.backbone.tokens = lambda x: x
    asked: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        if name == "data2vec":
            patch.setattr(data2vec, "hide", lambda net, images, hidden, token: asked.append(hidden) or torch.zeros(2000, 197, 1))
            method.targets = lambda images: torch.zeros(2000, 196, 1)
        reps = method.represent(batch, CLOCK)
    hidden = asked[0] if asked else torch.zeros(2000, 196).scatter(1, reps["masked"], 1.0)
    assert torch.equal(hidden.sum(1).double(), torch.full((2000,), float(count), dtype=torch.float64))
    assert_hidden_as(hidden.double().view(-1, 14, 14), beit(14, count, 16))


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(("name", "side", "least"), [("ibot", 14, 16), ("dinov2", 16, 4)])
def test_crops_are_hidden_in_blocks_as_the_releases_do(name: str, side: int, least: int, ratio: float) -> None:
    method = built(name, **{"method.mask_ratio": (ratio, ratio), "method.mask_share": 1.0})
    slot = torch.arange(1000)
    hidden = method.hidden(Batch({}, slot, slot, 1000, seed=1), side).flatten(0, 1)
    assert torch.equal(hidden.sum(1), torch.full((2000,), int(ratio * side**2)))
    assert_hidden_as(hidden.double().view(-1, side, side), beit(side, int(ratio * side**2), least))


# ---------------------------------------------------------------- I-JEPA


@pytest.mark.parametrize(("scale", "ratio"), [((0.15, 0.2), (0.75, 1.5)), ((0.85, 1.0), (1.0, 1.0))])
def test_ijepa_block_sizes_are_the_release_s(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    for u in torch.linspace(0, 0.999, 40, dtype=torch.float64):
        most = int(14 * 14 * (scale[0] + float(u) * (scale[1] - scale[0])))
        aspect = ratio[0] + float(u) * (ratio[1] - ratio[0])
        height, width = round(math.sqrt(most * aspect)), round(math.sqrt(most / aspect))
        while height >= 14:
            height -= 1
        while width >= 14:
            width -= 1
        assert ijepa.block_size(u, 14, scale, ratio) == (height, width)


def test_ijepa_masks_are_blocks_and_what_is_left_of_one() -> None:
    method = built("ijepa")
    for step in range(20):
        batch = Batch({}, torch.arange(64), torch.arange(64), 64, seed=1, step=step)
        targets, context = method.masks(batch, 8)
        assert targets.shape[:2] == (64, 4)
        assert context.shape[1] > method.config.min_keep
        for row, drawn in enumerate(targets.tolist()):
            for block in drawn:
                lines, columns = {patch // 8 for patch in block}, {patch % 8 for patch in block}
                assert {8 * i + j for i in lines for j in columns} == set(block)
                assert max(lines) - min(lines) + 1 == len(lines)
            assert len(set(context[row].tolist())) == context.shape[1]
            if len({patch for block in drawn for patch in block}) < 30:  # else the last ones may be let in
                assert not set(context[row].tolist()) & {patch for block in drawn for patch in block}
        half = Batch({}, batch.index[40:], batch.slot[40:], 64, seed=1, step=step)
        assert all(torch.equal(mine, all_[40:]) for mine, all_ in zip(method.masks(half, 8), (targets, context), strict=True))


def test_ijepa_lets_targets_in_where_too_little_is_left() -> None:
    targets = torch.zeros(1, 3, 9, dtype=torch.bool)
    targets[0, 0, :3] = targets[0, 1, 3:6] = targets[0, 2, 6:8] = True
    block = torch.ones(1, 9, dtype=torch.bool)
    for least, left in ((0, [8]), (1, [6, 7, 8]), (3, [3, 4, 5, 6, 7, 8]), (7, list(range(9)))):
        assert ijepa.allowed(block, targets, least)[0].nonzero().flatten().tolist() == left


def test_ijepa_s_predictor_begins_alike_at_every_depth_as_the_release_s() -> None:
    """Its init_model draws anew what fix_init_weight had scaled."""
    predictor = built("ijepa", **{"method.predictor_depth": 4, "method.predictor_dim": 64}).predictor
    for block in predictor[:-1]:
        for layer in (block.self_attn.out_proj, block.linear1, block.linear2):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert {layer.eps for layer in predictor.modules() if isinstance(layer, nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize("name", ["ibot", "dinov2", "ijepa", "data2vec", "simmim", "mae"])
def test_mask_tokens_decay_as_the_releases_do(name: str) -> None:
    method = built(name)
    token = dict(method.named_parameters())["mask_token"]
    config = RunConfig.make(name, {"optim.decay_norms": False}, preset="digits")
    groups = [group for group in optim.build(config, method).param_groups if any(p is token for p in group["params"])]
    assert [group["decay_scale"] for group in groups] == [1.0]


def test_ijepa_predicts_each_block_by_itself() -> None:
    method = built("ijepa")
    batch, reps, out = step_of(method, "view")
    whole = method.teacher.tokens(method.teacher.patches(batch.views["view"]))[:, 1:]
    loss, (rows, blocks, patches) = 0.0, reps["targets"].shape
    for row in range(rows):
        seen = method.embed(reps["seen"][row]) + method.positions[reps["context"][row]]
        for block in range(blocks):
            places = reps["targets"][row, block]
            told = method.predictor(torch.cat([seen, method.mask_token + method.positions[places]])[None])[0, len(seen) :]
            for place, prediction in zip(places.tolist(), method.project(told), strict=True):
                loss += smooth((prediction - standard(whole[row, place])).detach(), 1.0) / (rows * blocks * patches)
    assert_close(float(out["loss"].detach()), loss)


# ---------------------------------------------------------------- iBOT


def test_ibot_loss_is_the_release_s() -> None:
    """Each crop's mean over its own hidden patches, then the mean over all crops: one without any counts as 0, and is counted."""
    method = built("ibot", **{"method.outputs": 7, "method.teacher_temperature": 0.05, "method.patch_weight": 0.5})
    method.centre.normal_(std=0.1)
    method.patch_centre.normal_(std=0.1)
    centres = method.centre.clone(), method.patch_centre.clone()
    batch, reps, out = step_of(method, "large_a", "large_b")
    hidden = reps["hidden"]
    counts = hidden.sum(2)
    assert (counts == 0).any()
    assert len(counts[counts > 0].unique()) > 1
    student, patches = method.head(reps["whole"]), method.head(reps["patches"])
    teacher, told = method.teacher_head(reps["teacher_whole"]), method.teacher_head(reps["teacher_patches"])
    whole = masked = 0.0
    for row in range(ROWS):
        for q in range(2):
            sharp = softmax((teacher[row, q] - centres[0]) / 0.05)
            whole -= (sharp * softmax(student[row, 1 - q] / 0.1).log()).sum() / (2 * ROWS)
            terms = [
                -(softmax((told[row, q, place] - centres[1]) / 0.05) * softmax(patches[row, q, place] / 0.1).log()).sum()
                for place in hidden[row, q].nonzero().flatten().tolist()
            ]
            masked += sum(terms) / max(len(terms), 1) / (2 * ROWS)
    assert_close(out["class_loss"], whole.detach())
    assert_close(out["patch_loss"], masked.detach())
    assert_close(out["loss"], whole + 0.5 * masked)
    method.update(reps, batch, CLOCK)
    assert_close(method.centre, 0.9 * centres[0] + 0.1 * teacher.mean((0, 1)))
    assert_close(method.patch_centre, 0.9 * centres[1] + 0.1 * told.mean((0, 1, 2)))  # of all patches, hidden or not


def test_ibot_hides_blocks_of_half_of_the_crops() -> None:
    method = built("ibot")
    slot = torch.arange(500)
    hidden = method.hidden(Batch({}, slot, slot, 500, seed=3), 14)
    counts = hidden.sum(2).flatten()
    assert abs(float((counts == 0).double().mean()) - 0.5) < 0.05
    counts = counts[counts > 0]
    assert (int(counts.min()), int(counts.max())) in {(19 + i, 97 - j) for i in range(4) for j in range(4)}
    assert abs(float(counts.double().mean()) - 0.3 * 196) < 4
    grid = hidden.flatten(0, 1).view(-1, 14, 14).double()
    together = (grid[:, :, 1:] * grid[:, :, :-1]).sum() / grid[:, :, 1:].sum()
    assert together > 0.7  # one by one: 0.3


# ---------------------------------------------------------------- DINOv2


def test_dinov2_loss_is_the_release_s() -> None:
    method = built("dinov2", **{"method.outputs": 7, "method.teacher_temperature": 0.06})
    _, reps, out = step_of(method, "large_a", "large_b")
    student, teacher = method.head(reps["whole"]), method.teacher_head(reps["teacher_whole"])
    hidden = reps["hidden"]
    codes = assigned(teacher.transpose(0, 1).flatten(0, 1)).unflatten(0, (2, -1))  # both crops together
    told = assigned(method.teacher_patch_head(reps["teacher_patches"])[hidden])
    patches = method.patch_head(reps["patches"])[hidden]
    whole, masked, spread = 0.0, 0.0, 0.0
    for row in range(ROWS):
        for q in range(2):
            whole -= (codes[q, row] * softmax(student[row, 1 - q] / 0.1).log()).sum() / (2 * ROWS)
    at = 0
    for row in range(ROWS):
        for q in range(2):
            count = int(hidden[row, q].sum())
            for place in range(at, at + count):
                masked -= (told[place] * softmax(patches[place] / 0.1).log()).sum() / count / (2 * ROWS)
            at += count
    for q in range(2):
        unit = F.normalize(reps["whole"][:, q], dim=1)
        for row in range(ROWS):
            nearest = min((unit[row] - unit[other] + 1e-8).norm() for other in range(ROWS) if other != row)
            spread -= torch.log(nearest + 1e-8) / ROWS
    assert_close(out["class_loss"], whole.detach())
    assert_close(out["patch_loss"], masked.detach())
    assert_close(out["koleo"], spread.detach())
    assert_close(out["loss"], whole + masked + 0.1 * spread)


def assigned(scores: torch.Tensor) -> torch.Tensor:
    """Sinkhorn-Knopp as in the release: of (M, K) scores, three times rows, then columns of the transposed matrix."""
    q = (scores / 0.06).exp().T
    q = q / q.sum()
    for _ in range(3):
        for k in range(len(q)):
            q[k] = q[k] / q[k].sum() / len(q)
        for sample in range(q.shape[1]):
            q[:, sample] = q[:, sample] / q[:, sample].sum() / q.shape[1]
    return (q * q.shape[1]).T.detach()


def test_codes_are_finite_however_sharp_and_not_altered_otherwise() -> None:
    """At 0.001 exp((cosine - 1) / temperature) is 0 in single precision for most prototypes."""
    torch.manual_seed(0)
    scores = torch.rand(32, 300) * 2 - 1
    scores[0] = -1.0
    for temperature in (0.01, 0.001, 0.0001):
        codes = dinov2.balanced(scores, temperature, 3)
        assert_close(codes.sum(1), torch.ones(32))
    q = ((scores - 1) / 0.04).exp()
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(0, keepdim=True) / 300
        q = q / q.sum(1, keepdim=True) / 32
    assert torch.equal(dinov2.balanced(scores, 0.04, 3), q * 32)


def test_small_crops_weigh_as_in_the_release() -> None:
    """2 x V_small terms of small crops and 2 of large ones, each the mean over rows, over their number."""
    torch.manual_seed(0)
    student, codes = torch.randn(5, 3, 4, dtype=torch.float64), torch.rand(2, 3, 4, dtype=torch.float64)
    terms = {(i, v): -(codes[i] * student[v].div(0.1).log_softmax(1)).sum(1).mean() for i in range(2) for v in range(5)}
    local = sum(terms[i, v] for i in range(2) for v in (2, 3, 4)) / (2 + 6)
    both = (terms[0, 1] + terms[1, 0]) / 2 * 2 / (2 + 6)
    assert_close(dinov2.pairs(student, codes, 0.1, 3), local + both)


def test_dinov2_masks_exactly_half_of_the_batch_s_crops_in_steps() -> None:
    method = built("dinov2")
    slot = torch.arange(101)
    hidden = method.hidden(Batch({}, slot, slot, 101, seed=3), 14)
    counts = hidden.sum(2).flatten().sort(descending=True).values
    assert int((counts > 0).sum()) == 101
    steps = [196 * (0.1 + 0.4 * i / 101) for i in range(102)]
    for i, count in enumerate(counts[:101].flip(0).tolist()):
        assert int(steps[i]) <= count <= steps[i + 1]
    few = method.hidden(Batch({}, slot[60:], slot[60:], 101, seed=3), 14)
    assert torch.equal(few, hidden[60:])


def test_dinov2_rates_fall_towards_the_image() -> None:
    method = built("dinov2", **{"method.layer_decay": 0.5, "method.patch_rate": 0.2})
    rates = {id(p): group["lr_scale"] for group in method.param_groups() for p in group["params"]}
    found = {name: rates[id(p)] for name, p in method.named_parameters() if p.requires_grad}
    for name, rate in {
        "backbone.conv_proj.weight": 0.5**5 * 0.2, "backbone.class_token": 0.5**5, "backbone.registers": 0.5**5, "mask_token": 0.5**5,
        "backbone.encoder.pos_embedding": 0.5**5, "backbone.encoder.layers.encoder_layer_0.ln_1.weight": 0.5**4,
        "backbone.encoder.layers.encoder_layer_3.mlp.0.weight": 0.5, "backbone.encoder.ln.weight": 1.0, "head.last": 1.0,
    }.items():  # fmt: skip
        assert found[name] == pytest.approx(rate), name


def test_masked_predictions_are_full_precision_functions() -> None:
    """Losses are computed outside autocast."""
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, 8), torch.randn(4, 3, 8)
    hidden = torch.ones(2, 2, 1, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [
            data2vec.regress(x, y, 2.0, 4)[0], ijepa.distance(x[:, None], y[:, None], 4)[0],
            ibot.hidden_match(x[:, 0], ibot.sharpened(y[:, 0], y[0, 0], 0.05), hidden, 0.1, 2),
            dinov2.pairs(x[:2], dinov2.balanced(y[:2].flatten(0, 1), 0.1, 3).unflatten(0, (2, 3)), 0.1, 3), dinov2.koleo(x[:, 0], torch.arange(4), 4),
        ]  # fmt: skip
    plain = [
        data2vec.regress(x, y, 2.0, 4)[0], ijepa.distance(x[:, None], y[:, None], 4)[0],
        ibot.hidden_match(x[:, 0], ibot.sharpened(y[:, 0], y[0, 0], 0.05), hidden, 0.1, 2),
        dinov2.pairs(x[:2], dinov2.balanced(y[:2].flatten(0, 1), 0.1, 3).unflatten(0, (2, 3)), 0.1, 3), dinov2.koleo(x[:, 0], torch.arange(4), 4),
    ]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(losses, plain, strict=True))
