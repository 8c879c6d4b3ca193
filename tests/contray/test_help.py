"""What the help of each command teaches: three examples that work, the keys that matter, all of them, those of a section; on any terminal."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys

import pytest

from contray import RunConfig
from contray.cli import main
from contray.cli.main import COMMANDS, command_of
from contray.cli.options import lenient, options_of, parse, split_dotted
from contray.config import declared_keys

TAKES_KEYS = [name for name in COMMANDS if hasattr(command_of(name), "keys")]


@pytest.fixture
def page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The help that a line prints."""

    def shown(line: str, columns: int = 100) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line))
        out, err = capsys.readouterr()
        assert (ended.value.code, err) == (0, "")
        return out

    return shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_starts_with_three_examples_that_parse(name: str, page) -> None:
    examples = [line for line, _ in command_of(name).EXAMPLES]
    assert len(examples) == len(set(examples)) == 3
    shown = page(f"{name} --help", 140)
    places = [shown.index(line) for line in examples]
    assert places == sorted(places)
    assert places[-1] < shown.index("\noptions\n")
    for line in examples:
        program, *words = shlex.split(line.partition(">")[0])
        assert (program, words[: len(name.split())]) == ("contray", name.split())
        words = words[len(name.split()) :]
        if "--help" in words:
            continue
        dotted = parse(command_of(name), words, name)[1]
        known = dict(declared_keys(command_of(name).keys(parse(command_of(name), words, name)[0]))) if dotted else {}
        for key, values in dotted.items():
            known[key].parse(key, values)


@pytest.mark.parametrize("name", TAKES_KEYS)
def test_help_has_few_keys_and_help_all_every_key(name: str, page) -> None:
    few, every = (
        set(re.findall(r"^  --([a-z]+\.\S+|seed)", page(f"{name} {word}"), re.MULTILINE)) for word in ("--help", "--help-all")
    )
    own = {each.flag.removeprefix("--") for each in options_of(command_of(name).Options)}
    config = RunConfig.make("imported" if name == "import" else "moco" if name == "tune" else "simclr")
    words = {"tune": "simclr"}.get(name, config.method.name)
    command = command_of(name)
    taken = set(RunConfig.make(str(words)).flat())
    if hasattr(command, "takes"):
        patterns = command.takes(lenient(command, [], name))
        taken = {key for key in taken if any(fnmatch.fnmatchcase(key, each) for each in patterns)}
    assert every - own == taken
    assert few < every
    assert 3 <= len(few - own) <= 24


def test_the_first_screen_fits_and_comes_at_once() -> None:
    """40 lines of 100 characters, in well under a second, of which Python's own start is a tenth; nothing heavy is imported for it."""
    lines = [*COMMANDS, "train moco", "train dino", "tune moco", "eval linear", "eval detection", "eval knn finetune", "plot map"]
    code = f"""
import contextlib, io, sys, time
from contray.cli import main
for line in {lines!r}:
    began, out = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*line.split(), "--help"])
    shown = out.getvalue().splitlines()
    assert 5 < len(shown) <= 40 and max(map(len, shown)) <= 100, (line, len(shown))
    assert time.process_time() - began < 0.5, line
print(*sorted(set(sys.modules) & {{"torch", "ray", "mlflow", "numpy", "rich", "matplotlib"}}))
"""
    env = {**os.environ, "COLUMNS": "100"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=env)
    assert ended.stdout == "\n"


def test_every_key_is_told_with_its_unit_range_and_value(page) -> None:
    shown = " ".join(page("train moco --preset digits --help-all").split())
    config = RunConfig.make("moco", preset="digits")
    for key, declared in declared_keys(config):
        unit = f" [{declared.unit}]" if declared.unit else ""
        assert f"--{key} {declared.allowed} {declared.help}{unit} (default: " in shown
    assert f"[keys] (default: {config.method.queue_size})" in shown
    assert "at least this often [s] (default: 30.0)" in shown


def test_help_is_of_the_method_and_preset_on_the_line(page) -> None:
    assert "--method.queue_size" not in page("train --help")
    for line in ("train moco --help", "train --help moco", "help train moco", "train moco -h"):
        assert re.search(r"--method.queue_size +keys in the queue", page(line)), line
    assert "(default: linear)" in page("train moco --preset v1 --help method.head")
    assert "--views.large_a.size" in page("train dino --help views")
    assert "--method.clusters" in page("data preview deepcluster --help-all")


def test_help_of_a_section_has_it_alone(page) -> None:
    shown = page("train --help optim")
    assert re.findall(r"^  --(\w+)", shown, re.MULTILINE) == ["optim"] * sum(
        key.startswith("optim.") for key in RunConfig.make().flat()
    )
    assert "seeds" not in shown
    assert re.findall(r"^  --(\S+)", page("train --help train.epochs seed"), re.MULTILINE) == ["train.epochs", "seed"]


@pytest.mark.parametrize("line", ["help train", "train help", "train --help", "train -h", "train moco --quiet --help"])
def test_help_is_asked_for_in_any_order(line: str, page) -> None:
    assert page(line).startswith("usage: contray train [METHOD] [OPTIONS]")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_narrow_terminal(name: str, page) -> None:
    lines = page(f"{name} --help", 40).splitlines()
    examples = {f"  {line}" for line, _ in command_of(name).EXAMPLES}  # are copied whole
    assert [line for line in lines if len(line) > 40 and line not in examples and len(line.split()) > 1] == []
    assert page(f"{name} --help", 10), "as if it were 30 wide"


def test_nothing_is_coloured_where_colours_are_not_wanted(
    page, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in page("train --help")
    assert main(["spaces"]) == 0
    assert not re.search("\x1b\\[[0-9;]*3[0-7]m", capsys.readouterr().out)


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("ui", "completion", "data preview", "data scenes", "new")]
)
def test_one_thing_has_one_spelling(name: str) -> None:
    """What is a key of the config is an option of the key's name, and no option abbreviates one."""
    tails = {"uri", "experiment", "storage", "address", "image_column", "source", "scratch", "device"}
    for option in options_of(command_of(name).Options):
        flag = option.flag.removeprefix("--")
        assert option.positional or flag not in tails
        if "." in flag:
            assert flag in RunConfig.make().flat()
    known = {each.flag: each for each in options_of(command_of(name).Options)}
    assert known["--json"].kind is bool
    places = {"--run", "--checkpoint"} & set(known)
    assert places in ({"--run", "--checkpoint"}, set()) or name in ("compare", "report")


def test_a_repeated_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    options, dotted = parse(
        command_of("train"), ["--seeds", "2", "--train.epochs", "3", "--train.epochs=4", "--seeds=3"], "train"
    )
    assert (options.seeds, dotted) == (3, {"train.epochs": ["4"]})
    assert capsys.readouterr().err.splitlines() == [
        "contray: --seeds is given more than once; the last one counts",
        "contray: --train.epochs is given more than once; the last one counts",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --epochs 3", "--epochs: here it is --train.epochs 3"),
        ("train moco --lr=0.1", "--lr: here it is --optim.lr 0.1"),
        ("tune moco --batch-size 64", "--batch-size: here it is --train.batch_size 64"),
        ("train --batch 64", "--batch: here it is --train.batch_size 64"),
        ("train --gpus 2", "--gpus: here it is --scale.workers N N, of which each has a GPU where there are any"),
        ("train --workers 2", "--workers: here it is --scale.workers MIN MAX (processes that train) or --data.workers"),
        ("train --device cpu", "--device: here it is --train.device cpu"),
        ("train --resume", "--resume: not needed: the same command goes on where it stopped"),
        ("eval knn --epochs 3", "--epochs: is of eval attentive, crd, distill"),
        ("plot map --device cpu", "--device: no such option of contray plot; did you mean --train.device?"),
        ("train -v", "-v: contray train says all there is to say"),
        ("eval knn -q", "-q: contray eval prints what was asked for alone"),
    ],
)
def test_what_other_tools_call_it_leads_to_what_it_is_called_here(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"contray: {words}")


def test_q_is_quiet() -> None:
    assert parse(command_of("train"), ["moco", "-q"], "train")[0].quiet is True


@pytest.mark.parametrize(
    ("line", "dry_run", "method"),
    [
        ("--dry-run moco", True, "moco"),
        ("--dry_run", True, ""),
        ("moco --dry-run=false", False, "moco"),
        ("--dry-run true byol", True, "byol"),
    ],
)
def test_a_switch_takes_true_or_false_and_no_other_word(line: str, dry_run: bool, method: str) -> None:
    options, _ = parse(command_of("train"), line.split(), "train")
    assert (options.dry_run, options.method) == (dry_run, method)


def test_places_and_options_come_in_any_order() -> None:
    options, _ = parse(command_of("sync"), ["--scale.storage", "here", "one", "two", "--track.uri=x=y"], "sync")
    assert (options.runs, options.scale__storage, options.track__uri) == (("one", "two"), "here", "x=y")
    options, dotted = parse(command_of("plot"), ["curves", "--run", "a", "b", "--data.size", "16", "--metric", "loss"], "plot")
    assert (options.what, options.run, options.metric) == ("curves", ("a", "b"), "loss")
    assert dotted == split_dotted(["--data.size", "16"])[0]
