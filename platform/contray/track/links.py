"""Links into MLflow's pages that land where one wants to be.

MLflow 3 opens an experiment on its page about LLM traces unless the link carries `workflowType=machine_learning`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from ..storage.logins import bare

UI_PORT = 5000  # of `contray ui`, which serves stores that are no server themselves


def base_url(uri: str) -> str:
    """Where the pages of the store at `uri` are served: a server's own address (without a login), else that of `contray ui`."""
    if not uri.startswith(("http://", "https://")):
        return f"http://127.0.0.1:{UI_PORT}"
    return bare(uri).rstrip("/")


def experiment_url(uri: str, experiment_id: str) -> str:
    """The table of an experiment's runs; nested runs are folded under their parent."""
    return f"{base_url(uri)}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """One run: its metrics, parameters, artifacts and models."""
    return f"{base_url(uri)}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def compare_url(uri: str, experiment_id: str | Sequence[str], run_ids: Sequence[str]) -> str:
    """Runs side by side: parallel coordinates, scatter plots, parameters and metrics. Several experiments may be given."""
    experiments = [experiment_id] if isinstance(experiment_id, str) else list(experiment_id)
    return f"{base_url(uri)}/#/compare-runs?runs={_json(list(run_ids))}&experiments={_json(experiments)}"


def _json(values: list[str]) -> str:
    return quote(json.dumps(values, separators=(",", ":")), safe="")
