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


# Begun first, so that nobody waits for them at the end
LONGEST = ("ray", "test_contract.py", "test_end_to_end.py", "test_facts.py", "test_loop.py")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would have the files of the most tests go first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` all tests that start Ray run on the same worker, and a file stays on one, for its fixtures."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: LONGEST.index(group_of(item)) if group_of(item) in LONGEST else len(LONGEST))


def group_of(item: pytest.Item) -> str:
    return "ray" if item.get_closest_marker("ray") else item.path.name
