"""Settings that all tests share."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share few cores: threads that wait for each other's took twice as long
os.environ.setdefault("CONTRAY_BF16", "no")  # what tests compute depends on no processor
os.environ.setdefault("RAY_worker_niceness", "0")  # stock 15: tests beside them would starve Ray's workers

# All that tests and their Rays leave lies in one place, of a short name, for Ray's sockets lie in it
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="ct-")
    # after all else that is registered: processes clean up in it
    atexit.register(lambda: PASSED and shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True))

import pytest
import torch
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # what takes 0.2 s here takes 2 beside other work
settings.load_profile("any machine")
PASSED: list[bool] = []
gc.disable()  # until all is collected: a fifth of the time of imports went into looking for garbage among what they define


@pytest.fixture(autouse=True)
def _one_thread_and_own_store(tmp_path, monkeypatch):
    """Tests share few cores, and none may write to the store of whoever runs them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    torch.set_num_threads(threads)


# Files that take longest are begun first, so that nobody waits for them at the end
LONGEST = [
    "test_tuning.py",
    "test_examples.py",
    "test_contract.py",
    "test_end_to_end.py",
    "test_elastic.py",
    "test_jobs.py",
    "test_two_drivers.py",
    "test_trouble.py",
    "test_tutorial.py",
]


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would have the files of the most tests go first


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # what is there stays: each full collection looked at all of it again


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        PASSED.append(True)
    else:
        print(f"\nwhat the tests left lies in {os.environ['TMPDIR']}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadfile` a file stays on one worker, for its fixtures."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
