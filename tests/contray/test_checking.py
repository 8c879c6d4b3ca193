"""`contray check`: methods that are wrong in one way each are found out, in words and with the line; those that are right are not accused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contray.checking import Findings, check_all
from contray.checking.findings import CHECKS
from contray.cli import main
from contray.cli.new import FORMS
from contray.config.registry import name_code

REPO = Path(__file__).parents[2]
OWN = (REPO / "docs" / "examples" / "align_uniform.py").read_text()
MOCO = (REPO / "methods" / "moco.py").read_text()

PROJECTOR = "        self.projector = mlp(self.out_dim, config.projector_hidden, config.projector_dim)\n"
RETURN = '        return {"loss": align'
ROWS = 'h = self.backbone(batch.crops("view"))  # (2B, F)'
UPDATE = """
    @torch.no_grad()
    def update(self, reps, batch, clock):
        self.centre.lerp_(%s.mean((0, 1)), 0.5)

    def potential("""
CENTRE = PROJECTOR + '        self.register_buffer("centre", torch.zeros(self.out_dim)%s)\n'
CENTRED = 'h = reps["view"].transpose(0, 1) - self.centre'


def own(*changes: tuple[str, str]) -> str:
    """The example with these changes."""
    text = OWN
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


# name: the file, the check that finds it out, words of what is said, the line that is named
BROKEN = {
    "negatives_of_this_rank": (own(("gather(x, batch.size)", "x"), ("gather(y, batch.size)", "y")), "ranks", "a row meets other rows", "def loss"),
    "divided_by_own_rows": (own((".sum() / batch.size", ".mean()")), "ranks", "align is about 2 times as much", "def loss"),
    "whole_on_every_rank": (own((" / 2 / world_size()", " / 2")), "ranks", "uniform is about 2 times as much", "def loss"),
    "gradient_of_own_rows": (
        own(("gather(x, batch.size)", "torch.cat([gather(x.detach(), batch.size)[: batch.slot[0]], x, gather(x.detach(), batch.size)[batch.slot[-1] + 1 :]])")),
        "ranks", "is the same on 2 ranks and on one, the gradient of", "def loss",
    ),
    "buffer_of_own_rows": (
        own((PROJECTOR, CENTRE % ""), ("\n    def potential(", UPDATE % 'reps["view"]')), "ranks", "the buffer centre is not the same", "def update",
    ),
    "torch_generator": (own((ROWS, ROWS + "\n        h = h + 0.01 * torch.randn_like(h)")), "draws", "generator of torch", "torch.randn_like"),
    "numpy_generator": (
        own((ROWS, ROWS + "\n        h = h * float(np.random.rand())"), ("import torch\n", "import numpy as np\nimport torch\n")),
        "draws", "generator of numpy.random", "np.random.rand",
    ),
    "numpy_weights": (
        own((PROJECTOR, PROJECTOR + "        self.projector[0].weight.data *= np.random.rand()\n"), ("import torch\n", "import numpy as np\nimport torch\n")),
        "draws", "weights are drawn by NumPy", "np.random.rand",
    ),
    "buffer_in_loss": (
        own((PROJECTOR, CENTRE % ""), (RETURN, "        self.centre.copy_(h.detach().mean((0, 1)))\n" + RETURN)),
        "buffers", "the buffer centre is written in `represent` or `loss`", "self.centre.copy_",
    ),
    "buffer_with_a_graph": (
        own(
            (PROJECTOR, PROJECTOR + '        self.register_buffer("centre", torch.zeros(self.config.projector_dim))\n'),
            (RETURN, '        reps["x"] = gather(x, batch.size).mean(0)\n' + RETURN),
            ("\n    def potential(", '\n    def update(self, reps, batch, clock):\n        self.centre = self.centre + reps["x"]\n\n    def potential('),
        ),
        "buffers", "centre drags the graph of every step along", "def update",
    ),
    "average_forgotten": (
        MOCO.replace("        yield self.backbone, self.key_backbone\n", ""), "average networks", "key_backbone is a frozen copy of backbone", "self.key_backbone =",
    ),
    "average_trained": (
        MOCO.replace("copy.deepcopy(self.head).requires_grad_(False)", "copy.deepcopy(self.head)"), "average networks", "is trained by the optimiser", "def ema_pairs",
    ),
    "dead_parameter": (own((PROJECTOR, PROJECTOR + "        self.spare = nn.Linear(3, 3)\n")), "gradients", "spare.weight and 1 more of spare gets no gradient", "self.spare ="),
    "peeks": (own(("align = (", "align = 0 * batch.labels.sum() + (")), "a step", "has no attribute 'labels'", "batch.labels"),
    "exits": (own((ROWS, ROWS + "\n        raise SystemExit(0)")), "a step", "SystemExit: 0", "raise SystemExit"),
    "exits_when_built": (own((PROJECTOR, PROJECTOR + "        raise SystemExit(0)\n")), "a step", "building it raises SystemExit: 0", "raise SystemExit"),
    "peeks_by_data": (own(("import torch\n", "import sklearn.datasets\nimport torch\n")), "labels", "imports sklearn.datasets", "import sklearn"),
    "peeks_by_view": (
        own(('VIEWS = {"view"', 'VIEWS = {"label": View(source="label", kind="tokens", size=4), "view"'), ('{"view": replace(SMALL_VIEW, crop', '{"label": VIEWS["label"], "view": replace(SMALL_VIEW, crop')),
        "labels", "the view label draws the column label", "VIEWS =",
    ),
    "counter": (
        own((PROJECTOR, PROJECTOR + "        self.count = 0\n"), (RETURN, "        self.count += 1\n        align = align * (1 + self.count)\n" + RETURN)),
        "checkpoints", "self.count changes, and is in no checkpoint", "self.count = 0",
    ),
    "forgotten_buffer": (
        own((PROJECTOR, CENTRE % ", persistent=False"), ("\n    def potential(", UPDATE % 'gather(reps["view"], batch.size)'), ('h = reps["view"].transpose(0, 1)', CENTRED)),
        "checkpoints", "self.centre changes, and is in no checkpoint", '"centre"',
    ),
    "generator_of_its_own": (
        own((PROJECTOR, PROJECTOR + "        self.dice = torch.Generator().manual_seed(0)\n"), (RETURN, "        align = align * torch.rand((), generator=self.dice)\n" + RETURN)),
        "checkpoints", "self.dice changes", "self.dice =",
    ),
    "not_a_number": (own((RETURN, "        align = align + (align - 9).clamp(max=-1).log()\n" + RETURN)), "losses", "the loss of step 1 is nan", "def loss"),
    "root_of_nothing": (own((RETURN, "        align = align + (x - x).square().sum().sqrt()\n" + RETURN)), "losses", "the gradient of .* is not finite", "def loss"),
    "narrow_features": (own(("\n    def potential(", '\n    def encode(self, inputs):\n        return self.backbone(inputs["image"])[:, :3]\n\n    def potential(')), "encode", "must give \\(5, ", "def encode"),
    "drawn_features": (
        own(("\n    def potential(", '\n    def encode(self, inputs):\n        return nn.functional.dropout(self.backbone(inputs["image"]))\n\n    def potential(')),
        "encode", "other features when asked again", "def encode",
    ),
    "rows_said_uncoupled": (own(("    def negatives", "    couples = False\n\n    def negatives")), "chunks", "in 2 chunks the step is another", "couples ="),
    "rows_meet_early": (own((ROWS, ROWS + "\n        h = h + 0.5 * h.roll(1, 0)")), "chunks", "represented in 2 chunks the step is another", "def represent"),
    "refusal_without_field": (
        own(("    def negatives", "    @classmethod\n    def check(cls, config, *, samples, batch, views):\n        if samples < 20:\n            raise ValueError('too few')\n\n    def negatives")),
        "refusals", "begins with no field of Config", "def check",
    ),
    "negatives_below_none": (own(("return batch - 1", "return 7 - batch")), "negatives", "negatives of batches of 16 and 256 are", "def negatives"),
    "no_paper": (own(("PAPER = ", "PAPERS = ")), "exports", "must define PAPER", ""),
    "open_config": (own(("@dataclass(frozen=True)", "@dataclass")), "exports", "frozen", ""),
    "unknown_key": (own(('"optim.warmup_epochs": 0.5', '"optim.warmup": 0.5')), "presets", "preset digits: optim.warmup: unknown key", "PRESETS ="),
    "square_images_alone": (own((ROWS, ROWS.replace('batch.crops("view")', 'batch.crops("vew")'))), "a step", "no view 'vew' in this batch", "vew"),
}  # fmt: skip
# ruff: noqa: E501
FINE = {
    "align_uniform": "",
    "copied_simclr": "ranks",
}  # all checks, or this one; the second imports as built-in files do: from ._base


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    folder = tmp_path_factory.mktemp("methods")
    texts = {name: text for name, (text, *_) in BROKEN.items()}
    texts |= {"align_uniform": OWN, "copied_simclr": (REPO / "methods" / "simclr.py").read_text()}
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    files = [str(folder / f"{name}.py") for name in texts]
    name_code(*files)
    return dict(
        zip(
            texts,
            check_all([(file, "") for file in files], [BROKEN[name][1] if name in BROKEN else FINE[name] for name in texts]),
            strict=True,
        )
    )


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(found: dict[str, Findings], name: str) -> None:
    text, check, words, line = BROKEN[name]
    wrong = [each for finding in found[name].findings if finding.check == check for each in finding.wrong]
    assert wrong, found[name].text()
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(wrong[0].words)
    if line:
        assert line in text.splitlines()[wrong[0].line - 1]
    assert not found[name].ok


@pytest.mark.parametrize("name", FINE)
def test_what_is_right_is_not_accused(found: dict[str, Findings], name: str) -> None:
    assert found[name].ok, found[name].text()
    assert FINE[name] or [each.check for each in found[name].findings if not each.skipped] == list(CHECKS)


def test_check_answers_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(BROKEN["no_paper"][0])
    assert main(["check", str(tmp_path / "mine.py")]) == 1
    shown = capsys.readouterr().out
    assert "mine.py: one thing is wrong" in shown
    assert "exports: the file must define PAPER (Paper)" in shown
    assert main(["check", str(tmp_path / "mine.py"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], [each["check"] for each in told["checks"]]) == (False, ["exports"])
    assert main(["check", "moc"]) == 2
    assert "did you mean moco" in capsys.readouterr().err
    assert main(["check", "moco", "--preset", "digit"]) == 2
    assert "did you mean digits" in capsys.readouterr().err


@pytest.mark.parametrize("kind", FORMS)
def test_new_writes_a_part_under_its_name_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", kind, "my_part"]) == 0
    text = Path("my_part.py").read_text()
    assert FORMS[kind][0] not in text
    assert "docs/examples" not in text
    assert "my_part.py" in text
    compile(text, "my_part.py", "exec")
    Path("my_part.py").write_text("mine")
    assert main(["new", kind, "my_part"]) == 2
    assert "is there already, and is not overwritten" in capsys.readouterr().err
    assert Path("my_part.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["config", "none", "true", "tensor", "exception"])
def test_a_name_that_is_something_elses_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "method", name]) == 2
    assert f"NAME: {name} would name its class {name.capitalize()}, which is something else already" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_new_method_stands_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "method", "my_method", "--out", "parts/mine.py"]) == 0
    assert "contray check parts/mine.py" in capsys.readouterr().out
    assert main(["methods", "parts/mine.py", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["method"] == "parts/mine.py"
    assert set(row["presets"]) == {"paper", "cifar", "digits"}
