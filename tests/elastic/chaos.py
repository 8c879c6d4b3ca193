"""A run in bad weather, held against the same run in peace.

    python tests/elastic/chaos.py [moco|instdisc|dino] [--faults 8] [--steps 400] [--seed 0] [--out chaos.png]
    python tests/elastic/chaos.py --faults 44 --steps 4800 --step-seconds 0.25 --lr 0.0003       # the soak: half an hour and more
    python tests/elastic/chaos.py --disk --faults 36 --steps 3600 --step-seconds 0.25 --lr 0.0003     # with faults of the storage (as root)

Starts a Ray cluster of several nodes and an MLflow server on this machine, and `contray train` on them over a folder of pictures some of
which are broken. On a schedule that --seed draws, workers and nodes are killed, nodes come and drain, the driver is told to stop and
started again, and MLflow is away for a while. With --disk the run's folder is a small file system of its own, and besides the disk is full
or read-only for a while, writes are slow, a listing is stale on one rank, and a page of the newest checkpoint is zeroed. Then: were the same
samples seen in every step, is every loss the undisturbed run's (double precision), are the final weights, does MLflow have every step
once, was every fault of the storage said in the driver's output, is any process left, did memory grow? Exit code 1 where one of these fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from contray import track
from contray.drawing import COLOURS
from tests.elastic.harness import METHODS, OWN, SMALL, Disk, Driver, Nodes, apart, free_port, slow_method

MOST_NODES = 3
AWAY_SECONDS, DRAIN_SECONDS = 12.0, 6.0
SAID = {  # what the driver's output must say of a fault, once each time at least
    "disk full": "No space left on device", "disk read-only": "Read-only file system", "page zeroed": "damaged", "MLflow away": "MLflow",
}  # fmt: skip


@dataclass
class Event:
    """What befell the run: after which step, how long until its next one, and whether the output said what it must."""

    kind: str
    step: int
    seconds: float = 0.0
    said: bool = True


def pictures(folder: Path) -> Path:
    """400 digits as files, 8 of which are no pictures."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    place = folder / "pictures"
    place.mkdir()
    for i, digit in enumerate(load_digits().images[:400]):
        path = place / f"{i:03d}.png"
        Image.fromarray(np.kron(digit * 15, np.ones((2, 2))).astype(np.uint8)).convert("RGB").save(path)
        if i % 50 == 7:
            path.write_bytes(b"no picture")
    return place


class Server:
    """MLflow's server on loopback; its store survives it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(self.port)]
        command += [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination",
            f"{self.folder}/artifacts",
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "40"}
        with (self.folder / "server.log").open("ab") as out:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdout=out, stderr=out, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.3)
        raise TimeoutError("MLflow's server did not start")

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Weather:
    """Draws faults and lets them happen."""

    def __init__(self, run: Driver, nodes: Nodes, server: Server, seed: int, disk: Disk | None, control: Path) -> None:
        self.run, self.nodes, self.server, self.disk, self.control = run, nodes, server, disk, control
        self.rng = random.Random(seed)
        self.had: set[str] = set()
        self.resident: list[tuple[float, float]] = []  # seconds since the start, MB of the driver

    def strike(self) -> Event:
        """One fault; returns once the run has made a step after it."""
        kinds = ["worker killed", "driver stopped", "MLflow away"]
        kinds += ["node joined"] * 3 if len(self.nodes.all) < MOST_NODES else []
        kinds += ["node killed", "node killed", "node drained"] if len(self.nodes.all) > 1 else []
        if self.disk:
            kinds += ["disk full", "disk read-only", "page zeroed", "writes slow"] * 2
            kinds += ["listing stale"] * 2 if len(self.nodes.all) > 1 else []
        kinds = [kind for kind in kinds if kind not in self.had] or kinds  # each that is possible once before any comes again
        event = Event(self.rng.choice(kinds), self.run.step())
        self.had.add(event.kind)
        told = self.run.log.stat().st_size
        try:
            self._befall(event)
        finally:
            event.said = SAID.get(event.kind, "") in self.run.log.read_bytes()[told:].decode()
        return event

    def _befall(self, event: Event) -> None:
        began = time.monotonic()
        before = len(self.run.lives())
        if event.kind == "worker killed":
            with contextlib.suppress(ProcessLookupError):
                self.run.kill_worker(self.rng.randrange(self.run.lives()[-1].world))
        elif event.kind == "node joined":
            self.nodes.add()
        elif event.kind in ("node killed", "node drained"):
            node = self.rng.choice(self.nodes.all)
            if event.kind == "node drained":
                self.nodes.drain(node, DRAIN_SECONDS)
                time.sleep(DRAIN_SECONDS)
            self.nodes.kill(node)
        elif event.kind in ("driver stopped", "page zeroed"):
            assert self.run.process is not None
            self.run.process.terminate()
            if (code := self.run.end(90)) != 130:
                raise RuntimeError(f"a stopped run ended with {code}\n{self.run.told()}")
            if self.disk and event.kind == "page zeroed":
                self.disk.zero_a_page()
            self.run.start()
        elif event.kind == "listing stale":
            (self.control / "stale").touch()
            self.run.kill_worker(0)
        else:
            with self._away(event.kind):
                time.sleep(AWAY_SECONDS)
            return
        self.run.until("a step after the fault", lambda lives: len(lives) > before and lives[-1].ids, 150)
        event.seconds = time.monotonic() - began

    @contextlib.contextmanager
    def _away(self, kind: str) -> Iterator[None]:
        """What a run outlives without a new life of its workers."""
        if kind == "MLflow away":
            self.server.stop()
            yield
            self.server.start()
        elif kind == "writes slow":
            (self.control / "slow").touch()
            yield
            (self.control / "slow").unlink()
        else:
            assert self.disk is not None
            with self.disk.full() if kind == "disk full" else self.disk.read_only():
                yield

    def watch_memory(self, since: float) -> None:
        import psutil

        if self.run.process is not None:
            with contextlib.suppress(psutil.Error):
                self.resident.append((time.monotonic() - since, psutil.Process(self.run.process.pid).memory_info().rss / 2**20))


DASHED = ("--", ":", "-.", (0, (8, 2)), (0, (1, 4)), (0, (8, 2, 1, 2, 1, 2)))  # what tells kinds of faults apart beside colour


def draw(quiet: Driver, run: Driver, events: list[Event], out: Path, title: str) -> None:
    """The disturbed run's losses over the undisturbed one's, and how far they are apart, with the faults marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    calm, rough = quiet.history(), run.history()
    steps = sorted(calm.losses)
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(10, 7), sharex=True, height_ratios=[5, 1.2, 1.6], layout="constrained"
    )
    top.plot(steps, [calm.losses[step] for step in steps], color="#f2b134", linewidth=5, label="undisturbed, one process")
    top.plot(steps, [rough.losses[step] for step in steps], color="#123c69", linewidth=1.1, label="disturbed")
    kinds = list(dict.fromkeys(event.kind for event in events))
    looks: dict[str, dict[str, Any]] = {
        kind: {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHED[i % len(DASHED)]} for i, kind in enumerate(kinds)
    }
    for event in events:
        top.axvline(event.step, **looks[event.kind], alpha=0.7, linewidth=1)
    for kind, look in looks.items():
        top.plot([], [], **look, label=f"{kind} ({sum(event.kind == kind for event in events)})")
    top.set_ylabel("loss")
    top.set_title(title)
    top.legend(loc="upper right", fontsize=8, ncols=2)
    lives = run.lives()
    begins = [life.begin for life in lives]
    middle.step([*begins, steps[-1]], [*(life.world for life in lives), lives[-1].world], where="post", color="#123c69")
    middle.set_ylabel("workers")
    middle.set_ylim(0, MOST_NODES + 0.5)
    middle.set_yticks(range(MOST_NODES + 1))
    gap = [max(abs(calm.losses[step] - rough.losses[step]) / abs(calm.losses[step]), 1e-17) for step in steps]
    bottom.semilogy(steps, gap, color="#8d230f", linewidth=0.8)
    bottom.axhline(1e-9, color="grey", linewidth=0.8, linestyle=":")
    bottom.set_ylabel("relative\ndifference")
    bottom.set_xlabel("step")
    figure.savefig(out, dpi=110)


def ray_processes() -> set[int]:
    import psutil

    words = ("raylet", "gcs_server", "ray::")
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if any(word in line for word in words) and "chaos.py" not in line:
            found.add(process.info["pid"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="?", default="moco", choices=sorted(METHODS))
    parser.add_argument("--faults", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--step-seconds", type=float, default=0.15, help="how much longer each step is made")
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--disk", action="store_true", help="faults of the storage as well; mounts a small tmpfs, so only as root"
    )
    parser.add_argument("--out", type=Path, default=Path("chaos.png"))
    options = parser.parse_args()
    before, began = ray_processes(), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="contray-chaos-"))
    images = pictures(folder)
    keys: dict[str, Any] = {
        **SMALL, **OWN[options.method], "data.source": str(images), "train.steps": options.steps, "optim.lr": options.lr, "scale.max_failures": 10,
    }  # fmt: skip
    keys = {key: value for key, value in keys.items() if key not in ("data.size", "data.renderings")}

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:7.1f} s] {text}", flush=True)

    quiet = Driver(folder, options.method, {**keys, "scale.workers": (0, 0)}, "undisturbed")
    with quiet.running():
        if quiet.end(3600):
            raise RuntimeError(quiet.told())
    say(f"the undisturbed run of {options.steps} steps is done")

    own = slow_method(folder, options.method, options.step_seconds, control=folder if options.disk else None)
    server = Server(folder)
    events: list[Event] = []
    try:
        server.start()
        with Nodes(2) as nodes:
            settings = {**keys, "scale.workers": (1, MOST_NODES), "scale.address": nodes.address, "track.uri": server.uri}
            run = Driver(folder, own, settings, "disturbed")
            disk = Disk(run) if options.disk else None
            weather = Weather(run, nodes, server, options.seed, disk, folder)
            with disk or contextlib.nullcontext(), run.running():
                for i in range(options.faults):
                    run.until_step(round((i + 0.6) * options.steps / (options.faults + 1)), 600)
                    weather.watch_memory(began)
                    events.append(weather.strike())
                    last = run.lives()[-1]
                    say(
                        f"{i + 1:3d}. {events[-1].kind} after step {events[-1].step}: next step after {events[-1].seconds:.1f} s, {last.world} workers"
                    )
                if run.end(3600):
                    raise RuntimeError(run.told())
        say("the disturbed run is done")
        found, past = apart(quiet, run), run.history()
        draw(quiet, run, events, options.out, f"{options.method}: {len(events)} faults in {options.steps} steps, one trajectory")
        talk = track.client(server.uri)
        (logged,) = talk.search_runs([each.experiment_id for each in talk.search_experiments()])
        points = sorted(point.step for point in talk.get_metric_history(logged.info.run_id, "loss"))
    finally:
        server.stop()
    time.sleep(3)
    left = ray_processes() - before
    shutil.rmtree(folder, ignore_errors=True)

    kinds = {kind: sum(event.kind == kind for event in events) for kind in sorted({event.kind for event in events})}
    resident = [mb for _, mb in weather.resident]
    checks = {
        f"{past.skipped or 0} steps skipped": not past.skipped,
        f"{len(past.losses)} steps in the final history, of {options.steps}": len(past.losses) == options.steps,
        "the same samples in every step": bool(found["ids"]),
        f"losses within {found['loss']:.1g}": found["loss"] < 1e-9,
        f"final state within {found['state']:.1g}": found["state"] < 1e-9,
        f"MLflow has {len(points)} losses, each step once": points == list(range(1, options.steps + 1)),
        f"{len(left)} processes left": not left,
    }
    for kind in sorted(SAID.keys() & kinds):
        said = sum(event.said for event in events if event.kind == kind)
        checks[f"{said} of {kinds[kind]} times the output told of: {kind}"] = said == kinds[kind]
    print(f"\n{len(events)} faults ({', '.join(f'{count} {kind}' for kind, count in kinds.items())}), worlds {past.worlds}")
    print(f"{past.again} steps computed again; {time.monotonic() - began:.0f} s in all")
    for kind in kinds:
        times = sorted(event.seconds for event in events if event.kind == kind and event.seconds)
        if times:
            print(f"next step after {kind}: median {times[len(times) // 2]:.1f} s, longest {times[-1]:.1f} s")
    if resident:
        print(f"driver's memory before each fault: {' '.join(f'{mb:.0f}' for mb in resident)} MB")
    for text, good in checks.items():
        print(f"{'ok  ' if good else 'FAIL'} {text}")
    print(f"picture: {options.out}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
