"""Prefetches files of an object store, where each answer takes long: many are read at a time before they are asked for one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

AT_ONCE = 16  # files under way


class Expected:
    """`read` by number, of which those that were `expect`ed are read by threads. Each process has its own: threads do not outlive a fork."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read
        self._process, self._pool, self._waiting = -1, None, dict[int, Future[bytes]]()

    def expect(self, ids: Iterable[int]) -> None:
        """These are asked for next; whatever else was expected no longer is."""
        if self._process != os.getpid() or self._pool is None:
            self._process, self._pool, self._waiting = os.getpid(), ThreadPoolExecutor(AT_ONCE, "contray-read"), {}
        before = self._waiting
        self._waiting = {i: before.pop(i, None) or self._pool.submit(self.read, i) for i in dict.fromkeys(ids)}
        for future in before.values():
            future.cancel()

    def __call__(self, i: int) -> bytes:
        """Raises what reading raised."""
        expected = self._waiting.pop(i, None) if self._process == os.getpid() else None
        return self.read(i) if expected is None else expected.result()
