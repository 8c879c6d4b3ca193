"""MLflow: runs, curves, models and links. MLflow itself is imported only when the first of them is used."""

from .datasets import Dataset, datasets_of
from .links import UI_PORT, base_url, compare_url, experiment_url, run_url, to_open
from .listeners import Audience, Listener, Run
from .metric_log import MetricLog, Point
from .model import fetch_encoder, log_encoder
from .registry import register
from .run import INEXACT, RunGone, TrackedRun, attach, begin, with_gains
from .store import TrackingError, asking, check, client, resolve_uri, sqlite_path
from .views import compared_url, runs_url, sweep_url

__all__ = [
    "INEXACT",
    "UI_PORT",
    "Audience",
    "Dataset",
    "Listener",
    "MetricLog",
    "Point",
    "Run",
    "RunGone",
    "TrackedRun",
    "TrackingError",
    "asking",
    "attach",
    "base_url",
    "begin",
    "check",
    "client",
    "compare_url",
    "compared_url",
    "datasets_of",
    "experiment_url",
    "fetch_encoder",
    "log_encoder",
    "register",
    "resolve_uri",
    "run_url",
    "runs_url",
    "sqlite_path",
    "sweep_url",
    "to_open",
    "with_gains",
]
