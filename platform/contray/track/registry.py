"""MLflow's model registry: the versions of one name, the best of them its champion."""

from __future__ import annotations

from ..errors import UserError
from .store import asking

CHAMPION, SCORE, DATASET = "champion", "linear_top1", "contray.dataset"


def register(uri: str, run_id: str, name: str) -> str:
    """Register the encoder that a run keeps as a version of `name`; the alias `champion` goes to the best linear_top1. What was done, in words.

    An encoder that is registered already gets no second version. Raises UserError, with nothing written, where the run keeps no encoder or
    was measured on other data than the champion: their scores say nothing about each other.
    """
    with asking(uri, f"registering run {run_id}") as talk:
        run = talk.get_run(run_id)
        if run.outputs is None or not run.outputs.model_outputs:
            raise UserError(f"run {run_id} keeps no encoder: it did not end, or track.model was false")
        model_id = run.outputs.model_outputs[-1].model_id
        score, dataset = run.data.metrics.get(SCORE), run.data.tags.get(DATASET, "")
        known = talk.search_registered_models(f"name = '{name}'")
        number = known[0].aliases.get(CHAMPION) if known else None
        champion = talk.get_model_version(name, number) if number else None
        best = None
        place = talk.get_logged_model(
            model_id
        ).artifact_location  # `models:/ID` is looked up in MLflow's global store, perhaps another
        if champion and champion.source != place:
            theirs = talk.get_run(str(champion.run_id)).data
            best = theirs.metrics.get(SCORE)  # none, where somebody has given the alias by hand
            if theirs.tags.get(DATASET, "") != dataset:
                raise UserError(
                    f"--register: the champion of {name} was measured on {theirs.tags.get(DATASET)}, run {run_id} on {dataset}; "
                    "register it under another name"
                )
        versions = [each for each in talk.search_model_versions(f"name = '{name}'") if each.source == place]
        if not known:
            talk.create_registered_model(name)
        try:
            version = versions[0] if versions else talk.create_model_version(name, source=place, run_id=run_id, model_id=model_id)
        except Exception:
            if not known:
                talk.delete_registered_model(name)
            raise
        said = f"{name} version {version.version}"
        if score is None:
            return f"{said}: no {SCORE} on record, so it cannot be the champion"
        if best is not None and score <= best:
            return f"{said}: {SCORE} {score:.4f}; version {number} stays the champion with {best:.4f}"
        talk.set_registered_model_alias(name, CHAMPION, version.version)
        return f"{said}: {SCORE} {score:.4f}, the champion" + (
            f" before version {number} with {best:.4f}" if best is not None else ""
        )
