"""One driver at a time for a run: a lease in the run's folder, renewed while its driver lives.

Clocks are never compared, neither those of two machines nor one before and after a jump: who wants a lease that another holds watches
whether the file changes. It is taken over after SILENCE seconds without a change, or at once where its owner was a process of
this machine that is gone.

What is guaranteed. On a local path (and on NFS where it locks) taking and renewing exclude each other, so there is one owner. An object
store cannot exclude: the last writer owns, and everyone reads again before going on, so that two owners overlap for RENEW seconds at most.
Whoever lost its lease (suspended for too long, say) writes nothing more into the folder: `Fenced` asks before each write.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from ..storage import sealed
from ..storage.folder import Storage

LEASE = "lease.json"
KINDS: sealed.Kinds = {
    **{"token": str, "count": int, "host": str, "pid": int, "since": str},
    **{"machine": str, "started": str},
}
NETWORKS = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "gluster", "fuse")  # kinds of file systems
GARBLED = {"token": "?"}  # what a damaged lease is read as: nobody's that is known here
# seconds: without a change until a lease is free, between renewals, between a watcher's looks
SILENCE, RENEW, POLL = (
    15.0,
    3.0,
    0.5,
)
LOCK_SECONDS = 2.0  # a lock is held for the time of one small write; whoever holds it longer is suspended
log = logging.getLogger(__name__)


class LeaseLost(UserError):
    """The lease is not this driver's any more, which must not write on. `holder`: somebody else holds it."""

    holder = False


class NotSeen(UserError):
    """The run's folder is not there, as this machine sees it."""


class Watcher(Protocol):
    """Who is shown a run's messages: a progress bar, or Tune's adapter. True: the run is to stop with a checkpoint."""

    def show(self, message: dict[str, Any]) -> bool | None: ...


@dataclass(frozen=True)
class Guarded:
    """A watcher that ends the run, by raising LeaseLost, once the lease is lost; `watch`, if there is one, says whether it is to stop."""

    watcher: Watcher
    check: Callable[[], None]
    watch: Callable[[dict[str, Any]], bool] | None = None

    def show(self, message: dict[str, Any]) -> bool:
        self.check()
        stop = self.watcher.show(message)
        return bool((self.watch(message) if self.watch else False) or stop)


class Fenced(Storage):
    """The folder of a run as the holder of `token` may write it. Raises LeaseLost when it does not hold the lease, NotSeen without the folder.

    lease: the folder that the lease lies in, where that is not the run's own (a trial is its sweep's).
    """

    def __init__(self, address: str, token: str, lease: str = "") -> None:
        super().__init__(address)
        self.token, self.lease = token, lease
        self._guarded = Storage(lease) if lease else self
        self.check()

    def check(self) -> None:
        if not self.token:
            return
        found = _read(self._guarded)
        for _ in range(20):
            if found != GARBLED:
                break
            time.sleep(RENEW / 10)  # its holder writes it anew after RENEW seconds
            found = _read(self._guarded)
        if found.get("token") != self.token:
            raise _lost(self._guarded, found)

    def write(self, name: str, content: bytes | memoryview) -> None:
        self.check()
        super().write(name, content)


class Lease:
    """A held lease. `token` is its owner's; `check` raises LeaseLost when it has passed to another."""

    def __init__(self, folder: Storage) -> None:
        self.folder, self.token = folder, secrets.token_hex(8)
        self._count, self._since = 0, time.strftime("%Y-%m-%d %H:%M:%S")  # for people alone
        self._lost: UserError | None = None
        self._outage = False
        self.trouble: Callable[[str, str], None] = _warn
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def check(self) -> None:
        """Raise LeaseLost when the last renewal found another owner or none, NotSeen when the folder was gone."""
        if self._lost:
            raise self._lost

    def fenced(self) -> Fenced:
        """The folder as the owner of this lease may write it."""
        return Fenced(self.folder.address, self.token)

    def take(self, seen: Mapping[str, Any]) -> None:
        """Write the lease, provided that it still is as `seen`. Raises UserError when another was faster, or nothing can be written."""
        try:
            with _exclusive(self.folder) as locked:
                if (found := _read(self.folder)) != seen:
                    raise _held(self.folder, found)
                self._write()
            if not locked:
                time.sleep(POLL)
                if (found := _read(self.folder)).get("token") != self.token:
                    raise _held(self.folder, found)
        except OSError as error:
            raise UserError(
                f"scale.storage: cannot write to {self.folder.address} ({error.strerror or error}); mend that, or choose another with --scale.storage"
            ) from None
        self.folder.clear_drafts()  # of writers that were killed: nobody else may write here now
        self._thread.start()

    def release(self) -> None:
        """Remove the lease, if it still is this one."""
        self._ended.set()
        self._thread.join(LOCK_SECONDS)
        with contextlib.suppress(OSError, NotSeen), _exclusive(self.folder):  # left behind, it is free after SILENCE seconds
            if _read(self.folder).get("token") == self.token:
                self.folder.remove(LEASE)

    def _keep(self) -> None:
        while self._lost is None and not self._ended.wait(RENEW):
            self._renew()

    def _renew(self) -> None:
        try:
            with _exclusive(self.folder):
                found = _read(self.folder)
                if found.get("token") == self.token or found == GARBLED:
                    self._write()  # also over a damaged one: whoever takes a lease over writes a whole one
                else:
                    self._lost = _lost(self.folder, found)
        except NotSeen as error:
            self._lost = error
        except Exception as error:  # an outage of the storage: the run goes on until somebody else holds the lease
            if not self._outage:
                self.trouble("lease", f"the lease in {self.folder.address} could not be renewed ({error}); trying on")
            self._outage = True
        else:
            if self._outage:
                self.trouble("lease", "")
            self._outage = False

    def _write(self) -> None:
        self._count += 1
        owner = {
            "token": self.token,
            "count": self._count,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
        }
        sealed.write(self.folder, LEASE, {**owner, **_process(os.getpid())})


def _warn(what: str, words: str) -> None:
    if words:
        log.warning(words)


@contextlib.contextmanager
def held(folder: Storage, quiet: bool = False) -> Iterator[Lease]:
    """Hold the lease of the run in `folder`. Raises UserError, naming the owner, while another driver lives; waits where that is not known."""
    try:
        seen = _read(folder)
    except OSError as error:
        raise UserError(f"scale.storage: cannot read {folder.address} ({error.strerror or error})") from None
    alive = _alive(seen)
    if alive:
        raise _held(folder, seen)
    if seen and alive is None:
        if not quiet:
            owner = f"{seen.get('host')}, process {seen.get('pid')}"
            print(
                f"contray: {folder.address} was held by {owner}; it is free after {SILENCE:g} s without a sign of life",
                flush=True,
            )
        seen = _watch(folder, seen)
    lease = Lease(folder)
    lease.take(seen)
    try:
        yield lease
    finally:
        lease.release()


def _watch(folder: Storage, seen: Mapping[str, Any]) -> Mapping[str, Any]:
    """What there is after SILENCE seconds of looking. Looks are counted, not seconds: a watcher that slept itself has seen nothing."""
    for _ in range(max(1, round(SILENCE / POLL))):
        time.sleep(POLL)
        found = _read(folder)
        if not found:  # its owner has just ended
            return found
        if found != seen:
            raise _held(folder, found)
    return seen


def _read(folder: Storage) -> dict[str, Any]:
    """The lease; empty where the folder has none, GARBLED where it is damaged. Raises NotSeen where there is no folder."""
    for _ in range(3):
        try:
            found = sealed.read(folder, LEASE, KINDS, needed=("token",))
        except sealed.Damaged:
            time.sleep(0.05)  # just being written, where that is not done in one piece (file://)
            continue
        if found is None and folder.local and not Path(folder.root).is_dir():
            raise _not_seen(folder)
        return found or {}
    return dict(GARBLED)


def _not_seen(folder: Storage) -> NotSeen:
    return NotSeen(
        f"scale.storage: {folder.address} is not there, as {socket.gethostname()} sees it: removed, or not on storage that "
        "all machines share; give a shared path, or an address such as s3://bucket/runs"
    )


class Held(UserError):
    """Another driver holds the lease. who: that driver, in words."""

    def __init__(self, name: str, who: str) -> None:
        super().__init__(f"track.name: {name} is being trained by {who}; wait for its end, or give this run another --track.name")
        self.who = who


def _held(folder: Storage, owner: Mapping[str, Any]) -> Held:
    name = folder.name
    who = (
        f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}"
        if owner.get("pid")
        else "another process"
    )
    return Held(name, who)


def _lost(folder: Storage, owner: Mapping[str, Any]) -> LeaseLost:
    stops = "this one stops and writes nothing more"
    if not owner:
        return LeaseLost(
            f"{folder.address} has no lease of this run any more, as {socket.gethostname()} sees it: it was removed, or a driver that took "
            f"the run over during {SILENCE:g} s of silence has ended since; {stops}"
        )
    if owner == GARBLED:
        return LeaseLost(f"{folder.address}/{LEASE} stays damaged, and nobody mends it; {stops}")
    lost = LeaseLost(
        f"{folder.address} was taken over by process {owner.get('pid')} on {owner.get('host')} while this run gave no sign of life "
        f"for {SILENCE:g} s; {stops}"
    )
    lost.holder = True
    return lost


# ---------------------------------------------------------------- processes of this machine


def _machine() -> str:
    """What one kernel and one namespace of processes have in common; empty where the system does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _process(pid: int) -> dict[str, Any]:
    """What makes a process recognisable on its machine: a number is given again, the start in clock ticks is not."""
    state = _stat(pid)
    return {"machine": _machine(), "started": state[19] if state else ""}


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name (state first); none for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _alive(owner: Mapping[str, Any]) -> bool | None:
    """Whether the owner lives; None where only watching tells: on another machine, suspended, or another user's and hidden."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or not owner.get("machine") or owner["machine"] != _machine():
        return None
    state = _stat(pid)
    if not state:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return None
    if state[19] != owner.get("started") or state[0] in "ZX":
        return False
    return None if state[0] in "Tt" else True


# ---------------------------------------------------------------- exclusion


@contextlib.contextmanager
def _exclusive(folder: Storage) -> Iterator[bool]:
    """Keep others out while the lease is read and written; gives whether that is so (not on object stores, not everywhere on NFS).

    Raises NotSeen without the folder.
    """
    if not folder.local:
        yield False
        return
    try:
        handle = os.open(folder.root, os.O_RDONLY)
    except FileNotFoundError:
        raise _not_seen(folder) from None
    try:
        locked = _lock(handle)
        try:
            yield locked and not _on_a_network(folder.root)
        finally:
            if locked:
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do: a data worker forked meanwhile has the handle too
    finally:
        os.close(handle)


def _on_a_network(folder: str, mounts: str = "/proc/self/mounts") -> bool:
    """Whether another machine may see the folder, but not its lock: Linux locks a directory of NFS for itself alone."""
    try:
        lines = [line.split() for line in Path(mounts).read_text().splitlines()]
    except OSError:
        return False
    place = os.path.realpath(folder)
    kinds = {line[1].replace("\\040", " "): line[2] for line in lines if len(line) > 2}  # the last of a place is what is seen
    found = max((each for each in kinds if place == each or place.startswith(f"{each.rstrip('/')}/")), key=len, default="")
    return kinds.get(found, "").startswith(NETWORKS)


def _lock(handle: int) -> bool:
    for _ in range(round(LOCK_SECONDS / 0.02)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:  # a file system without locks
            return False
    return False
