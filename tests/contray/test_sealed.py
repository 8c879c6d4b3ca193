"""Small files of a run that were damaged, by any bytes: what is read is what was written, or it is refused or mended in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contray import track
from contray.cli import main
from contray.errors import UserError
from contray.storage import sealed
from contray.storage.folder import Storage
from contray.training import lease, records, spool

from .test_end_to_end import TINY, words

RUN = track.TrackedRun("sqlite:////nowhere/mlflow.db", "1", "0123456789abcdef0123456789abcdef")
POINTS = [("loss", 1.25, 1_700_000_000_000, 1), ("lr", math.nan, 1_700_000_000_001, 2), ("knn/val@1", 1e-7, 3, 40)]
many = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with a span cut out, overwritten or put in, or cut off, or anything else."""
    kind = draw(st.sampled_from(["flip", "overwrite", "cut", "insert", "torn", "zeros", "other"]))
    start = draw(st.integers(0, len(content) - 1))
    end = draw(st.integers(start, min(len(content), start + 40)))
    if kind == "flip":
        return content[:start] + bytes([content[start] ^ (1 << draw(st.integers(0, 7)))]) + content[start + 1 :]
    if kind == "overwrite":
        return content[:start] + draw(st.binary(min_size=end - start, max_size=end - start)) + content[end:]
    if kind == "cut":
        return content[:start] + content[end:]
    if kind == "insert":
        return (
            content[:start]
            + draw(st.one_of(st.binary(max_size=20), st.sampled_from([b"0", b" ", b"9", b"{}", b"null"])))
            + content[start:]
        )
    if kind == "zeros":
        return content[:start] + bytes(len(content) - start)
    return (
        content[:start] if kind == "torn" else draw(st.one_of(st.binary(), st.sampled_from([b"{}", b"[]", b"1", b"[" * 100_000])))
    )


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path / "run"))
    storage.create()
    return storage


def damage(folder: Storage, name: str, data: st.DataObject, content: bytes) -> None:
    (Path(folder.root) / name).write_bytes(data.draw(damaged(content)))  # not through the storage, which waits for the disk


def told(refusal: Callable[[], Any]) -> str:
    """The one line with which it is refused; empty where it is not."""
    try:
        refusal()
    except UserError as error:
        return str(error)
    return ""


@many
@given(data=st.data())
def test_a_damaged_record_is_right_or_mended_from_its_copy(data: st.DataObject, folder: Storage) -> None:
    if records.RECORD + ".whole" not in folder.names():
        records.note(folder, RUN, finished=True, status="FINISHED", ended=5, unsent=3)
        folder.write(records.RECORD + ".whole", folder.read(records.RECORD))
    whole = folder.read(records.RECORD + ".whole")
    written = sealed.unseal(whole, "", records.KINDS)
    (Path(folder.root) / records.COPY).write_bytes(whole)
    damage(folder, records.RECORD, data, whole)
    assert records.read(folder, quiet=True) == written
    damage(folder, records.COPY, data, whole)
    line = told(lambda: records.read(folder, quiet=True))
    assert "remove both files" in line if line else records.read(folder, quiet=True) == written
    assert "\n" not in line


@many
@given(data=st.data())
def test_a_damaged_lease_is_right_or_nobodys(data: st.DataObject, folder: Storage) -> None:
    if lease.LEASE + ".whole" not in folder.names():
        lease.Lease(folder)._write()
        folder.write(lease.LEASE + ".whole", folder.read(lease.LEASE))
    whole = folder.read(lease.LEASE + ".whole")
    damage(folder, lease.LEASE, data, whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease.time, "sleep", lambda seconds: None)
        found = lease._read(folder)
    assert found in (sealed.unseal(whole, "", lease.KINDS), lease.GARBLED)


@many
@given(data=st.data())
def test_a_damaged_spool_is_right_or_refused(data: st.DataObject, folder: Storage) -> None:
    if spool.SPOOL + ".whole" not in folder.names():
        spool.put(folder, POINTS)
        folder.write(spool.SPOOL + ".whole", folder.read(spool.SPOOL))
    damage(folder, spool.SPOOL, data, folder.read(spool.SPOOL + ".whole"))
    line = told(lambda: spool.get(folder))
    assert "unsent.json is damaged" in line if line else repr(spool.get(folder)) == repr(POINTS)
    assert "\n" not in line


facts = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != sealed.SEAL),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=5,
)


@settings(many, max_examples=40)
@given(facts=facts)
def test_whatever_was_written_is_read(facts: dict[str, Any]) -> None:
    assert sealed.unseal(sealed._dumped(facts), "any.json", {}) == facts


@pytest.mark.parametrize(
    "content",
    ['{"run_id": ""}', '{"run_id": 3}', '{"run_id": "x", "finished": 1}', '{"run_id": "x", "unsent": true}', '{"runid": "x"}'],
)
def test_of_a_record_without_a_digest_everything_must_be_known(content: str, folder: Storage) -> None:
    folder.write(records.RECORD, content.encode())
    with pytest.raises(UserError, match=r"^track.name: .*run.json is damaged \(.*remove both files"):
        records.read(folder)
    folder.write(records.RECORD, b'{"run_id": "x", "finished": true}')
    assert records.read(folder) == {"run_id": "x", "finished": True}


# ---------------------------------------------------------------- as the user meets it


@pytest.fixture
def keys(store: str, tmp_path: Path) -> dict[str, Any]:
    own = {"scale.storage": tmp_path / "runs", "track.uri": store, "track.name": "r", "track.model": "false", "train.steps": 4}
    return {**TINY, **own, "eval.every_epochs": 0, "eval.final": ""}


def unfinished(keys: dict[str, Any]) -> Storage:
    """A run whose driver died before its end was noted."""
    assert main(words(keys)) == 0
    folder = Storage(str(keys["scale.storage"] / "r"))
    record = records.read(folder)
    records.note(folder, track.attach(keys["track.uri"], record["run_id"]))
    return folder


def test_a_torn_record_starts_no_second_run(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder = unfinished(keys)
    run_id = records.read(folder)["run_id"]
    talk = track.client(keys["track.uri"])

    folder.write(records.RECORD, b'{"run_id": "01')
    assert main(words(keys)) == 0
    out = capsys.readouterr().out
    assert out.count("run.json is damaged (no JSON); it was mended from run.copy.json: run " + run_id) == 1

    folder.write(records.RECORD, b"")
    folder.write(records.COPY, b"\0\0")
    assert main([*words({**keys, "track.name": "r"})]) == 0
    out = capsys.readouterr().out
    assert "mended from MLflow: run " + run_id in out

    runs = talk.search_runs([found.experiment_id for found in talk.search_experiments()])
    assert [run.info.run_id for run in runs if run.info.run_name == "r"] == [run_id]


def test_where_nothing_tells_the_run_it_is_refused_in_one_line(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder = unfinished(keys)
    track.client(keys["track.uri"]).delete_tag(records.read(folder)["run_id"], records.FOLDER)
    for name in (records.RECORD, records.COPY):
        folder.write(name, b"{")
    capsys.readouterr()
    for command in (words(keys), ["sync", "r", "--scale.storage", str(keys["scale.storage"])]):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert (
            "run.json is damaged (no JSON), and neither run.copy.json nor a tag contray.folder in MLflow tells which run this is"
            in err
        )


def test_a_damaged_spool_and_verdict_are_said_and_the_checkpoint_sends_what_it_has(store: str, keys: dict[str, Any]) -> None:
    import contray

    folder = unfinished(keys)
    spool.put(folder, POINTS)
    folder.write(spool.SPOOL, folder.read(spool.SPOOL).replace(b"1.25", b"1.26"))
    folder.write("verdict.json", b'{"linear_top1": "high"}')
    (done,) = contray.sync(["r"], storage=str(keys["scale.storage"]))
    assert "unsent.json is damaged (its digest does not fit)" in done.problem
    assert "verdict.json is damaged (linear_top1: 'high')" in done.problem
    assert track.attach(store, done.run_id).history("loss") != []
    assert 1.26 not in [value for _, value in track.attach(store, done.run_id).history("loss")]


def test_a_damaged_verdict_is_measured_again(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from contray.training.worker import VERDICT

    keys |= {"eval.final": ("knn", "linear", "geometry"), "eval.every_epochs": 0}
    folder = unfinished(keys)
    before = sealed.read(folder, VERDICT, sealed.NUMBER)
    assert before
    folder.write(VERDICT, b'{"linear_top1": 0.9' + bytes(10))
    capsys.readouterr()
    assert main(words(keys)) == 0
    assert "verdict.json is damaged (no JSON); the same weights are measured again" in capsys.readouterr().out
    assert sealed.read(folder, VERDICT, sealed.NUMBER) == pytest.approx(before)


def test_a_damaged_limit_of_memory_is_found_anew(folder: Storage) -> None:
    from contray.training.step import LIMIT, _kept

    sealed.write(folder, LIMIT, {"given": 0, "limit": 8})
    assert _kept(folder) == {"given": 0, "limit": 8}
    folder.write(LIMIT, folder.read(LIMIT).replace(b"8", b"9", 1))
    assert _kept(folder) == {}


def test_nothing_is_kept_under_the_name_of_the_seal(folder: Storage) -> None:
    with pytest.raises(ValueError, match="never be read again"):
        sealed.write(folder, "x.json", {"digest": "x"})
    assert folder.names() == []


def test_json_is_readable_by_people_as_well(folder: Storage) -> None:
    records.note(folder, RUN)
    assert json.loads(folder.read(records.RECORD))["run_id"] == RUN.run_id
