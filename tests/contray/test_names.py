"""Names that become folders: none leaves its place, no two meet."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contray import RunConfig, track
from contray.config import FREE
from contray.errors import ConfigError, UserError
from contray.storage.folder import Storage
from contray.storage.names import check_case, check_name, folder_of, slug
from contray.training.records import name_of
from tests.stores import fresh

BAD = [
    "../../x",
    "..",
    ".",
    "/tmp/x",
    "a/b",
    "a\\b",
    ".ray",
    ".hidden",
    "a#b",
    "a?b",
    "a%20b",
    "a b",
    "a\0",
    "a\n",
    "-x",
    "ä",
    "x" * 101,
    "a*",
    "~",
    "$HOME",
]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^track\.name: got .*, must be 1 to 100 of the letters") as refused:
        check_name("track.name", name)
    assert "\n" not in str(refused.value)
    if name == name.strip():  # of an option's value the blanks around it are no part
        with pytest.raises(ConfigError, match=r"^track\.name: got "):
            RunConfig.make("simclr", {"track.name": name}, preset="digits")


@pytest.mark.parametrize("name", ["NUL", "con", "Aux.txt", "com1", "LPT9.", "a.", "a.."])
def test_a_name_that_some_file_systems_take_for_another_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^track\.name: got .*, must not end with a dot"):
        RunConfig.make("simclr", {"track.name": name}, preset="digits")


@pytest.mark.parametrize("name", ["console", "com", "nul_1", "r", "moco-1", "lr=0.1", "A_b.c+d", "2", "_"])
def test_usual_names_stay(name: str) -> None:
    assert RunConfig.make("simclr", {"track.name": name}, preset="digits").track.name == name


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text(max_size=120), st.text(max_size=120))
@example("0.", "nul")
@example("com1.txt", "_")
def test_derived_names_are_names_and_never_meet(one: str, other: str) -> None:
    for text in (one, other):
        check_name("x", slug(text))
        folder = folder_of(text) if text else "x"
        assert "/" not in folder
        assert folder not in (".", "..")
        assert len(folder.encode()) < 200
        assert len(folder) > 150 or unquote(folder) == (text or "x") or len(folder) < 110
    if one != other:
        assert slug(one) != slug(other)
        assert folder_of(one) != folder_of(other)


def test_a_run_keeps_its_name_where_it_may_go_on() -> None:
    """A message that tells to add such a key to the same command has it go on, not begin anew under another name."""
    config = RunConfig.make("simclr", preset="digits")
    free: dict[str, object] = {"train.allow_changes": True, "train.on_nan": "skip", "train.on_collapse": "stop"}
    for key, value in {**free, "train.extend": "anyway", "train.keep": 5, "data.workers": 3, "data.scratch": "/tmp/x"}.items():
        assert key in FREE
        assert config.replace({key: value}).run_name == config.run_name, key
    assert config.flat().keys() >= FREE
    assert config.replace({"train.epochs": 3}).run_name != config.run_name
    assert config.replace({"data.label_column": "position"}).run_name != config.run_name


def test_a_name_that_differs_in_case_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Run").mkdir()
    config = RunConfig.make("simclr", {"track.name": "run"}, preset="digits")
    with pytest.raises(ConfigError, match=r"^track\.name: got run, and Run is there already"):
        name_of(config, Storage(str(tmp_path)))
    check_case("track.name", "Run", ["Run", "other"])


@pytest.mark.parametrize(("file", "kind"), [("sweep.json", "a sweep"), ("seeds.json", "a group of seeds")])
def test_a_run_does_not_move_into_what_another_command_made(file: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / file).write_text("{}")
    with pytest.raises(UserError, match=rf"^track\.name: r is {kind} in "):
        name_of(RunConfig.make("simclr", {"track.name": "r"}, preset="digits"), Storage(str(tmp_path)))


@pytest.mark.parametrize("folder", ["a#b", "a b", "a'b", "ä", "a@b"])
def test_a_store_works_in_a_folder_of_any_name(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / folder
    place.mkdir()
    monkeypatch.chdir(place)
    fresh(place)
    uri = track.resolve_uri("")
    assert track.resolve_uri(uri) == uri
    assert track.sqlite_path(uri) == place / "mlflow.db"
    track.check(uri, exists=True)
    runs = [track.begin(uri, experiment, "r", params={}, tags={}) for experiment in ("a b", "a_b", "../x", "..")]
    (place / "file").write_text("x")
    for run in runs:
        run.log_artifact(place / "file")
        assert run.kept() == {"file"}
    assert {path.relative_to(place).parts[0] for path in place.rglob("file")} == {"mlartifacts", "file"}
    assert len(list((place / "mlartifacts").iterdir())) == 4
    assert {path.name for path in tmp_path.iterdir()} == {folder}, "something was written beside the folder"


@pytest.mark.parametrize("folder", ["a%20b", "a?b", "100%", "a\udcff"])
def test_a_folder_that_mlflow_would_misread_is_refused(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    with pytest.raises(ConfigError, match=r"^track\.uri: MLflow cannot keep its store in .*--track\.uri sqlite:////tmp"):
        track.resolve_uri("")
    assert track.resolve_uri("sqlite:////tmp/a%20b/m.db") == "sqlite:////tmp/a b/m.db", "a typed address is one"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "postgresql://h/db",
            r"(psycopg, .*: pip install 'psycopg\[binary\]'|psycopg2, .*: pip install psycopg2-binary)$",
        ),  # by SQLAlchemy's version
        ("postgresql+psycopg2://h/db", "psycopg2, .*: pip install psycopg2-binary$"),
        ("mysql://h/db", r"MySQLdb, .*: pip install pymysql, and write mysql\+pymysql://$"),
        ("mssql://h/db", r"\w*odbc, .*: pip install \w*odbc$"),
    ],
)
def test_a_missing_driver_is_named(uri: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in ("psycopg", "psycopg2", "MySQLdb", "pyodbc", "mssql_python"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"^track\.uri: {re.escape(uri)} needs the package {words}"):
        track.check(uri)


@pytest.mark.parametrize("key", ["track.experiment", "track.name", "data.source", "scale.storage"])
@pytest.mark.parametrize("text", ["caf\udce9", "two\nlines", "nul\x00"])
def test_text_that_no_file_could_hold_is_refused(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: got .* in UTF-8 on one line") as caught:
        RunConfig.make("simclr", {key: text}, preset="digits")
    str(caught.value).encode()
