"""contray ui"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .options import URI_HELP, arg

EXAMPLES = (
    ("contray ui", "this folder's mlflow.db, opened at the experiment used last"),
    ("contray ui --port 5001 --browser false", "on another port, which later links name too; no browser"),
    ("contray ui --track.uri sqlite:////data/mlflow.db", "another store"),
)


@dataclass(frozen=True)
class Options:
    """MLflow's own UI for this folder's store, on loopback, opened at the experiment used last. Ctrl-C stops it."""

    port: Annotated[int, arg("port on this machine; 0: the one used last for this store, at first 5000")] = 0
    host: Annotated[str, arg("address to listen on; MLflow has no login, so think before you change it")] = "127.0.0.1"
    browser: Annotated[bool, arg("open a browser")] = True
    track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Serve until Ctrl-C."""
    from .. import track
    from ..track.served import port_of
    from ..track.ui import serve

    uri = track.resolve_uri(options.track__uri)
    serve(uri, port=options.port or port_of(uri), open_browser=options.browser, host=options.host)
    return 0
