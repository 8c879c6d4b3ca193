"""Parts of one's own in tests: installed as other people's packages are, and the smallest runs that use them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contray.config import registry

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TINY: dict[str, Any] = {
    "data.workers": 0, "views.view.size": 16, "backbone.width": 4, "method.projector_hidden": 16, "method.projector_dim": 8,
    "train.batch_size": 16, "train.precision": "fp32", "train.steps": 4, "train.log_every": 1, "train.checkpoint_steps": 2,
    "train.checkpoint_seconds": 1e6, "eval.every_epochs": 0.5, "eval.linear.epochs": 2, "eval.linear.lrs": (1.0,), "eval.linear.decays": (0.0,),
    "track.model": False, "scale.workers": (0, 0), "scale.cpus_per_worker": 1,
}  # fmt: skip


def install(folder: Path, group: str, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    """Put a package with entry points on the path, as pip leaves it: name = a module in `folder`."""
    info = folder / f"{group.replace('.', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {group.replace('.', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{name} = {to}\n" for name, to in modules.items()))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")  # workers
    for to in modules.values():
        monkeypatch.delitem(sys.modules, to.partition(":")[0], raising=False)


def placed(way: str, example: Path, group: str, name: str, module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What an example is called by: its path in `folder`, which becomes the current one, or `name`, an entry point that leads to `module`."""
    monkeypatch.setattr(registry, "_named", {})
    monkeypatch.chdir(folder)
    if way == "path":
        shutil.copy(example, folder)
        return example.name
    (folder / "site").mkdir()
    shutil.copy(example, folder / "site" / f"{module}.py")
    install(folder / "site", group, monkeypatch, **{name: module})
    return name


def images(file: Path, count: int = 40, **changed: Any) -> Path:
    """An .npz of dark and light noise, 16 px; `changed`: arrays in place of these."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, size in (("train", count), ("test", 10)):
        labels = np.arange(size) % 2
        arrays[f"{part}_images"] = (rng.integers(0, 128, (size, 16, 16, 3)) + 128 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"{part}_labels"] = labels
    arrays |= {"classes": np.array(["dark", "light"]), **changed}
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return file
