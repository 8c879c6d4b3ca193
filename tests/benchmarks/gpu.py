"""How fast contray trains on one GPU, through its own loop, views and methods, and what the features are worth: needs neither Ray nor MLflow.

    PYTHONPATH=platform:. python tests/benchmarks/gpu.py cifar --data FOLDER [--method simclr] [--epochs 200] [--eager] [--json FILE] [--dotted.key VALUE ...]
    PYTHONPATH=platform:. python tests/benchmarks/gpu.py vit | resnet50 | mae [--steps 100]

`cifar`: a ResNet-18 on CIFAR-10 (a folder of train.parquet and test.parquet) by a method's preset `cifar_lightly`, which is the recipe of lightly's
cifar10_benchmark.py for 200 epochs of batch 512, then weighted k-NN of the test images (k 200, T 0.1). `vit`: SimCLR of a ViT-S/16, batch 256,
two views of 224 px of synthetic images of 256 px that lie on the device; `resnet50`: MoCo v2's, `mae`: MAE's ViT-L with the 64 images that each of
64 GPUs has of its paper's batch of 4096, both on the same images, cropped without antialiasing, which the device has not.
`--smoke`: a few steps of a tiny network on the built-in digits, on a CPU.

`busy` is the share of time in which a kernel ran, by NVML's samples; --profile names the kernels of some steps in the middle of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contray import data, model
from contray.config import RunConfig
from contray.evaluation import Subject
from contray.evaluation.common.run import run as evaluated
from contray.training.loop import Listener, Outcome, train

COMMON = {
    "train.checkpoint_seconds": 1e9, "train.log_every": 97, "train.deterministic": False, "data.augment_on": "device",
    "eval.online": ("knn",), "eval.final": (), "eval.knn.k": 200, "eval.knn.temperature": 0.1,
}  # fmt: skip
FAST = {"train.precision": "bf16", "train.compile": True, "data.workers": 6}
SPEED = {"train.batch_size": 256, "train.steps": 100, "eval.every_epochs": 0, "train.log_every": 10, **FAST}
MODES: dict[str, tuple[str, str, dict[str, Any]]] = {  # the method, its preset, and what is otherwise than in that
    "cifar": ("simclr", "cifar_lightly", {"eval.every_epochs": 50, **FAST}),
    "vit": ("simclr", "paper", {**SPEED, "backbone.name": "vit_small"}),
    "resnet50": ("moco", "v2", {**SPEED, "views.query.interpolation": "linear", "views.key.interpolation": "linear"}),
    "mae": ("mae", "vit_l", {**SPEED, "train.batch_size": 64, "views.view.interpolation": "linear"}),
    "smoke": (
        "simclr",
        "digits",
        {
            "train.batch_size": 32, "train.steps": 4, "backbone.name": "resnet_small", "backbone.width": 8, "eval.every_epochs": 0,
            "train.log_every": 2, "train.device": "cpu", "train.precision": "fp32", "data.renderings": 1, "data.workers": 0, "eval.knn.k": 20,
        },
    ),
}  # fmt: skip
WARM = 50  # steps before the pace counts: kernels are chosen and compiled
PROFILED = 20  # steps


class Watch(Listener):
    """Keeps losses and k-NN by epoch, and the moment of each step; asks the run to stop when its minutes are over."""

    def __init__(self, steps_per_epoch: int, minutes: float, profile_at: int) -> None:
        self.epoch, self.ends, self.profile_at = steps_per_epoch, time.monotonic() + 60 * minutes, profile_at
        self.loss, self.knn = dict[float, float](), dict[float, float]()
        self.asked, self.warm = 0, 0.0  # the moment at which WARM steps are done
        self.profiler: Any = None
        self.kernels: list[str] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        at = round(step / self.epoch, 3)
        if "loss" in values:
            self.loss[at] = values["loss"]
            print(f"epoch {at:7.2f}  loss {values['loss']:.4f}  {values['images_per_second']:8.0f} images/s", flush=True)
        if "knn_val_top1" in values:
            self.knn[at] = values["knn_val_top1"]
            print(f"epoch {at:7.2f}  k-NN of held-out images {100 * self.knn[at]:.2f} %", flush=True)

    def hurry(self) -> bool:
        self.asked += 1
        if self.asked == WARM + 1:
            synchronized()
            self.warm = time.monotonic()
        if self.profile_at and self.asked in (self.profile_at, self.profile_at + PROFILED):
            self._profile()
        return False

    def stop(self) -> bool:
        return time.monotonic() > self.ends

    def _profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        synchronized()
        if self.profiler is None:
            self.profiler, self.began = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]), time.monotonic()
            self.profiler.__enter__()
            return
        seconds = time.monotonic() - self.began
        self.profiler.__exit__(None, None, None)
        rows = sorted(self.profiler.key_averages(), key=lambda row: -row.self_device_time_total)
        spent = sum(row.self_device_time_total for row in rows) / 1e6
        head = f"{1e3 * seconds / PROFILED:.2f} ms a step, {1e3 * spent / PROFILED:.2f} ms of kernels"
        busy = [
            f"{row.self_device_time_total / 1e3 / PROFILED:7.3f} ms  {row.count / PROFILED:6.1f} x  {row.key[:120]}"
            for row in rows[:25]
        ]
        host = sorted(self.profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)[:12]
        idle = [f"{row.self_cpu_time_total / 1e3 / PROFILED:7.3f} ms of the host  {row.key[:100]}" for row in host]
        self.kernels = [head, *busy, *idle]
        print("\n".join(self.kernels), flush=True)


class Busy:
    """Samples, twice a second, the share of time in which the GPU ran a kernel, as NVML has it."""

    def __init__(self, device: torch.device) -> None:
        self.values, self._over = list[int](), threading.Event()
        self._thread = threading.Thread(target=self._sample, args=(device,), daemon=True) if device.type == "cuda" else None

    def __enter__(self) -> Busy:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _sample(self, device: torch.device) -> None:
        while not self._over.wait(0.5):
            self.values.append(torch.cuda.utilization(device))


def synchronized() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def config_of(mode: str, method: str, keys: Mapping[str, Any]) -> RunConfig:
    own, preset, settings = MODES[mode]
    return RunConfig.make(method or own, {**COMMON, **settings, **keys}, preset=preset)


def synthetic(count: int = 1024, side: int = 256) -> data.Source:
    """Smooth noise of RGB, decoded."""
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
    images = np.stack([cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in coarse])
    return data.Source("synthetic", data.ArraySplit("synthetic", images, None, []), None)


def measure(config: RunConfig, source: data.Source, minutes: float = 1e6, profile_at: int = 0) -> dict[str, Any]:
    """A run from its first step to its verdict."""
    device, began = model.device_of(config), time.monotonic()
    source.train.prepare()
    decoded = time.monotonic()
    epoch, total = len(source.train) // config.train.batch_size, config.total_steps(len(source.train))
    watch = Watch(epoch, minutes, profile_at)
    with Busy(device) as busy:
        outcome = train(config, source, listener=watch)
        synchronized()
        trained = time.monotonic()
    found = {
        "method": config.method.name, "mode": config.backbone.name, "machine": machine(device),
        "config": {key: value for key, value in config.flat().items() if key not in ("method.preset",)},
        "steps": outcome.step, "of": total, "epochs": round(outcome.step / epoch, 3),
        "seconds": {"decoding": decoded - began, "training": trained - decoded},
        "images_per_second": (outcome.step - WARM) * config.train.batch_size / (trained - watch.warm) if watch.warm else None,
        "ms_per_step": 1e3 * (trained - watch.warm) / (outcome.step - WARM) if watch.warm else None,
        "busy": statistics.mean(busy.values) / 100 if busy.values else None,
        "loss": watch.loss, "knn_val_top1": watch.knn, "kernels": watch.kernels,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
    }  # fmt: skip
    if source.train.labels is not None:
        found |= verdict(config, source, device, outcome)
        found["seconds"]["knn"] = time.monotonic() - trained
    found["seconds"]["all"] = time.monotonic() - began
    return found


def verdict(config: RunConfig, source: data.Source, device: torch.device, outcome: Outcome) -> dict[str, float]:
    settled = model.settled(config, device.type)
    return dict(evaluated(["knn"], Subject(settled, outcome.method.eval(), device, given=source)))


def machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"gpu": gpu, "cores": cores, "torch": torch.__version__, "cuda": torch.version.cuda}


def main(words: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=[mode for mode in MODES if mode != "smoke"], nargs="?", default="cifar")
    parser.add_argument("--data", default="", help="folder of CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--method", default="", help="of cifar: one with the preset cifar_lightly (default: simclr)")
    parser.add_argument("--epochs", type=int, help="of the cosine, too")
    parser.add_argument("--steps", type=int, help="optimiser steps, for short tries; wins over --epochs")
    parser.add_argument("--minutes", type=float, default=1e6, help="of training, after which it stops where it is")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument(
        "--profile", type=int, default=0, metavar="STEP", help=f"name the kernels of {PROFILED} steps from this one on"
    )
    parser.add_argument("--json", type=Path, help="where the result is written")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a CPU, on the digits")
    options, rest = parser.parse_known_args(words)
    if len(rest) % 2 or not all(key.startswith("--") for key in rest[::2]):
        parser.error(f"keys of the config come as --dotted.key VALUE, got {' '.join(rest)}")
    keys: dict[str, Any] = {key[2:]: value for key, value in zip(rest[::2], rest[1::2], strict=True)}
    mode = "smoke" if options.smoke else options.mode
    keys |= {f"train.{name}": value for name in ("epochs", "steps") if (value := getattr(options, name)) is not None}
    keys |= {"train.compile": False} if options.eager else {}
    if mode == "cifar":
        if not options.data:
            parser.error("--data must name the folder of CIFAR-10's train.parquet and test.parquet")
        keys["data.source"] = options.data
    config = config_of(mode, options.method, keys)
    source = data.open_source(config) if mode in ("cifar", "smoke") else synthetic()
    found = measure(config, source, options.minutes, options.profile)
    text = json.dumps(found, indent=1, default=str)
    if options.json:
        options.json.write_text(text)
    for key in ("machine", "steps", "epochs", "seconds", "images_per_second", "ms_per_step", "busy", "memory_gib", "knn_top1"):
        if key in found:
            print(f"{key}: {found[key]}", flush=True)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
