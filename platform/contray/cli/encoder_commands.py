"""The commands of a trained encoder: plot, export, import, embed."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import UserError
from ..pictures import KINDS
from .options import METHOD_HELP, URI_HELP, arg, config_from, parse

if TYPE_CHECKING:
    from ..config import RunConfig


def plot(words: list[str]) -> int:
    """contray plot"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """Draw what an encoder has learnt. With --run the picture and its numbers join that MLflow run, the picture under pictures/.

        contray plot neighbours --run RUN_ID        contray plot curves RUN_ID RUN_ID --metric knn_val_top1
        """

        what: Annotated[Positional[str], arg("; ".join(f"{name}: {words}" for name, words in KINDS.items()))]
        runs: Annotated[
            Positional[tuple[str, ...]], arg("curves: ids of MLflow runs; seeds of one run are drawn as one line")
        ] = ()
        run: Annotated[str, arg("MLflow run whose encoder is drawn")] = ""
        checkpoint: Annotated[str, arg("a checkpoint file, or a run's folder (its newest checkpoint)")] = ""
        method: Annotated[str, arg(METHOD_HELP)] = ""
        out: Annotated[Path | None, arg("the picture to write: .png, .jpg, .pdf or .svg [default: WHAT.png]")] = None
        by: Annotated[str, arg("map: tsne, or umap (needs pip install umap-learn)")] = "tsne"
        images: Annotated[
            int,
            arg(
                "images to work on at most, evenly spread; 0: map 2000 of the test set, neighbours all and prototypes 20000 of the training "
                "set, attention 2000 where objects' masks are known; reconstruction: to draw, 8"
            ),
        ] = 0
        metric: Annotated[str, arg("curves: the metric, as MLflow names it")] = "loss"

    def keys(plain: list[str]) -> "RunConfig":
        return config_from("", "", None, {})

    options, dotted = parse(Options, words, "plot", keys)
    from ..api import plot as run_plot

    out = options.out or Path(f"{options.what}.png")
    metrics = run_plot(
        options.what,
        run=options.run,
        checkpoint=options.checkpoint,
        method=options.method,
        runs=options.runs,
        overrides=dotted,
        out=out,
        by=options.by,
        images=options.images,
        metric=options.metric,
    )
    for name, value in metrics.items():
        if not name.startswith("random_"):
            beside = f", untrained {metrics[f'random_{name}']:.3f}" if f"random_{name}" in metrics else ""
            print(f"{name} {value:.3f}{beside}")
    print(f"wrote {out}")
    return 0


def export(words: list[str]) -> int:
    """contray export"""

    @dataclass(frozen=True)
    class Options:
        """Write a trained encoder for other libraries, with its model card; or register a run's encoder in MLflow."""

        run: Annotated[str, arg("MLflow run whose encoder is exported")] = ""
        checkpoint: Annotated[str, arg("a checkpoint file, a run's folder (its newest checkpoint), or an imported encoder")] = ""
        method: Annotated[str, arg(METHOD_HELP)] = ""
        to: Annotated[str, arg("torchvision, timm (weights that load there), onnx, or safetensors (with heads, for contray)")] = (
            ""
        )
        out: Annotated[Path | None, arg("the new folder")] = None
        register: Annotated[str, arg("name in MLflow's model registry; the version of the best linear_top1 is its champion")] = ""
        track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""

    options, _ = parse(Options, words, "export")
    if bool(options.to) != bool(options.out) or not (options.to or options.register):
        raise UserError("name what to do: --to FORMAT --out FOLDER, or --register NAME, or all three")
    from ..api import export as run_export
    from ..api import register

    if options.out:
        if options.register and not options.run:
            raise UserError("--register: only a run's encoder can be registered; give --run")
        print(
            f"wrote {run_export(options.to, options.out, run=options.run, checkpoint=options.checkpoint, method=options.method, uri=options.track__uri)}"
        )
    if options.register:
        print(register(options.register, options.run, uri=options.track__uri))
    return 0


def import_(words: list[str]) -> int:
    """contray import"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """Take the backbone of a public checkpoint; `contray eval knn --checkpoint FOLDER` measures it beside ours. Nothing is unpickled."""

        file: Annotated[Positional[Path], arg("the checkpoint: a torch file of tensors, or .safetensors")]
        layout: Annotated[str, arg("torchvision, timm, moco, simsiam, barlow_twins, dino, mae or moco_v3")] = ""
        out: Annotated[Path | None, arg("the new folder [default: the file's name without its ending, here]")] = None

    def keys(plain: list[str]) -> "RunConfig":
        return config_from("imported", "", None, {})

    options, dotted = parse(Options, words, "import", keys)
    from ..exchange.importing import import_file
    from ..exchange.layouts import LAYOUTS

    if not options.layout:
        raise UserError(f"--layout: must be one of {', '.join(LAYOUTS)}")
    out = options.out or Path(options.file.stem)
    config = import_file(options.file, options.layout, out, dotted).config
    print(f"wrote {out}: {config.backbone.name} of {config.views['image'].size} px images")
    return 0


def embed(words: list[str]) -> int:
    """contray embed"""
    from tyro.conf import Positional

    @dataclass(frozen=True)
    class Options:
        """Features of all images of a folder or Parquet files, as a folder of Parquet files. The same command goes on where it was cut off."""

        source: Annotated[
            Positional[str], arg("folder of images, Parquet file, or folder of them; a path or an s3://, gs:// address")
        ]
        run: Annotated[str, arg("MLflow run whose encoder is used")] = ""
        checkpoint: Annotated[str, arg("a checkpoint file, a run's folder (its newest checkpoint), or an imported encoder")] = ""
        method: Annotated[str, arg(METHOD_HELP)] = ""
        out: Annotated[str, arg("the folder of the results: one row per image (name, embedding, error)")] = "embeddings.parquet"
        column: Annotated[str, arg("Parquet: column of the images (encoded bytes, or a struct of `bytes` and `path`)")] = "image"
        part: Annotated[int, arg("folders: images per file of the results, which is what a cut off run repeats at most")] = 2048
        address: Annotated[
            str, arg("Ray cluster to join; empty: RAY_ADDRESS, else a cluster of this machine for this command")
        ] = ""
        track__uri: Annotated[str, arg(URI_HELP, name="track.uri")] = ""

    options, _ = parse(Options, words, "embed")
    if options.part < 1:
        raise UserError(f"--part: got {options.part}, must be at least 1")
    from ..api import embed as run_embed

    done = run_embed(
        options.source, options.out, run=options.run, checkpoint=options.checkpoint, method=options.method, uri=options.track__uri, column=options.column,
        part=options.part, address=options.address,
    )  # fmt: skip
    if done.skipped:
        print(f"contray: {options.source}: {done.skipped}", file=sys.stderr)
    print(done)
    return 0
