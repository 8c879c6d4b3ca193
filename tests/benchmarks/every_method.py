"""Does each method learn? All of them at an equal budget of pixels that pass through encoders, against their own untrained encoders.

    python tests/benchmarks/every_method.py [--data digits] [--megapixels 80] [--jobs 2] [--seeds 1] [METHOD ...]
    python tests/benchmarks/every_method.py --data PARQUET_FOLDER --limit 10000     # e.g. CIFAR-10 in the Hugging Face layout
    python tests/benchmarks/every_method.py --seeds 3 --log records/every_method.jsonl   # a line as each run ends; runs that stand there are not repeated

The budget counts every pass of a picture through a network, a target's included, so that a method of many crops or two networks gets
fewer steps. Networks, heads and rates are those of the `digits` presets; on other data the views are those of the `cifar` presets, or all is of `cifar_short`.
Contrastive, clustering and distilling methods are to be judged by both columns, masked and predictive ones by the linear probe.
A gain is bold where it is above two standard errors: binomial ones of the two accuracies' difference, or, where larger, by its spread over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from contray import RunConfig, data, model
from contray.config.registry import load_method, method_names
from contray.data.views import Pipeline
from contray.errors import UserError
from contray.evaluation import Subject
from contray.evaluation.common.run import run as measure
from contray.methods._base import Batch, Clock, Method
from contray.training.loop import train


def config_of(name: str, source: str, seed: int) -> RunConfig:
    """The digits preset; on other data with the views of the cifar preset, or the method's cifar_short preset where it has one."""
    settings: dict[str, Any] = {
        "data.source": source,
        "data.workers": 0,
        "eval.every_epochs": 0,
        "seed": seed,
        "train.device": "cpu",
    }
    presets = load_method(name).presets
    own = "cifar_short" if source != "digits" and "cifar_short" in presets else "digits"
    config = RunConfig.make(name, settings, preset=own)
    if source == "digits" or own == "cifar_short":
        return config
    return dataclasses.replace(config, views=dict(presets["cifar"].views or config.views))


def pixels_per_sample(config: RunConfig) -> float:
    """Pixels (of a signal: values) that enter first convolutions in one step, per sample; measured on two random samples."""
    method = model.build(config, 100).train()
    seen = []

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].shape[0] * math.prod(inputs[0].shape[2:]))

    for encoder in encoders(method):
        next(
            each for each in encoder.modules() if isinstance(each, (torch.nn.Conv2d, torch.nn.Conv1d))
        ).register_forward_pre_hook(count)
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8).numpy()
    signal = torch.rand(1, 4096).numpy()
    kinds = {"array": lambda i: signal, "tokens": lambda i: "text"}
    columns = {view.source: kinds.get(view.kind, lambda i: pictures[i]) for view in config.views.values()}
    rows = [Pipeline(config.views, 0.0)(lambda column, rng, i=i: columns[column](i), (0, 0, i)) for i in range(2)]
    normalise = model.normaliser(config, torch.device("cpu"))
    views = {key: normalise(torch.stack([torch.from_numpy(row[key]) for row in rows])) for key in rows[0]}
    slot = torch.arange(2)
    batch = Batch(views, slot, slot, 2, track=False)
    with batch.norm("blocks"):
        method.represent(batch, Clock(0, 2, 2, 2))
    return sum(seen) / 2


def encoders(method: Method) -> list[torch.nn.Module]:
    """The outermost modules that are backbones, and their averages."""
    return [module for module in method.modules() if hasattr(module, "out_dim") and module is not method]


def run(job: tuple[str, str, int, float]) -> dict[str, Any]:
    """One row: train for the budget's steps, then measure the trained and the untrained encoder on the test set."""
    name, source_name, seed, budget = job
    torch.set_num_threads(1)
    try:
        config = config_of(name, source_name, seed)
        source = data.open_source(config.data)
        steps = max(1, round(budget / (pixels_per_sample(config) * config.train.batch_size)))
        config = config.replace({"train.steps": steps})
        model.check(config, len(source.train))
        outcome = train(config, source)
        found = measure(["knn", "linear"], Subject(config, outcome.method, torch.device("cpu"), given=source))
        tests = len(source.test) if source.test is not None else 0
    except UserError as error:
        return {"method": name, "seed": seed, "skipped": str(error)}
    return {
        "method": name,
        "seed": seed,
        "steps": steps,
        "batch": config.train.batch_size,
        "rate": outcome.images_per_second,
        "tests": tests,
        **found,
    }


def cell(rows: list[dict[str, Any]], key: str) -> str:
    """Accuracy, the untrained encoder's and the gain, means over seeds, with the gain's spread over them; bold where the gain is clear."""
    trained, untrained = (statistics.mean(row[prefix + key] for row in rows) for prefix in ("", "random_"))
    tests = rows[0]["tests"]
    spread = statistics.stdev(row[key] - row["random_" + key] for row in rows) if len(rows) > 1 else 0.0
    binomial = (trained * (1 - trained) + untrained * (1 - untrained)) / tests
    error = math.sqrt(max(binomial, spread**2) / len(rows))
    gain = f"{100 * (trained - untrained):+.1f}" + (f" ± {100 * spread:.1f}" if len(rows) > 1 else "")
    return f"{100 * trained:.1f} | {100 * untrained:.1f} | {f'**{gain}**' if trained - untrained > 2 * error else gain}"


def line(rows: list[dict[str, Any]]) -> str:
    """The table's line of one method, from its rows of every seed."""
    first = rows[0]
    if "skipped" in first:
        return f"| {first['method']} | {first['skipped']} | | | | | | | |"
    rate = statistics.mean(row["rate"] for row in rows)
    return f"| {first['method']} | {first['steps']} x {first['batch']} | {rate:.0f} | {cell(rows, 'knn_top1')} | {cell(rows, 'linear_top1')} |"


def logged(path: Path, asked: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of the log by method and seed, of runs on the same data and budget."""
    rows = [json.loads(text) for text in path.read_text().splitlines()] if path.is_file() else []
    return {(row["method"], row["seed"]): row for row in rows if asked.items() <= row.items()}


def first_rows(source: str, limit: int, folder: Path) -> str:
    """A Parquet set with the first `limit` rows of its training files, the test files as they are."""
    from contray.data.parquet import parquet_files

    left = limit
    for file in parquet_files(Path(source)):
        training = "train" in file.name or "train" in file.parent.name
        table = pq.read_table(file)
        pq.write_table(table.slice(0, left) if training else table, folder / file.name)
        left -= min(left, len(table)) if training else 0
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--data", default="digits", help="digits, or a folder of Parquet files with train* and test*")
    parser.add_argument("--limit", type=int, default=0, help="use only the first so many training images of a Parquet set")
    parser.add_argument("--megapixels", type=float, default=80.0, help="budget of each run, in millions of pixels")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--log", type=Path, help="where each run's row is added as JSON as it ends; what stands there is not run again"
    )
    options = parser.parse_args()
    names = options.methods or method_names()
    with tempfile.TemporaryDirectory() as scratch:
        source = first_rows(options.data, options.limit, Path(scratch)) if options.limit else options.data
        jobs = [(name, source, seed, options.megapixels * 1e6) for seed in range(options.seeds) for name in names]
        asked = {"data": Path(options.data).name, "limit": options.limit, "megapixels": options.megapixels}
        rows = logged(options.log, asked) if options.log else {}
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
            console=Console(stderr=True),
        )  # fmt: skip
        print("| method | steps x batch | images/s | k-NN | untrained | gain | linear | untrained | gain |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        with bar, ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            task = bar.add_task("methods", total=len(jobs))
            waiting = {pool.submit(run, job): job for job in jobs if job[:1] + job[2:3] not in rows}
            bar.advance(task, len(jobs) - len(waiting))
            for done in as_completed(waiting):
                row = done.result()
                rows[row["method"], row["seed"]] = row
                bar.advance(task)
                if options.log:
                    with options.log.open("a") as log:
                        log.write(json.dumps(asked | row, default=float) + "\n")
        for name in names:
            print(line([rows[name, seed] for seed in range(options.seeds)]))
    print(f"\n{options.megapixels:g} megapixels per run, {options.seeds} seed(s), torch {torch.__version__}")


if __name__ == "__main__":
    sys.exit(main())
