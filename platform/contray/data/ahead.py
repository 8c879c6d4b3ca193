"""Reading ahead: a process that sees that the shards of the next window are on this machine before they are needed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

from ..errors import UserError
from .order import Blocks
from .shards import Shards

_LOOK = 2.0  # seconds between two looks whether the parent is still there


class ReadAhead:
    """Follows a training that says where it is. What cannot be fetched is left to whoever reads it, and says why.

    A process of its own: a thread would hold locks of Arrow's and of the stores' libraries while other loaders are forked.
    """

    def __init__(self, shards: Shards, order: Blocks, places: int) -> None:
        """places: of an epoch that are trained on."""
        self._order, self._places, self._said = order, places, (-1, -1)
        theirs, self._say = multiprocessing.Pipe(duplex=False)
        work = (theirs, shards, order, places, os.getpid())
        self._process = multiprocessing.get_context("fork").Process(target=_follow, args=work, daemon=True)
        self._process.start()
        theirs.close()

    def at(self, epoch: int, place: int) -> None:
        """Training has come to this place of an epoch."""
        here = (epoch, self._order.window_at(epoch, place))
        if here != self._said:
            self._said = here
            with suppress(OSError):  # it has ended: then everything is fetched when it is read
                self._say.send(here)

    def close(self) -> None:
        self._say.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _follow(hear: Connection, shards: Shards, order: Blocks, places: int, parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # which the parent heeds
        signal.signal(number, signal.SIG_IGN)
    try:
        while os.getppid() == parent:
            if not hear.poll(_LOOK):
                continue
            here = hear.recv()
            for shard in upcoming(shards, order, places, *here):
                if hear.poll():
                    break
                try:
                    shards.fetch(shard)
                except (UserError, OSError):
                    continue
    except EOFError:
        return


def upcoming(shards: Shards, order: Blocks, places: int, epoch: int, window: int) -> Iterator[int]:
    """The shards of a window and of the next one that training comes to, of which copies are kept."""
    last = order.window_at(epoch, places - 1)
    following = (epoch, window + 1) if window < last else (epoch + 1, 0)
    for each in ((epoch, window), following):
        yield from (shard for shard in order.shards(*each).tolist() if shards.sizes[shard])
