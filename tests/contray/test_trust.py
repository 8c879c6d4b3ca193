"""Nothing is unpickled that a stranger could have written, and nothing listens beyond this machine unless told to."""

from __future__ import annotations

import ast
import inspect
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from contray.track import ui

REPO = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("platform", "methods", "tune_spaces") for path in (REPO / folder).rglob("*.py"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}


def unsafe(source: str) -> Iterator[str]:
    """Loads that could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: import {name}" for name in modules if name.partition(".")[0] in UNPICKLERS)
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if modules[0] in ("torch", "numpy", "yaml", "torch.hub", "torch.jit") and set(names) & {
                "load",
                "unsafe_load",
                "full_load",
            }:
                yield f"line {node.lineno}: from {modules[0]} import load, which this scan would not see called"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in ("torch.load", "torch.serialization.load") and given.get("weights_only") != "True":
            yield f"line {node.lineno}: {called} without weights_only=True"
        if called in ("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "eval", "exec", "pd.read_pickle"):
            yield f"line {node.lineno}: {called}"
        if called in ("np.load", "numpy.load", "np.lib.format.read_array") and given.get("allow_pickle", "False") != "False":
            yield f"line {node.lineno}: {called} with allow_pickle"
        if called.startswith("yaml.") and called.removeprefix("yaml.") in ("load", "load_all", "unsafe_load", "full_load"):
            yield f"line {node.lineno}: {called}; safe_load"
        if called.endswith("add_safe_globals") or "allow_dangerous_deserialization" in given:
            yield f"line {node.lineno}: {called}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_nothing_unpickles(path: Path) -> None:
    assert list(unsafe(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)", "import pickle",
        "from joblib import load", "import cloudpickle as c", "np.load(path, allow_pickle=True)", "yaml.load(text, Loader)",
        "yaml.unsafe_load(text)", "from torch import load", "torch.hub.load(a, b)", "torch.serialization.add_safe_globals([A])",
    ],
)  # fmt: skip
def test_the_scan_sees(line: str) -> None:
    assert list(unsafe(line))


def test_the_scan_lets_safe_loads_pass() -> None:
    assert not list(unsafe("torch.load(a, map_location=b, weights_only=True); np.load(a); yaml.safe_load(t); json.loads(t)"))


def test_pages_are_served_on_loopback_unless_asked() -> None:
    for serves in (ui.serve, ui.server):
        assert inspect.signature(serves).parameters["host"].default == "127.0.0.1"


def in_home(home: Path, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**environment, "HOME": str(home), **more}, capture_output=True, text=True, timeout=120
    )


def test_a_cluster_that_wants_a_token_is_told_of_what_is_missing(tmp_path: Path) -> None:
    with socket.socket() as listens:
        listens.bind(("127.0.0.1", 0))
        listens.listen()
        threading.Thread(target=_accept, args=(listens,), daemon=True).start()
        address = f"127.0.0.1:{listens.getsockname()[1]}"
        code = f"""
from contray import RunConfig, UserError
from contray.training.ray_train import ray_session
try:
    with ray_session(RunConfig.make("simclr", {{"scale.address": {address!r}}})):
        print("joined")
except UserError as error:
    print(error)
"""
        ended = in_home(tmp_path, code, RAY_AUTH_MODE="token")
    assert ended.stdout.strip().splitlines() == [
        f"scale.address: the cluster at {address} wants a token and ~/.ray/auth_token has none; copy the head's file there (mode 600)"
    ], ended.stderr


def _accept(listens: socket.socket) -> None:
    try:
        while True:
            listens.accept()[0].close()
    except OSError:  # the test is over
        pass


@pytest.mark.ray
def test_the_token_of_a_ray_of_our_own_is_private_and_its_dashboard_on_loopback(tmp_path: Path) -> None:
    code = """
import os, stat
from pathlib import Path
from contray import RunConfig
from contray.training.ray_train import ray_session
with ray_session(RunConfig.make("simclr", {"scale.workers": (1, 1)}), dashboard=True):
    import ray
    from ray._private.authentication.authentication_utils import get_authentication_mode_name
    from ray._raylet import get_authentication_mode
    token = Path.home() / ".ray" / "auth_token"
    print(get_authentication_mode_name(get_authentication_mode()), oct(token.stat().st_mode & 0o777), len(token.read_text()) > 30)
    print(ray._private.worker.global_worker.node.address_info["webui_url"])
"""
    ended = in_home(tmp_path, code)
    mode, page = ended.stdout.strip().splitlines()[-2:]
    assert mode == "token 0o600 True", ended.stderr
    assert page.startswith("127.0.0.1:")
