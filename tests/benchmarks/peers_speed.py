"""How fast SimCLR trains on this machine's CPU, with lightly and Lightning as lightly's examples have it, and with contray: `peers.py speed`.

Same images, network (ResNet-18 with a stem for CIFAR), batch, optimiser and augmentation (lightly's SimCLRTransform for CIFAR-10, contray's preset
`cifar_lightly`). Timed is all that a step takes, loading and augmentation included; start-up and the first WARM steps are not. Each measurement
is a process of its own, for threads and allocators to begin anew; rounds alternate, so that what else the machine does meets all alike, and ratios
are taken within a round.

lightly: a LightningModule of lightly's pieces under pl.Trainer's defaults (its logger, progress bar and checkpoint included), and a DataLoader with a
process per core, or --workers. contray: `contray train simclr --preset cifar_lightly` with its defaults, which are a Ray Train worker with all
cores, one loader process, views made on the CPU, checkpoints and tracking; but without evaluations, as lightly's loop has none, and with a metric
point each step, for their times. Keys of its config may be given (--data.workers 0). Its own choice of train.precision is bf16 where the processor
has units for it, which the result says; both are measured. Both libraries have as many threads as there are cores, whatever OMP_NUM_THREADS says.
Ask for it on an idle machine: threads that share cores with others wait for each other.

What contray's engine costs over a bare loop is `overhead.py`'s to say.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

WARM = 5  # steps before the clock starts: processes start, Ray's own among them, oneDNN chooses its kernels
AHEAD = 3  # steps after it stops: contray's loader has no more to prepare in a run's last ones
CASES = ("lightly", "lightly bf16", "contray fp32", "contray bf16")


def lightly_rate(data: Path, precision: str, batch: int, steps: int, workers: int) -> float:
    """images/s of pl.Trainer."""
    import pytorch_lightning as pl

    from tests.benchmarks.peers import loader, read, sgd, simclr

    class SimCLR(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head, self.criterion = simclr()

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            first, second = (self.head(self.backbone(view)) for view in batch)
            return self.criterion(first, second)

        def configure_optimizers(self) -> torch.optim.SGD:
            return sgd(batch, self)

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.moments: list[float] = []

        def on_train_batch_end(self, *_: Any) -> None:
            self.moments.append(time.perf_counter())

    batches, clock = loader(read(data / "train.parquet")[0], batch, workers), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_steps=WARM + steps,
            callbacks=[clock],
            default_root_dir=folder,
        )
        trainer.fit(SimCLR(), batches)
    return steps * batch / (clock.moments[-1] - clock.moments[WARM - 1])


def contray_rate(data: Path, precision: str, batch: int, steps: int, given: dict[str, Any]) -> float:
    """images/s of `contray train`."""
    import contray
    from contray import RunConfig, track
    from tests.benchmarks.overhead import mean_rate

    with tempfile.TemporaryDirectory() as folder:
        keys = {
            "data.source": str(data), "train.batch_size": batch, "train.steps": WARM + steps + AHEAD, "train.precision": precision, "train.log_every": 1,
            "eval.every_epochs": 0, "eval.final": (), "track.model": False, "track.uri": f"sqlite:///{Path(folder) / 'mlflow.db'}",
            "scale.storage": f"{folder}/runs", "train.device": "cpu",
        }  # fmt: skip
        config = RunConfig.make("simclr", {**keys, **given}, preset="cifar_lightly")
        result = contray.train(config, quiet=True)
        points = track.attach(track.resolve_uri(config.track.uri), result.run_id).history("images_per_second")
    return mean_rate(config, [point for point in points if WARM <= point[0] <= WARM + steps])


def measured(case: str, data: Path, options: argparse.Namespace, workers: int, keys: dict[str, Any]) -> float:
    """images/s of a case, from a process of its own."""
    plain = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}  # as many threads as a user has
    words = [case, str(data), str(options.batch), str(options.steps), str(workers), json.dumps(keys)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.peers_speed", *words], env=plain, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{case} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return float(done.stdout.split()[-1])


def cut(source: Path, images: int | None, target: Path) -> Path:
    """A folder of CIFAR-10's files with the first images of each."""
    import pyarrow.parquet as parquet

    if images is None:
        return source.absolute()
    for name in ("train.parquet", "test.parquet"):
        parquet.write_table(parquet.read_table(source / name).slice(0, images), target / name)
    return target


def speed(options: argparse.Namespace, dotted: list[str]) -> dict[str, Any]:
    """dotted: keys of contray's config and their values."""
    from contray.cli.options import split_dotted
    from contray.model.hardware import quick_bf16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    keys, rest = split_dotted(dotted)
    cases = options.cases or CASES
    if rest or cases[0] != "lightly" or not {*cases} <= {*CASES}:
        raise SystemExit(f"unknown: {' '.join(rest)}" if rest else f"--cases: lightly, and of {', '.join(CASES[1:])}")
    workers, rates = min(options.workers, cores), {case: list[float]() for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        data = cut(options.data, options.images, Path(folder))
        for turn in range(options.rounds):
            for case in cases:
                rates[case].append(measured(case, data, options, workers, keys))
                print(f"round {turn + 1}: {case} {rates[case][-1]:.1f} images/s", flush=True)
    ratios = {case: [ours / theirs for ours, theirs in zip(rates[case], rates["lightly"], strict=True)] for case in cases}
    quick, words = quick_bf16("cpu")
    found: dict[str, Any] = {
        "images_per_second": rates, "ratio_to_lightly": ratios, "batch": options.batch, "steps": options.steps, "cores": cores,
        "lightly_workers": workers, "contray_default": "bf16" if quick else "fp32", "hardware": words, "torch": torch.__version__, "contray_keys": keys,
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    table = Table("training", "images/s, median", "range", "over lightly, median", "range")
    for case in cases:
        values = (rates[case], ratios[case])
        cells = [(f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}") for each in values]
        table.add_row(case, *cells[0], *cells[1])
    print(
        f"batch {options.batch}, {options.steps} steps x {options.rounds} rounds, {cores} core(s), {workers} loader process(es) of lightly's; "
        f"contray's own choice: {found['contray_default']} ({words})"
    )
    Console().print(table)
    return found


def main() -> None:
    """One case, whose images/s are the last word that is printed."""
    case, data, batch, steps, workers, keys = sys.argv[1:]
    library, _, precision = case.partition(" ")
    if library == "lightly":
        rate = lightly_rate(Path(data), precision, int(batch), int(steps), int(workers))
    else:
        rate = contray_rate(Path(data), precision, int(batch), int(steps), json.loads(keys))
    print(f"\n{rate}", flush=True)


if __name__ == "__main__":
    main()
