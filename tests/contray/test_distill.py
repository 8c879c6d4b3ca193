"""Distillation: what a student learns from, what it is measured beside, and that no label leaks."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import contray
from contray import RunConfig, data, model
from contray.data.subset import Subset
from contray.errors import ConfigError, UserError
from contray.evaluation import crd, distill
from contray.evaluation import finetune as tuning
from contray.evaluation.common import classifier as finetune
from contray.evaluation.common import losses, noisy, student
from contray.evaluation.common.classifier import Classifier, FewLabels
from contray.evaluation.common.labelled import CroppedImages, first_inputs, score
from contray.evaluation.common.losses import distillation_kl
from contray.evaluation.common.noisy import balanced, by_noised, noised_images, pseudo_labels
from contray.evaluation.common.student import student_config
from contray.model import encoder
from contray.model.encoder import Encoder
from tests.contray.evaluations import CPU, TAUGHT, evaluated, subject_of, taught
from tests.contray.test_evaluate_protocols import RESNET, built, coloured, vit_config

QUICK = {
    **taught(lrs=(1e-2,), finetune_epochs=4, finetune_batch=16, epochs=3), "train.batch_size": 32, "eval.finetune.lrs": (1e-2,),
    "eval.finetune.epochs": 4, "eval.finetune.batch": 16, "eval.crd.negatives": 32, "eval.crd.dim": 8, "eval.noisy_student.iterations": 2,
    "eval.noisy_student.randaugment": (1, 5),
}  # fmt: skip


def distilled(
    config: RunConfig, smaller: RunConfig, source: data.Source, method, labels: str, by: str = "distill", own=None
) -> dict[str, float]:
    """By one of TAUGHT; the student has the backbone of `smaller`, or is `own`, pretrained under that config."""
    given = config.replace(taught(labels=labels, student_run="own" if own is not None else ""))
    taken = {key: value for key, value in smaller.flat().items() if key.startswith("backbone.") and value != config.flat()[key]}
    return evaluated(by, given, source, method, taken={} if own is not None else taken, load=lambda run: Encoder(smaller, own))


def finetuned(config: RunConfig, source: data.Source, method, labels: str) -> dict[str, float]:
    return evaluated("finetune", config.replace({"eval.finetune.labels": labels}), source, method)


def few_of(source: data.Source, labels: str) -> FewLabels:
    return FewLabels.of(source, labels, 0.2)


def noised(config: RunConfig, source: data.Source, few: FewLabels, teacher: Classifier) -> CroppedImages:
    subject = subject_of(config, source, built(config, source))
    return noised_images(subject, config.parts["eval.noisy_student"], few, teacher, 1, 32)


def lesson(few: FewLabels, samples: int) -> Any:
    """What objectives are told of a lesson."""
    return SimpleNamespace(few=few, samples=samples)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.make("simclr", {**RESNET, **QUICK}, preset="digits")


@pytest.fixture(scope="module")
def easy() -> data.Source:
    return data.Source("colours", coloured(400, 0), coloured(120, 1))


@pytest.fixture(scope="module")
def spoilt(easy: data.Source) -> data.Source:
    """The same images; labels outside of the subset of 20 % are another class's, those in it are as they were."""
    train = coloured(400, 0)
    assert train.labels is not None
    outside = np.setdiff1d(np.arange(400), finetune.labelled_subset(easy.train, "0.2").ids)
    train.labels[outside] = (train.labels[outside] + 1) % 4
    return data.Source("colours", train, easy.test)


@pytest.fixture
def fixed_subset(easy: data.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subset and held-out part are picked by class: on spoilt labels these would be others."""
    few = few_of(easy, "0.2")
    monkeypatch.setattr(student.FewLabels, "of", lambda source, labels, holdout: few)


def classifier(config: RunConfig, source: data.Source, seed: int = 0) -> Classifier:
    network = Classifier(built(config, source), first_inputs(config, source.train, np.arange(4), CPU), 4)
    with torch.no_grad():
        network.head.weight.copy_(torch.randn(network.head.weight.shape, generator=torch.Generator().manual_seed(seed)))
    return network


@pytest.fixture(scope="module")
def teacher(config: RunConfig, easy: data.Source) -> Classifier:
    """One that knows something of all four classes."""
    network = classifier(config, easy)
    images = CroppedImages(config, easy.train, np.arange(400), 32, CPU)
    finetune.train_classifier(network, config, tuning.Config(), "", images, 48, 1e-2, lambda step, loss: None)
    return network


# ---------------------------------------------------------------- soft labels


def test_a_student_learns_from_the_teacher_and_from_no_label(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config.replace({"eval.distill.temperature": 2.0, "eval.distill.finetune_epochs": 8, "eval.finetune.epochs": 8})
    method = built(config, easy)
    smaller = given.replace({"backbone.width": 2})
    results = distilled(given, smaller, easy, method, "0.2")
    assert set(results) == {"finetune_20pct_top1", "scratch_20pct_width2_top1", "distill_20pct_width2_top1"}
    assert results["distill_20pct_width2_top1"] > 0.6
    alone = finetuned(smaller, easy, built(smaller, easy), "0.2")
    assert results["finetune_20pct_top1"] == finetuned(given, easy, method, "0.2")["finetune_20pct_top1"]
    assert results["scratch_20pct_width2_top1"] == alone["scratch_20pct_top1"], "the student on the same labels without a teacher"

    def blind(scores, goal, temperature):
        assert temperature == 2.0
        assert not goal.requires_grad
        return (scores - goal).sum() * 0.0

    monkeypatch.setattr(losses, "distillation_kl", blind)
    assert distilled(given, smaller, easy, method, "0.2")["distill_20pct_width2_top1"] == 0.25, "labels taught it nothing"


def test_the_combined_objective_is_equation_3(config: RunConfig, easy: data.Source, teacher: Classifier) -> None:
    given, few = config, few_of(easy, "0.2")
    network = classifier(given, easy, 2)
    images = CroppedImages(given, easy.train, np.arange(400), 400, CPU)  # one batch of all images: sums are exact
    ((batch, y),) = images(1)
    loss = distill.by_teacher(lesson(few, 400), distill.Config(labelled=0.3, temperature=2.0), teacher)(network, batch, y)
    with torch.no_grad():
        own, goal = network(batch.views), teacher(batch.views)
    known = torch.isin(batch.index, torch.as_tensor(few.fit))
    assert_close(loss.detach(), 0.3 * F.cross_entropy(own[known], y[known]) + 0.7 * distillation_kl(own, goal, 2.0))


@pytest.mark.usefixtures("fixed_subset")
@pytest.mark.parametrize("by", TAUGHT)
def test_labels_outside_the_subset_change_nothing(by: str, config: RunConfig, easy: data.Source, spoilt: data.Source) -> None:
    given = config.replace({"eval.distill.labelled": 0.5, **taught(epochs=1, finetune_epochs=1)})
    results = [distilled(given, given, source, built(given, easy), "0.2", by) for source in (easy, spoilt)]
    assert results[0] == results[1]


# ---------------------------------------------------------------- CRD


def test_crd_teaches_by_features_alone(config: RunConfig, easy: data.Source, teacher: Classifier) -> None:
    """Its contrast alone moves the backbone; with labels and soft labels beside it the student classifies."""
    longer = config.replace({"eval.crd.finetune_epochs": 8})
    results = distilled(longer, longer, easy, built(longer, easy), "0.2", "crd")
    assert set(results) == {"finetune_20pct_top1", "scratch_20pct_top1", "crd_20pct_top1"}
    assert results["crd_20pct_top1"] > 0.5

    few = few_of(easy, "0.2")
    inputs = first_inputs(config, easy.train, np.arange(4), CPU)
    given, options = config, dataclasses.replace(config.parts["eval.crd"], labelled=0.0, soft=1e-9)
    alone = Classifier(model.build(config.replace({"backbone.width": 2}), 400), inputs, 4)
    network = crd.contrasted(alone, teacher, 400, options, config.seed)
    before = copy.deepcopy(network.state_dict())
    images = CroppedImages(given, easy.train, np.arange(400), 32, CPU)
    seen: list[float] = []
    finetune.train_classifier(
        network,
        given,
        options,
        "",
        images,
        36,
        1e-2,
        lambda step, loss: seen.append(loss),
        crd.by_contrast(lesson(few, 400), options, teacher),
    )
    assert np.mean(seen[-6:]) < np.mean(seen[:6]) - 0.1
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {
        "contrast.bank_student",
        "contrast.bank_teacher",
        "contrast.embed_student.weight",
        "contrast.embed_teacher.weight",
    } < moved
    assert "method.backbone.conv1.weight" in moved


# ---------------------------------------------------------------- Noisy Student


def test_pseudo_labels_are_filtered_and_balanced() -> None:
    sure = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])
    rows = balanced(sure, 0.45, 3, np.random.default_rng(0))
    assert sorted(rows[:3]) == [0, 1, 2], "the surest of the first class; row 3 is below the threshold"
    assert set(rows[3:]) == {4, 5}
    assert len(rows) == 6, "copies make up for what a class lacks; a class without images has none"
    assert set(balanced(sure, 0.45, 2, np.random.default_rng(0))[:2]) == {0, 1}, "the surest go first"
    assert len(balanced(sure, 0.95, 2, np.random.default_rng(0))) == 0


def test_a_pool_shows_copies_of_its_images(easy: data.Source) -> None:
    pool = Subset(easy.train, np.array([7, 3, 7]))
    assert len(pool) == 3
    assert np.array_equal(pool.image(2, None), easy.train.image(7, None))
    assert pool.describe(1) == easy.train.describe(3)
    easy.train.broken[7] = "torn"
    try:
        pool.prepare()
        assert pool.broken == {0: "torn", 2: "torn"}
    finally:
        del easy.train.broken[7]


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_student_gets_its_own_labels_and_the_teachers_balanced_ones(
    kind: str, config: RunConfig, easy: data.Source, teacher: Classifier
) -> None:
    given = config.replace(
        {"eval.noisy_student.pseudo": kind, "eval.noisy_student.per_class": 200, "eval.noisy_student.threshold": 0.0}
    )
    few = few_of(easy, "0.1")
    images = noised(given, easy, few, teacher)
    pool, labels = images.batches.split, images.labels
    assert isinstance(pool, Subset)
    assert not np.isin(pool.ids, few.val).any(), "what measures the students teaches none"
    mine = np.isin(pool.ids, few.fit)
    assert set(pool.ids[mine]) == set(few.fit)
    ids, told = pseudo_labels(given, easy, np.setdiff1d(np.arange(400), few.subset.ids), teacher, CPU)
    classes = len(told.argmax(1).unique())
    assert classes > 2
    assert (~mine).sum() == 200 * classes
    assert mine.sum() == max(len(few.fit), round(200 * classes / 14))
    assert easy.train.labels is not None
    for i, own, label in zip(pool.ids, mine, labels, strict=True):
        wanted = F.one_hot(torch.tensor(easy.train.labels[i]), 4).float() if own else told[list(ids).index(i)]
        wanted = F.one_hot(wanted.argmax(), 4).float() if kind == "hard" else wanted
        assert torch.equal(label, wanted)
    drawn: dict[int, torch.Tensor] = {}
    for batch, y in images(images.steps_per_epoch):
        assert torch.equal(y, labels[batch.index])
        drawn |= dict(zip(batch.index.tolist(), batch.views["image"], strict=True))
    copies = [(i, j) for i in drawn for j in drawn if i < j and pool.ids[i] == pool.ids[j]]
    alike = sum(torch.equal(drawn[i], drawn[j]) for i, j in copies)  # two draws of 16 px may agree by chance
    assert alike < 0.2 * len(copies), "each copy has noise of its own"


def test_the_noise_is_randaugment_and_dropout(config: RunConfig, easy: data.Source) -> None:
    few, network = few_of(easy, "0.1"), classifier(config, easy)
    still = config.replace({"eval.noisy_student.randaugment": (0, 9), "eval.crop": (1.0, 1.0), "views.view.ratio": (1.0, 1.0)})
    shown = []
    for given in (still, still.replace({"eval.noisy_student.randaugment": (2, 9)})):
        ((batch, y),) = noised(given, easy, few, network)(1)
        shown.append(batch.views["image"])
        plain = F.cross_entropy(network(batch.views).float(), y)
        assert_close(by_noised(0.0)(network, batch, y), plain)
        features = network.features(batch.views)
    assert not torch.equal(*shown)

    fed: list[torch.Tensor] = []
    network.head.register_forward_pre_hook(lambda layer, given: fed.append(given[0]))
    for _ in range(2):
        by_noised(0.75)(network, batch, y)
    assert torch.equal(*fed), "a function of seed, step and slot"
    kept = fed[0] != 0
    assert 0.15 < kept[features != 0].float().mean() < 0.35
    assert_close(fed[0][kept], 4 * features[kept])


def test_students_become_teachers_and_the_test_set_is_opened_once_by_them(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    teachers: list[Classifier] = []
    scored, labelling = score, pseudo_labels

    def noted(config, split, ids, classify, device):
        opened.append("test" if split is easy.test else "train")
        return scored(config, split, ids, classify, device)

    def asked(config, source, ids, teacher, device):
        teachers.append(teacher)
        assert not teacher.training
        return labelling(config, source, ids, teacher, device)

    taught_on: dict[int, set[int]] = {}
    train = finetune.train_classifier

    def trained(network, config, options, key, images, *more):
        taught_on[id(network)] = set(images.batches.members.tolist())
        train(network, config, options, key, images, *more)

    monkeypatch.setattr(finetune, "train_classifier", trained)
    for module in (finetune, noisy):
        monkeypatch.setattr(module, "score", noted)
    monkeypatch.setattr(noisy, "pseudo_labels", asked)
    config = config.replace({"eval.noisy_student.finetune_epochs": 8})
    results = distilled(config, config, easy, built(config, easy), "0.2", "noisy_student")
    name = "noisy_student_20pct"
    steps = {f"{name}_iter{i}_val_top1" for i in range(3)}
    assert set(results) == {"finetune_20pct_top1", "scratch_20pct_top1", f"{name}_top1"} | steps
    assert opened == ["train", "test"] * 2 + ["train", "train", "test"], "fine-tuned, from scratch, two students"
    assert len({id(teacher) for teacher in teachers}) == 2
    few = few_of(easy, "0.2")
    assert taught_on[id(teachers[0])] == set(few.fit.tolist()), "not the one that was refitted on held-out images too"
    held = [float(scored(config, easy.train, few.val, lambda inputs, each=each: each(inputs)[None], CPU)[0]) for each in teachers]
    assert held == [results[f"{name}_iter0_val_top1"], results[f"{name}_iter1_val_top1"]]
    assert results[f"{name}_top1"] > 0.5


def test_a_transformer_student_has_stochastic_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    config = vit_config(
        **QUICK
        | {
            f"eval.noisy_student.{key}": value
            for key, value in (("drop_path", 0.3), ("threshold", 0.0), ("epochs", 1), ("iterations", 1))
        }
    )
    source = data.Source("colours", coloured(80, 0), coloured(16, 1))
    rates: list[float] = []
    train = finetune.train_classifier

    def noted(network, config, options, key, images, steps, lr, told, loss_of):
        rates.append(network.method.backbone.encoder.layers[-1].dropout.drop.rate)
        train(network, config, options, key, images, 1, lr, told, loss_of)

    monkeypatch.setattr(finetune, "train_classifier", noted)
    results = distilled(config, config, source, built(config, source), "0.4", "noisy_student")
    assert rates == [0, 0, 0, 0, 0.3], "teacher and reference, each refitted; then the student"
    assert "noisy_student_40pct_top1" in results


# ---------------------------------------------------------------- the student's own pretraining


def test_a_pretrained_student_is_fine_tuned_beside_and_may_be_where_it_starts(
    config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config.replace(taught(epochs=1, finetune_epochs=1) | {"eval.finetune.epochs": 1})
    smaller = given.replace({"backbone.width": 2})
    own = built(smaller.replace({"seed": 5}), easy)
    firsts: list[tuple[str, torch.Tensor]] = []
    train = finetune.train_classifier

    def noted(network, config, options, key, images, steps, lr, told, loss_of):
        firsts.append((loss_of.__qualname__.split(".")[0], network.method.backbone.conv1.weight.detach().clone()))
        train(network, config, options, key, images, steps, lr, told, loss_of)

    monkeypatch.setattr(finetune, "train_classifier", noted)
    results = distilled(given, smaller, easy, built(given, easy), "0.2", own=own)
    alone = finetuned(smaller, easy, own, "0.2")
    assert results["finetune_20pct_width2_top1"] == alone["finetune_20pct_top1"]
    theirs, fresh = own.backbone.conv1.weight, built(smaller, easy).backbone.conv1.weight
    places = [(loss, "own" if torch.equal(w, theirs) else "fresh" if torch.equal(w, fresh) else "teacher") for loss, w in firsts]
    labelled = [("by_labels", start) for start in ("teacher", "fresh", "own") for _ in range(2)]  # each refitted
    assert places[:7] == [*labelled, ("by_teacher", "fresh")]
    started = given.replace({"eval.distill.start": "pretrained"})
    distilled(started, smaller, easy, built(given, easy), "0.2", own=own)
    assert firsts[-1][0] == "by_teacher"
    assert torch.equal(firsts[-1][1], theirs)


def test_the_student_of_a_checkpoint_is_distilled_through_the_interface(config: RunConfig, tmp_path: Path) -> None:
    """`contray eval crd --checkpoint ... --student-checkpoint ...` on the real digits, a class or two of steps."""
    given = config.replace({**taught(epochs=1, finetune_epochs=1), "eval.noisy_student.iterations": 1})
    digits = data.open_source(given.data)
    smaller = given.replace({"backbone.width": 2})
    for each, name in ((given, "teacher"), (smaller, "student"), (given.replace({"seed": 3}), "other")):
        encoder.export(each, model.build(each, len(digits.train)), tmp_path / name)
    results = contray.evaluate(
        "crd",
        checkpoint=str(tmp_path / "teacher"),
        overrides={"eval.crd.student_checkpoint": str(tmp_path / "student"), "eval.crd.labels": "4-per-class"},
    )
    assert set(results) == {
        f"{kind}_top1"
        for kind in ("finetune_4perclass", *(f"{kind}_4perclass_width2" for kind in ("scratch", "finetune", "crd")))
    }
    same = contray.evaluate(
        "distill",
        checkpoint=str(tmp_path / "teacher"),
        overrides={"eval.distill.student_checkpoint": str(tmp_path / "other"), "eval.distill.labels": "4-per-class"},
    )
    assert {"finetune_4perclass_top1", "finetune_4perclass_student_top1", "distill_4perclass_student_top1"} < set(same)


# ---------------------------------------------------------------- names and refusals


def test_students_are_named_after_what_is_smaller(config: RunConfig) -> None:
    assert student.differing(config, config) == ""
    assert (
        student.differing(config, config.replace({"backbone.name": "resnet18", "backbone.selective_kernels": 0.5}))
        == "_resnet18_selective_kernels0_5"
    )


def test_what_cannot_be_a_student_is_refused(config: RunConfig, easy: data.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "train_classifier", lambda *args: pytest.fail("it was trained"))
    untested = data.Source("colours", easy.train, None)
    method = built(config, easy)
    with pytest.raises(UserError, match="no labelled test images"):
        distilled(config, config, untested, method, "0.1")
    cae = RunConfig.make("cae", preset="digits")
    digits = data.open_source(cae.data)
    with pytest.raises(ConfigError, match=r"^backbone\.name: got resnet18, but cae"):
        distilled(cae, cae.replace({"backbone.name": "resnet18"}), digits, built(cae, digits), "0.01")
    smaller = config.replace({"backbone.width": 2})
    with pytest.raises(
        ConfigError, match=r"^backbone: a student of [\d,]+ parameters, but noisy_student needs at least the teacher's"
    ):
        distilled(config, smaller, easy, method, "0.1", "noisy_student")
    with pytest.raises(UserError, match=r"^--labels: got all of them, but noisy_student"):
        distilled(config, config, easy, method, "1.0", "noisy_student")
    with pytest.raises(ConfigError, match=r"^eval\.distill\.start: got pretrained, .*eval\.distill\.student_run"):
        distilled(config.replace({"eval.distill.start": "pretrained"}), config, easy, method, "0.1")
    taken = {"backbone.width": 2}
    for key, other in (("student_checkpoint", "z"), ("start", "untrained")):
        given = config.replace({"eval.distill.student_run": "y", f"eval.distill.{key}": other})
        words = (
            r"^name one student: .*student_run RUN_ID or .*student_checkpoint"
            if other == "z"
            else r"^backbone\.width: .* of its run"
        )
        with pytest.raises(UserError, match=words):
            evaluated("distill", given, easy, method, taken=taken, load=lambda run: Encoder(config, method))
    with pytest.raises(ConfigError, match=r"^eval\.crd\.labelled: got 0, and eval\.crd\.soft is 0 too"):
        distilled(config.replace({"eval.crd.labelled": 0, "eval.crd.soft": 0}), config, easy, method, "0.1", "crd")
    with pytest.raises(UserError, match=r"^evaluation 'dstill' is not known; did you mean distill"):
        distilled(config, config, easy, method, "0.1", "dstill")


def test_a_student_must_see_what_its_teacher_sees(config: RunConfig) -> None:
    assert (
        student_config(
            config,
            RunConfig.make("moco", {"views.query.size": 16, "views.key.size": 16, "backbone.width": 2}, preset="digits"),
            "eval.distill.",
        ).backbone.width
        == 2
    )
    with pytest.raises(UserError, match=r"^eval\.distill\.student_run: the student encodes inputs of another size or kind"):
        student_config(config, RunConfig.make("simclr", preset="digits"), "eval.distill.")
    with pytest.raises(UserError, match=r"^eval\.distill\.student_run: the student is normalised by other means"):
        student_config(config, config.replace({"augment.mean": (0.1, 0.1, 0.1)}), "eval.distill.")


def test_a_teacher_that_is_sure_of_nothing_is_told(config: RunConfig, easy: data.Source) -> None:
    doubtful = config.replace({"eval.noisy_student.threshold": 0.999})
    teacher = classifier(config, easy)
    torch.nn.init.zeros_(teacher.head.weight)
    with pytest.raises(ConfigError, match=r"^eval\.noisy_student\.threshold: got 0\.999, but the teacher is at most 0\.25 sure"):
        noised(doubtful, easy, few_of(easy, "0.1"), teacher)
