"""A method of one's own that draws where no other worker and no later run can follow is refused, wherever it does so."""

from __future__ import annotations

from pathlib import Path

import pytest

from contray import RunConfig, registry
from contray.errors import OnAllRanks
from contray.training.checkpoint import Storage

from .test_loop import TINY, run

SIMCLR = Path(__file__).parents[2] / "methods" / "simclr.py"
END = '        return {"loss": loss, "contrast_top1": accuracy}'
PLACES = {
    "the loss": (END, f"        loss = loss + 0.01 * torch.randn(()) * z[0].sum()\n{END}"),
    "from a later step on": (
        END,
        f"        if batch.step == 2:\n            loss = loss + 0 * torch.rand(()) * z[0].sum()\n{END}",
    ),
    "represent": ("batch.crops(name))  # (V*B, F)", "nn.functional.dropout(batch.crops(name)))"),
    "update": (
        "    def project(self",
        "    def update(self, reps, batch, clock):\n        torch.randperm(3)\n\n    def project(self",
    ),
}


def mine(folder: Path, *change: str) -> RunConfig:
    file = folder / "mine.py"
    text = SIMCLR.read_text()
    if change:
        assert change[0] in text
        text = text.replace(*change)
    file.write_text(text)
    registry.name_code(str(file))
    return RunConfig.make(
        str(file),
        {**TINY, "views.view.size": 16, "train.steps": 4, "train.checkpoint_steps": 2, "train.precision": "fp32"},
        preset="digits",
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_draw_from_the_global_generator_ends_the_run_by_name(place: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    storage.create()
    with pytest.raises(
        OnAllRanks, match=r"^method\.name: .*mine\.py draws from torch's global generator in step (1|3) "
    ) as refused:
        run(mine(tmp_path, *PLACES[place]), storage)
    assert "batch.rand(name, shape)" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_draws_of_the_batch_are_welcome(tmp_path: Path) -> None:
    file = (END, f'        loss = loss + 0 * batch.rand("mine").sum()\n{END}')
    assert run(mine(tmp_path, *file))[0].finished
