"""Every point arrives exactly once, whatever dies in between; see also the real store at the end."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from contray import track
from contray.track import metric_log

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")
RUN = track.TrackedRun("http://nowhere", "1", "r")


class FakeMlflow:
    """Keeps what it is sent, as a store that drops no duplicates.

    `fails(when, batches)` decides whether a call raises "before" or "after" it did its work, `batches` of them having arrived.
    """

    def __init__(self, fails: Callable[[str, int], bool] = lambda when, batches: False) -> None:
        self.points: list[track.Point] = []
        self.sizes: list[int] = []
        self.fails = fails

    def get_metric_history(self, run_id: str, name: str) -> list[SimpleNamespace]:
        self._fail("before")
        return [SimpleNamespace(step=step) for known, _, _, step in self.points if known == name]

    def log_batch(self, run_id: str, metrics: list, synchronous: bool) -> None:
        self._fail("before")
        self.sizes.append(len(metrics))
        self.points += [(point.key, point.value, point.timestamp, point.step) for point in metrics]
        self._fail("after")

    def _fail(self, when: str) -> None:
        if self.fails(when, len(self.sizes)):
            raise ConnectionError("the server went away")

    def counts(self) -> Counter[tuple[str, int]]:
        return Counter((name, step) for name, _, _, step in self.points)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeMlflow], FakeMlflow]:
    monkeypatch.setattr(metric_log, "FIRST_PAUSE", 0.01)

    def use(fake: FakeMlflow) -> FakeMlflow:
        monkeypatch.setattr(metric_log, "client", lambda uri: fake)
        return fake

    return use


def test_points_go_only_once_a_checkpoint_covers_them(serve) -> None:
    fake, log = serve(FakeMlflow()), track.MetricLog(RUN)
    for step in range(10):
        log.log(step, {"loss": step / 2, "lr": 0.1})
    assert len(log.pending()) == 20
    log.durable(4)
    _until(lambda: len(log.pending()) == 10)
    assert fake.counts() == {(name, step): 1 for name in ("loss", "lr") for step in range(5)}
    assert log.close(5) == 10, "the rest has no checkpoint"
    assert [point[:2] + point[3:] for point in log.pending()[:2]] == [("loss", 2.5, 5), ("lr", 0.1, 5)]


def test_batches_are_as_large_as_mlflow_takes(serve) -> None:
    fake, log = serve(FakeMlflow()), track.MetricLog(RUN)
    for step in range(2500):
        log.log(step, {"loss": 1.0})
    log.durable(2500)
    assert log.close(10) == 0
    assert fake.sizes == [1000, 1000, 500]


def test_a_batch_that_arrived_without_an_answer_is_not_sent_again(serve, caplog: pytest.LogCaptureFixture) -> None:
    fake, log = serve(FakeMlflow(lambda when, batches: (when, batches) == ("after", 1))), track.MetricLog(RUN)
    log.log(1, {"loss": 1.0, "lr": 0.1})
    log.durable(1)
    assert log.close(5) == 0
    assert fake.counts() == {("loss", 1): 1, ("lr", 1): 1}


def test_death_between_arrival_and_answer_then_restart_from_the_checkpoint(serve) -> None:
    fake = serve(FakeMlflow(lambda when, batches: batches > 0))
    log = track.MetricLog(RUN)
    log.log(1, {"loss": 1.0})
    log.log(2, {"loss": 2.0})
    checkpoint = log.pending()
    log.log(3, {"loss": 3.0})  # after the checkpoint: computed again by the next process
    log.durable(2)
    assert log.close(0.2) == 3

    fake.fails = lambda when, batches: False
    again = track.MetricLog(RUN, pending=checkpoint)
    again.log(3, {"loss": 3.0})
    again.durable(3)
    assert again.close(5) == 0
    assert fake.counts() == {("loss", step): 1 for step in (1, 2, 3)}
    assert [point for point in fake.points if point[3] < 3] == checkpoint, "their times are those of their steps"


def test_an_older_checkpoint_doubles_nothing(serve) -> None:
    """The newest checkpoint was torn: its points have arrived and are computed again."""
    fake = serve(FakeMlflow())
    log = track.MetricLog(RUN)
    log.log(1, {"loss": 1.0})
    older = log.pending()
    log.log(2, {"loss": 2.0})
    log.durable(2)
    assert log.close(5) == 0
    again = track.MetricLog(RUN, pending=older)
    again.log(2, {"loss": 2.0000001})
    again.log(3, {"loss": 3.0})
    again.durable(3)
    assert again.close(5) == 0
    assert fake.counts() == {("loss", step): 1 for step in (1, 2, 3)}


def test_an_outage_costs_one_warning_and_no_point(serve, caplog: pytest.LogCaptureFixture) -> None:
    down = True
    fake, log = serve(FakeMlflow(lambda when, batches: down)), track.MetricLog(RUN)
    longest = 0.0
    for step in range(200):
        start = time.perf_counter()
        log.log(step, {"loss": 1.0})
        log.durable(step)
        longest = max(longest, time.perf_counter() - start)
    time.sleep(0.2)
    assert len(log.pending()) == 200
    down = False
    assert log.close(10) == 0
    assert fake.counts() == {("loss", step): 1 for step in range(200)}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the server went away" in caplog.text
    assert longest < 0.5, "training does not wait"


def test_close_returns_in_time_and_says_what_is_unsent(serve) -> None:
    serve(FakeMlflow(lambda when, batches: True))
    log = track.MetricLog(RUN, pending=[("loss", 1.0, 5, 1)])
    start = time.monotonic()
    assert log.close(0.2) == 1
    assert time.monotonic() - start < 2
    assert log._thread is not None
    log._thread.join(5)
    assert not log._thread.is_alive()
    assert log.pending() == [("loss", 1.0, 5, 1)]


def test_beyond_its_bound_it_says_loudly_what_it_loses(serve, caplog: pytest.LogCaptureFixture) -> None:
    fake, log = serve(FakeMlflow()), track.MetricLog(RUN, max_points=3)
    for step in range(5):
        log.log(step, {"loss": 1.0})
    assert (log.dropped, len(log.pending())) == (2, 3)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "step 3" in caplog.text
    log.durable(5)
    assert log.close(5) == 0
    assert sorted(fake.counts()) == [("loss", 0), ("loss", 1), ("loss", 2)]


def test_values_and_names_that_mlflow_would_refuse_or_bend(serve) -> None:
    fake, log = serve(FakeMlflow()), track.MetricLog(RUN)
    log.log(1, {"loss@1": math.inf, "train/loss": math.nan, "acc": 1})
    log.durable(1)
    assert log.close(5) == 0
    values = {name: value for name, value, _, _ in fake.points}
    assert math.isnan(values["loss_1"])
    assert math.isnan(values["train/loss"])
    assert values["acc"] == 1.0


def test_pending_points_load_with_weights_only(tmp_path) -> None:
    import torch

    log = track.MetricLog(RUN)
    log.log(1, {"loss": 1.0})
    torch.save({"pending": log.pending()}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)["pending"]
    assert track.MetricLog(RUN, pending=loaded).pending() == log.pending()


def test_the_real_store_holds_every_point_once_after_a_death(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = track.begin(store, "contray", "r", params={}, tags={})
    real = track.client(store)

    class Dies:
        get_metric_history = real.get_metric_history

        def log_batch(self, *args, **more) -> None:
            real.log_batch(*args, **more)
            raise ConnectionError("killed")

    log = track.MetricLog(run)
    for step in range(0, 30, 10):
        log.log(step, {"loss": 1.0 / (step + 1), "bad": math.nan})
    checkpoint = log.pending()
    with monkeypatch.context() as patch:
        patch.setattr(metric_log, "client", lambda uri: Dies())
        log.durable(20)
        _until(lambda: len(real.get_metric_history(run.run_id, "loss")) == 3)
        log.close(0)
    again = track.MetricLog(run, pending=checkpoint)
    again.log(30, {"loss": 0.5, "bad": math.nan})
    again.durable(30)
    assert again.close(10) == 0
    for name in ("loss", "bad"):
        assert [point.step for point in real.get_metric_history(run.run_id, name)] == [0, 10, 20, 30]


def _until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
