"""Does it matter that shards are read in blocks? The same run in full order and in blocks, from tar shards, over seeds.

    python tests/benchmarks/orders.py PARQUET_FOLDER [--limit 10000] [--shards 40] [--window 8] [--seeds 3] [--steps 400] [--jobs 2]

The images of a Parquet set (columns `image`, `label`; files train* and test*) are written to tar shards twice: as they
come, and sorted by class, which no one should do and many have. Each row is the mean of the seeds and its standard
error; the runs are SimCLR's `digits` preset on images of 32 px, one thread each.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import statistics
import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from contray import RunConfig, data
from contray.evaluation import Subject
from contray.evaluation.common.run import run as measure
from contray.training.loop import train


def write(table: pa.Table, split: str, shards: int, folder: Path) -> None:
    """The rows of a table as `shards` tar files of an image and a class each."""
    images, labels = (table[name].to_pylist() for name in ("image", "label"))
    each = math.ceil(len(images) / shards)
    for shard in range(shards):
        with tarfile.open(folder / f"{split}-{shard:04}.tar", "w") as tar:
            for i in range(shard * each, min((shard + 1) * each, len(images))):
                for suffix, content in ((".png", images[i]["bytes"]), (".cls", str(labels[i]).encode())):
                    member = tarfile.TarInfo(f"{i:08}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def run(job: tuple[str, str, int, int, int]) -> dict[str, Any]:
    """k-NN and linear accuracy of one run."""
    folder, shuffle, seed, window, steps = job
    torch.set_num_threads(1)
    settings = {
        "data.source": folder, "data.shuffle": shuffle, "data.workers": 0, "train.steps": steps, "eval.every_epochs": 0, "seed": seed,
    } | ({"data.window": window} if shuffle == "blocks" else {})  # fmt: skip
    config = RunConfig.make("simclr", settings, preset="digits")
    source = data.open_source(config.data)
    outcome = train(config, source)
    return measure(["knn", "linear"], Subject(config, outcome.method, torch.device("cpu"), given=source))


def cell(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f} ({', '.join(f'{100 * value:.1f}' for value in values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parquet", type=Path, help="folder of train*.parquet and test*.parquet")
    parser.add_argument("--limit", type=int, default=10_000, help="training images")
    parser.add_argument("--tests", type=int, default=4_000, help="test images")
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--window", type=int, default=8, help="shards mixed at a time")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one thread")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("as they come", "sorted by class"):
            folder = Path(scratch) / kind
            folder.mkdir()
            for split, rows, shards in (("train", options.limit, options.shards), ("test", options.tests, 4)):
                table = pa.concat_tables(
                    pq.read_table(file) for file in sorted(options.parquet.rglob(f"{split}*.parquet"))
                ).slice(0, rows)
                write(table.sort_by("label") if kind != "as they come" else table, split, shards, folder)
        jobs = [
            (str(Path(scratch) / kind), shuffle, seed, options.window, options.steps)
            for kind in ("as they come", "sorted by class")
            for shuffle in ("full", "blocks")
            for seed in range(options.seeds)
        ]
        print("| shards | order | k-NN | linear |\n|---|---|---|---|", flush=True)
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows: list[dict[str, Any]] = []
            for job, found in zip(jobs, pool.map(run, jobs), strict=True):
                rows.append(found)
                if len(rows) == options.seeds:
                    knn, linear = (cell([row[name] for row in rows]) for name in ("knn_top1", "linear_top1"))
                    print(f"| {Path(job[0]).name} | {job[1]} | {knn} | {linear} |", flush=True)
                    rows = []


if __name__ == "__main__":
    sys.exit(main())
