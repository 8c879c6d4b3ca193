"""Schedulers compared on one set of trials: what each finds, and how much of the computing it saves.

    python tests/benchmarks/schedulers.py OUT --trials 16           # trains them all to their end, then the table
    python tests/benchmarks/schedulers.py OUT --population 8        # and a population (PBT) of so many, beside as many of the trials

Random SimCLR trials on the digits (temperature, rate, strength, decay) are trained once, without a scheduler. Then each scheduler, the object of
Ray Tune that a sweep takes, is told their curves in ORDERS random orders, two trials at once, and stops what it would have stopped. So all
schedulers meet the same trials and differ by nothing else. What a sampler would draw next is no part of this: trials are random.
`regret`: the best trial's held-out linear accuracy less that of what was found, in points. `at a third`: the same where the time is over after a
third of what all trials take. A population changes its trials on the way and cannot be told old curves: it is trained.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from contray.storage import sealed
from contray.storage.folder import Storage
from contray.tuning import sweep
from contray.tuning.search import Search, _scheduler
from contray.tuning.trial import REPORTS

ORDERS, AT_ONCE, METRIC, ONLINE = 200, 2, "linear_val_top1", "knn_val_top1"
SPACE = """
    "method.temperature": tune.loguniform(0.05, 1.0),
    "optim.lr": tune.loguniform(1e-4, 1e-2),
    "augment.strength": tune.uniform(0.0, 1.5),
    "optim.weight_decay": tune.loguniform(1e-6, 1e-2),
"""
BASE = {
    "data.renderings": 1, "data.size": 24, "views.view.size": 24, "backbone.width": 8, "train.batch_size": 64, "train.precision": "fp32",
    "eval.every_epochs": 1, "eval.online_limit": 600, "eval.linear.lrs": (0.1,), "eval.linear.decays": (0.0,), "eval.linear.epochs": 20,
    "scale.workers": (0, 0), "scale.cpus_per_worker": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One trial as it was without a scheduler: (per cent of its steps, online metric) pairs, and what it came to."""

    trial_id: str
    reports: tuple[tuple[int, float], ...]
    final: float


class Nobody:
    """Tune's controller, as far as schedulers ask it."""

    def get_live_trials(self) -> list[Any]:
        return []


def trained(out: Path, samples: int, steps: int, scheduler: str, seed: int) -> list[Curve]:
    """The trials of a sweep over SPACE, trained now or found in `out`."""
    kept = out / f"{scheduler}-{seed}.json"
    if not kept.exists():
        out.mkdir(parents=True, exist_ok=True)
        file, domains = out / "space.py", SPACE
        file.write_text(f'from ray import tune\nABOUT = "benchmark"\nMETHOD = "simclr"\nBASE = {BASE}\nSPACE = {{{domains}}}\n')
        keys = {
            "scale.storage": str(out / "runs"),
            "track.uri": f"sqlite:///{(out / 'mlflow.db').resolve()}",
            "train.steps": steps,
            "seed": seed,
        }
        result = sweep(str(file), keys, preset="digits", samples=samples, scheduler=scheduler, concurrent=AT_ONCE)
        curves = []
        for trial in result.trials:
            told = (sealed.read(Storage(trial.folder), REPORTS, {"reports": list}) or {}).get("reports", [])
            reports = [[each["progress"], each[ONLINE]] for each in told]
            curves.append([trial.name, reports, trial.metrics.get(METRIC, math.nan)])
        kept.write_text(json.dumps(curves))
    return [
        Curve(name, tuple(map(tuple, reports)), final) for name, reports, final in json.loads(kept.read_text()) if final == final
    ]


def replayed(curves: Sequence[Curve], scheduler: Any, budget: float = math.inf) -> tuple[float, float]:
    """(the best final metric among the trials that came to their end, the time of all in trials' lengths), in the order of `curves`."""
    if scheduler is not None:
        scheduler.set_search_properties(ONLINE, "max")
    controller, waiting, running = Nobody(), list(curves), list[tuple[float, int, Curve, int]]()
    best, spent, count = 0.0, 0.0, 0

    def begin(now: float) -> None:
        nonlocal count
        if waiting:
            curve = waiting.pop(0)
            if scheduler is not None:
                scheduler.on_trial_add(controller, curve)
            count += 1
            heapq.heappush(running, (now + curve.reports[0][0] / 100, count, curve, 0))

    for _ in range(AT_ONCE):
        begin(0.0)
    while running:
        now, number, curve, at = heapq.heappop(running)
        if now * AT_ONCE > budget:
            break
        before = curve.reports[at - 1][0] if at else 0
        if at == len(curve.reports):  # its end
            spent, best = spent + (100 - before) / 100, max(best, curve.final)
            if scheduler is not None:
                scheduler.on_trial_complete(controller, curve, {"progress": 100, ONLINE: curve.reports[-1][1]})
            begin(now)
            continue
        progress, value = curve.reports[at]
        spent += (progress - before) / 100
        word = (
            scheduler.on_trial_result(controller, curve, {"progress": progress, ONLINE: value})
            if scheduler is not None
            else "CONTINUE"
        )
        if word == "STOP":
            begin(now)
            continue
        after = curve.reports[at + 1][0] if at + 1 < len(curve.reports) else 100
        heapq.heappush(running, (now + (after - progress) / 100, number, curve, at + 1))
    return best, spent


def line(name: str, curves: Sequence[Curve], make: Callable[[], Any]) -> str:
    """A row of the table: mean over orders, with the standard error."""
    top, rng = max(curve.final for curve in curves), random.Random(0)
    regrets, shares, early = [], [], []
    for _ in range(ORDERS):
        order = rng.sample(curves, len(curves))
        best, spent = replayed(order, make())
        regrets.append(100 * (top - best))
        shares.append(100 * spent / len(curves))
        early.append(100 * (top - replayed(order, make(), len(curves) / 3)[0]))
    cells = [f"{mean(values):.1f} ± {stdev(values) / math.sqrt(ORDERS):.1f}" for values in (shares, regrets, early)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Train what there is not yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--population", type=int, default=0)
    options = parser.parse_args()
    curves = trained(options.out, options.trials, options.steps, "none", 0)
    finals = sorted((curve.final for curve in curves), reverse=True)
    print(
        f"{len(curves)} trials of {options.steps} steps; held-out linear: best {100 * finals[0]:.1f}, median {100 * finals[len(finals) // 2]:.1f} %"
    )
    print("| scheduler | computing % | regret | at a third |\n|---|---:|---:|---:|")
    rows = [("none", 0.4), *((kind, grace) for kind in ("median", "asha") for grace in (0.2, 0.4, 0.6))]
    for kind, grace in rows:
        search = Search(1, kind, grace, 0, AT_ONCE, METRIC, {})
        print(
            line(kind if kind == "none" else f"{kind}, grace {grace}", curves, lambda search=search: _scheduler(search, {})),
            flush=True,
        )
    if options.population:
        members = trained(options.out, options.population, options.steps, "pbt", 1)
        rng = random.Random(0)
        drawn = [max(curve.final for curve in rng.sample(curves, options.population)) for _ in range(ORDERS)]
        print(f"population of {options.population}: best {100 * max(each.final for each in members):.1f} %; as many random trials: "
              f"{100 * mean(drawn):.1f} ± {100 * stdev(drawn):.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
