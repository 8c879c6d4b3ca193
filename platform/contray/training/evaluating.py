"""Evaluations on the workers of a cluster: each opens the data and encodes its part of the images, the first measures."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import data, model
from ..config import RunConfig
from ..config.registry import code_of, name_code
from ..errors import UserError
from ..evaluation import Measured, Subject
from ..evaluation._base import PICTURES
from ..evaluation.common.crew import Crew
from ..evaluation.common.run import run
from ..methods._base import Method
from ..methods._ranks import world_size
from ..model.determinism import make_deterministic
from ..model.encoder import Encoder
from ..planning.facts import cluster_of
from ..storage.folder import Storage
from ..storage.logins import remember, remembered
from .lease import Watcher
from .nodes import Waiting, demand, nodes, room_for
from .ray_train import as_worker, check_cluster, follow, new_board, own_records, ray_session
from .worker import Asked


@dataclass(frozen=True)
class EvaluationJob:
    """What is to be measured, in values that travel to any worker. config: names it in eval.final; out: of the only picture's file, or empty."""

    config: str
    state: Mapping[str, Tensor] = field(repr=False)
    taken: Mapping[str, Any]
    load: Callable[[str], Encoder]
    out: str = ""
    code: tuple[str, ...] = ()
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    threads: int = 1

    @classmethod
    def of(
        cls, config: RunConfig, method: Method, taken: Mapping[str, Any], load: Callable[[str], Encoder], out: Path, threads: int
    ) -> EvaluationJob:
        state = {name: tensor.detach().cpu() for name, tensor in method.state_dict().items()}
        file = out.name if out.suffix in PICTURES else ""
        return cls(config.to_yaml(), state, taken, load, file, code_of(config), remembered(), threads)


def on_workers(
    config: RunConfig,
    method: Method,
    watcher: Watcher,
    out: Path,
    taken: Mapping[str, Any],
    load: Callable[[str], Encoder],
) -> Measured:
    """What the evaluations of eval.final measure of this method, on as many workers of scale.workers as there is room for now.

    A group that loses a worker starts again, up to scale.max_failures times, from the features of large sets that are kept. Raises UserError for
    what evaluations refuse, for a cluster that does not answer, and where the least workers cannot be had.
    """
    if address := cluster_of(config):
        check_cluster(address)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ray_session(config, logs=False))
        import ray
        from ray.train import FailureConfig, LoggingConfig, ScalingConfig
        from ray.train import RunConfig as RayRunConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from .elastic import Introduced

        there, (least, most) = nodes(), config.scale.workers
        resources = demand(config, there)
        gpu, board = "GPU" in resources, new_board()
        job = EvaluationJob.of(config, method, taken, load, out, int(resources["CPU"]))
        trainer = TorchTrainer(
            _train_function,
            train_loop_config={"job": [ray.put(job)], "board": board, "folder": os.getcwd()},
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=max(least, 1, min(most, room_for([node.total for node in there], resources))),
                use_gpu=gpu,
                resources_per_worker=resources,
            ),
            run_config=RayRunConfig(
                **stack.enter_context(_records(config, bool(address))),
                failure_config=FailureConfig(max_failures=config.scale.max_failures),
                callbacks=[Introduced(board)],  # pyright: ignore[reportArgumentType]
                logging_config=LoggingConfig("ERROR"),
            ),
        )
        ended = follow(trainer.fit, board, watcher, Waiting(least, resources), patient=False)
    if "refused" in ended:
        raise UserError(ended["refused"])
    pictures = tuple(out if job.out else out / name for name in ended["pictures"])
    for path, content in zip(pictures, ended["pictures"].values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Measured(ended["metrics"], pictures, ended["on"], ended["tested"])


@contextlib.contextmanager
def _records(config: RunConfig, shared: bool) -> Iterator[dict[str, Any]]:
    """Where Ray Train keeps its records while this lasts. shared: where all nodes see them, in scale.storage."""
    name = f"eval-{secrets.token_hex(8)}"
    if not shared:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield {"name": name, **own_records(Storage(folder))}
        return
    storage = Storage(config.scale.storage)
    storage.create()
    try:
        yield {"name": name, **own_records(storage)}
    finally:
        with contextlib.suppress(OSError):
            storage.system.delete_dir(f"{storage.root.rstrip('/')}/.ray/{name}")


def _train_function(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs in each Ray Train worker."""
    import ray

    return as_worker(settings, lambda show: measure(ray.get(settings["job"][0]), show))


def measure(job: EvaluationJob, show: Callable[[dict[str, Any]], Asked]) -> dict[str, Any]:
    """This rank's part. Rank 0 returns, in plain values: metrics, on, tested, pictures by the name of their file; or `refused`, why."""
    torch.set_num_threads(job.threads)
    name_code(*job.code)
    remember(job.logins)
    config = RunConfig.from_yaml(job.config)
    device, source = model.device_of(config), data.open_source(config)
    method = model.build(config, int(job.state.get("samples", torch.zeros(()))))
    method.load_state_dict(dict(job.state))
    method.eval().to(device)
    if world_size() > 1 and dist.get_rank():
        make_deterministic(config.train, device, method)
        Crew(config, source, device, shared=True).follow(method)
        return {}

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        subject = Subject(
            config, method, device, show=show, out=out / job.out if job.out else out, taken=job.taken, given=source, load=job.load,
            shared=True, keeps=True,
        )  # fmt: skip
        try:
            with subject.crew.leading():
                found = run(config.eval.final, subject)
                subject.forget()
        except UserError as error:  # other workers would meet it again
            return {"refused": str(error)}
        pictures = {str(path.relative_to(out)): path.read_bytes() for path in found.pictures}
    return {"metrics": {**found, **found.about}, "on": found.on, "tested": found.tested, "pictures": pictures}
