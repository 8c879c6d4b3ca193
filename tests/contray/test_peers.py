"""The benchmark of training speed beside lightly's runs, on a few drawn images."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

pytest.importorskip("lightly")
pytest.importorskip("pytorch_lightning")

from tests.benchmarks import peers


def drawn(file: Path, count: int) -> None:
    rng, cells = np.random.default_rng(0), []
    for _ in range(count):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file_bytes := io.BytesIO(), "png")
        cells.append({"bytes": file_bytes.getvalue(), "path": None})
    parquet.write_table(pa.table({"image": cells, "label": [i % 2 for i in range(count)]}), file)


@pytest.mark.ray
@pytest.mark.timeout(600)  # two processes with as many threads as cores, whoever has these
def test_speed_measures_both_libraries(tmp_path: Path) -> None:
    for name in ("train", "test"):
        drawn(tmp_path / f"{name}.parquet", 60)
    cases, file = ["lightly", "contray fp32"], tmp_path / "found.json"
    words = ["--images", "48", "--rounds", "1", "--steps", "1", "--batch", "4", "--workers", "0", "--data.workers", "0"]
    found = peers.main(["speed", "--data", str(tmp_path), *words, "--json", str(file), "--cases", *cases])
    assert list(found["images_per_second"]) == cases
    assert all(rate > 0 for rates in found["images_per_second"].values() for rate in rates)
    assert found["ratio_to_lightly"]["lightly"] == [1.0]
    assert found["contray_keys"] == {"data.workers": ["0"]}
    assert json.loads(file.read_text()) == found


def test_speed_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--cases"):
        peers.main(["speed", "--data", str(tmp_path), "--cases", "contray fp32"])
    with pytest.raises(SystemExit, match="unknown: --nonsense"):
        peers.main(["speed", "--data", str(tmp_path), "--nonsense"])
