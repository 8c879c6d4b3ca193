"""The first hour, measured: what starts on any folder, and whether the plan of preset auto is as good as the presets that were made by hand.

    python tests/benchmarks/first_hour.py folders --parquet train.parquet --images 24 60 1201 --side 32 --budget 90s
    python tests/benchmarks/first_hour.py presets --parquet train.parquet --test test.parquet --images 1000 5000 --methods simclr --minutes 2

folders: folders of N images of a side, with classes and without, and `contray train METHOD --data.source FOLDER --budget B` on each: seconds to
the first step, in all, refused or not, verdict. presets: the plan against the fixed presets, all cut to the same time by what a step of each is
measured to take by this process's own clock, so that neighbours on the machine do not count; k-NN and linear top-1, mean and std over seeds.
Both print a Markdown table, each line as soon as it is known.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch

from contray import data
from contray.config import RunConfig
from contray.config.registry import builtin, load_method
from contray.errors import UserError
from contray.evaluation import Subject
from contray.evaluation.common.run import finals
from contray.planning import planned
from contray.planning.cost import MARGIN, Cost
from contray.planning.facts import Machine, look
from contray.planning.trial import measure
from contray.training.loop import train

FIXED = ("cifar_short", "digits", "cifar")
OTHERS = ("clip", "cpc_sequence")  # methods of captions and arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("folders", "presets"))
    parser.add_argument("--parquet", type=Path, required=True, help="training images: columns image (bytes, path) and label")
    parser.add_argument("--test", type=Path, help="presets: test images")
    parser.add_argument("--images", type=int, nargs="+", default=[24, 60, 1201])
    parser.add_argument("--methods", nargs="+", default=[name for name in builtin("method") if name not in OTHERS])
    parser.add_argument("--side", type=int, default=0, help="folders: side of the images in px; 0: as they are")
    parser.add_argument(
        "--classes",
        nargs="+",
        choices=("yes", "no"),
        default=["yes", "no"],
        help="folders: whether images lie in folders of classes",
    )
    parser.add_argument("--budget", default="90s", help="folders: of each run")
    parser.add_argument("--dry-run", action="store_true", help="folders: the plan and its estimate only")
    parser.add_argument("--minutes", type=float, default=2.0, help="presets: of one core's work that each run may train")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        (folders if options.what == "folders" else presets)(options, Path(scratch))


# ---------------------------------------------------------------- folders


def folders(options: argparse.Namespace, scratch: Path) -> None:
    """One line for each method, number of images, and with or without classes."""
    print("| method | images | classes | first step, s | in all, s | ended | verdict |\n|---|---|---|---|---|---|---|")
    for count in options.images:
        for classes in options.classes:
            labelled = classes == "yes"
            folder = scratch / f"{count}-{'classes' if labelled else 'plain'}"
            make_folder(options.parquet, folder, count, options.side, labelled)
            for method in options.methods:
                first, whole, code, said = run(method, folder, options, scratch / "runs")
                ended = "yes" if code == 0 else f"exit {code}"
                print(
                    f"| {method} | {count:,} | {classes} | {first} | {whole:.0f} | {ended} | {said} |",
                    flush=True,
                )


def run(method: str, folder: Path, options: argparse.Namespace, out: Path) -> tuple[str, float, int, str]:
    """(seconds to the first step, in all, exit code, the verdict's line or why it was refused) of one command."""
    words = ["train", method, "--data.source", str(folder), "--budget", options.budget, "--scale.storage", str(out)]
    words += ["--dry-run"] if options.dry_run else []
    began, first, told = time.perf_counter(), "none", list[str]()
    command = [sys.executable, "-m", "contray", *words, "--track.uri", f"sqlite:///{out.parent}/mlflow.db"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line.strip())
            if first == "none" and re.search(r"\bstep [1-9]|[1-9]\d*/\d+", line):
                first = f"{time.perf_counter() - began:.0f}"
    seconds = time.perf_counter() - began
    refused = [line.removeprefix("contray: ") for line in told if line.startswith("contray: ")]
    verdict = [line for line in told if "linear" in line or "k-NN" in line or "RankMe" in line or line.startswith("time ")]
    said = (refused[-1:] if process.returncode else verdict[-1:]) or told[-1:] or [""]
    return first, seconds, process.returncode, said[0].replace("|", "/")[:160]


def make_folder(parquet: Path, folder: Path, count: int, side: int, labelled: bool) -> None:
    """`count` images from all over a Parquet file, as FOLDER/CLASS/*.png or FOLDER/*.png; larger ones as JPEG, as photos are."""
    for number, (content, label) in enumerate(rows(parquet, count)):
        place = folder / f"class{label}" if labelled else folder
        place.mkdir(parents=True, exist_ok=True)
        if side:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            image = cv2.resize(image, (side * 4 // 3, side) if side > 256 else (side, side), interpolation=cv2.INTER_CUBIC)
            content = cv2.imencode(".jpg" if side > 256 else ".png", image)[1].tobytes()
        (place / f"{number:06d}{'.jpg' if side > 256 else '.png'}").write_bytes(content)


def rows(parquet: Path, count: int) -> Iterator[tuple[bytes, int]]:
    """(encoded image, label) of rows from all over the file."""
    table = pq.read_table(parquet)
    for i in np.linspace(0, len(table) - 1, count).round().astype(int).tolist():
        yield table["image"][i].as_py()["bytes"], table["label"][i].as_py()


# ---------------------------------------------------------------- presets


def presets(options: argparse.Namespace, scratch: Path) -> None:
    """One line for each method, number of images and configuration."""
    if options.test is None:
        raise SystemExit("presets: give --test, images that no run has seen")
    print("| method | images | settings | steps | k-NN | linear | linear, untrained |\n|---|---|---|---|---|---|---|")
    torch.set_num_threads(1)
    for count in options.images:
        folder = scratch / f"set{count}"
        make_folder(options.parquet, folder / "train", count, 0, True)
        make_folder(options.test, folder / "test", 2000, 0, True)
        for method in options.methods:
            known = [name for name in FIXED if name in load_method(method).presets]
            for preset in ("auto", *known):
                line(method, count, preset, str(folder), options)


def line(method: str, count: int, preset: str, folder: str, options: argparse.Namespace) -> None:
    found: dict[str, list[float]] = {}
    given = {
        "data.source": folder, "data.workers": 0, "eval.every_epochs": 0, "eval.final": "knn linear", "scale.workers": (0, 0), "train.precision": "fp32",
    }  # fmt: skip
    try:
        config = cut(RunConfig.make(method, given, preset=preset), options.minutes)
    except UserError as error:
        print(f"| {method} | {count:,} | {preset} | refused: {str(error)[:120].replace('|', '/')} | | | |", flush=True)
        return
    source = data.open_source(config)
    for seed in range(options.seeds):
        own = config.replace({"seed": seed, "train.planned": config.train.planned})
        outcome = train(own, source)
        with contextlib.redirect_stdout(sys.stderr):
            metrics, problem = finals(Subject(own, outcome.method, torch.device("cpu"), given=source))
        if problem:
            print(problem, file=sys.stderr)
        for name in ("knn_top1", "linear_top1", "random_linear_top1"):
            found.setdefault(name, []).append(metrics.get(name, float("nan")))
    shown = " | ".join(spread(values) for values in found.values())
    print(f"| {method} | {count:,} | {preset} | {config.train.steps:,} of {config.train.batch_size} | {shown} |", flush=True)


def cut(config: RunConfig, minutes: float) -> RunConfig:
    """The config with as many steps as `minutes` of one core's work buy, by its own measured step; of auto, its plan for so much training."""
    source = data.open_source(config)
    if config.unplanned:
        _, first = planned(config, source)  # tells what of a budget is not for training
        assert first.cost is not None
        budget = (first.cost.before + first.cost.verdict) / 60 + minutes / MARGIN
        config, _ = planned(config.replace({"train.budget": budget, "train.planned": config.train.planned}), source)
    images = look(config, source)
    step = Cost.of(config, images, Machine(), measure(config, images)).step(config.train.batch_size)
    steps = max(int(60 * minutes / step), 5)
    return config.replace({"train.steps": steps, "train.planned": config.train.planned})


def spread(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.pstdev(values):.1f}"


if __name__ == "__main__":
    main()
