"""Two drivers of one run, step by step in any order: suspended, killed, overtaken, with MLflow away or failing after it took a batch.

However they interleave, MLflow has every metric of every step once, with the value of that step.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contray import track
from contray.errors import UserError
from contray.storage import sealed
from contray.storage.folder import Storage
from contray.track import metric_log
from contray.training import lease, records, spool
from contray.training.lease import Fenced, Lease

RUN = track.TrackedRun("sqlite:////nowhere/mlflow.db", "1", "r")
CHECKPOINT = "checkpoint.json"


class Mlflow:
    """Keeps what it is sent, doubled points too."""

    def __init__(self) -> None:
        self.points: list[track.Point] = []
        self.fails = ""  # "before" it took a batch, or "after"

    def get_metric_history(self, run_id: str, name: str) -> list[SimpleNamespace]:
        if self.fails == "before":
            raise ConnectionError
        return [SimpleNamespace(step=step) for known, _, _, step in self.points if known == name]

    def log_batch(self, run_id: str, metrics: list[Any], synchronous: bool) -> None:
        if self.fails == "before":
            raise ConnectionError
        self.points += [(point.key, point.value, point.timestamp, point.step) for point in metrics]
        if self.fails == "after":
            raise ConnectionError


class Drivers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.mkdtemp(prefix="contray-drivers-")
        self.folder, self.mlflow = Storage(f"{self.place}/r"), Mlflow()
        self.folder.create()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(metric_log, "client", lambda uri: self.mlflow)
        self.patch.setattr(track.MetricLog, "_start", lambda log: None)  # sends are steps of this test
        self.patch.setattr(Lease, "_keep", lambda mine: None)  # and so are renewals
        self.patch.setattr(os, "fsync", lambda handle: None)
        self.patch.setattr(time, "sleep", lambda seconds: None)
        self.drivers: list[SimpleNamespace | None] = [None, None]
        self.durable = 0

    def teardown(self) -> None:
        """Whoever comes last sends all that is durable."""
        self.mlflow.fails = ""
        try:
            self.drivers = [None, None]
            self._begin(0)
            driver = self.drivers[0]
            assert driver is not None
            self._send(driver)
            counts = Counter((name, step) for name, _, _, step in self.mlflow.points)
            assert counts == {(name, step): 1 for name in ("loss", "lr") for step in range(1, self.durable + 1)}
        finally:
            self.patch.undo()
            shutil.rmtree(self.place)

    which = st.integers(0, 1)

    def _awake(self, i: int) -> SimpleNamespace | None:
        driver = self.drivers[i]
        return None if driver is None or driver.asleep else driver

    def _begin(self, i: int) -> None:
        mine = Lease(self.folder)
        mine.take(lease._read(self.folder))
        fenced = mine.fenced()
        known = sealed.read(self.folder, CHECKPOINT, {"step": int, "points": list}) or {"step": 0, "points": []}
        log = track.MetricLog(RUN, pending=[*map(tuple, known["points"]), *spool.get(self.folder)], fence=fenced.check)
        records.note(fenced, RUN)
        self.drivers[i] = SimpleNamespace(lease=mine, folder=fenced, log=log, step=known["step"], asleep=False)

    def _send(self, driver: SimpleNamespace) -> None:
        while driver.log._points and not driver.log._stopped:
            due = {key: point for key, point in driver.log._points.items() if key[1] <= driver.log._durable}
            if not due or not driver.log._once(due, {}, []):
                return

    @rule(i=which)
    def begin(self, i: int) -> None:
        """Where nobody holds the lease, or its holder is silent (or dead) for long enough."""
        holder = next(
            (driver for driver in self.drivers if driver and driver.lease.token == lease._read(self.folder).get("token")), None
        )
        if self.drivers[i] is None and (holder is None or holder.asleep):
            self._begin(i)

    @rule(i=which, steps=st.integers(1, 3), saves=st.booleans(), sends=st.booleans())
    def work(self, i: int, steps: int, saves: bool, sends: bool) -> None:
        self.train(i, steps)
        if saves:
            self.save(i)
        if sends:
            self.send(i)

    @rule(i=which, what=st.sampled_from(["renew", "sleep_or_wake", "sleep_or_wake", "die", "end"]))
    def fate(self, i: int, what: str) -> None:
        getattr(self, what)(i)

    @rule(i=which)
    def overtake(self, i: int) -> None:
        """A moment after the other one's checkpoint, it is silent for long enough."""
        other = self.drivers[1 - i]
        if other and self.drivers[i] is None and other.lease.token == lease._read(self.folder).get("token"):
            self.train(1 - i, 1)
            self.save(1 - i)
            other.asleep = True
            self._begin(i)
            self.send(i)
            other.asleep = False

    def train(self, i: int, steps: int) -> None:
        if driver := self._awake(i):
            for _ in range(steps):
                driver.step += 1
                driver.log.log(driver.step, {"loss": float(driver.step), "lr": 0.5 * driver.step})

    def save(self, i: int) -> None:
        if driver := self._awake(i):
            try:
                sealed.write(driver.folder, CHECKPOINT, {"step": driver.step, "points": driver.log.pending()})
            except UserError:
                self.drivers[i] = None
                return
            self.durable = driver.step
            driver.log.durable(driver.step)

    @rule(i=which)
    def send(self, i: int) -> None:
        if driver := self._awake(i):
            self._send(driver)

    def renew(self, i: int) -> None:
        if driver := self._awake(i):
            driver.lease._renew()
            if driver.lease._lost:
                self.drivers[i] = None

    def sleep_or_wake(self, i: int) -> None:
        if driver := self.drivers[i]:
            driver.asleep = not driver.asleep

    def die(self, i: int) -> None:
        self.drivers[i] = None

    def end(self, i: int) -> None:
        """It stops in order: a checkpoint, the spool, the record."""
        self.save(i)
        if driver := self._awake(i):
            self._send(driver)
            try:
                spool.put(driver.folder, driver.log.pending())
                records.note(driver.folder, RUN, unsent=len(driver.log.pending()))
            except UserError:
                pass
            driver.lease.release()
            self.drivers[i] = None

    @rule(fails=st.sampled_from(["", "", "", "before", "after"]))
    def weather(self, fails: str) -> None:
        self.mlflow.fails = fails

    @initialize()
    def first(self) -> None:
        self._begin(0)

    @invariant()
    def nothing_is_doubled_and_every_value_is_its_steps(self) -> None:
        counts = Counter((name, step) for name, _, _, step in self.mlflow.points)
        assert not counts or max(counts.values()) == 1
        assert all(value == step * (1 if name == "loss" else 0.5) for name, value, _, step in self.mlflow.points)

    @invariant()
    def the_record_is_whole(self) -> None:
        assert records.read(self.folder)["run_id"] == "r"


TestDrivers = Drivers.TestCase
TestDrivers.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)


def test_a_driver_that_lost_its_lease_sends_no_point_that_its_successor_has_sent(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended with a batch in hand, and its view of what MLflow has is from before."""
    mlflow = Mlflow()
    monkeypatch.setattr(metric_log, "client", lambda uri: mlflow)
    monkeypatch.setattr(lease, "RENEW", 0.01)
    folder = Storage(str(tmp_path))
    first = Lease(folder)
    first.take({})
    log = track.MetricLog(RUN, fence=Fenced(folder.address, first.token).check)
    log.log(1, {"loss": 1.0})
    batch = dict(log._points)
    log._stored["loss"] = set()

    second = Lease(folder)
    second.take(lease._read(folder))
    again = track.MetricLog(RUN, pending=log.pending(), fence=second.fenced().check)
    assert again.close(5) == 0
    assert not log._once(batch, {}, [])
    assert [point[3] for point in mlflow.points] == [1]
    for each in (first, second):
        each.release()
