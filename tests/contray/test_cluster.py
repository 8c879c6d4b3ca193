"""The cluster launcher's file: Ray takes it, and it says what it should."""

from __future__ import annotations

import copy
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return yaml.safe_load((REPO / "ray_cluster.yaml").read_text())


def validated(config: dict[str, Any]) -> dict[str, Any]:
    """The config as `ray up` reads it: filled with AWS's defaults and checked against Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_cluster_file(written: dict[str, Any]) -> None:
    prepared = validated(written)
    assert prepared["docker"]["container_name"] == "contray"
    assert set(prepared["available_node_types"]) == {"head", "gpu"}, "AWS's default node types are replaced, not added to"
    head, gpu = prepared["available_node_types"]["head"], prepared["available_node_types"]["gpu"]
    assert head["max_workers"] == 0
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, prepared["max_workers"])
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_the_schema_refuses_an_unknown_key(written: dict[str, Any]) -> None:
    from jsonschema import ValidationError

    with pytest.raises(ValidationError, match="idle_minutes"):
        validated({**written, "idle_minutes": 1})


def test_nodes_get_the_project_and_the_token(written: dict[str, Any]) -> None:
    prepared = validated(written)
    assert prepared["file_mounts"] == {"~/contray": ".", "~/.ray/auth_token": "~/.ray/auth_token"}
    for part in ("head", "worker"):
        setup = prepared[f"{part}_setup_commands"]
        assert "pip install ~/contray" in setup
        start = prepared[f"{part}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token ray start" in start
    assert "--dashboard-host=127.0.0.1" in prepared["head_start_ray_commands"][-1]


def test_the_head_takes_silent_nodes_for_dead_as_soon_as_the_tests_clusters_do(written: dict[str, Any]) -> None:
    from contray.training.elastic import NODE_HEALTH

    start = validated(written)["head_start_ray_commands"][-1]
    given = start.partition("--system-config='")[2].partition("'")[0]
    assert json.loads(given) == NODE_HEALTH


def test_images_are_of_a_ray_and_a_python_that_the_project_supports(written: dict[str, Any]) -> None:
    import tomllib

    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    (least,) = (line.split(">=")[1] for line in project["dependencies"] if line.startswith("ray["))
    for image in (written["docker"]["head_image"], written["docker"]["worker_image"]):
        version, python, _ = image.removeprefix("rayproject/ray:").split("-")
        assert tuple(map(int, version.split("."))) >= tuple(map(int, least.split(".")))
        assert python == "py" + project["requires-python"].removeprefix(">=").replace(".", "")


def test_nothing_of_the_project_is_left_out_on_its_way_to_the_nodes(written: dict[str, Any]) -> None:
    """rsync matches a pattern without a slash at any depth: `data` would leave contray.data out."""
    at_top = {each.removeprefix("/") for each in written["rsync_exclude"] if each.startswith("/")}
    anywhere = [each for each in written["rsync_exclude"] if not each.startswith("/")]
    assert at_top >= {".git", "data", "contray_runs"}
    for folder in ("platform", "methods", "tune_spaces", "docs/examples", "records"):
        for path in (REPO / folder).rglob("*"):
            parts = path.relative_to(REPO).parts
            if "__pycache__" not in parts:
                assert not [each for each in anywhere if any(fnmatch(part, each) for part in parts)], path
                assert not [each for each in at_top if fnmatch(parts[0], each)], path
