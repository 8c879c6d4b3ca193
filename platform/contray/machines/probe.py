"""What is read on a node. It travels there by value and imports nothing of contray at its head, so that a node without contray can be looked at."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

LIBRARIES = ("ray", "torch", "torchvision", "numpy", "albumentations", "pyarrow", "mlflow", "contray")
TRIED = 32 * 2**20  # bytes that are written to the storage and read again
REACH_SECONDS = 5.0


class Examiner:
    """Looks at the machine that it runs on: as an actor on each node of a cluster, or in this process."""

    def now(self) -> float:
        """Seconds since 1970, by this machine's clock."""
        return time.time()

    def facts(self, data: str = "") -> dict[str, Any]:
        """Versions, GPUs, limits and room. data: a path that must be there, or nothing."""
        import resource

        shm = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return {
            "host": socket.gethostname(),
            "versions": {"python": ".".join(map(str, sys.version_info[:3])), **{name: _version(name) for name in LIBRARIES}},
            "gpus": gpus(),
            "torch_cuda": _torch_cuda(),
            "shm_free": shm.free if shm else None,
            "open_files": files,
            "tmp_free": shutil.disk_usage(tempfile.gettempdir()).free,
            "tmp": tempfile.gettempdir(),
            "own_address": _address_of_own_name(),
            "data": os.path.exists(data) if data else None,
        }

    def listen(self) -> int:
        """Take connections from now on; the port."""
        self.door = socket.create_server(("", 0))
        return int(self.door.getsockname()[1])

    def reach(self, places: dict[str, tuple[str, int]]) -> dict[str, str]:
        """Why which of these nodes, {name: (host, port)}, cannot be reached from here."""
        found = {}
        for name, place in places.items():
            try:
                socket.create_connection(place, timeout=REACH_SECONDS).close()
            except OSError as error:
                found[name] = str(error)
        return found

    def know(self, logins: dict[str, tuple[str, str]]) -> str:
        """Take the logins that the driver was given in addresses, as a run's workers are; why that cannot be."""
        try:
            from contray.storage.logins import remember
        except ImportError as error:
            return str(error)
        remember(logins)
        return ""

    def storage(self, address: str, token: str, name: str, local: bool) -> dict[str, Any]:
        """Whether the token that the driver left at the address is there, whether `name` can be written beside it, and MB/s of both ways."""
        try:
            from contray.storage.folder import Storage

            place = Storage(address)
            seen = place.names() if not local or os.path.isdir(address) else []
            content = os.urandom(TRIED)
            began = time.perf_counter()
            place.write(name, content)
            wrote = time.perf_counter()
            same = place.read(name) == content
            ended = time.perf_counter()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        speeds = [TRIED / 2**20 / max(seconds, 1e-9) for seconds in (wrote - began, ended - wrote)]
        return {"seen": token in seen, "same": same, "write": speeds[0], "read": speeds[1]}

    def tracking(self, uri: str) -> str:
        """Why MLflow cannot be reached from here, or nothing."""
        try:
            from contray import track

            track.check(uri)
            path = track.sqlite_path(uri)
            if path is None or path.exists():  # a store of another version of MLflow answers, and keeps nothing
                with track.asking(uri, "reading its experiments") as talk:
                    talk.search_experiments(max_results=1)
        except Exception as error:
            return " ".join(str(error).split())[:300] or type(error).__name__
        return ""


def _version(name: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return "not installed" if importlib.util.find_spec(name) is None else "of the job's own files"


def gpus() -> list[dict[str, Any]]:
    """Name, MiB and driver of each, as the driver tells."""
    fields = ("name", "memory.total", "driver_version")
    try:
        ask = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        said = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines() if line.strip()]
    return [{"name": name, "mib": int(float(mib)), "driver": driver} for name, mib, driver in rows]


def _torch_cuda() -> dict[str, Any] | None:
    """What torch was built for and can use; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    nccl = None
    with contextlib.suppress(Exception):
        from torch.cuda.nccl import version

        nccl = ".".join(map(str, version()))
    return {"built": torch.version.cuda, "usable": torch.cuda.is_available(), "nccl": nccl}


def _address_of_own_name() -> str:
    """What other libraries take for this machine's address."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError as error:
        return str(error)
