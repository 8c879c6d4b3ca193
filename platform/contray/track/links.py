"""Links into MLflow's pages that land where one wants to be.

MLflow 3 opens an experiment on its page about LLM traces unless the link carries `workflowType=machine_learning`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from ..storage.logins import bare
from .served import UI_PORT, address_of, is_up, port_of


def base_url(uri: str) -> str:
    """Where the pages of the store at `uri` are served: a server's own address (without a login), else that which `contray ui` used last."""
    if not uri.startswith(("http://", "https://")):
        return address_of(uri)
    return bare(uri).rstrip("/")


def experiment_url(uri: str, experiment_id: str, view: str = "", charts: bool = False) -> str:
    """The table of an experiment's runs, or their charts; nested runs are folded under their parent. view: key of a shared view that the experiment has."""
    shown = "&compareRunsMode=CHART" * charts + f"&viewStateShareKey={view}" * bool(view)
    return f"{base_url(uri)}/#/experiments/{experiment_id}/runs?workflowType=machine_learning{shown}"


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """One run: its metrics, parameters, artifacts and models."""
    return f"{base_url(uri)}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def compare_url(uri: str, experiment_id: str | Sequence[str], run_ids: Sequence[str]) -> str:
    """Runs side by side: parallel coordinates, scatter plots, parameters and metrics. Several experiments may be given."""
    experiments = [experiment_id] if isinstance(experiment_id, str) else list(experiment_id)
    return f"{base_url(uri)}/#/compare-runs?runs={_json(list(run_ids))}&experiments={_json(experiments)}"


def to_open(uri: str, url: str) -> str:
    """What to do to see a page: open it, or first have `contray ui` serve it."""
    if not uri or uri.startswith(("http://", "https://")) or is_up(uri):
        return url
    return f"contray ui{f' --port {port_of(uri)}' if port_of(uri) != UI_PORT else ''}, then {url}"


def _json(values: list[str]) -> str:
    return quote(json.dumps(values, separators=(",", ":")), safe="")
