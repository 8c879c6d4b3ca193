"""`contray ui`: MLflow's own pages, on this machine alone unless told otherwise, and links that open where one wants to be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from .. import track
from ..errors import UserError
from ..storage.logins import full
from . import served, watchdog

START_SECONDS, STOP_SECONDS = 90.0, 10.0


def serve(uri: str, port: int = track.UI_PORT, open_browser: bool = True, host: str = "127.0.0.1") -> None:
    """Print a link to every experiment, the last used first, and serve the pages until Ctrl-C or SIGTERM; links printed afterwards name this port.

    A tracking server serves its own pages: then only the links are printed. Raises UserError when the port is taken, and when the server ends.
    """
    track.check(uri, exists=True)
    if uri.startswith(("http://", "https://")):
        _offer(uri, uri, open_browser)
        return
    # SIGINT too: a shell that starts a command in the background has it ignored
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with suppress(KeyboardInterrupt), _server(uri, port, host) as (address, process, output):
            served.remember(uri, address)
            _offer(uri, address, open_browser)
            print("Ctrl-C ends it", flush=True)
            code = process.wait()
            how = f"was ended by signal {code - 128}" if code > 128 else f"ended with status {code}"
            raise UserError(f"MLflow's server at {address} {how}; its last words: {_last_words(output)}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _offer(uri: str, address: str, open_browser: bool) -> None:
    links = experiment_links(uri, address)
    for name, link in links.items():
        print(f"{name}: {link}", flush=True)
    if open_browser:
        webbrowser.open(next(iter(links.values()), address))


def experiment_links(uri: str, address: str) -> dict[str, str]:
    """Name -> link of every experiment that holds runs, the one used last first; `address`: where the pages are served."""
    with track.asking(uri, "reading experiments") as talk:
        used: dict[str, tuple[int, str]] = {}
        for experiment in talk.search_experiments():
            last = talk.search_runs([experiment.experiment_id], max_results=1, order_by=["attributes.start_time DESC"])
            if last:
                used[experiment.name] = (last[0].info.start_time, track.runs_url(uri, experiment.experiment_id, address))
    return {name: used[name][1] for name in sorted(used, key=lambda name: -used[name][0])}


@contextmanager
def server(uri: str, port: int = track.UI_PORT, host: str = "127.0.0.1") -> Iterator[str]:
    """MLflow's server over the store at `uri` while the block runs; gives its address once it answers."""
    with _server(uri, port, host) as (address, _, _):
        yield address


@contextmanager
def _server(uri: str, port: int, host: str) -> Iterator[tuple[str, subprocess.Popen[bytes], IO[bytes]]]:
    """Its address, its process and what it says."""
    _check_port(host, port)
    with tempfile.TemporaryFile() as output, _process(uri, port, host, output) as process:
        address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        _wait_until_it_answers(process, address, output)
        yield address, process, output


@contextmanager
def _process(uri: str, port: int, host: str, output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a session of its own, all of which ends with the block or with this process; a Ctrl-C in the terminal does not reach it."""
    place = ["--host", host, "--port", str(port)]
    if path := track.sqlite_path(uri):
        place += ["--artifacts-destination", str(path.parent / "mlartifacts")]
    process = subprocess.Popen(
        [sys.executable, "-I", watchdog.__file__, sys.executable, "-m", "mlflow", "server", "--workers", "1", *place],
        # without job execution and with one worker it starts 5 times as fast; one worker then needs more connections than 5.
        # The store's address may carry a login: as a word of the command everybody on the machine could read it
        env={
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": full(uri),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "40",
        },
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.PIPE,  # which closes as this process ends, whatever ends it
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end_session(process)
        assert process.stdin is not None
        process.stdin.close()


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started: asked first, then forced."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def _check_port(host: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise UserError(f"--port: got {port}, must be an integer >= 1 and <= 65535, such as the default 5000")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port {port} on {host} cannot be had ({error.strerror}), perhaps another `contray ui`; give --port {port + 1 if port < 65535 else 5000}"
            ) from None


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(URLError, ConnectionError, TimeoutError):
            urlopen(f"{address}/health", timeout=2).close()
            return
        time.sleep(0.1)
    raise UserError(f"MLflow's server did not start: {_last_words(output)}")


def _last_words(output: IO[bytes]) -> str:
    output.seek(0)
    said = output.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return next((line for line in reversed(said) if "Error" in line or "Exception" in line), said[-1]).strip()
