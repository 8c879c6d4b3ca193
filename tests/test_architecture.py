"""The structure that the design promises: who imports whom, what stays light, what every method's file offers."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from contray import RunConfig, data
from contray.config.registry import load_method, method_names
from contray.config.spaces import load_space, space_names

REPO = Path(__file__).parents[1]
ENGINE = REPO / "platform" / "contray"
VARIANTS = sorted((REPO / "methods" / "variants").glob("[!_]*.py"))
METHOD_FILES = sorted((REPO / "methods").glob("*.py"))
ALL_PRESETS = [(name, preset) for name in method_names() for preset in load_method(name).presets]


def imports_of(path: Path) -> Iterator[str]:
    """The absolute names of all modules and members that a file imports, wherever in it; `importlib.import_module("x")` too."""
    root = REPO / "platform" if path.is_relative_to(ENGINE) else REPO
    package = list(path.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            yield from (word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str))


def imports(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for path in sorted(paths):
        yield from ((path, name) for name in imports_of(path))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def run(code: str) -> str:
    """What `code` prints in a fresh process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout


# ---------------------------------------------------------------- imports


def test_platform_is_no_package() -> None:
    assert not (REPO / "platform" / "__init__.py").exists(), "it would shadow the standard library's `platform`"
    assert not run("import platform; print(platform.__file__)").startswith(str(REPO)), "as `python -m` sees it in the root"


def test_methods_are_pure_torch() -> None:
    own = tuple(f"methods.{path.stem}" for path in (REPO / "methods").glob("_[a-z]*.py"))
    for path, name in imports([*METHOD_FILES, *VARIANTS]):
        allowed = (*own, *(f"methods.{each}" for each in method_names() if path in VARIANTS))
        assert name.split(".")[0] in sys.stdlib_module_names or within(name, "torch", *allowed), f"{path.name} imports {name}"


def test_variants_are_found_by_name_and_listed_nowhere() -> None:
    names = [path.stem for path in VARIANTS]
    assert not {*names} & {*method_names()}
    for name in names:
        file = load_method(name)
        (base,) = file.method.__bases__
        assert issubclass(file.config, sys.modules[base.__module__].Config), (
            f"{name}: what it ablates is added to {base.__name__}'s Config"
        )


def test_spaces_import_domains_alone() -> None:
    for path, name in imports((REPO / "tune_spaces").glob("*.py")):
        assert within(name, "ray.tune", "contray.config", "contray.studies"), f"{path.name} imports {name}"


def test_the_engine_reaches_methods_through_the_registry() -> None:
    for path, name in imports(ENGINE.rglob("*.py")):
        assert not within(name, "contray.tune_spaces", "tune_spaces", "methods"), f"{path.name} imports {name}"
        own = ["_base", "_norms", "_parts", "_ranks", *(["_imported"] if path.name == "registry.py" else [])]
        allowed = [f"contray.methods.{part}" for part in own]
        assert not within(name, "contray.methods") or within(name, *allowed), f"{path.name} imports {name}"


# From the ground up: each imports those before it alone
ROOMS = [
    *[
        "errors",
        "processors",
        "drawing",
        "tables",
        "methods",
        "storage",
        "config",
        "data",
        "model",
        "evaluation",
        "track",
        "pictures",
    ],
    *[
        "planning",
        "training",
        "tuning",
        "studies",
        "exchange",
        "reporting",
        "inspection",
        "machines",
        "checking",
        "api",
        "cli",
        "__main__",
    ],
]


def room_of(path: Path) -> str:
    return path.relative_to(ENGINE).with_suffix("").parts[0]


def test_imports_run_downhill() -> None:
    face = ENGINE / "__init__.py"  # what it offers it imports when it is asked for
    for path, name in imports(each for each in ENGINE.rglob("*.py") if each != face):
        if within(name, "contray"):
            own, parts = ROOMS.index(room_of(path)), name.split(".")
            room = parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""
            assert room, f"{path.name} imports {name} from the package's face: name the module"
            assert ROOMS.index(room) <= own, f"{path.relative_to(ENGINE)} imports {name}, which lies above {ROOMS[own]}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [("ray", {"training", "tuning", "studies", "exchange", "machines"}), ("mlflow", {"track"}), ("timm", {"model"})],
)
def test_libraries_are_known_where_they_belong(library: str, rooms: set[str]) -> None:
    found = {room_of(path) for path in ENGINE.rglob("*.py") for name in imports_of(path) if within(name, library)}
    assert found == rooms


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in ENGINE.rglob("*.py")} - {"__init__"}
    assert rooms == set(ROOMS) - {"methods"}
    assert len(list(ENGINE.glob("*.py"))) <= 6


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in ENGINE.rglob("*.py") if path.read_text()}
    assert max(lengths.values()) <= 400, max(lengths, key=lengths.__getitem__)
    assert statistics.median(lengths.values()) < 120


def test_science_loop_and_data_need_neither_ray_nor_mlflow() -> None:
    modules = [f"contray.methods.{path.stem}" for path in METHOD_FILES if path.stem != "__init__"]
    modules += [f"contray.methods.variants.{path.stem}" for path in VARIANTS]
    modules += [
        "contray.training.loop",
        "contray.data",
        "contray.evaluation",
        "contray.evaluation.common.features",
        "contray.model.encoder",
    ]
    run(f"""
import sys, importlib
sys.modules["ray"] = sys.modules["mlflow"] = None
for name in {modules}:
    importlib.import_module(name)
""")


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_is_light(words: list[str]) -> None:
    heavy = {"torch", "ray", "mlflow", "numpy", "tyro", "rich", "yaml", "cv2", "sklearn", "pyarrow"}
    loaded = run(f"""
import sys
from contray.cli import main
assert main({words}) == 0
print()
print(*sorted(set(sys.modules) & {heavy}))
""").splitlines()[-1]
    assert loaded == ""


def test_help_answers_at_once() -> None:
    subprocess.run([sys.executable, "-m", "contray", "--help"], capture_output=True, check=True, cwd=REPO / "platform", timeout=5)


# ---------------------------------------------------------------- methods


def test_method_files_stay_short() -> None:
    assert not [path.name for path in METHOD_FILES if len(path.read_text().splitlines()) > 400]
    assert not [path.name for path in VARIANTS if len(path.read_text().splitlines()) > 120]


def test_most_method_files_fit_on_a_few_screens() -> None:
    """Without the words for their pages."""

    def lines(text: str) -> int:
        told = [
            node
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("METRICS", "DIFFERS")
        ]
        return len(text.splitlines()) - sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in told)

    assert statistics.median(lines((REPO / "methods" / f"{name}.py").read_text()) for name in method_names()) <= 150


@pytest.mark.parametrize("name", method_names())
def test_presets_resolve_and_repeat_themselves(name: str) -> None:
    presets = load_method(name).presets
    for preset in presets:
        config = RunConfig.make(name, preset=preset)
        again = RunConfig.from_yaml(config.to_yaml())
        assert again == config
        assert again.run_name == config.run_name
        assert config.method.preset == preset
        assert presets[preset].about, preset
    assert {"paper", "cifar", "digits"} <= set(presets)


def test_momentum_suits_the_length_of_digits_runs() -> None:
    """1 / (1 - m) steps are what an average over past encoders looks back on: at most a twentieth of the run."""
    for name, preset in ALL_PRESETS:
        if preset.startswith("digits") and hasattr(load_method(name).config, "momentum"):
            config = RunConfig.make(name, preset=preset)
            samples = len(data.open_source(config.data).train)
            steps = config.train.steps or config.train.epochs * (samples // config.train.batch_size)
            assert 1 / (1 - config.method.momentum) <= steps / 20 + 1e-9, (name, preset)


NAMED = {
    "cpc": "v1 v2", "cpc_sequence": "sequence", "cmc": "lab rgbd", "deepcluster": "v1", "swav": "b256", "byol": "e100 e300 gn_ws",
    "moco_v3": "vit_s vit_b", "dino": "vit_b resnet50", "mae": "vit_l small", "cae": "dalle small", "clip": "small shared",
    "ibot": "vit_b", "ijepa": "vit_l", "dinov2": "vit_s",
}  # fmt: skip


def test_methods_have_the_presets_that_papers_compare() -> None:
    for name, presets in NAMED.items():
        assert set(presets.split()) <= set(load_method(name).presets), name


def test_presets_are_what_their_names_say() -> None:
    epochs = {preset: RunConfig.make("byol", preset=preset).train.epochs for preset in ("e100", "e300", "paper")}
    assert epochs == {"e100": 100, "e300": 300, "paper": 1000}
    assert RunConfig.make("swav", preset="b256").train.batch_size == 256
    nets = {(name, preset): RunConfig.make(name, preset=preset).backbone.name for name, preset in ALL_PRESETS}
    assert nets["dino", "paper"] == nets["moco_v3", "vit_s"] == "vit_small"
    assert nets["dino", "vit_b"] == nets["moco_v3", "vit_b"] == nets["mae", "paper"] == nets["cae", "dalle"] == "vit_base"
    assert nets["dino", "resnet50"] == nets["moco_v3", "paper"] == nets["clip", "paper"] == "resnet50"
    assert nets["mae", "vit_l"] == "vit_large"


@pytest.mark.parametrize("name", space_names())
def test_spaces_search_keys_that_their_method_has(name: str) -> None:
    space = load_space(name)
    assert set(space.SPACE) <= set(RunConfig.make(space.METHOD, getattr(space, "BASE", {})).flat())
