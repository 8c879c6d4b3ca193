"""The command line. Dotted options (`--train.epochs 10`) set config keys; every error that a user can mend is one line and exit code 2."""

import errno
import gc
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ..errors import UserError, nearest, shown
from ..storage.logins import scrubbed

MOVED = {"distill": "it is contray eval distill now, and contray eval crd and noisy_student; the options are the same"}
COMMANDS = {  # as typed: the file of this folder
    "train": "train", "tune": "tune", "study": "study", "eval": "evaluate", "plot": "plot", "export": "export",
    "import": "import_", "embed": "embed", "curate": "curate", "compare": "compare", "report": "report", "sync": "sync", "ui": "ui",
    "check": "check", "doctor": "doctor", "new": "new",
    "methods": "methods", "evaluations": "evaluations", "spaces": "spaces", "studies": "studies", "records": "records",
    "data check": "data_check", "data preview": "preview", "data scenes": "scenes", "completion": "completion",
}  # fmt: skip

HELP = """\
usage: contray COMMAND [OPTIONS]

Self-supervised visual representation learning on Ray: from images to a verdict in MLflow.

  train [METHOD]        pretrain, then measure k-NN and a linear probe against the untrained encoder and raw pixels
  tune SPACE            search a space of tune_spaces/ (temperature, queue, momentum, augmentation strength, ...)
  study NAME            re-run a claim of the field over seeds: our numbers beside the paper's, and a verdict
  eval NAME             measure a run's encoder or a checkpoint, on its own data or on others: linear, finetune --labels 0.01, detection, ...
  plot WHAT             draw a run's encoder or a checkpoint: neighbours, map, attention, reconstruction, prototypes, similarities; curves of runs
  export                write an encoder for torchvision, timm, ONNX, or register it in MLflow
  import FILE           take a public checkpoint, to measure it beside ours
  embed SRC             features of a folder of images or Parquet files, on all workers
  curate FEATURES       a list of images worth training on: without near duplicates, as many from everywhere
  compare               a table of runs (mean and std over seeds), a plot, the MLflow link
  report RUN            one HTML page of a run that can be shown: verdict, curves, pictures, confusion, data, config
  sync [RUN ...]        send what an MLflow outage left unsent of ended runs
  ui                    MLflow's UI on this machine, opened at the right page
  check METHOD          whether a method of your own is right, also on several workers: what is wrong, where, how to mend it
  doctor                what this machine, or every node of a cluster, lacks for a run, and how to mend it
  new KIND NAME         write a file of your own to begin with: a method, evaluation, backbone, source, listener
  methods [METHOD ...]  what can be trained
  evaluations           what can be measured
  spaces                what can be searched
  studies               the papers' claims that can be tested, and the verdicts so far
  records               what was measured, by whom, on what machine
  data check SRC        read a data set once: broken and repeated images, training in the test set, classes, numbers to train with
  data preview METHOD   draw the views as the method will see them
  data scenes           write the built-in detection set as a folder in COCO's format
  completion SHELL      what makes TAB complete commands, keys and names in bash, zsh or fish

Start here:   contray train                          SimCLR on the built-in digits, about two minutes on two cores
Then:         contray train moco --data.source DIR   your images: DIR/train/CLASS/*.jpg, or a folder without classes
Any command:  contray COMMAND --help                 three examples, its options and the keys that matter; --help-all: every key
Scripts:      contray COMMAND --json                 where a table is printed: one JSON document on stdout, all else on stderr
"""


PLAIN = warnings.formatwarning
QUIET = 20_000  # objects between two looks for garbage; Python's 700 are a sixth of the time that torch, Ray and MLflow take to import


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 refused, 130 interrupted, 141 nobody reads on)."""
    sys.stdout, sys.stderr = (stream or io.StringIO() for stream in (sys.stdout, sys.stderr))  # closed ones are None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text, and a terminal may lack a character
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _one_line
    gc.set_threshold(QUIET)
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `contray eval --help | head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("contray: what it prints cannot be written: no space is left where standard output goes", file=sys.stderr)
        return 1


def _one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of ours without the place in the code that it comes from; others as they are."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"contray: {scrubbed(' '.join(str(message).split()))}\n"
    return PLAIN(message, category, filename, lineno, line)


def command_of(name: str) -> ModuleType:
    """The module of a command."""
    return import_module(f".{COMMANDS[name]}", __package__)


def _run(words: list[str]) -> int:
    if words[:1] == ["help"] and words[1:]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"contray {version('contray')}")
        except PackageNotFoundError:  # a job's nodes get the sources alone
            print("contray, from its sources (not installed)")
        return 0
    if words[:2] == ["completion", "words"] and words[2:]:
        from .completion import answer_shell

        answer_shell(words[2], words[3:])
        return 0
    name, rest = words[0], words[1:]
    if name == "data" and rest and not rest[0].startswith("-"):
        name, rest = f"data {rest[0]}", rest[1:]
    try:
        if name in MOVED:
            raise UserError(f"{name}: {MOVED[name]}")
        if name not in COMMANDS:
            raise UserError(f"no command {name!r}; {nearest(name, COMMANDS)} (contray --help)")
        from .options import parse

        command = command_of(name)
        return command.run(*parse(command, rest, name))
    except UserError as error:
        print(f"contray: {scrubbed(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename is None or not error.strerror:
            raise
        print(f"contray: {shown(os.fsdecode(error.filename))}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("contray: interrupted", file=sys.stderr)
        return 130
