"""What a user can get wrong: one line on stderr that names it, exit code 2, no Ray, nothing on disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contray.cli import main
from contray.training import launch
from contray.tuning import launch as tuning_launch

NOBODY = "http://127.0.0.1:1"
OVER = "--train.steps 1 --eval.final="  # should a row be accepted after all, the test ends soon

ROWS = {  # command -> what its line must say: the field or word, what was given, what is allowed
    "train simclrr": ("method 'simclrr'", "did you mean simclr"),
    "train mco": ("method 'mco'", "did you mean moco"),
    "train {files}/gone.py": ("gone.py", "no such file"),
    "train {files}/no_method.py": ("no_method.py", "must define PAPER"),
    "train simclr --preset cifra": ("method.preset", "'cifra'", "did you mean cifar"),
    "train simclr --method.temprature 0.1": ("method.temprature", "did you mean method.temperature"),
    "train simclr --train.lr 1": ("train.lr", "did you mean optim.lr"),
    "train simclr --method.temperature 0": ("method.temperature", "got 0", "> 0"),
    "train simclr --method.temperature nan": ("method.temperature", "'nan'", "> 0"),
    "train simclr --method.temperature warm": ("method.temperature", "'warm'", "a number > 0"),
    "train simclr --train.batch_size 12.5": ("train.batch_size", "'12.5'", "an integer >= 2"),
    "train simclr --train.batch_size 64 128": ("train.batch_size", "got '64' and '128'", "takes one value"),
    "train simclr --train.channels_last maybe": ("train.channels_last", "'maybe'", "auto | true | false"),
    "train simclr --backbone.width 8 --backbone.stem imagenet --train.channels_last true": (
        "train.channels_last",
        "got true",
        "backbone.layer2.0.downsample.0 (a 1x1 convolution of stride 2 over 8 channels)",
        "auto",
    ),
    "train simclr --views.view.size 1": ("views.view.size", "got 1", "at least 2 px"),
    "train simclr --backbone.name alexnet": ("views.view.size", "got 32", "alexnet cannot take", "Output size is too small"),
    "train swav --backbone.name alexnet": ("views.large.size", "got 32", "alexnet cannot take"),
    "train mae --backbone.patch 64": ("backbone.patch", "got 64", "larger than the 32 px of views.view.size"),
    "train mae --backbone.patch 7": ("backbone.patch", "got 7", "leaves 4 px of a side unseen", "views.view.size"),
    "train simclr --train.batch_size 100000": ("train.batch_size", "got 100000", "training samples"),
    "train simclr --train.precision fp16": ("train.precision", "'fp16'", "bf16 | fp32 | fp64"),
    "train simclr --augment.strength 3": ("augment.strength", "got 3", "<= 2"),
    "train simclr --optim.lr -1": ("optim.lr", "got -1", "> 0"),
    "train simclr --seed x": ("seed", "'x'", "an integer >= 0"),
    "train moco --train.batch_size 128 --method.queue_size 64": (
        "method.queue_size",
        "got 64",
        "from 128 (the global batch",
        "--method.queue_size 128",
    ),
    "train ijepa --method.preset digits --method.min_keep 64": ("method.min_keep", "of 8 x 8 patches a context has about 21"),
    "train ijepa --method.preset digits --method.target_scale 0.9 0.95": ("method.min_keep", "target_scale"),
    "train ijepa --method.target_scale 0.2 0.15": ("method.target_scale", "got 0.2 0.15", "0.15 0.2"),
    "train ibot --method.mask_ratio 0.5 0.1": ("method.mask_ratio", "got 0.5 0.1", "0.1 0.5"),
    "train dinov2 --method.mask_ratio 0.5 0.1": ("method.mask_ratio", "got 0.5 0.1", "0.1 0.5"),
    "train data2vec --method.preset digits --method.blocks 99": ("method.blocks", "got 99", "at most the 4"),
    "train simmim --method.preset digits --method.mask_patch 2": ("method.mask_patch", "got 2", "multiple of backbone.patch"),
    "train moco --train.batch_size 128 --method.queue_size 5625": ("method.queue_size", "got 5625", "to 5624 (", "negatives"),
    "train simclr --train.batch_size 128 --scale.workers 200 200": (
        "scale.workers",
        "got up to 200",
        "train.batch_size",
        "at most one per row",
    ),
    "train clip --views.text.source captions": ("views.text.source", "no column 'captions'", "caption (text)"),
    "train cpc_sequence --views.signal.source mask": ("views.signal.kind", "of kind array", "'mask' is of kind image"),
    "train cmc --preset rgbd": ("views.depth.source", "no column 'depth'", "mask (image)"),
    "train cmc --method.groups 1 1": ("method.groups", "got 1 1", "6 channels in all"),
    "train infomin --views.pieces.grid_shift 9": ("views.pieces.grid", "moved by up to 9", "need size 53"),
    "train mae --backbone.name resnet18": ("backbone.name", "got resnet18", "vit_mini"),
    "train clip --method.towers shared": ("backbone.name", "got resnet_small", "vit_mini"),
    "train deepcluster --method.clusters 9999": ("method.clusters", "got 9999", "to 5752 (the training samples)"),
    "train cpc_sequence --method.steps 40": ("method.steps", "got 40", "32 frames"),
    "train simclr --scale.workers 2 1": ("scale.workers", "got 2 1", "must not exceed"),
    "train simclr --scale.address 127.0.0.1:1": ("scale.address", "no Ray cluster answers at 127.0.0.1:1"),
    "train simclr --scale.address http://127.0.0.1:8265": ("scale.address", "HOST:PORT", "ray job submit"),
    "train simclr --scale.storage nowhere://runs": ("scale.storage", "nowhere://runs", "s3://"),
    "train simclr --train.device cuda": ("train.device", "got cuda", "no GPU"),
    "train simclr --data.source {files}/gone": ("data.source", "gone", "does not exist"),
    "train simclr --data.source {files}/empty": ("data.source", "no image", "empty"),
    "train simclr --data.source {files}/plain.parquet": ("data.image_column", "no column 'image'", "it has picture"),
    "train simclr --data.source {files}/text.txt": ("data.source", "text.txt", "Parquet"),
    "train simclr --data.source cifar10 --data.root {files}": ("data.source", "cifar10", "--data.download true"),
    "train simclr --data.share colour": ("data.share", "'colour'", "known: background, digit, position"),
    f"train simclr --track.uri {NOBODY}": ("track.uri", f"no MLflow server answers at {NOBODY}", "sqlite:///"),
    f"train simclr --seeds 2 --track.uri {NOBODY}": ("track.uri", f"no MLflow server answers at {NOBODY}", "sqlite:///"),
    "train simclr --track.uri file:///tmp/x": ("track.uri", "'file:///tmp/x'", "sqlite:///"),
    "train --config {files}/gone.yaml": ("--config", "gone.yaml", "no file"),
    "train --config {files}/broken.yaml": ("broken.yaml", "no YAML"),
    "train --config {files}/list.yaml": ("list.yaml", "no mapping", "train.epochs"),
    "train --config {files}/unknown.yaml": ("train.epoch", "did you mean train.epochs"),
    "train --config {files}/bytes.yaml": ("--config", "bytes.yaml", "cannot be read as text"),
    "train simclr moco": ("moco", "not understood", "--help"),
    "train simclr --sedes 2": ("--sedes", "did you mean --seeds"),
    "train simclr --seeds": ("--seeds", "needs an integer"),
    "train simclr --seeds two": ("--seeds", "'two'", "an integer"),
    "train simclr --seeds 0": ("--seeds", "got 0", "at least 1"),
    "trian": ("'trian'", "did you mean train"),
    "data": ("'data'", "data preview", "data scenes"),
    "tune": ("SPACE is missing", "--help"),
    "tune moco --samples -2": ("--samples", "got -2", "at least 0"),
    "tune moco --minutes nan": ("--minutes", "got nan", "at least 0"),
    "tune moco --grace 3": ("--grace", "got 3", "above 0 and at most 1"),
    "tune nope": ("space 'nope'", "moco"),
    "tune simclr --metric linear_top1": ("--metric", "linear_top1", "linear_val_top1", "test set"),
    "tune simclr --method.projector_dim 0": ("method.projector_dim", "got 0", ">= 1"),
    "eval": ("contray eval NAME", "contray evaluations"),
    "eval svm --checkpoint x": ("svm", "no such evaluation", "known: attention", "linear", "geometry"),
    "eval linaer --checkpoint x": ("linaer", "no such evaluation", "did you mean linear"),
    "eval linear --protocol paper --checkpoint x": ("--protocol", "contray eval paper"),
    "eval knn --eval.finetune.lrs 1 --checkpoint x": ("eval.finetune.lrs", "of eval finetune", "not of eval knn"),
    "eval knn --eval.knn_k 1 --checkpoint x": ("eval.knn_k", "is called eval.knn.k now"),
    "eval knn --eval.final linear --checkpoint x": ("eval.final", "named by itself"),
    "eval knn mine.py --checkpoint x": ("mine.py", "no such file"),
    "eval --run x": ("contray eval NAME", "contray evaluations"),
    "train --train.steps 1 --eval.final true": ("eval.final", "got true", "--eval.final knn linear geometry"),
    "train --train.steps 1 --eval.final knn lienar": ("eval.final", "'lienar' is not known", "did you mean linear"),
    "train --eval.finetune_lrs 1": ("eval.finetune_lrs", "is called eval.finetune.lrs now", "eval.supervised.lrs"),
    "train --eval.online knn --train.on_collapse stop": ("train.on_collapse", "eval.online lacks geometry"),
    "eval linear --labels 0.1 --checkpoint x": (
        "--labels",
        "of eval crd, distill, finetune, finetune_mae and noisy_student",
        "not of eval linear",
    ),
    "eval detection": ("--run", "--checkpoint"),
    "eval detection --head fcn --checkpoint x": ("eval.detection.head", "got 'fcn'", "fpn | c4 | mask"),
    "eval segmentation --head c4 --checkpoint x": ("eval.segmentation.head", "got 'c4'", "fcn | deeplab"),
    "eval detection --checkpoint {files}/gone.pt": ("--checkpoint", "no file", "gone.pt"),
    "eval knn --head c4 --checkpoint x": ("--head", "eval detection and segmentation", "not of eval knn"),
    "eval knn --data scenes2 --checkpoint x": ("--data", "eval detection and segmentation", "not of eval knn"),
    "eval detection --checkpoint x --backbone.width 8": ("backbone.width", "data.*"),
    "eval geometry": ("--run", "--checkpoint"),
    "eval geometry --checkpoint x --out picture.txt": ("--out", "picture.txt", ".png"),
    "eval geometry --checkpoint {files}/torn.pt": ("torn.pt", "torn or no checkpoint"),
    "eval linear": ("--run", "--checkpoint"),
    "eval linear --run x --checkpoint y": ("either --run", "or --checkpoint"),
    "eval linear --run x": ("track.uri", "mlflow.db", "contray train"),
    f"eval linear --run x --track.uri {NOBODY}": ("track.uri", f"no MLflow server answers at {NOBODY}"),
    "eval linear --checkpoint {files}/gone.pt": ("--checkpoint", "no file", "gone.pt"),
    "eval linear --checkpoint {files}/empty": ("--checkpoint", "no checkpoint", "empty"),
    "eval knn --checkpoint {files}/torn.pt": ("torn.pt", "torn or no checkpoint"),
    "eval knn --checkpoint {files}/pickled.pt": ("pickled.pt", "pickled objects", "never loaded"),
    "eval knn --checkpoint {files}/foreign.pt": ("foreign.pt", "no checkpoint of contray"),
    "eval linear --checkpoint x --method.temperature 1": ("method.temperature", "data.*"),
    "eval finetune --checkpoint x --backbone.width 8": ("backbone.width", "data.*"),
    "plot": ("WHAT is missing", "--help"),
    "plot neighbors --checkpoint x": ("neighbors", "did you mean neighbours"),
    "plot map": ("--run", "--checkpoint"),
    "plot map --run x --checkpoint y": ("either --run", "or --checkpoint"),
    "plot map --run x": ("track.uri", "mlflow.db", "contray train"),
    "plot map x": ("x", "not understood", "--run RUN_ID"),
    "plot map --checkpoint x --out map.txt": ("--out", "map.txt", ".png"),
    "plot map --checkpoint x --by pca": ("--by", "'pca'", "tsne, umap"),
    "plot neighbours --checkpoint x --by umap": ("--by", "plot map", "plot neighbours"),
    "plot map --checkpoint x --images -1": ("--images", "got -1"),
    "plot map --checkpoint x --metric lr": ("--metric", "plot curves", "plot map"),
    "plot map --checkpoint x --method.temperature 1": ("method.temperature", "data.*"),
    "plot map --checkpoint {files}/gone.pt": ("--checkpoint", "no file", "gone.pt"),
    "plot curves": ("plot curves", "RUN_ID"),
    "plot curves x": ("x", "not understood", "--run RUN_ID"),
    "plot map --run x y": ("--run", "got 2", "plot curves"),
    "plot curves --run x --data.size 16": ("data.size", "track.uri"),
    "plot curves --run x": ("track.uri", "mlflow.db", "contray train"),
    "sync gone": ("gone: there is no run of this name", "contray_runs", "--scale.storage"),
    "sync --storage x": ("--storage", "--scale.storage"),
    "sync gone --scale.storage nowhere://runs": ("nowhere://runs", "s3://"),
    "distill --labels 0.1": ("contray eval distill", "crd and noisy_student"),
    "eval distill": ("--run", "--checkpoint"),
    "eval distill --checkpoint {files}/gone.pt": ("--checkpoint", "no file", "gone.pt"),
    "eval distill --checkpoint x --method.temperature 1": ("method.temperature", "data.*"),
    "eval distill --checkpoint x --by crd": ("--by", "contray eval distill, crd or noisy_student"),
    f"sync --track.uri {NOBODY}": ("track.uri", f"no MLflow server answers at {NOBODY}"),
    "compare": ("track.uri", "mlflow.db", "contray train"),
    "compare x": ("x", "not understood", "--run RUN_ID"),
    "compare --experiment x": ("--experiment", "--track.experiment"),
    "compare --uri x": ("--uri", "--track.uri"),
    "export --uri=x --run y": ("--uri", "--track.uri"),
    "sync --run x": ("--run", "contray sync RUN"),
    "eval knn --run x --code moco": ("--code", "moco", ".py file"),
    f"ui --track.uri {NOBODY}": ("track.uri", f"no MLflow server answers at {NOBODY}"),
    "ui --port many": ("--port", "'many'", "an integer"),
    "data preview nope": ("method 'nope'", "did you mean"),
    "data preview simclr --samples 3": ("--samples", "--images"),
    "data preview simclr --images 0": ("--images", "got 0", "at least 1"),
    "data preview simclr --out views.doc": ("--out", "views.doc", ".png"),
}


class Loaded:
    """Unpickled, this leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "no_method.py").write_text("answer = 42\n")
    (folder / "text.txt").write_text("hello")
    (folder / "broken.yaml").write_text("train: [1,")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "unknown.yaml").write_text("train:\n  epoch: 3\n")
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    pq.write_table(pa.table({"picture": [b"x"]}), folder / "plain.parquet")
    torch.save({"method": {}, "config": Loaded(folder / "unpickled")}, folder / "pickled.pt")
    torch.save({"weights": torch.zeros(3)}, folder / "foreign.pt")
    (folder / "torn.pt").write_bytes((folder / "foreign.pt").read_bytes()[:200])
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in, where no Ray can be started."""

    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("Ray was started")

    for module in (launch, tuning_launch):
        monkeypatch.setattr(module, "ray_session", started)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "said"), ROWS.items(), ids=list(ROWS))
def test_refused(command: str, said: tuple[str, ...], files: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if command.startswith("train ") and "train.steps" not in command:
        command += f" {OVER}"
    assert main(command.format(files=files).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("contray: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    for words in said:
        assert words in err
    assert not (files / "unpickled").exists()


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "contray COMMAND [OPTIONS]" in capsys.readouterr().out


def test_refusing_a_run_imports_neither_ray_nor_mlflow(files: Path, tmp_path: Path) -> None:
    commands = [
        "train simclrr", "train simclr --method.temperature 0", "train simclr --train.lr 1", "train moco --method.queue_size 2",
        "train moco --method.queue_size 100000", f"train simclr --data.source {files}/gone", f"train --data.source {files}/empty",
        f"train --data.source {files}/plain.parquet", f"train --track.uri {NOBODY}",
    ]  # fmt: skip
    code = f"""
import sys
sys.modules["ray"] = sys.modules["mlflow"] = None
from contray.cli import main
sys.exit(0 if all(main(command.split()) == 2 for command in {commands!r}) else 1)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stderr.splitlines()) == len(commands)
    assert not list(tmp_path.iterdir())
