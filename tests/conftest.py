"""Settings that all tests share."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("CONTRAY_BF16", "no")  # what tests compute depends on no processor
os.environ.setdefault("RAY_worker_niceness", "0")  # stock 15: tests beside them would starve Ray's workers

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_own_store(tmp_path, monkeypatch):
    """Tests share few cores, and none may write to the store of whoever runs them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` a file stays on one worker, for its fixtures, and all files that start Ray on the same one."""
    ray = {item.path for item in items if item.get_closest_marker("ray")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in ray else item.path.name))
