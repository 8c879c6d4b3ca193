"""The cached linear evaluation beside the papers' protocol (random crops, 90 epochs) and a plain SGD probe, in one run on one encoder.

    python tests/benchmarks/linear_protocols.py --parquet DIR [--images 50000] [--checkpoint RUN_FOLDER] [--paper-steps 60 | --whole]

Cached: one pass over the images, then 40 probes at once, the best picked on a tenth of the training images. Plain: torch's Linear and SGD
on the same features without augmentation, six rates one after the other, picked alike. Both meet the test set once; their difference
comes with a paired bootstrap over test images. The paper's protocol would take hours on a CPU: --paper-steps of its steps are timed and
the rest is reckoned from them; --whole trains it to its end, and its accuracy is shown too.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from every_method import first_rows  # beside this file
from rich.progress import track
from torch import Tensor

from contray import RunConfig, data, model
from contray.evaluation import Subject
from contray.evaluation import paper as paper_probe
from contray.evaluation.common.features import features_of
from contray.evaluation.linear import linear_probe
from contray.model.encoder import read_checkpoint

LRS, DECAYS = (0.3, 1.0, 3.0, 10.0, 30.0), (0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # 40 probes
PLAIN_LRS, PLAIN_EPOCHS, BATCH = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), 100, 256
CPU = torch.device("cpu")


class Enough(Exception):
    """As many steps as were asked for."""


def plain_sgd(x: Tensor, y: Tensor, lr: float, classes: int) -> torch.nn.Linear:
    """Softmax regression on x (N, D), y (N,): momentum 0.9, a cosine to 0, no decay."""
    torch.manual_seed(0)
    head = torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9)
    steps, step = PLAIN_EPOCHS * math.ceil(len(x) / BATCH), 0
    for _ in range(PLAIN_EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.param_groups[0]["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            F.cross_entropy(head(x[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
    return head


def interval(difference: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """The middle 95 % of the mean of differences (N,) over bootstrap samples of N."""
    rng = np.random.default_rng(0)
    means = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(draws)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def paper_seconds(config: RunConfig, source: data.Source, method: Any, steps: int) -> tuple[float, int]:
    """Seconds that training would take, reckoned from the first `steps` of its steps, and how many it has."""
    marks: list[float] = []
    total = 0

    def show(message: dict[str, Any]) -> None:
        nonlocal total
        marks.append(time.perf_counter())
        total = message["total"]
        if len(marks) == steps:
            raise Enough

    with contextlib.suppress(Enough):
        paper_probe.evaluate(Subject(config, method, CPU, given=source, show=show), config.parts["eval.paper"])
    warm = len(marks) // 10
    return (marks[-1] - marks[warm]) / (len(marks) - 1 - warm) * total, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parquet", required=True, help="folder with train.parquet and test.parquet, e.g. CIFAR-10")
    parser.add_argument("--images", type=int, default=50_000, help="only the first so many training images")
    parser.add_argument("--checkpoint", default="", help="an encoder; default: an untrained residual net of 512 features")
    parser.add_argument("--paper-steps", type=int, default=60, help="steps of the paper's protocol that are timed")
    parser.add_argument("--whole", action="store_true", help="train the paper's protocol to its end")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, {"data.source": first_rows(options.parquet, options.images, Path(scratch)), "data.workers": 0})


def compare(options: argparse.Namespace, keys: dict[str, Any]) -> None:
    if options.checkpoint:
        encoder = read_checkpoint(options.checkpoint)
        config, method = encoder.config.replace(keys), encoder.method.eval()
    else:
        small = {"backbone.name": "resnet_small", "backbone.width": 64}
        config = RunConfig.make("simclr", {**small, **keys}, preset="cifar")
        method = model.build(config, 1).eval()
    source = data.open_source(config.data)
    assert source.test is not None
    fit, val = data.holdout(source.train, config.eval.holdout, config.seed)
    labels, classes = torch.as_tensor(source.train.labels), len(source.train.classes)

    start = time.perf_counter()
    x, y = {}, {}
    for name, split, chosen in (
        ("fit", source.train, fit),
        ("val", source.train, val),
        ("test", source.test, np.arange(len(source.test))),
    ):
        x[name], kept = features_of(config, method, split, chosen, CPU)
        y[name] = (labels if name != "test" else torch.as_tensor(source.test.labels))[kept]
        print(f"{name}: {tuple(x[name].shape)} features after {time.perf_counter() - start:.0f} s", file=sys.stderr)
    encoded = time.perf_counter() - start
    probe = linear_probe(
        x["fit"],
        y["fit"],
        x["val"],
        y["val"],
        lrs=LRS,
        decays=DECAYS,
        epochs=config.parts["eval.linear"].epochs,
        classes=classes,
        seed=0,
    )
    standard = (x["test"] - probe.mean) / probe.std
    cached_hits = (standard @ probe.weights + probe.bias).argmax(1) == y["test"]
    cached = time.perf_counter() - start

    start = time.perf_counter()
    heads = [plain_sgd(x["fit"], y["fit"], lr, classes) for lr in track(PLAIN_LRS, "plain SGD probes")]
    with torch.no_grad():
        best = max(heads, key=lambda head: float((head(x["val"]).argmax(1) == y["val"]).double().mean()))
        plain_hits = best(x["test"]).argmax(1) == y["test"]
    plain = encoded + time.perf_counter() - start

    paper_top1 = None
    if options.whole:
        start = time.perf_counter()
        found = paper_probe.evaluate(Subject(config, method, CPU, given=source), config.parts["eval.paper"])
        paper, said, paper_top1 = time.perf_counter() - start, "measured", found["linear_paper_top1"]
    else:
        paper, total = paper_seconds(config, source, method, options.paper_steps)
        said = f"reckoned from {options.paper_steps} of {total} steps"

    gain = cached_hits.double().numpy() - plain_hits.double().numpy()
    low, high = interval(gain)
    top1 = {"cached, 40 probes": float(cached_hits.double().mean()), "plain SGD, 6 probes": float(plain_hits.double().mean())}
    print(
        f"\n{len(fit)} + {len(val)} images, {len(x['test'])} test images, {x['fit'].shape[1]} features, {options.threads} thread(s)"
    )
    print("| protocol | seconds | times the cached one's | test top-1 |\n|---|---|---|---|")
    print(f"| cached, 40 probes (of it encoding {encoded:.0f} s) | {cached:.0f} | 1 | {100 * top1['cached, 40 probes']:.2f} % |")
    print(f"| plain SGD, 6 probes | {plain:.0f} | {plain / cached:.1f} | {100 * top1['plain SGD, 6 probes']:.2f} % |")
    shown = f"{100 * paper_top1:.2f} %" if paper_top1 is not None else ""
    print(
        f"| paper, {config.parts['eval.paper'].epochs} epochs, 6 probes at once ({said}) | {paper:.0f} | {paper / cached:.1f} | {shown} |"
    )
    print(
        f"\ncached minus plain: {100 * gain.mean():+.2f} points, 95 % of paired bootstraps within {100 * low:+.2f} and {100 * high:+.2f}"
    )


if __name__ == "__main__":
    main()
