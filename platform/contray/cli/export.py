"""contray export"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UserError
from . import documents
from .options import CHECKPOINT_HELP, CODE_HELP, URI_HELP, arg, json_note
from .output import answer

EXAMPLES = (
    ("contray export --run RUN_ID --to timm --out encoder", "weights that timm loads, with a model card"),
    ("contray export --checkpoint contray_runs/RUN --to onnx --out encoder", "the graph of whatever the encoder does"),
    ("contray export --run RUN_ID --register digits-encoder", "a version in MLflow's model registry"),
)


@dataclass(frozen=True)
class Options:
    """Write a trained encoder for other libraries, with its model card; or register a run's encoder in MLflow."""

    run: Annotated[str, arg("MLflow run whose encoder is exported")] = ""
    checkpoint: Annotated[str, arg(CHECKPOINT_HELP)] = ""
    code: Annotated[tuple[str, ...], arg(CODE_HELP)] = ()
    to: Annotated[
        str,
        arg(
            "torchvision, timm (weights that load there), onnx, or safetensors (with heads, for contray)",
            choices=("torchvision", "timm", "onnx", "safetensors"),
        ),
    ] = ""
    out: Annotated[Path | None, arg("the new folder")] = None
    register: Annotated[str, arg("name in MLflow's model registry; the version of the best linear_top1 is its champion")] = ""
    track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""
    json: Annotated[bool, json_note(documents.EXPORTED)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the folder, register the encoder, or both."""
    if bool(options.to) != bool(options.out) or not (options.to or options.register):
        raise UserError("name what to do: --to FORMAT --out FOLDER, or --register NAME, or all three")
    if options.register and options.out and not options.run:
        raise UserError("--register: only a run's encoder can be registered; give --run")
    from .. import api

    file = registered = None
    with answer(options.json) as tell:
        if options.out:
            file = api.export(
                options.to,
                options.out,
                run=options.run,
                checkpoint=options.checkpoint,
                code=options.code,
                uri=options.track__uri,
            )
            print(f"wrote {file}")
        if options.register:
            registered = api.register(options.register, options.run, uri=options.track__uri)
            print(registered)
        tell({"file": file, "registered": registered})
    return 0
