"""Run a function on several gloo ranks, each a process of its own."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Ranks are forked from a process that has imported this once, in place of each importing it for seconds
mp.get_context("forkserver").set_forkserver_preload(["pytest", "contray.training.loop", "contray.evaluation.common.features"])


def run_ranks(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """The results of `function(rank, world, *args)` on each rank. The function must be importable; results must pickle."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(args, Path(folder) / "args.pt")  # the fork server takes no more than some 250 tensors by their descriptors
        mp.start_processes(_rank, args=(world, folder, function), nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, folder: str, function: Callable[..., Any]) -> None:
    torch.set_num_threads(1)
    args = torch.load(Path(folder) / "args.pt", weights_only=False)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(function(rank, world, *args), Path(folder) / f"{rank}.pt")
    finally:
        if world > 1:
            dist.destroy_process_group()
