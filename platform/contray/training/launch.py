"""The driver's side of a run: name it, record it, start its workers, watch them, tell how it ended."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .. import data, model, track
from ..config import RunConfig
from ..errors import ConfigError, UserError
from ..progress import TrainingBar
from .checkpoint import PATTERN, Storage
from .lease import Guarded, Lease, Watcher, held
from .records import end, name_of, note, record_config, tags_of
from .worker import Plan, work


@dataclass(frozen=True)
class Result:
    """How a run ended. `metrics` as MLflow has them; `checkpoint` its folder of checkpoints; `run_id` MLflow's."""

    name: str
    metrics: Mapping[str, float]
    run_id: str
    url: str
    checkpoint: str
    step: int
    finished: bool
    details: Mapping[str, Any] = field(default_factory=dict)


def launch(config: RunConfig, *, quiet: bool = False, parent: str | None = None, tags: Mapping[str, str] | None = None) -> Result:
    """Run a config to its end, or go on with an unfinished run of the same name. Everything that can be refused is refused before Ray starts.

    parent: MLflow run that this one is a child of. quiet: no progress bar.
    """
    source = data.open_source(config.data)
    model.check(config, len(source.train))
    data.check_views(source.train, config.views)
    check_machines(config)
    uri = track.resolve_uri(config.track.uri)
    track.check(uri)
    storage = Storage(config.scale.storage)
    storage.create()
    name, _ = name_of(config, storage)
    folder = storage / name
    folder.create()
    with held(folder, quiet) as lease:
        now, known = name_of(config, storage)
        if now != name:
            raise UserError(f"track.name: another process has just finished {name}; the same command again starts {now}")
        run = track.begin(
            uri, config.track.experiment, name, params=config.flat(), run_id=known.get("run_id"), parent_id=parent, tags={**tags_of(config, source), **(tags or {})}
        )  # fmt: skip
        return _run(config, source, lease, run, name, quiet)


def _run(config: RunConfig, source: data.Source, lease: Lease, run: track.TrackedRun, name: str, quiet: bool) -> Result:
    """The run under its lease, from its record's beginning to its end."""
    folder = lease.fenced()
    note(folder, run)
    folder.write("config.yaml", config.to_yaml().encode())
    with contextlib.suppress(track.TrackingError):  # an outage by now: what is missing at the end is recorded or said there
        record_config(run, config)
    resumed = any(PATTERN.fullmatch(found) for found in folder.names())

    if not quiet:
        print(
            f"{'going on with' if resumed else 'run'} {name}: {len(source.train):,} samples of {source.name}; {run.url}",
            flush=True,
        )
    status, ended = "FAILED", {}
    try:
        with TrainingBar(name, quiet) as bar:
            watcher = Guarded(bar, lease.check)
            ended = (
                _in_process(config, folder, run, watcher)
                if config.scale.workers == (0, 0)
                else _on_ray(config, name, folder, run, watcher)
            )
        status = "FINISHED" if ended["finished"] else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with contextlib.suppress(OSError):  # unreadable by now: `end` says so
            folder.check()  # LeaseLost: record and status are another driver's to write
        end(folder, run, status, ended)
    return Result(name, ended["metrics"], run.run_id, run.url, folder.address, ended["step"], ended["finished"], ended)


def launch_seeds(config: RunConfig, seeds: int, *, quiet: bool = False) -> list[Result]:
    """The same config under `seeds` consecutive seeds, as children of one MLflow run that carries the means."""
    source = data.open_source(config.data)
    model.check(config, len(source.train))
    data.check_views(source.train, config.views)
    check_machines(config)
    uri = track.resolve_uri(config.track.uri)
    track.check(uri)
    name = f"{config.run_name}-x{seeds}"
    params = {key: value for key, value in config.flat().items() if key != "seed"}
    parent = track.begin(
        uri, config.track.experiment, name, params=params, tags={**tags_of(config, source), "contray.kind": "seeds"}
    )
    status, means = "FAILED", {}
    try:
        with ray_session(config) if config.scale.workers != (0, 0) else contextlib.nullcontext():
            results = [
                launch(
                    replace(config, seed=config.seed + offset), quiet=quiet, parent=parent.run_id, tags={"contray.kind": "seed"}
                )
                for offset in range(seeds)
            ]
        means = {key: sum(result.metrics[key] for result in results) / seeds for key in results[0].metrics}
        status = "FINISHED"
    finally:
        try:
            if means:
                parent.log_metrics(means, step=results[0].step)
            parent.finish(status)
        except track.TrackingError as error:
            print(f"contray: {name} could not be ended in MLflow ({error}); each seed is recorded by itself", flush=True)
    return results


# ---------------------------------------------------------------- where it runs


def _in_process(config: RunConfig, folder: Storage, run: track.TrackedRun, bar: Watcher) -> dict[str, Any]:
    asked = [False]

    def show(message: dict[str, Any]) -> bool:
        bar.show(message)
        return asked[0]

    threads = config.scale.cpus_per_worker or os.cpu_count() or 1
    with _interrupts(asked):
        try:
            return work(Plan(config.to_yaml(), folder.address, run, threads, token=folder.token), show)
        except OSError as error:  # a disk that stays unreadable; on Ray another worker tries
            raise UserError(f"{error}; the newest checkpoint stays, and the same command goes on from it") from error


@contextlib.contextmanager
def _interrupts(asked: list[bool]) -> Iterator[None]:
    """Ctrl-C or SIGTERM (a batch system's, a spot machine's) once asks for a stop at the next log step, with a checkpoint; twice stops at once."""
    import signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        if asked[0]:
            raise KeyboardInterrupt
        asked[0] = True
        print("\nstopping after a checkpoint; Ctrl-C again stops at once", flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cluster_of(config: RunConfig) -> str:
    """The Ray cluster to join; empty: none, or this machine's own."""
    address = config.scale.address or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" or config.scale.workers == (0, 0) else address


def check_machines(config: RunConfig) -> None:
    """Refuse a cluster that does not answer (Ray itself would go on asking for minutes) and a GPU that is not there."""
    address = cluster_of(config)
    if not address:
        model.device_of(config)  # on a cluster the workers have the GPUs, and this machine may have none
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ConfigError(
            "scale.address",
            f"got {address}, must be HOST:PORT of a Ray head, or auto; a http:// address takes jobs (ray job submit)",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "scale.address",
            f"no Ray cluster answers at {address} ({error}); leave it and RAY_ADDRESS empty for this machine's own",
        ) from None


@contextlib.contextmanager
def ray_session(config: RunConfig, dashboard: bool = False) -> Iterator[None]:
    """A Ray cluster: the one that is already joined, the one of scale.address or RAY_ADDRESS, else this machine's own for as long as this lasts."""
    quiet = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # stock 2 s: start and end of a run wait for it; 0.2 s costs 1 % of two cores
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every print appears twice
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials find a relative data.source or my_method.py where the user does
    }
    for key, value in quiet.items():
        os.environ.setdefault(key, value)
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():
        yield
        return
    address = cluster_of(config) or "local"
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options["dashboard_host"] = "127.0.0.1"
        cpus = max(os.cpu_count() or 1, config.scale.workers[1] * max(config.scale.cpus_per_worker, 1))
        options |= {
            "include_dashboard": dashboard,
            "num_cpus": cpus,
        }  # trials of several workers need the dashboard: without it their placements leak
    _warn_of_lost_places(config)
    try:
        ray.init(**options)
    except AuthenticationError:
        raise UserError(
            f"scale.address: the cluster at {address} wants a token and ~/.ray/auth_token has none; copy the head's file there (mode 600)"
        ) from None
    except ConnectionError as error:
        raise UserError(f"scale.address: no Ray cluster answers at {address} ({' '.join(str(error).split())[:200]})") from None
    _close_token()
    try:
        yield
    finally:
        ray.shutdown()


def _close_token() -> None:
    """Ray makes a token at its first start, for which it turns authentication on, and leaves it readable for everybody on the machine."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # none, or another user's
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


def _warn_of_lost_places(config: RunConfig) -> None:
    """Ray deletes a job's copy of its working directory some time after the job, and all that was written there."""
    places = {"scale.storage": Storage(config.scale.storage).address, "track.uri": track.resolve_uri(config.track.uri)}
    for key, place in places.items():
        if "/working_dir_files/" in place:
            print(
                f"contray: {key} lies in the job's own folder, which Ray deletes; name a place that stays ({place})", flush=True
            )


def _on_ray(config: RunConfig, name: str, folder: Storage, run: track.TrackedRun, bar: Watcher) -> dict[str, Any]:
    with ray_session(config):
        return fit(config, name, folder, run, bar)


def fit(
    config: RunConfig,
    name: str,
    folder: Storage,
    run: track.TrackedRun,
    watcher: Watcher,
    final: Literal["test", "validation"] = "test",
) -> dict[str, Any]:
    """Run Ray Train on the cluster that is joined, showing its progress to `watcher`; what rank 0 returned."""
    import ray
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    least, most = config.scale.workers
    total = ray.cluster_resources()
    wants_gpu = (
        config.train.device == "cuda" or config.scale.gpus_per_worker > 0
    )  # also where the autoscaler has started none yet
    gpu = config.train.device != "cpu" and (wants_gpu or total.get("GPU", 0) > 0)
    cpus = config.scale.cpus_per_worker or max(1, int(total.get("CPU", 1)) // most)
    resources = {"CPU": cpus, **({"GPU": config.scale.gpus_per_worker or 1} if gpu else {})}
    board = _board().remote()
    plan = Plan(config.to_yaml(), folder.address, run, cpus, final, folder.token)
    trainer = TorchTrainer(
        _train_function,
        train_loop_config={"plan": plan, "board": board, "folder": os.getcwd()},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=most if least == most else (least, most), use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=RayRunConfig(
            name=name,
            storage_path=f"{Storage(config.scale.storage).address.rstrip('/')}/.ray",  # where Ray Train keeps its own few records of a run
            failure_config=FailureConfig(max_failures=config.scale.max_failures),
            logging_config=LoggingConfig("ERROR"),
        ),
    )
    ended: dict[str, Any] = {}

    def run_trainer() -> None:
        try:
            ended["result"] = trainer.fit().return_value
        except BaseException as error:
            ended["error"] = error

    thread = threading.Thread(target=run_trainer, name="ray-train", daemon=True)
    thread.start()
    asked = [False]
    with _interrupts(asked):
        while thread.is_alive():
            thread.join(0.5)
            watcher.show(ray.get(board.read.remote(asked[0])))
    watcher.show(ray.get(board.read.remote(asked[0])))
    ray.kill(board)
    if "error" in ended:
        raise _plain(ended["error"])
    if "refused" in ended["result"]:
        raise UserError(ended["result"]["refused"])
    return ended["result"]


def _train_function(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs in each Ray Train worker."""
    import ray

    if os.path.isdir(settings["folder"]):
        os.chdir(settings["folder"])  # Ray has moved the worker to a folder that knows no relative data.source or my_method.py

    board, seen = settings["board"], {"ref": None, "stop": False}

    def show(message: dict[str, Any]) -> bool:
        """Send progress without waiting for it; the answer to an earlier message says whether to stop."""
        if seen["ref"] is not None and ray.wait([seen["ref"]], timeout=0)[0]:
            seen["stop"] = ray.get(seen["ref"])
        seen["ref"] = board.put.remote(message)
        return bool(seen["stop"])

    try:
        return work(settings["plan"], show)
    except UserError as error:  # a new worker would meet it again
        from methods._ranks import world_size

        from .loop import NonFiniteLoss

        if world_size() > 1 and not isinstance(error, NonFiniteLoss):
            raise
        return {"refused": str(error)}


def _board() -> Any:
    import ray

    @ray.remote(num_cpus=0, max_concurrency=4)  # pyright: ignore[reportCallIssue]
    class Board:
        """Carries progress from rank 0 to the driver, and the wish to stop back."""

        def __init__(self) -> None:
            self.messages: dict[str, Any] = {}
            self.stop = False

        def put(self, message: dict[str, Any]) -> bool:
            self.messages |= message
            return self.stop

        def read(self, stop: bool) -> dict[str, Any]:
            self.stop = stop
            return self.messages

    return Board


def _plain(error: BaseException) -> BaseException:
    """A worker's failure in one line; Ray's own message carries pages of tracebacks, which its log keeps."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause = getattr(failure, "cause", None) or failure
        lines = [line for line in str(cause).strip().splitlines() if line.strip()]
        text = lines[-1].strip() if lines else repr(cause)
        return UserError(f"a training worker failed: {text[:500]}")
    return error
