"""A method of one's own: where it draws what no other worker and no later run can follow, and how many steps it may fail in."""

from __future__ import annotations

from pathlib import Path

import pytest

from contray import RunConfig
from contray.config import registry
from contray.errors import OnAllRanks
from contray.storage.folder import Storage
from contray.training import loop
from contray.training.agreement import NonFiniteLoss

from .test_loop import TINY, DiesAt, Killed, run

SIMCLR = Path(__file__).parents[2] / "methods" / "simclr.py"
END = '        return {"loss": loss, "contrast_top1": accuracy}'
CROPS = 'encode_crops(self.backbone, batch, "view", "small")'
PLACES = {
    "the loss": (END, f"        loss = loss + 0.01 * torch.randn(()) * z[0].sum()\n{END}"),
    "from a later step on": (
        END,
        f"        if batch.step == 2:\n            loss = loss + 0 * torch.rand(()) * z[0].sum()\n{END}",
    ),
    "represent": (CROPS, f"{{name: nn.functional.dropout(h) for name, h in {CROPS}.items()}}"),
    "update": (
        "    def project(self",
        "    def update(self, reps, batch, clock):\n        torch.randperm(3)\n\n    def project(self",
    ),
}


def mine(folder: Path, here: str, new: str) -> RunConfig:
    file = folder / "mine.py"
    text = SIMCLR.read_text()
    assert here in text
    file.write_text(text.replace(here, new))
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


def test_the_most_steps_that_are_left_out_are_of_the_run_not_of_one_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MOST_SKIPPED", 2)
    storage = Storage(str(tmp_path / "run"))
    storage.create()
    config = mine(tmp_path, END, f"        if batch.step in (0, 1, 3):\n            loss = loss * float('nan')\n{END}")
    config = config.replace({"train.on_nan": "skip"})
    with pytest.raises(Killed):
        run(config, storage, DiesAt(3))
    with pytest.raises(NonFiniteLoss, match="step 4: the gradients are not finite after 2 steps were left out already"):
        run(config, storage)
