"""Keys as they were once called, those of eval.* before each evaluation had its own, and what they are called now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

_TUNED = ("finetune", "supervised", "distill", "crd", "noisy_student")
_TAUGHT = ("distill", "crd", "noisy_student")
_DENSE = ("detection", "segmentation")


def _to(name: str, *evaluations: str) -> tuple[str, ...]:
    return tuple(f"eval.{evaluation}.{name}" for evaluation in evaluations)


RENAMED: dict[str, tuple[str, ...]] = {  # the first is what an error names
    "eval.knn_k": _to("k", "knn"),
    "eval.knn_temperature": _to("temperature", "knn"),
    **{f"eval.probe_{key}": _to(key, "linear", "last_n") for key in ("lrs", "decays", "epochs")},
    **{f"eval.paper_{key}": _to(key, "paper", "attentive") for key in ("optim", "lrs", "decay", "epochs", "batch", "schedule")},
    "eval.paper_norm": _to("norm", "paper"),
    "eval.last_n": _to("blocks", "last_n"),
    "eval.last_average": _to("average", "last_n"),
    **{f"eval.finetune_{key}": _to(key, *_TUNED) + _to(f"supervised_{key}", *_DENSE) for key in ("optim", "lrs", "decay")},
    "eval.layer_decay": _to("layer_decay", *_TUNED) + _to("supervised_layer_decay", *_DENSE),
    "eval.finetune_epochs": _to("epochs", "finetune") + _to("finetune_epochs", *_TAUGHT),
    "eval.finetune_batch": _to("batch", "finetune") + _to("finetune_batch", *_TAUGHT),
    "eval.finetune_holdout": _to("holdout", "finetune", *_TAUGHT),
    "eval.distill_epochs": _to("epochs", *_TAUGHT),
    "eval.distill_temperature": _to("temperature", "distill") + _to("soft_temperature", "crd"),
    "eval.distill_labelled": _to("labelled", "distill"),
    "eval.distill_start": _to("start", *_TAUGHT),
    **{
        f"eval.crd_{key}": _to(key, "crd")
        for key in ("weight", "labelled", "soft", "negatives", "temperature", "momentum", "dim")
    },
    **{
        f"eval.noisy_{key}": _to(key, "noisy_student")
        for key in ("iterations", "threshold", "per_class", "ratio", "randaugment", "dropout", "drop_path")
    },
    "eval.noisy_labels": _to("pseudo", "noisy_student"),
    **{f"eval.dense_{key}": _to(key, *_DENSE) for key in ("steps", "batch", "lr", "decay", "size", "flip")},
    "eval.dense_proposals": _to("proposals", "detection"),
    "data.cache_gb": ("data.memory_gb",),
}
NAMED = {"data.memory_gb": "data.cache_gb"}  # what names a run goes on under its old name, so that older runs keep theirs
FINALS = {"true": ("knn", "linear", "geometry"), "false": ()}  # what eval.final meant


def check_renamed(key: str, given: Any) -> None:
    """Raises ConfigError for an old key, and for eval.final true or false, naming the new one."""
    if key in RENAMED:
        first, *others = RENAMED[key]
        more = f" (and {', '.join(others)})" if others else ""
        raise ConfigError(key, f"is called {first} now{more}")
    words = [str(word).lower() for word in (given if isinstance(given, (list, tuple)) else [given])]
    if key == "eval.final" and len(words) == 1 and words[0] in FINALS:
        names = " ".join(FINALS[words[0]])
        mend = f"--eval.final {names}" if names else "--eval.final with nothing after it"
        raise ConfigError(key, f"got {words[0]}, takes names of evaluations now: {mend} (contray evaluations lists them)")


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config's text under today's keys. Only a config that a run has written is taken as it was, for it holds all keys."""
    if not {"seed", "track.uri", "data.max_broken", "eval.batch_size"} <= values.keys():
        return dict(values)
    values = {"data.test_share": 0.0, **values}  # before there was a share for testing all labelled images trained
    if "data.cache_gb" in values:
        values["data.memory_gb"] = values.pop("data.cache_gb")
    if "eval.knn_k" not in values:
        return dict(values)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "eval.final":
            value = FINALS[str(value).lower()]
        found |= dict.fromkeys(RENAMED.get(key, (key,)), value)
    return found
