"""What a shell offers at TAB, asked through the shells themselves where they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contray import RunConfig, pictures
from contray.cli import declared, main
from contray.cli.completion import SCRIPTS, candidates
from contray.cli.main import COMMANDS, command_of
from contray.cli.options import options_of
from contray.config.registry import load_method, method_names
from contray.config.spaces import space_names

LINES = [  # a line whose last word is begun, and what may stand there
    ("t", ["train", "tune"]),
    ("train moc", ["moco", "moco_v3"]),
    ("train moco --pre", ["--preset"]),
    ("train moco --preset digits_", ["digits_both", "digits_v1"]),
    ("train moco --preset a", ["auto"]),
    ("train moco --method.q", ["--method.queue_size"]),
    ("train simclr --method.q", []),
    ("train dino --views.large_a.si", ["--views.large_a.size"]),
    ("train --train.pre", ["--train.precision"]),
    ("train --train.precision b", ["bf16"]),
    ("train --train.precision=b", ["bf16"]),
    ("train --train.compile ", ["true", "false"]),
    ("train moco --op", ["--optim."]),
    ("train --help opt", ["optim"]),
    ("tune si", ["simclr", "simclr_cost"]),
    ("tune moco --scheduler p", ["pbt"]),
    ("plot ma", ["map"]),
    ("plot map --by ", ["tsne", "umap"]),
    ("eval kn", ["knn"]),
    ("eval finetune --lab", ["--labels"]),
    ("eval paper --schedule s", ["step"]),
    ("eval finetune linear --epo", []),
    ("check simsi", ["simsiam"]),
    ("new s", ["source"]),
    ("methods simsi", ["simsiam"]),
    ("data p", ["preview"]),
    ("data preview byo", ["byol"]),
    ("export --to ti", ["timm"]),
    ("import vit.pth --layout moco", ["moco", "moco_v3"]),
    ("help comp", ["compare", "completion"]),
    ("completion b", ["bash"]),
    ("compare --track.e", ["--track.experiment"]),
    ("train --config ", []),
    ("nothing --", []),
]


@pytest.mark.parametrize(("line", "offered"), LINES)
def test_what_is_offered(line: str, offered: list[str]) -> None:
    *before, now = line.split(" ")
    if "=" in now:
        flag, _, now = now.partition("=")
        before.append(flag)
    found = candidates(before, now)
    assert [each for each in found if each not in ("--optim.lr",)] == offered or (
        line.endswith("--op") and set(found) > {"--optim.lr"}
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_offered(name: str) -> None:
    own = {each.flag for each in options_of(command_of(name).Options) if not each.positional}
    assert own | {"--help"} <= set(candidates(name.split(), "--"))
    assert name.split()[0] in candidates([], "")


@pytest.mark.parametrize("method", method_names())
def test_keys_and_presets_are_those_that_there_are(method: str) -> None:
    """Read from the files without running them, they are what the config has."""
    config = RunConfig.make(method, preset="paper")
    assert set(declared.keys(method)) == set(config.flat())
    assert declared.presets(method) == list(load_method(method).presets)


def test_names_are_those_that_there_are(tmp_path: Path) -> None:
    assert declared.methods() == method_names()
    assert declared.spaces() == space_names()
    assert candidates(["plot"], "") == list(pictures.KINDS)
    file = tmp_path / "mine.py"
    shutil.copy(Path(declared.ENGINE / "methods" / "moco.py"), file)
    assert declared.keys(str(file)) == declared.keys("moco")


def test_a_tab_is_answered_at_once() -> None:
    code = """
import sys
from contray.cli import main
assert main(["completion", "words", "3", "contray", "train", "moco", "--method.q"]) == 0
print(*sorted(set(sys.modules) & {"torch", "ray", "mlflow", "numpy", "rich", "yaml", "matplotlib"}))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=10)
    assert ended.stdout == "--method.queue_size\n\n"


@pytest.fixture
def shell(tmp_path: Path):
    """Runs a script of a shell in which `contray` can be called; its lines."""
    (tmp_path / "contray").write_text(f'#!/bin/sh\nexec {sys.executable} -m contray "$@"\n')
    (tmp_path / "contray").chmod(0o755)

    def run(name: str, script: str, *options: str) -> list[str]:
        if not shutil.which(name):
            pytest.skip(f"there is no {name}")
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        ended = subprocess.run([name, *options, "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
        assert ended.stderr == ""
        return ended.stdout.splitlines()

    return run


def test_bash_completes(shell) -> None:
    asked = [
        ("contray train moc", 2), ("contray train --train.precision = b", 4), ("contray train moco --method.q", 3), ("contray data ''", 2),
        ("contray train --config ''", 3),
    ]  # fmt: skip
    lines = "".join(f'COMP_WORDS=({words}); COMP_CWORD={at}; _contray contray; echo "${{COMPREPLY[@]}}"\n' for words, at in asked)
    shown = shell("bash", f"source <(contray completion bash)\ncomplete -p contray\n{lines}", "--norc", "--noprofile")
    assert shown[0] == "complete -o default -F _contray contray"
    assert shown[1:] == ["moco moco_v3", "bf16", "--method.queue_size", "check preview scenes", ""]


def test_fish_completes(shell) -> None:
    shown = shell(
        "fish",
        'contray completion fish | source\ncomplete -C "contray train moc"\ncomplete -C "contray train --train.precision=b"',
    )
    assert {"moco", "moco_v3", "--train.precision=bf16"} <= set(shown)


def test_zsh_takes_its_script(shell) -> None:
    """As far as it can be asked without a terminal: the function's answer, and that it is registered."""
    stub = 'compadd() { while [[ $1 == -* && $1 != -- ]]; do shift; [[ -z $1 ]] && shift; done; shift; print -r -- "$@" }'
    line = "words=(contray train moc); CURRENT=3; _contray"
    shown = shell(
        "zsh",
        f"autoload -U compinit; compinit -u -D\nsource <(contray completion zsh)\nprint $_comps[contray]\n{stub}\n{line}",
        "-f",
    )
    assert shown[:2] == ["_contray", "moco moco_v3"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_printed_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", name]) == 0
    assert capsys.readouterr().out == SCRIPTS[name]
