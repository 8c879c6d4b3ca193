"""Ctrl-C twice ends a run on Ray at once, and nothing of it stays."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.elastic.harness import OWN, SMALL, SWEPT, Driver, slow_method


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_ctrl_c_twice_ends_at_once_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*SWEPT)
    own = slow_method(tmp_path, "moco", 0.1)
    run = Driver(tmp_path, own, {**SMALL, **OWN["moco"], "train.steps": 100_000, "scale.workers": (1, 1)}, "interrupted")
    with run.running():
        assert run.process is not None
        run.until_step(60, 200)  # behind the first checkpoint, of two seconds
        family = psutil.Process(run.process.pid).children(recursive=True)
        assert len(family) > 5, "Ray's own processes are among them"
        for _ in range(2):
            run.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        began = time.monotonic()
        assert run.end(60) == 130, run.told()
        assert time.monotonic() - began < 30
        _, left = psutil.wait_procs(family, timeout=15)
        assert not left, [process.cmdline() for process in left]
    assert run.state()["step"] > 0, "the newest checkpoint stays"
