"""Where MLflow keeps the outcomes: which store, whether it can be used, and the one way to talk to it."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sqlite3
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import urlopen

from ..errors import ConfigError, UserError
from ..storage.logins import bare, full, scrubbed
from .links import base_url
from .served import SQLITE

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANSWER_SECONDS = 3.0
_MEND = "start it, or log to a file with --track.uri sqlite:///mlflow.db"
_LOGIN = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"}
DATABASES = ("postgresql", "mysql", "mssql")
DRIVERS = {  # by the module that SQLAlchemy asks for, which its version decides: what brings it
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "pymysql, and write mysql+pymysql://",
}
UPLOAD_SECONDS = "120"  # MLflow's own, for an artifact: its server answers when it has passed all of it on
PATIENCE = {  # MLflow's own values wait for minutes; training must notice an outage in seconds. What the user set wins.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # contray prints the run's link once, by itself
}
_counting = threading.Lock()
_uploads = 0  # under way in this process, whose one environment says how long an answer may take


class TrackingError(UserError):
    """MLflow did not take or give what it was asked; whether that matters is the caller's decision."""


def resolve_uri(cfg_uri: str = "") -> str:
    """`track.uri` as every process of the run can use it, without a login: `client` gives it back what is known of one.

    Empty: MLFLOW_TRACKING_URI, else `mlflow.db` in this folder; a login in that variable counts for the same server in a config too.
    Relative SQLite paths become absolute: workers run elsewhere. Raises ConfigError for stores of plain files and in memory.
    """
    around = bare(os.environ.get("MLFLOW_TRACKING_URI", ""))
    uri = bare(cfg_uri) or around or f"{SQLITE}mlflow.db"
    if uri.startswith("file:") or ("://" not in uri and not uri.startswith(("databricks", "arn:"))):
        raise ConfigError(
            "track.uri",
            f"got {uri!r}; MLflow 3 no longer writes stores of plain files: give sqlite:///mlflow.db or http://host:port",
        )
    if uri.startswith("sqlite:"):
        path = uri.removeprefix(SQLITE)
        if path in (uri, "", ":memory:"):
            raise ConfigError("track.uri", f"got {uri!r}; workers and the UI need a file: give sqlite:///mlflow.db")
        return _sqlite(Path(unquote(path)).absolute())
    return uri.rstrip("/")


def _sqlite(path: Path) -> str:
    """The address of a file. MLflow reads % and ? in it as parts of an address, and would make a folder of another name."""
    try:
        fits = not set(str(path).encode().decode()) & set("%?")
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise ConfigError(
            "track.uri",
            f"MLflow cannot keep its store in {os.fsencode(path.parent)!r} (a path with %, ? or what is no UTF-8); "
            "name a file elsewhere, for example --track.uri sqlite:////tmp/mlflow.db",
        )
    return f"{SQLITE}{path}"


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store, None for other stores."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def check(uri: str, *, exists: bool = False) -> None:
    """Raise ConfigError within 4 seconds when the store cannot be used; `exists`: or when nothing was ever written there."""
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif path := sqlite_path(uri):
        if exists and not path.exists():
            raise ConfigError(
                "track.uri", f"there is no {path} yet: `contray train` makes it, or name the store with --track.uri"
            )
        _check_file(path)
    else:
        _check_driver(uri)


def _check_server(uri: str) -> None:
    try:
        urlopen(f"{base_url(uri)}/health", timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        if error.code == 404:
            raise ConfigError("track.uri", f"what answers at {base_url(uri)} is no MLflow server (no /health there)") from None
        # 401, 403: a proxy that wants a login, which MLflow's client may have and this request has not
        if error.code >= 500:
            raise ConfigError("track.uri", f"the MLflow server at {base_url(uri)} is ill (HTTP {error.code}); {_MEND}") from None
    except (OSError, HTTPException, ValueError) as error:  # nobody, somebody who speaks no HTTP, no address at all
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLCertVerificationError):  # an authority that MLflow's client may have been told of
            raise ConfigError("track.uri", f"no MLflow server answers at {base_url(uri)} ({reason}); {_MEND}") from None
    _check_login(uri)


def _check_login(uri: str) -> None:
    """Whether the server lets MLflow's client in: /health answers everybody."""
    talk = client(uri)
    from mlflow.exceptions import MlflowException

    try:
        talk.search_experiments(max_results=1)
    except MlflowException as error:
        code = error.get_http_status_code()
        if code == 401:
            given = "does not take the login that it was given" if _LOGIN & os.environ.keys() or "@" in uri else "wants a login"
            raise ConfigError(
                "track.uri",
                f"the MLflow server at {base_url(uri)} {given}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            ) from None
        if code == 403:
            reason = " ".join(str(error).rpartition("Response body: ")[2].split())[:120]
            raise ConfigError(
                "track.uri",
                f"the MLflow server at {base_url(uri)} refuses ({reason}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where it "
                "wants a login, or have its --allowed-hosts name this address",
            ) from None
        raise ConfigError("track.uri", f"the MLflow server at {base_url(uri)} does not answer ({error}); {_MEND}") from None


def _check_driver(uri: str) -> None:
    """A database needs a package that MLflow does not bring."""
    if not uri.startswith(DATABASES):
        return  # MLflow itself says what it does not know
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(full(uri)).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        package = DRIVERS.get(str(error.name), error.name)
        raise ConfigError(
            "track.uri", f"{uri} needs the package {error.name}, which is not installed: pip install {package}"
        ) from None
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError("track.uri", f"got {uri}, which is no address of a database ({scrubbed(str(error))})") from None


def _check_file(path: Path) -> None:
    place = next(parent for parent in path.parents if parent.exists())
    if path.is_dir():
        raise ConfigError("track.uri", f"{path} is a folder; name a file in it: --track.uri {_sqlite(path / 'mlflow.db')}")
    if path.exists() and not _is_database(path):
        raise ConfigError("track.uri", f"{path} is no SQLite file; name another one")
    if not place.is_dir():
        raise ConfigError("track.uri", f"cannot create {path}: {place} is no folder")
    for needed in (place, *([path] if path.exists() else [])):
        if not os.access(needed, os.W_OK):
            raise ConfigError(
                "track.uri", f"cannot write to {needed}; name another file, for example --track.uri sqlite:////tmp/mlflow.db"
            )


def _is_database(path: Path) -> bool:
    """Asked of SQLite. To read the file here would lose data: closing it drops the locks that this process's connections hold on it (POSIX), so
    that the next process to close the database removes the log that they still write to.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:  # it is busy, or may not be read: who writes to it will say
        return True
    except sqlite3.DatabaseError:
        return False
    return True


def client(uri: str) -> MlflowClient:
    """A client of the store at `uri`. All talk with MLflow goes through here: its patience and its chatter are set here."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    with _undivided():
        from mlflow import MlflowClient

    # lines about tables whenever a file is new, and pages of what `asking` says in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with _one_at_a_time(uri):
        return MlflowClient(tracking_uri=full(uri))


@contextmanager
def uploading() -> Iterator[None]:
    """Within, MLflow's server may take its time to answer, as it does for a large file; what the user set wins."""
    global _uploads
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    with _counting:
        if not _uploads and os.environ.get(name) != PATIENCE[name]:
            patient = False
        else:
            patient, _uploads = True, _uploads + 1
            os.environ[name] = UPLOAD_SECONDS
    try:
        yield
    finally:
        if patient:
            with _counting:
                _uploads -= 1
                if not _uploads:
                    os.environ[name] = PATIENCE[name]


@contextmanager
def _undivided() -> Iterator[None]:
    """Ctrl-C within is heard afterwards: Python loses one that comes at certain points of an import, with a traceback, and what is half imported fails later."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    heard: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        before(*heard[0])


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """MLflow makes the tables of a new SQLite file as the first client opens it; two processes that do so at once both fail."""
    if sqlite_path(uri) is None:
        yield
        return
    from filelock import FileLock

    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"contray-{os.getuid()}-{name}.lock"):
        yield


def use_wal(path: Path) -> None:
    """Make a SQLite store write ahead: readers and writers no longer block each other (with 4 writers 3 times as fast)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


@contextmanager
def asking(uri: str, what: str) -> Iterator[MlflowClient]:
    """A client; what fails meanwhile becomes a TrackingError of one line that says `what` failed."""
    try:
        yield client(uri)
    except Exception as error:
        from mlflow.exceptions import MlflowException  # not before `client` has set MLflow's patience
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)):
            raise
        reason = scrubbed(str(error).strip().partition("\n")[0]) or type(error).__name__
        if "database is locked" in f"{error} {error.__cause__} {error.__context__}":
            reason = "another program holds the file locked; wait until it is done, or name another with --track.uri"
        raise TrackingError(f"MLflow at {bare(uri)}: {what} failed: {reason}") from error
