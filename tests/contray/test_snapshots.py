"""What the command line says to wrong input, and which keys there are, as they were agreed on."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from contray import RunConfig
from contray.cli import main
from contray.config import Key, declared_keys
from contray.config.registry import method_names
from contray.training import launch
from contray.tuning import launch as tuning_launch

FOLDER = Path(__file__).parent / "snapshots"
ACCEPT = "CONTRAY_SNAPSHOTS"
NOBODY = "http://127.0.0.1:1"

# One command a line; a word in '...' has spaces. {files}: a folder of broken things
COMMANDS = f"""
trian
data
data preveiw
help trian
completion
completion tcsh
--train.epochs 3
train simclrr
train {{files}}/gone.py
train {{files}}/no_method.py
train {{files}}/raises.py
train simclr moco
train simclr --preset cifra
train simclr --sedes 2
train simclr --seeds
train simclr --seeds two
train simclr --seeds 0
train simclr --dry-run=maybe
train simclr --epochs 3
train simclr --batch-size 64
train simclr --temperature 0.1
train simclr -train.epochs 3
train simclr —train.epochs 3
train simclr –seeds 3
train simclr '--train.epochs 3'
train simclr train.epochs=3
train simclr --train.epochs = 3
train simclr --train.epochs=
train simclr --train.epochs
train simclr --train.epoch 3
train simclr --train.lr 1
train simclr --method.temprature 0.1
train simclr --method.queue_size 64
train simclr --method.temperature 0
train simclr --method.temperature nan
train simclr --method.temperature warm
train simclr --train.batch_size 12.5
train simclr --train.batch_size 64 128
train simclr --train.batch_size 1e9
train simclr --train.precision fp16
train simclr --augment.strength 3
train simclr --scale.workers 2 1
train simclr --scale.workers 2
train simclr --scale.storage nowhere://runs
train simclr --scale.address http://127.0.0.1:8265
train simclr --seed x
train simclr --data.source {{files}}/gone
train simclr --data.source {{files}}/empty
train simclr --data.source {{files}}/plain.parquet
train simclr --data.source {{files}}/text.txt
train simclr --data.share colour
train simclr --track.uri {NOBODY}
train simclr --track.uri file:///tmp/x
train simclr --track.experiment=
train simclr --uri x
train --config {{files}}/gone.yaml
train --config {{files}}/broken.yaml
train --config {{files}}/list.yaml
train --config {{files}}/unknown.yaml
tune
tune nope
tune moco --samples -2
tune moco --grace 3
tune moco --minutes soon
tune moco --scheduler fifo
tune simclr --metric linear_top1
tune simclr --data.source {{files}}/unlabelled
tune simclr --resume
eval
eval svm --checkpoint x
eval knn
eval knn --run x --checkpoint y
eval knn --run x
eval knn --run x --method mine.py
eval --dense detection --run x
eval knn --run x --code moco
eval knn --run x --code gone.py
eval knn --checkpoint {{files}}/gone.pt
eval knn --checkpoint {{files}}/empty
eval knn --checkpoint {{files}}/torn.pt
eval knn --checkpoint {{files}}/foreign.pt
eval knn --checkpoint x --method.temperature 1
distill
distill --checkpoint x --method.temperature 1
plot
plot neighbors --checkpoint x
plot map
plot map x
plot map --run x y
plot map --checkpoint x --out map.txt
plot map --checkpoint x --by pca
plot map --checkpoint x --images -1
plot neighbours --checkpoint x --by umap
plot curves
plot curves --run x --checkpoint y
export
export --run x --to timm
export --to keras --out there --checkpoint x
export --register name --to timm --out there --checkpoint x
import
import {{files}}/gone.pt
import {{files}}/gone.pt --layout dinno
import {{files}}/gone.pt --layout dino
import {{files}}/foreign.pt --layout dino --train.epochs 3
embed
embed {{files}}/empty
embed {{files}}/empty --column photo --run x
embed {{files}}/empty --part 0 --run x
compare
compare x
compare --run x
compare --experiment x
sync
sync gone
sync --run x
sync --storage x
sync --track.uri {NOBODY}
ui --port many
ui --no-browser
methods --json=yes
methods simclrr
spaces --method moco
spaces --train.epochs 3
data preview nope
data preview simclr --images 0
data preview simclr --samples 3
data preview simclr --out views.doc
data scenes --out {{files}}
"""


def hold(name: str, text: str, meaning: str) -> None:
    """Compare `text` with the file of that name. meaning: what a difference is."""
    path = FOLDER / name
    if os.environ.get(ACCEPT) == "accept":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text)
    kept = path.read_text() if path.exists() else ""
    changed = list(difflib.unified_diff(kept.splitlines(), text.splitlines(), f"snapshots/{name}", "now", lineterm="", n=1))
    assert not changed, "\n".join(
        ["", *changed, "", meaning, f"to accept it: {ACCEPT}=accept pytest -n 0 tests/contray/test_snapshots.py"]
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of broken things; the test stands in an empty one beside it, where no Ray can be started."""

    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("Ray was started")

    for module in (launch, tuning_launch):
        monkeypatch.setattr(module, "ray_session", started)
    monkeypatch.setenv("COLUMNS", "80")
    folder, here = tmp_path / "files", tmp_path / "here"
    for place in (folder / "empty", folder / "unlabelled", here):
        place.mkdir(parents=True)
    Image.new("RGB", (32, 32), (90, 30, 200)).save(folder / "unlabelled" / "0.png")
    for i in range(1, 300):
        os.link(folder / "unlabelled" / "0.png", folder / "unlabelled" / f"{i}.png")
    (folder / "no_method.py").write_text("answer = 42\n")
    (folder / "raises.py").write_text("answer = 42\n1 / 0\n")
    (folder / "text.txt").write_text("hello")
    (folder / "broken.yaml").write_text("train: [1,")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "unknown.yaml").write_text("train:\n  epoch: 3\n")
    pq.write_table(pa.table({"picture": [b"x"]}), folder / "plain.parquet")
    torch.save({"weights": torch.zeros(3)}, folder / "foreign.pt")
    (folder / "torn.pt").write_bytes((folder / "foreign.pt").read_bytes()[:200])
    monkeypatch.chdir(here)
    yield folder
    assert not list(here.iterdir()), "a refused command left something behind"


def test_errors_are_worded_as_agreed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code and stderr of each command; nothing on stdout, and no traceback in any."""
    blocks, loud = [], []
    for command in COMMANDS.strip().splitlines():
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command.format(files=files))]
        code = main(words)
        out, err = capsys.readouterr()
        loud += [command] * bool(out or "Traceback" in err)
        said = (
            re.sub(r"-[0-9a-f]{8}\b", "-DIGEST", err)
            .replace(str(files.parent / "here"), "HERE")
            .replace(str(files), "FILES")
            .replace(str(Path.home()), "~")
        )
        blocks.append(f"$ contray {command.format(files='FILES')}\n{said}[{code}]\n")
    assert loud == []
    hold(
        "errors.txt",
        "\n".join(blocks),
        "an error is worded otherwise: is it clearer, does it name the key and how to mend it?",
    )


def test_the_set_of_keys_is_a_decision() -> None:
    """Of the default config, and of each method its own."""
    config = RunConfig.make("simclr", preset="paper")
    lines = [_line(key, declared, config) for key, declared in declared_keys(config) if not key.startswith(("method.", "views."))]
    view = next(iter(config.views))
    for key, declared in declared_keys(config):
        if key.startswith(f"views.{view}."):
            lines.append(f"views.*.{key.rpartition('.')[2]}: {declared.allowed}{f' [{declared.unit}]' if declared.unit else ''}")
    for name in method_names():
        own = RunConfig.make(name, preset="paper")
        lines += [
            f"{name}: {_line(key, declared, own)}"
            for key, declared in declared_keys(own)
            if key.startswith("method.") and key not in ("method.name", "method.preset")
        ]
    hold(
        "keys.txt",
        "\n".join(lines) + "\n",
        "a key came, went or changed. Each key is a decision: users must know of it, saved configs and scripts hold it. Is it needed, is its name the "
        "field's, are default and range right, and does the old spelling get an error that names the new one?",
    )


def _line(key: str, declared: Key, config: RunConfig) -> str:
    value = config.flat()[key]
    shown = (
        " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )
    return f"{key} = {shown or 'empty'}: {declared.allowed}{f' [{declared.unit}]' if declared.unit else ''}"
