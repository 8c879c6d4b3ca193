"""The encoder as an MLflow model: safetensors and a loader module, no pickle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..storage.logins import full
from .run import TrackedRun
from .store import asking, uploading

LOADER = "contray.model.encoder"  # has `_load_pyfunc(path)`, which is all that MLflow asks of it
DATA = "data/encoder"  # where MLflow's layout puts the folder
NEEDS = ("torch", "torchvision", "safetensors")


def log_encoder(
    run: TrackedRun, folder: Path, name: str = "encoder", metadata: Mapping[str, object] | None = None, step: int = 0,
    kind: type[np.generic] | np.dtype = np.uint8, channels: int = 3,
) -> str:  # fmt: skip
    """Keep the encoder in `folder` as a model of the run; the id to attach metrics by (`log_metrics(..., model_id=)`).

    kind, channels: of the images that it takes.
    MLflow's own `log_model` would go through the active run and start a process to guess the requirements; this does neither.
    """
    with asking(run.uri, "keeping the encoder") as talk, tempfile.TemporaryDirectory() as scratch:
        import mlflow.pyfunc
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        kept = talk.create_logged_model(run.experiment_id, name, source_run_id=run.run_id, model_type="encoder")
        described = Model(
            artifact_path=kept.artifact_location,
            run_id=run.run_id,
            model_id=kept.model_id,
            model_uuid=kept.model_id,
            signature=ModelSignature(  # as an argument of save_model it would ask for an example of the input
                Schema([TensorSpec(np.dtype(kind), (-1, -1, -1, channels))]), Schema([TensorSpec(np.dtype(np.float32), (-1, -1))])
            ),
        )
        saved, data = Path(scratch) / "model", Path(scratch) / "encoder"
        shutil.copytree(folder, data)
        with _unscanned():
            mlflow.pyfunc.save_model(
                str(saved),
                loader_module=LOADER,
                data_path=str(data),
                pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in NEEDS],
                mlflow_model=described,
                metadata=dict(metadata or {}),
            )
        with uploading():
            talk.log_model_artifacts(kept.model_id, str(saved))
        talk.log_outputs(run.run_id, [LoggedModelOutput(kept.model_id, step)])
        talk.finalize_logged_model(kept.model_id, "READY")
        return kept.model_id


@contextmanager
def _unscanned() -> Iterator[None]:
    """MLflow reads which files all installed packages have, for a second, to hold requirements against them; ours name what is installed.

    Private to MLflow: where it keeps them otherwise, it reads.
    """
    from mlflow.utils import requirements_utils as kept

    name = "_MODULES_TO_PACKAGES"
    unread = getattr(kept, name, {}) is None
    if unread:
        setattr(kept, name, {})
    try:
        yield
    finally:
        if unread:
            setattr(kept, name, None)


def fetch_encoder(uri: str, run_id: str) -> Path:
    """The folder that `log_encoder` was given for this run (its last one), downloaded where it lies elsewhere."""
    with asking(uri, f"fetching the encoder of run {run_id}") as talk:
        import mlflow.artifacts

        outputs = talk.get_run(run_id).outputs
        if outputs is None or not outputs.model_outputs:
            raise UserError(f"run {run_id} keeps no encoder: it did not end, or track.model was false; use its checkpoint")
        model = talk.get_logged_model(outputs.model_outputs[-1].model_id)
        place = f"{model.artifact_location}/{DATA}"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=place, tracking_uri=full(uri)))
