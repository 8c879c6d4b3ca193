"""Few labels on CIFAR-10: what pretraining is worth, and what a teacher is worth to a smaller student, from pretraining to the table.

    python tests/benchmarks/few_labels.py --parquet DIR                      # train*.parquet and test*.parquet, Hugging Face layout
    python tests/benchmarks/few_labels.py --parquet DIR --crd --noisy        # the two further ways to teach
    python tests/benchmarks/few_labels.py --parquet DIR --teacher contray_runs/few_labels/runs/simclr-cifar-...   # reuse what is pretrained

SimCLR pretrains a small residual net (teacher) and a narrower one (student) on all images without labels. Then, with the same few
labels, balanced over the classes: each fine-tuned and from scratch, and the student taught by the fine-tuned teacher on all images.
Held-out labels pick each network's rate, as many for all; the test set is opened once per line. One process, one thread. The same
command goes on with an interrupted pretraining. Times include all rates; steps are those of the network that is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from every_method import first_rows

import contray
from contray import RunConfig, data
from contray.data.parquet import parquet_files
from contray.errors import UserError
from contray.evaluation.common.classifier import labelled_subset

SIMCLR = {  # the section CIFAR-10 of docs/RESULTS.md
    "backbone.name": "resnet_small", "method.temperature": 0.2, "method.projector_hidden": 256, "optim.name": "adamw", "optim.lr": 2e-3,
    "optim.warmup_epochs": 1, "scale.workers": (0, 0), "scale.cpus_per_worker": 1, "data.workers": 0, "eval.every_epochs": 0, "eval.final": (),
}  # fmt: skip


def pretrained(options: argparse.Namespace, source: str, width: int, images: int) -> str:
    """The folder of checkpoints of a SimCLR encoder of this width."""
    settings = {
        **SIMCLR, "backbone.width": width, "data.source": source, "train.batch_size": min(256, images), "train.epochs": options.epochs,
        "train.steps": options.steps, "seed": options.seed, "scale.storage": str(options.out / "runs"),
        "track.uri": f"sqlite:///{(options.out / 'mlflow.db').resolve()}",
    }  # fmt: skip
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # the table alone goes to stdout
        result = contray.train(RunConfig.make("simclr", settings, preset="cifar"))
    print(f"pretrained width {width}: {result.step} steps, {minutes(start)}, {result.checkpoint}", file=sys.stderr, flush=True)
    return result.checkpoint


def minutes(start: float) -> str:
    return f"{(time.perf_counter() - start) / 60:.1f} min"


class Table:
    """Lines on stdout, each as soon as it is known."""

    def __init__(self, tests: int) -> None:
        self.tests = tests
        print("| network | start | learns from | test top-1, % | steps | time |\n|---|---|---|---|---|---|", flush=True)

    def line(self, network: str, start: str, learns_from: str, top1: float, steps: int, taken: str) -> None:
        error = math.sqrt(top1 * (1 - top1) / self.tests)
        print(f"| {network} | {start} | {learns_from} | {100 * top1:.1f} ± {100 * error:.1f} | {steps} | {taken} |", flush=True)


def measured(name: str, checkpoint: str, overrides: Mapping[str, Any]) -> tuple[dict[str, float], str]:
    """The metrics of an evaluation and the time it took; its progress goes to stderr."""
    start = time.perf_counter()
    return contray.evaluate(name, checkpoint=checkpoint, overrides=overrides, quiet=False), minutes(start)


def compare(options: argparse.Namespace) -> None:
    files = parquet_files(Path(options.parquet))
    if not files:
        raise UserError(f"--parquet: {options.parquet} holds no Parquet files")
    folder = options.out / f"first_{options.images}"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        first_rows(options.parquet, options.images, folder)
    found = data.open_source(RunConfig.make("simclr", {"data.source": str(folder)}, preset="cifar").data)
    if found.test is None:
        raise UserError(f"--parquet: {options.parquet} holds no test images")
    images, few = len(found.train), labelled_subset(found.train, options.labels)
    print(f"{images} images, {len(few.ids)} labels, {len(found.test)} test images", file=sys.stderr, flush=True)
    teacher = options.teacher or pretrained(options, str(folder), options.width, images)
    student = options.student or pretrained(options, str(folder), options.student_width, images)

    taught = {
        "lrs": tuple(options.rates), "finetune_epochs": options.finetune_epochs, "epochs": options.distill_epochs, "labels": options.labels,
    }  # fmt: skip
    own = {
        "finetune": {"lrs": tuple(options.rates), "epochs": options.finetune_epochs, "labels": options.labels},
        "distill": {**taught, "temperature": options.temperature},
        "crd": {**taught, "soft_temperature": options.temperature},
        "noisy_student": {**taught, "threshold": options.noisy_threshold},
    }
    keys = {
        name: {"data.source": str(folder), **{f"eval.{name}.{key}": value for key, value in given.items()}}
        for name, given in own.items()
    }
    defaults = RunConfig.make("simclr", keys["noisy_student"], preset="cifar").parts["eval.noisy_student"]
    own_steps = options.finetune_epochs * (len(few.ids) // min(defaults.finetune_batch, len(few.ids)))
    all_steps = options.distill_epochs * (images // min(256, images))
    table = Table(len(found.test))
    labels, suffix = f"{len(few.ids)} labels", f"_width{options.student_width}"
    for network, checkpoint in ((f"width {options.width}", teacher), (f"width {options.student_width}", student)):
        metrics, taken = measured("finetune", checkpoint, keys["finetune"])
        for kind, start in (("finetune", "SimCLR"), ("scratch", "untrained")):
            table.line(network, start, labels, metrics[f"{kind}_{few.name}_top1"], own_steps, taken)
    for name in ("distill", *(["crd"] if options.crd else [])):
        metrics, taken = measured(name, teacher, {**keys[name], "backbone.width": options.student_width})
        told = f"the teacher (width {options.width}) on all images, {name}"
        table.line(
            f"width {options.student_width}", "untrained", told, metrics[f"{name}_{few.name}{suffix}_top1"], all_steps, taken
        )
    if options.noisy:
        metrics, taken = measured("noisy_student", teacher, keys["noisy_student"])
        name = f"noisy_student_{few.name}"
        rounds = " ".join(f"{100 * metrics[f'{name}_iter{i}_val_top1']:.1f}" for i in range(defaults.iterations + 1))
        told = f"noisy_student, held-out top-1 by round: {rounds}"
        table.line(f"width {options.width}", "untrained", told, metrics[f"{name}_top1"], defaults.iterations * all_steps, taken)
    print(f"\n± one binomial standard error; torch {torch.__version__}, rates {' '.join(f'{rate:g}' for rate in options.rates)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", required=True, help="folder of Parquet files with train* and test*")
    parser.add_argument("--images", type=int, default=50_000, help="use the first so many training images")
    parser.add_argument("--labels", default="0.01", help="a fraction of the labels, or 10-per-class")
    parser.add_argument("--epochs", type=int, default=10, help="of pretraining")
    parser.add_argument("--steps", type=int, default=0, help="of pretraining, instead of epochs")
    parser.add_argument("--width", type=int, default=16, help="of the teacher")
    parser.add_argument("--student-width", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3], help="one of which held-out labels pick")
    parser.add_argument("--finetune-epochs", type=int, default=60)
    parser.add_argument("--distill-epochs", type=int, default=10, help="passes of a taught student over all images")
    parser.add_argument("--temperature", type=float, default=1.0, help="of distillation")
    parser.add_argument("--crd", action="store_true", help="teach by CRD too")
    parser.add_argument("--noisy", action="store_true", help="Noisy Student too, of the teacher's width")
    parser.add_argument(
        "--noisy-threshold", type=float, default=0.3, help="Noisy Student: images of which the teacher is less sure are left out"
    )
    parser.add_argument("--teacher", default="", help="a run's folder or checkpoint, instead of pretraining one")
    parser.add_argument("--student", default="", help="the same of the narrower network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("contray_runs/few_labels"), help="where images and runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        compare(options)
    except UserError as error:
        print(f"few_labels: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
