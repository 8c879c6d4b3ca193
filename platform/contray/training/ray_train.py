"""Ray Train around the loop: the cluster, the worker group, and the driver's conversation with rank 0."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from .. import model, track
from ..config import RunConfig
from ..config.registry import code_of
from ..errors import ConfigError, OnAllRanks, UserError
from ..planning.facts import cluster_of
from ..processors import processors
from ..storage.folder import Storage
from ..storage.logins import remembered
from .forwarding import forwarding
from .lease import Watcher
from .nodes import Waiting, check_seen, demand, nodes
from .reasons import one_line
from .stop import interrupts, unchanged
from .worker import Asked, TrainingJob, work

END_SECONDS = 60.0  # that a driver which leaves waits for a controller to start: on a busy machine over 10
SILENT_SECONDS = 20.0  # that it waits for a board to answer: the signal that ends it may have ended the cluster too

# ---------------------------------------------------------------- the cluster


def check_machines(config: RunConfig) -> None:
    """Refuse a cluster that does not answer (Ray itself would go on asking for minutes) and a GPU that is not there."""
    address = cluster_of(config)
    if not address:
        # a GPU that is not there, a layout that crashes here; on a cluster the workers have the GPUs, and this machine may have none
        model.settled(config, model.device_of(config).type)
    if address:
        check_cluster(address)


def check_cluster(address: str) -> None:
    """Refuse a Ray cluster that does not answer, so far as its address tells."""
    if address == "auto":
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
def ray_session(config: RunConfig, dashboard: bool = False, logs: bool = True) -> Iterator[None]:
    """A Ray cluster: the one that is already joined, the one of scale.address or RAY_ADDRESS, else this machine's own for as long as this lasts.

    logs: whether its workers log to MLflow, which they must reach.
    """
    quiet = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # stock 2 s: start and end of a run wait for it; 0.2 s costs 1 % of two cores
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every print appears twice
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials find a relative data.source or my_method.py where the user does
        # Ray trains in a thread, whose own arena gives every 64 MB that are free back at once, whatever `memory.kept` asks of malloc
        "MALLOC_ARENA_MAX": "1",
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
        cpus = max(processors(), config.scale.workers[1] * max(config.scale.cpus_per_worker, 1))
        options |= {
            "include_dashboard": dashboard,
            "num_cpus": cpus,
        }  # trials of several workers need the dashboard: without it their placements leak
    _warn_of_lost_places(config)
    try:
        with unchanged():
            ray.init(**options)
    except AuthenticationError:
        raise UserError(
            f"scale.address: the cluster at {address} wants a token and ~/.ray/auth_token has none; copy the head's file there (mode 600)"
        ) from None
    except ConnectionError as error:
        raise UserError(f"scale.address: no Ray cluster answers at {address} ({' '.join(str(error).split())[:200]})") from None
    _close_token()
    if logs:
        _warn_of_a_file(config)
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


def _warn_of_a_file(config: RunConfig) -> None:
    """A SQLite file as MLflow's store is one machine's, unless all nodes share its folder."""
    path = track.sqlite_path(track.resolve_uri(config.track.uri))
    others = {node.name for node in nodes()} if path else set()
    if len(others) > 1:
        print(
            f"contray: track.uri: {path} is a file: runs of this cluster's {len(others)} machines reach MLflow only where all see that file; "
            "give an MLflow server's address",
            flush=True,
        )


# ---------------------------------------------------------------- a run on the cluster


def fit(
    config: RunConfig,
    name: str,
    folder: Storage,
    run: track.TrackedRun,
    watcher: Watcher,
    final: Literal["test", "validation"] = "test",
) -> dict[str, Any]:
    """Run Ray Train on the cluster that is joined, showing its progress to `watcher`; what rank 0 returned."""
    from ray.train import FailureConfig, LoggingConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from . import elastic

    least, most = config.scale.workers
    if least < most:
        for key, value in elastic.ENVIRONMENT.items():
            os.environ.setdefault(key, value)
    resources = demand(config, nodes())
    check_seen(folder)
    gpu = "GPU" in resources
    board = new_board()
    code, threads = code_of(config), int(resources["CPU"])
    job = TrainingJob(config.to_yaml(), folder.address, run, threads, final, folder.token, folder.lease, code, remembered(), name)
    elastic.forget_failures(folder)
    trainer = TorchTrainer(
        _train_function,
        train_loop_config={"job": job, "board": board, "folder": os.getcwd()},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=most if least == most else (least, most),
            use_gpu=gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=elastic.RESIZE_SECONDS,
        ),
        run_config=RayRunConfig(
            name=name,
            **own_records(Storage(config.scale.storage)),
            failure_config=FailureConfig(max_failures=-1),  # Ray would count over the run's whole life
            callbacks=[elastic.Patience(folder.address, config.scale.max_failures), elastic.Introduced(board)],  # pyright: ignore[reportArgumentType]
            logging_config=LoggingConfig("ERROR"),
        ),
    )
    ended = follow(trainer.fit, board, watcher, Waiting(least, resources))
    if "refused" in ended:
        raise UserError(ended["refused"])
    return ended


def follow(train: Callable[[], Any], board: Any, watcher: Watcher, waiting: Waiting, patient: bool = True) -> dict[str, Any]:
    """What rank 0 of `train`, which runs in a thread, returned; meanwhile its messages are shown, and interrupts and lost nodes passed on.

    patient: an interrupt asks for a stop with a checkpoint, and is raised where there is nobody to make one; else it is raised at once.
    """
    import ray
    from ray.exceptions import RayActorError

    from .elastic import NodeWatch

    ended: dict[str, Any] = {}
    over = threading.Event()  # not the thread's is_alive, which an interrupted join makes False (Python 3.11)

    def run_trainer() -> None:
        try:
            ended["result"] = train().return_value
        except BaseException as error:
            ended["error"] = error
        finally:
            over.set()

    threading.Thread(target=run_trainer, name="ray-train", daemon=True).start()
    asked, watch = [False], NodeWatch()
    try:
        with interrupts(asked) if patient else contextlib.nullcontext():
            while not over.is_set():
                over.wait(0.5)
                now = Asked(stop=asked[0], save=asked[0] or watch.look())
                with contextlib.suppress(RayActorError):
                    asked[0] |= bool(watcher.show({**ray.get(board.read.remote(now)), "waiting": waiting.look()}))
                if asked[0] and not (patient and waiting.working()):
                    raise KeyboardInterrupt  # nothing trains that could leave a checkpoint
    except BaseException:
        _end(over, board)
        raise
    with contextlib.suppress(RayActorError):
        watcher.show(ray.get(board.read.remote(Asked())))
    ray.kill(board)
    if "error" in ended:
        raise _plain(ended["error"])
    return ended["result"]


def _end(over: threading.Event, board: Any) -> None:
    """End Ray Train's controller, with it its workers, and thereby the thread that waits for it: while a thread waits for Ray, a process that leaves
    the cluster takes memory away under it, and dies of SIGSEGV now and then."""
    import ray

    began = answered = time.monotonic()
    while not over.is_set() and time.monotonic() < min(began + END_SECONDS, answered + SILENT_SECONDS):
        with contextlib.suppress(Exception):  # the board may have gone with its node
            for controller in ray.get(board.introduced.remote(), timeout=5):
                ray.kill(controller)
            answered = time.monotonic()
        over.wait(0.2)


def own_records(storage: Storage) -> dict[str, Any]:
    """Where Ray Train keeps its own few records of a run. An object store is handed over opened: its address has no login."""
    place = {"storage_path": f"{storage.root.rstrip('/')}/.ray"}
    return place if storage.local else {**place, "storage_filesystem": storage.system}


def _train_function(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs in each Ray Train worker."""
    return as_worker(settings, lambda show: work(settings["job"], show))


def as_worker(settings: Mapping[str, Any], work: Callable[[Callable[[dict[str, Any]], Asked]], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns in a Ray Train worker, or why the user is refused; it is given what sends progress to the board, and its words are heard."""
    import ray
    from ray.exceptions import RayActorError
    from ray.train import get_context

    if os.path.isdir(settings["folder"]):
        os.chdir(settings["folder"])  # Ray has moved the worker to a folder that knows no relative data.source or my_method.py

    board, last = settings["board"], {"ref": None, "asked": Asked()}

    def show(message: dict[str, Any]) -> Asked:
        """Send progress without waiting for it; the answer to an earlier message says what is asked of the run."""
        if last["ref"] is not None and ray.wait([last["ref"]], timeout=0)[0]:
            with contextlib.suppress(RayActorError):  # the board's node died; it starts again elsewhere
                last["asked"] = Asked(*ray.get(last["ref"]))
        last["ref"] = board.put.remote(message)
        return last["asked"]

    def say(words: str) -> None:
        if rank or world > 1:
            words = f"worker {rank}: {words}"
        board.put.remote({"said": [words]})

    rank, world = get_context().get_world_rank(), get_context().get_world_size()
    try:
        with forwarding(say):
            return work(show)
    except UserError as error:  # a new worker would meet it again
        from ..evaluation.common.watch import Collapsed
        from ..methods._ranks import world_size

        if world_size() > 1 and not isinstance(error, (OnAllRanks, Collapsed)):
            raise
        return {"refused": str(error)}


def new_board() -> Any:
    """What carries the messages of one group of workers."""
    import ray

    @ray.remote(num_cpus=0, max_concurrency=4)  # pyright: ignore[reportCallIssue]
    class Board:
        """Carries progress from rank 0 to the driver, and what is asked of the run back; it starts again where its node dies."""

        def __init__(self) -> None:
            self.messages: dict[str, Any] = {}
            self.said: list[str] = []
            self.lock = threading.Lock()
            self.asked = Asked()
            self.controllers: list[Any] = []

        def introduce(self, controller: Any) -> None:
            self.controllers.append(controller)

        def introduced(self) -> list[Any]:
            return self.controllers

        def put(self, message: dict[str, Any]) -> Asked:
            with self.lock:
                self.said += message.get("said", [])
                self.messages |= {key: value for key, value in message.items() if key != "said"}
            return self.asked

        def read(self, asked: Asked) -> dict[str, Any]:
            self.asked = asked
            with self.lock:
                said, self.said = self.said, []
                return {**self.messages, "said": said}

    board: Any = Board
    return board.options(max_restarts=-1).remote()


def _plain(error: BaseException) -> BaseException:
    """A run's failure in one line; Ray's own message carries pages of tracebacks, which its log keeps."""
    from .elastic import NoProgress

    reason = getattr(error, "controller_failure", None)
    if isinstance(reason, NoProgress):
        return UserError(str(reason))
    for failure in (getattr(error, "worker_failures", None) or {}).values():
        return UserError(f"a training worker failed: {one_line(failure)}")
    if reason is not None:
        return UserError(f"Ray Train could not go on: {one_line(reason)}")
    return error
