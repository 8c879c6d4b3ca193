"""Whether contray computes on a GPU what it computes on a CPU, and what it costs there: needs neither Ray nor MLflow.

    PYTHONPATH=platform:. python tests/gpu/check.py [--device cuda] [--only methods resume ...] [--quick] [--json FILE]

Exit code 1 where a check fails. `methods`: every method's digits preset through the real loop, against the CPU in float64, and in fp32 and bf16;
`resume`: a killed run goes on bit-equal; `chunks`: GradCache; `memory`: a step that really runs out of memory is done again in halves;
`ranks`: two gloo ranks on one device equal one; `watch`: numbers that are none; `evaluate`: every protocol; `compile`; `syncs`: where a step
waits for the device; `speed`: see speed.py. --quick: fewer steps and methods, to try this script on a CPU.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import torch
import torch.distributed as dist

from contray import data, model
from contray.config import RunConfig
from contray.config.registry import method_names
from contray.evaluation import Subject, geometry
from contray.evaluation.common.run import run as run_evaluations
from contray.storage.folder import Storage
from contray.training import loop, step
from contray.training.agreement import NonFiniteLoss
from tests.gpu.runs import EXACT, SEVEN, Context, Killed, Report, Result, Told, config_of, equal, loss_gap, run, state_gap
from tests.ranks import run_ranks

# ---------------------------------------------------------------- the checks


def methods(now: Context) -> None:
    others = (
        [] if now.quick or now.chosen else [name for name in method_names() if name not in (*SEVEN, "distill")]
    )  # it needs a teacher
    names = [*now.names, *others]
    lengths = {name: 3 if now.quick or name not in SEVEN else 20 for name in names}
    reference: dict[str, Future[Result]] = {
        name: now.pool.submit(run, config_of(name, "cpu", "fp64", lengths[name])) for name in names
    }
    for name in names:
        with now.report.case("methods", name):
            found = {kind: run(config_of(name, now.device, kind, lengths[name])) for kind in ("fp64", "fp32", "bf16")}
            cpu = reference[name].result()
            losses, states = loss_gap(found["fp64"], cpu), state_gap(found["fp64"], cpu)
            now.report.add("methods", f"{name} fp64 loss, {lengths[name]} steps", losses, losses < EXACT)
            now.report.add("methods", f"{name} fp64 state", states, states < EXACT)
            for kind, most in (("fp32", 1e-4), ("bf16", 0.1)):
                first = abs(found[kind].loss[1] - cpu.loss[1]) / abs(cpu.loss[1])
                fine = first < most and all(abs(value) < 1e6 for value in found[kind].loss.values())
                now.report.add("methods", f"{name} {kind} first loss against fp64", first, fine)


def resume(now: Context) -> None:
    for name in now.names:
        for kind in ("fp32", "bf16"):
            with now.report.case("resume", f"{name} {kind}"), tempfile.TemporaryDirectory() as folder:
                config = config_of(name, now.device, kind, 20, train__checkpoint_steps=10)
                whole = run(config)
                storage = Storage(folder)
                with contextlib.suppress(Killed):
                    run(config, storage, dies=15)
                rest = run(config, storage)
                now.report.add(
                    "resume", f"{name} {kind}", f"from step {min(rest.loss)}", equal(rest, whole) and min(rest.loss) == 11
                )


def chunks(now: Context) -> None:
    for name in now.names:
        with now.report.case("chunks", name):
            config = config_of(name, now.device, "fp64", 5, train__norm_groups=4)
            whole, parts = run(config), run(config.replace({"scale.max_batch_per_worker": 8}))
            gap = max(loss_gap(parts, whole), state_gap(parts, whole))
            now.report.add("chunks", f"{name}, 4 chunks", gap, gap < EXACT)


def norms(now: Context) -> None:
    """Groups of batch norm, blocks and strided, against the CPU."""
    configs = {name: config_of(name, "cpu", "fp64", 5, train__norm_groups=4) for name in now.names if name != "mae"}
    reference = {name: now.pool.submit(run, config) for name, config in configs.items()}
    for name, config in configs.items():
        with now.report.case("norms", name):
            ours, cpu = run(config.replace({"train.device": now.device})), reference[name].result()
            gap = max(loss_gap(ours, cpu), state_gap(ours, cpu))
            now.report.add("norms", f"{name}, 4 groups, against the CPU", gap, gap < EXACT)


def memory(now: Context) -> None:
    if now.device != "cuda":
        return
    with now.report.case("memory", "out of memory"):
        big: Any = {
            "train__batch_size": 128,
            "train__norm_groups": 4,
            "backbone__width": 64,
            "data__size": 96,
            "views__view__size": 96,
        }
        config = config_of("simclr", "cuda", "fp64", 2, **big)

        def peak(config: RunConfig) -> tuple[Result, int]:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return run(config), torch.cuda.max_memory_reserved()

        whole, most = peak(config)
        parts, least = peak(config.replace({"scale.max_batch_per_worker": 64}))
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((0.4 * most + 0.6 * least) / total)
        try:
            halved, reserved = peak(config)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        gap = max(state_gap(halved, whole), state_gap(parts, whole), loss_gap(halved, whole))
        case = f"{most >> 20} MiB whole, {least >> 20} in halves, {reserved >> 20} after it ran out"
        now.report.add("memory", case, gap, gap < EXACT and reserved < most)


def on_rank(rank: int, world: int, configs: list[RunConfig]) -> tuple[list[Result], list[str]]:
    """Each run, and what of the collectives on the default group NCCL would refuse: tensors on the CPU, or with gaps."""
    refused: set[str] = set()

    def watched(name: str) -> None:
        plain = getattr(dist, name)

        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            tensors = [x for x in (first, *(first if isinstance(first, list) else []), *args) if isinstance(x, torch.Tensor)]
            if kwargs.get("group") is None:
                refused.update(
                    f"{name} of {x.device.type}" for x in tensors if x.device.type not in (configs[0].train.device, "meta")
                )
                refused.update(f"{name} of a tensor with gaps" for x in tensors if not x.is_contiguous())
            return plain(first, *args, **kwargs)

        setattr(dist, name, call)

    if world > 1:
        for name in ("all_reduce", "all_gather", "broadcast", "reduce_scatter_tensor", "all_gather_into_tensor"):
            watched(name)
    return [run(config) for config in configs], sorted(refused)


def ranks(now: Context) -> None:
    names = [*now.names, *([] if now.quick else ["deepcluster", "cpc"])]
    configs = [config_of(name, now.device, "fp64", 6, train__batch_size=33) for name in names]
    with now.report.case("ranks", "two gloo ranks"):
        (first, refused), (second, _) = run_ranks(on_rank, 2, configs)
        for name, config, one, two in zip(names, configs, first, second, strict=True):
            alone = run(config)
            gap = max(loss_gap(one, alone), state_gap(one, alone))
            now.report.add("ranks", f"{name}, two ranks against one", gap, gap < EXACT and equal(two, one))
        now.report.add("ranks", "collectives that NCCL would refuse", ", ".join(refused) or "none", not refused)
    if now.device == "cuda":
        with now.report.case("ranks", "NCCL, one rank"):
            gap, times = run_ranks(nccl_alone, 1, config_of("moco", "cuda", "fp64", 3))[0]
            now.report.add("ranks", "batch norm over ranks, 256 x 256 x 56 x 56 bf16, forward and backward", times)
            now.report.add("ranks", "NCCL group of one rank, and the gloo group beside it", gap, gap == 0)


def nccl_alone(rank: int, world: int, config: RunConfig) -> tuple[float, str]:
    alone = run(config)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("nccl", init_method=f"file://{folder}/store", rank=0, world_size=1)
        from contray.methods._ranks import SyncBatchNorm, _Gather, _GroupedNorm, _Total, side_group

        x = torch.arange(6.0, device="cuda").reshape(3, 2).requires_grad_()
        (_Gather.apply(x, 3).sum() + _Total.apply(x).sum()).backward()  # pyright: ignore
        assert x.grad is not None
        assert bool((x.grad == 2).all())
        dist.all_gather_object([None], 1, group=side_group())
        dist.all_gather([torch.empty(3, device="meta")], torch.empty(3, device="meta"))  # as the check of shapes does
        grouped = run(config)
        images = (
            torch.randn(256, 256, 56, 56, device="cuda", dtype=torch.bfloat16)
            .to(memory_format=torch.channels_last)
            .requires_grad_()
        )
        weight, bias = torch.ones(256, device="cuda", requires_grad=True), torch.zeros(256, device="cuda", requires_grad=True)
        buffers, groups = (torch.zeros(256, device="cuda"), torch.ones(256, device="cuda")), torch.arange(256, device="cuda") % 8
        ways = {
            "torch's on one rank": lambda: torch.nn.functional.batch_norm(images, *buffers, weight, bias, True),
            "torch's over ranks": lambda: SyncBatchNorm.apply(images, weight, bias, *buffers, 1e-5, 0.1, dist.group.WORLD, 1),
            "_GroupedNorm": lambda: _GroupedNorm.apply(images, weight, bias, None, 1, 1e-5)[0],  # pyright: ignore
            "_GroupedNorm, 8 groups": lambda: _GroupedNorm.apply(images, weight, bias, groups, 8, 1e-5)[0],  # pyright: ignore
        }
        times = []
        for title, way in ways.items():
            for turn in range(13):
                if turn == 3:
                    torch.cuda.synchronize()
                    began = time.perf_counter()
                way().backward(images.detach())
            torch.cuda.synchronize()
            times.append(f"{title} {100 * (time.perf_counter() - began):.2f} ms")
        dist.destroy_process_group()
    return max(loss_gap(grouped, alone), state_gap(grouped, alone)), ", ".join(times)


@contextlib.contextmanager
def spoiled(at: int, what: str) -> Iterator[None]:
    """In step `at` a gradient, the loss, or a weight after the step is NaN."""
    plain = step.Stepper.__call__

    def call(self: Any, batch: Any, clock: Any) -> Any:
        reps, out = plain(self, batch, clock)
        if clock.step + 1 == at:
            p = next(p for p in self.method.parameters() if p.grad is not None)
            if what == "gradient":
                p.grad[(0,) * p.ndim] = float("nan")
            elif what == "loss":
                out["loss"] = out["loss"].detach() * float("nan")
            else:
                p.data[(0,) * p.ndim] = float("nan")
        return reps, out

    step.Stepper.__call__ = call
    try:
        yield
    finally:
        step.Stepper.__call__ = plain


def watch(now: Context) -> None:
    for what in ("gradient", "loss", "weight"):
        for every in (1, 10):
            for saves in (1, 100):
                case = f"{what} NaN in step 7, log every {every}, save every {saves}"
                with now.report.case("watch", case), tempfile.TemporaryDirectory() as folder:
                    storage, error = Storage(folder), None
                    config = config_of(
                        "simclr", now.device, "fp32", 20, train__log_every=every, train__checkpoint_steps=saves, train__checkpoint_seconds=1e6
                    )  # fmt: skip
                    try:
                        with spoiled(7, what):
                            run(config, storage)
                    except NonFiniteLoss as raised:
                        error = raised
                    kept = max([0, *(int(name[5:14]) for name in storage.names() if name.startswith("step-"))])
                    latest = error.step if error else 0
                    named = latest == 7 or (what == "weight" and latest in (7, 8))
                    told = f"{type(error).__name__} names step {latest}, newest checkpoint {kept}"
                    now.report.add("watch", case, told, named and kept == (6 if saves == 1 else 0))
    with now.report.case("watch", "skip"), tempfile.TemporaryDirectory() as folder:
        config = config_of("simclr", now.device, "fp32", 20, train__log_every=10, train__checkpoint_steps=5, train__on_nan="skip")
        with spoiled(7, "gradient"):
            skipped = run(config, Storage(folder))
        now.report.add("watch", "on_nan skip goes on to the end", max(skipped.loss), max(skipped.loss) == 20)


def evaluate(now: Context) -> None:
    few = {
        "eval__linear__epochs": 10, "eval__last_n__epochs": 10, "eval__finetune__epochs": 2, "eval__finetune__lrs": (1e-3,),
        "eval__finetune__labels": "0.5", "eval__supervised__lrs": (1e-3,), "eval__distill__labels": "0.5", "eval__distill__epochs": 1,
        "eval__distill__finetune_epochs": 2, "eval__distill__lrs": (1e-3,),
        **{f"eval__{name}__{key}": value for name in ("paper", "attentive") for key, value in (("epochs", 2), ("batch", 64), ("lrs", (1.0, 3.0)))},
    }  # fmt: skip
    both = ("knn", "linear", "paper", "finetune", "supervised", "distill")
    for name, protocols in (("simclr", both), ("mae", ("knn", "linear", "last_n", "attentive"))):
        with now.report.case("evaluate", name):
            config = config_of(name, now.device, "fp32", 10 if now.quick else 60, train__batch_size=64, **few)
            kept = run(config)
            job = (kept.state, protocols)
            reference = now.pool.submit(measured, config.replace({"train.device": "cpu"}), *job)
            ours, theirs = measured(config, *job), reference.result()
            for key in sorted(ours):
                if "top1" in key or "rank" in key or "ment" in key:
                    gap, trained = (
                        abs(ours[key] - theirs[key]),
                        any(word in key for word in ("paper", "attentive", "finetune", "distill", "supervised")),
                    )
                    most = 0.08 if trained else 0.011 if "top1" in key else 1e-2 * max(1, abs(theirs[key]))
                    now.report.add("evaluate", f"{name} {key}", f"{ours[key]:.4f}, CPU {theirs[key]:.4f}", gap <= most)
    with now.report.case("evaluate", "online"):
        found = run(config_of("simclr", now.device, "bf16", 12, eval__every_epochs=0.1))
        now.report.add("evaluate", "online k-NN and geometry while training in bf16", len(found.loss), len(found.loss) == 12)


def measured(config: RunConfig, state: dict[str, torch.Tensor], protocols: tuple[str, ...]) -> dict[str, float]:
    source, device = data.open_source(config.data), model.device_of(config)
    config = model.settled(config, device.type)
    method = model.build(config, len(source.train))
    method.load_state_dict(state)
    method = method.to(device).eval()
    subject = Subject(config, method, device, given=source)
    return dict(run_evaluations(protocols, subject)) | dict(
        geometry.evaluate(Subject(config, method, device, tests=False, given=source), geometry.Config())
    )


def compiled(now: Context) -> None:
    for name in ["simclr"] if now.quick else ["simclr", "mae"]:
        with now.report.case("compile", name):
            config = config_of(name, now.device, "fp32", 4)
            began = time.monotonic()
            gap = loss_gap(run(config.replace({"train.compile": True})), run(config))
            now.report.add("compile", f"{name}, loss of 4 steps, {time.monotonic() - began:.0f} s", gap, gap < 1e-3)


class Syncs(Told):
    """Has torch name what waits for the device between the second step and the last but one."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.asked, self.last = 0, last

    def hurry(self) -> bool:
        self.asked += 1
        torch.cuda.set_sync_debug_mode("warn" if 1 < self.asked < self.last else "default")
        return False


def syncs(now: Context) -> None:
    if now.device != "cuda":
        return
    places: dict[str, set[str]] = collections.defaultdict(set)
    nondeterministic: dict[str, set[str]] = collections.defaultdict(set)
    for name in method_names():
        with now.report.case("syncs", name), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            config = config_of(name, "cuda", "bf16", 6, train__log_every=100)
            try:
                loop.train(config, data.open_source(config.data), None, Syncs(6))
            finally:
                torch.cuda.set_sync_debug_mode("default")
            for one in said:
                where = f"{os.path.relpath(one.filename)}:{one.lineno}"
                if "synchronizing" in str(one.message):
                    places[where].add(name)
                elif "determinis" in str(one.message):
                    nondeterministic[f"{str(one.message).split(' ')[0]} {where}"].add(name)
    for where, names in sorted(places.items(), key=lambda item: -len(item[1])):
        now.report.add("syncs", where, " ".join(sorted(names)))
    for where, names in nondeterministic.items():
        now.report.add("syncs", f"no deterministic kernel: {where}", " ".join(sorted(names)))


def repeated(now: Context) -> None:
    from tests.gpu.speed import twice

    twice(now)


def speed(now: Context) -> None:
    from tests.gpu.speed import measure

    measure(now)


CHECKS: dict[str, Callable[[Context], None]] = {
    "methods": methods, "resume": resume, "chunks": chunks, "norms": norms, "twice": repeated, "memory": memory, "ranks": ranks, "watch": watch, "evaluate": evaluate,
    "syncs": syncs, "compile": compiled, "speed": speed,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument(
        "--methods",
        nargs="+",
        default=(),
        help="those of the checks of methods, resume and chunks; default: seven, and in `methods` all",
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps and methods")
    parser.add_argument("--json", default="", help="file for all that was found")
    options = parser.parse_args()
    torch.set_num_threads(min(4, os.cpu_count() or 1))
    card = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    report = Report()
    report.add("machine", card, f"torch {torch.__version__}, {os.cpu_count()} CPUs")
    began = time.monotonic()
    with ProcessPoolExecutor(
        max(1, (os.cpu_count() or 2) // 2), multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for name in options.only:
            since = time.monotonic()
            CHECKS[name](Context(options.device, options.quick, report, pool, tuple(options.methods)))
            report.add("time", name, f"{time.monotonic() - since:.1f} s")
            if options.json:
                with open(options.json, "w") as out:
                    json.dump({"card": card, "torch": torch.__version__, "rows": report.rows}, out, indent=1)
    failed = [row for row in report.rows if row["ok"] is False]
    print(f"\n{len(report.rows)} rows, {len(failed)} failed, {time.monotonic() - began:.0f} s on {card}")
    for row in failed:
        print(f"FAIL {row['check']} {row['case']}: {row['value']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
