"""contray doctor: every fault that is planted is found, named and mended in words; a healthy machine has none."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import contray
from contray.cli import main
from contray.machines import checks, probe
from contray.machines.findings import CHECKS, Diagnosis, Finding
from contray.storage import logins
from tests.object_store import serving

GIB = 2**30
H100 = {"name": "NVIDIA H100", "mib": 81559, "driver": "580.1"}


def node(**changes: Any) -> dict[str, Any]:
    """What a healthy node with one GPU says."""
    versions = {"python": "3.11.7", **dict.fromkeys(probe.LIBRARIES, "1.0"), **changes.pop("versions", {})}
    facts = {
        "host": "a", "versions": versions, "gpus": [H100], "torch_cuda": {"built": "13.0", "usable": True, "nccl": "2.28.9"},
        "shm_free": 8 * GIB, "open_files": 65536, "tmp_free": 100 * GIB, "tmp": "/tmp", "own_address": "10.0.0.1", "data": None,
    }  # fmt: skip
    return facts | changes


def looked(facts: dict[str, Any], counted: dict[str, float] | None = None) -> list[Finding]:
    return [*checks.versions(facts), *checks.gpus(facts, counted or {}), *checks.network(facts, {}), *checks.limits(facts)]


def states(found: Diagnosis, check: str) -> set[str]:
    return {each.state for each in found.of(check)}


def bad(findings: Any) -> list[Finding]:
    return [each for each in findings if each.state != "ok"]


def test_healthy_nodes_have_no_fault() -> None:
    found = looked({"a": node(), "b": node()}, {"a": 1, "b": 1})
    assert not bad(found)
    assert {each.check for each in found} <= set(CHECKS)
    assert "2: 2 nodes with NVIDIA H100" in [each.words for each in found if each.check == "GPUs"]


FAULTS: dict[str, tuple[dict[str, Any], str, str, str]] = {  # what node b has: the check that finds it, how bad, the words
    "another torch": ({"versions": {"torch": "0.9"}}, "versions", "wrong", "torch 0.9, elsewhere 1.0"),
    "no contray": ({"versions": {"contray": "not installed"}}, "versions", "wrong", "contray is not installed"),
    "torch for CPUs": ({"torch_cuda": {"built": None, "usable": False, "nccl": None}}, "GPUs", "wrong", "torch is built for CPUs alone"),
    "an old driver": ({"torch_cuda": {"built": "13.0", "usable": False, "nccl": "2.28.9"}}, "GPUs", "wrong", "cannot use it with driver 580.1"),
    "another NCCL": ({"torch_cuda": {"built": "13.0", "usable": True, "nccl": "2.20.5"}}, "GPUs", "wrong", "several versions of NCCL"),
    "another GPU": ({"gpus": [{**H100, "name": "NVIDIA L4"}]}, "GPUs", "odd", "of several kinds: NVIDIA H100 on a, c; NVIDIA L4 on b"),
    "a GPU that is gone": ({"gpus": []}, "GPUs", "wrong", "Ray counts 1, the driver shows 0"),
    "a GPU kept from Ray": ({"gpus": [H100, H100]}, "GPUs", "odd", "the driver shows 2, Ray counts 1"),
    "a name for itself": ({"own_address": "127.0.1.1"}, "network", "odd", "its own name means 127.0.1.1"),
    "a container's memory": ({"shm_free": 64 * 2**20}, "shared memory", "wrong", "64 MB are free in /dev/shm"),
    "few files": ({"open_files": 256}, "open files", "wrong", "256 may be open"),
    "a full disk": ({"tmp_free": GIB // 2}, "disk", "wrong", "0.5 GB are free in /tmp"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_of_a_node_is_found(fault: str) -> None:
    changes, check, state, words = FAULTS[fault]
    found = bad(looked({"a": node(host="x"), "b": node(**changes), "c": node(host="y")}, {"a": 1, "b": 1, "c": 1}))
    assert [(each.check, each.state) for each in found] == [(check, state)]
    assert words in found[0].words
    assert found[0].mend, "how to mend it"
    assert found[0].where in ("b", ""), "the node is named"


def test_clocks_are_judged_by_what_the_question_took() -> None:
    found = bad(checks.clocks({"a": (0.01, 0.001), "b": (-4.0, 0.1), "c": (5.0, 6.0), "d": (-901.0, 1.0)}))
    assert [(each.where, each.state, each.words) for each in found] == [
        ("b", "odd", "4.0 s behind the driver's"),
        ("d", "wrong", "901.0 s behind the driver's"),
    ]


def test_a_wall_between_nodes_is_found_from_both_sides() -> None:
    found = bad(checks.network({"a": node(), "b": node()}, {"a": {"b": "timed out"}, "b": {"a": "refused"}}))
    assert [(each.where, each.words) for each in found] == [
        ("a", "does not reach b: timed out"),
        ("b", "does not reach a: refused"),
    ]


def test_storage_that_is_not_one_place_is_found() -> None:
    fine = {"seen": True, "same": True, "write": 200.0, "read": 300.0}
    looks = {
        "a": fine, "b": {**fine, "seen": False}, "c": fine, "d": {"error": "PermissionError: [Errno 13]"},
        "e": {**fine, "same": False}, "f": {**fine, "write": 3.0},
    }  # fmt: skip
    found = bad(checks.storage("/runs", True, looks, {"a", "b", "e", "f"}))
    assert [(each.where, each.state) for each in found] == [
        ("b", "wrong"),
        ("c", "wrong"),
        ("d", "wrong"),
        ("e", "wrong"),
        ("f", "odd"),
    ]
    (fine_one,) = checks.storage("/runs", True, {"a": fine}, {"a"})
    assert fine_one.state == "ok"


def test_a_file_of_mlflow_s_is_for_one_machine() -> None:
    assert bad(checks.tracking("sqlite:///x.db", True, {}))
    assert not bad(checks.tracking("sqlite:///x.db", False, {"a": ""}))
    assert bad(checks.tracking("http://m:5000", False, {"a": "", "b": "no answer"}))[0].where == "b"


def test_this_machine_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    code = main(["doctor", "--scale.storage", str(runs), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"] == 1
    assert {each["check"] for each in found["findings"]} == set(CHECKS)
    wrong = {each["check"] for each in found["findings"] if each["state"] == "wrong"}
    assert wrong <= {"shared memory", "open files", "disk", "GPUs"}, "what this machine may really lack"
    assert code == bool(wrong)
    assert not runs.exists(), "nothing is left behind"


def test_a_job_s_own_folder_is_no_place_for_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    wrong = [each.words for each in contray.doctor(quiet=True).findings if each.state == "wrong"]
    assert sum("lies in the job's own folder, which Ray deletes" in words for words in wrong) == 2, wrong


def test_an_object_store_is_written_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pyarrow import fs

    with serving():
        found = contray.doctor({"scale.storage": "s3://pictures/runs"}, quiet=True)
        assert "wrong" not in states(found, "storage"), found.of("storage")  # odd: it may be slow here
        assert found.of("storage")[0].words.startswith("s3://pictures/runs: writes ")
        system, _ = fs.FileSystem.from_uri("s3://pictures")
        left = system.get_file_info(fs.FileSelector("pictures", recursive=True))
        assert not [each.path for each in left if ".doctor" in each.path]
        (lost,) = contray.doctor({"scale.storage": "s3://nowhere/runs"}, quiet=True).of("storage")
        assert lost.state == "wrong"
        assert lost.mend


def test_a_node_is_given_the_logins_that_stood_in_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "_logins", {})
    given = logins.bare("s3://KEY:swordfish@bucket/runs"), logins.remembered()
    monkeypatch.setattr(logins, "_logins", {})
    assert given[0] == "s3://bucket/runs"
    assert probe.Examiner().know(given[1]) == ""
    assert logins.full(given[0]) == "s3://KEY:swordfish@bucket/runs"


def test_what_a_look_does_not_take_is_refused() -> None:
    with pytest.raises(contray.UserError, match=r"train\.epochs: a look at machines takes"):
        contray.doctor({"train.epochs": 3})


def test_no_cluster_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--cluster", "127.0.0.1:1", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert (found["check"], found["state"]) == ("cluster", "wrong")
    assert "no Ray cluster answers at 127.0.0.1:1" in found["words"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, and a node on which few files may be open and whose Ray was told of GPUs that it does not have."""
    from ray.cluster_utils import Cluster

    there = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        there.add_node(num_cpus=2, num_gpus=3)
        yield there.address
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        there.shutdown()


def test_faults_of_a_real_cluster_are_found(cluster: str, tmp_path: Path) -> None:
    blocked = tmp_path / "runs"
    blocked.write_text("a file stands where the folder should be")
    asked = {
        "scale.storage": str(blocked),
        "track.uri": f"sqlite:///{tmp_path}/mlflow.db",
        "scale.workers": (5, 6),
        "scale.cpus_per_worker": 2,
    }
    found = contray.doctor(asked, cluster=cluster, quiet=True)
    assert found.nodes == 2
    wrong = {each.check: each.words for each in found.findings if each.state == "wrong"}
    assert (
        {"GPUs", "storage", "MLflow", "demand"}
        <= wrong.keys()
        <= {"GPUs", "storage", "MLflow", "demand", "shared memory", "disk", "open files"}
    )
    assert wrong["GPUs"] == "Ray counts 3, the driver shows 0"
    assert "is a file, for one machine" in wrong["MLflow"]
    assert "at least 5 workers" in wrong["demand"] or "no node can ever give that" in wrong["demand"]
    assert [each.state for each in found.of("network")].count("wrong") == 0
    assert [each.state for each in found.of("clocks")] == ["ok"]


def test_a_healthy_cluster_is_called_so(cluster: str, tmp_path: Path) -> None:
    found = contray.doctor({"scale.storage": str(tmp_path / "runs"), "train.device": "cpu"}, cluster=cluster, quiet=True)
    assert "wrong" not in states(found, "storage"), found.of("storage")
    assert found.of("demand")[0].state == "ok", found.of("demand")
    assert found.of("versions")[0].state == "ok", found.of("versions")
