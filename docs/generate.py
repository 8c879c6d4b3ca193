"""What of the site is written by the code itself: a page per method, commands, keys, Python, evaluations, search spaces. MkDocs calls it as a hook.

Nothing that it makes is kept: a page is as true as what it is made of.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import contray
from contray import RunConfig
from contray.cli.main import COMMANDS, command_of
from contray.cli.options import options_of
from contray.cli.results import evaluation_rows, method_rows, space_rows
from contray.config import declared_keys
from contray.config.evaluations import load_evaluation
from contray.config.keys import Key
from contray.config.registry import MethodFile, builtin, load_method
from contray.methods._base import View
from contray.reporting.measured import page as records_page
from contray.tables import Table

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("backbone", "data", "augment", "views", "optim", "train", "scale", "eval", "track", "seed")
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
API = {  # beside what `import contray` offers
    "What comes back": (
        "contray.training.result.Result", "contray.evaluation._base.Measured", "contray.model.encoder.Encoder", "contray.tables.Table",
    ),
    "For methods of your own": tuple(f"contray.methods._base.{name}" for name in ("Method", "Batch", "Clock", "View", "Paper", "Preset", "setting")),
    "For other parts of your own": ("contray.evaluation._base.Subject", "contray.track.listeners.Listener"),
}  # fmt: skip


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The methods' pages join the navigation."""
    assert config.nav is not None
    (section,) = (entry["Methods"] for entry in config.nav if "Methods" in entry)
    section[1:] = [{name: f"methods/{name}.md"} for name in builtin("method")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of files that are read in the repository too: a method leads to its page, what the site does not have is named."""
    here = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        own = (Path(here).parent / target).as_posix()
        own = str(Path("/docs", own).resolve())
        if own.startswith("/docs/"):
            return match[0]
        if (found := re.fullmatch(r"/methods/([a-z]\w*)\.py", own)) and found[1] in builtin("method"):
            up = "../" * here.count("/")
            return f"[{text}]({up}methods/{found[1]}.md#source)"
        return text if "`" in text else f"`{own.lstrip('/')}`{anchor and f' ({anchor})'}"

    return LINK.sub(led, markdown)


def pages() -> Iterator[tuple[str, str]]:
    """(path in the site, Markdown) of every page that is made."""
    yield "methods/index.md", _methods()
    for name in builtin("method"):
        yield f"methods/{name}.md", method_page(name)
    yield "reference/commands.md", commands_page()
    yield "reference/keys.md", keys_page()
    yield "reference/api.md", api_page()
    yield "reference/evaluations.md", evaluations_page()
    yield "reference/spaces.md", spaces_page()
    yield "reference/records.md", records_page()
    yield "CHANGELOG.md", (ROOT / "CHANGELOG.md").read_text()
    yield "CONTRIBUTING.md", _from_root((ROOT / "CONTRIBUTING.md").read_text())


def _from_root(text: str) -> str:
    """A file of the repository's root, as if it lay in docs/."""
    return re.sub(r"\]\((?!https?://|#)(docs/)?", lambda match: "](" if match[1] else "](../", text)


# ---------------------------------------------------------------- methods


def _methods() -> str:
    columns = ("year", "contrasts", "negatives", "queue", "EMA", "predictor", "crops")
    rows = ((f"[{row['method']}]({row['method']}.md)", *(str(row[column]) for column in columns)) for row in method_rows())
    listed = _table(("method", *columns), rows)
    return f"""# Methods

Each is one file of pure torch that reads as its paper does, pinned to the authors' code by recorded values. A method's page has what it is, where it differs
from the paper, its presets, keys and views, what its logged values mean, what was measured here, and the file itself.

{listed}

`contray methods` prints this table and the presets, `contray train METHOD --help` the keys. [A method of your own](../howto/method.md) needs no fork.
"""


def method_page(name: str) -> str:
    """The page of a method, from its file."""
    file = load_method(name)
    source = Path(inspect.getfile(file.method))
    title, about = _docstring(file)
    facts = next(row for row in method_rows() if row["method"] == name)
    columns = ("contrasts", "negatives", "queue", "EMA", "predictor", "crops")
    folder = {view.source for view in file.views.values()} == {"image"}
    own = f"\ncontray train {name} --data.source photos/" if folder else ""
    needs = "" if folder else " Its views want columns that a folder of images does not have."
    numbers = "Numbers are the papers', of `cifar` those of other recipes for the same network: what to aim at, not what was measured here."
    parts = [
        f"# {title}",
        about,
        f"Paper: [{facts['paper']}]({facts['url']}), {facts['year']}.",
        _table(columns, [[str(facts[key]) for key in columns]]),
        f"```bash\ncontray train {name} --preset digits{own}\n```",
        f"What to use it for, and how: [the tutorial](../tutorial.md), [your data](../howto/data.md).{needs}",
        "## What differs from the paper",
        "\n".join(f"- {_marked(line)}." for line in file.differs) or "Nothing that is known.",
        "## Presets",
        numbers,
        _presets(file),
        "## What it logs",
        _table(("metric", "what it says"), ((f"`{key}`", _marked(told)) for key, told in file.metrics.items())),
        "Beside these, [every run logs](../reference/metrics.md) its rate, gradients, pace, and what is measured while it trains. N are the rows of the global batch.",
        "## Keys",
        _table_of_keys(_method_keys(name)),
        "## Views",
        "What is drawn of each sample, in the order in which it is applied; `views.NAME.KEY` changes one, [all keys](../reference/keys.md#views).",
        _views(file),
    ]
    if measured := _measured(name):
        parts += ["## Measured here", *measured]
    parts += ["## Source { data-search-exclude }", f"`methods/{source.name}`", f"```python\n{source.read_text().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _docstring(file: MethodFile) -> tuple[str, str]:
    """(title, what the file says of itself without its legend of letters)."""
    text = inspect.getdoc(inspect.getmodule(file.method)) or file.name
    title, *rest = text.split("\n\n")
    kept = [part for part in rest if not re.match(r"B batch rows", part)]
    return title.rstrip("."), re.sub(r"(https://[^\s,;()]+)", r"<\1>", "\n\n".join(kept))


def _marked(text: str) -> str:
    """A sentence with its dotted keys as code."""
    return re.sub(r"\b((?:method|backbone|train|optim|data|eval|views)\.\w+(?:\.\w+)*)", r"`\1`", text)


def _presets(file: MethodFile) -> str:
    rows = []
    for name, preset in file.presets.items():
        changed = " ".join(f"`{key} {_value(value)}`" for key, value in preset.settings.items())
        rows.append((f"`{name}`", preset.about, changed or "-"))
    recipe = " ".join(f"`{key} {_value(value)}`" for key, value in file.recipe.items())
    return _table(("preset", "what to expect", "sets, on top of the recipe"), rows) + f"\n\nThe recipe: {recipe}"


def _method_keys(name: str) -> Iterator[tuple[str, Key, Any]]:
    config = RunConfig.make(name, preset="paper")
    plain = dict(dataclasses.asdict(type(config.method)()))
    for key, declared in declared_keys(config):
        own = key.partition(".")[2]
        if key.startswith("method.") and own not in ("name", "preset"):
            yield key, declared, plain[own]


def _views(file: MethodFile) -> str:
    """A row for each different view: its name, the presets that have it, and what it is."""
    found: dict[tuple[str, str], list[str]] = {}
    for preset, chosen in file.presets.items():
        for name, view in (chosen.views or file.views).items():
            found.setdefault((name, _drawn(view)), []).append(preset)
    return _table(
        ("view", "in the presets", "drawn as"),
        ((f"`{name}`", ", ".join(presets), text) for (name, text), presets in found.items()),
    )


def _drawn(view: View) -> str:
    """What a view is, in its keys: size and crop always, others where they do something."""
    neutral = View()
    shown = {"size", "crop", "flip"} if view.kind in ("image", "patches") else {"size"}
    fields = [spec.name for spec in dataclasses.fields(View)]
    return ", ".join(
        f"{name} {_value(getattr(view, name))}"
        for name in fields
        if name in shown or getattr(view, name) != getattr(neutral, name)
    )


def _measured(name: str) -> list[str]:
    """Its row in every table of RESULTS.md that has a column `method`, with the command."""
    found = []
    for section in re.split(r"^## ", (ROOT / "docs" / "RESULTS.md").read_text(), flags=re.MULTILINE)[1:]:
        title, lines = section.partition("\n")[0], section.splitlines()
        rows = [row for row in lines if row.startswith(f"| {name} |")]
        heads = [i for i, line in enumerate(lines) if line.startswith("| method |")]
        command = re.search(r"`((?:python|contray) [^`]+)`", section)
        if rows and heads and command:
            found.append(f"**{title}** (`{command[1]}`); what it stands on: [Results](../RESULTS.md#{_slug(title)})")
            found.append("\n".join([*lines[heads[0] : heads[0] + 2], rows[0]]))
    return found


def _slug(title: str) -> str:
    from markdown.extensions.toc import slugify

    return slugify(re.sub(r"[`*]", "", title), "-")


# ---------------------------------------------------------------- commands and keys


def commands_page() -> str:
    """Every command, from what its help is made of."""
    parts = [
        "# Commands",
        "`contray COMMAND --help` prints the same with the keys that matter most, `--help-all` with all of them. Options are given as "
        "`--option value`; [keys](keys.md) of the config as `--section.key value`.",
        _table(
            ("command", "what it does"), ((f"[{name}](#contray-{name.replace(' ', '-')})", _about(name)) for name in COMMANDS)
        ),
    ]
    for name in COMMANDS:
        command = command_of(name)
        known = options_of(command.Options)
        places = " ".join(
            each.flag if each.required else f"[{each.flag}{' ...' if each.many else ''}]" for each in known if each.positional
        )
        parts += [
            f"## contray {name}",
            _about(name),
            f"```text\nusage: {' '.join(f'contray {name} {places} [OPTIONS]'.split())}\n```",
            "```bash\n" + "\n".join(f"# {meaning}\n{line}" for line, meaning in command.EXAMPLES) + "\n```",
            _table(("option", "takes", "what it does"), (_option(each) for each in known)),
        ]
        if hasattr(command, "keys"):
            parts.append("Takes [keys](keys.md) of the config besides.")
    return "\n\n".join(parts) + "\n"


def _about(name: str) -> str:
    return " ".join((inspect.getdoc(command_of(name).Options) or "").split())


def _option(option: Any) -> tuple[str, str, str]:
    default = (
        f" (default: `{_value(option.default)}`)" if option.default not in (dataclasses.MISSING, None, "", (), False) else ""
    )
    return f"`{option.flag}`", "" if option.kind is bool and not option.default else option.allowed, option.note.help + default


def keys_page() -> str:
    """Every key of the config but a method's own, which stand on its page."""
    config = RunConfig.make("simclr")
    found: dict[str, list[tuple[str, Key, Any]]] = {section: [] for section in SECTIONS}
    parts = {**config.parts, **{prefix: kind() for prefix, kind in _library_parts().items()}}
    for key, declared in declared_keys(config, parts):
        section = key.partition(".")[0]
        if section in found:
            found[section].append((re.sub(r"^views\.\w+", "views.NAME", key), declared, _default(config, parts, key)))
    text = [
        "# Keys",
        "The whole config of a run: what a method's recipe and a preset set, `--section.key value` on the command line changes, a search space varies, and "
        "`config.yaml` in a run's folder keeps. A method's own keys (`method.*`) stand on [its page](../methods/index.md). "
        "Defaults are those of contray; a method's recipe and presets set others.",
    ]
    for section in SECTIONS:
        about = (
            inspect.getdoc(type(getattr(config, section)))
            if section not in ("seed", "views")
            else inspect.getdoc(View)
            if section == "views"
            else ""
        )
        text += [f"## {section}", (about or "").replace("\n", " "), _table_of_keys(found[section], anchors=True)]
    return "\n\n".join(filter(None, text)) + "\n"


def _library_parts() -> Mapping[str, type]:
    from contray.config.sections import LIBRARIES, LibraryConfig

    return {f"backbone.{library.rstrip('/')}": LibraryConfig for library in LIBRARIES}


def _default(config: RunConfig, parts: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.rpartition(".")
    holder = parts.get(section) or (
        View() if section.startswith("views.") else type(getattr(config, section))() if section else RunConfig
    )
    return getattr(type(holder)() if section in parts else holder, name) if section else 0


def _table_of_keys(keys: Iterable[tuple[str, Key, Any]], anchors: bool = False) -> str:
    rows = []
    for key, declared, default in keys:
        unit = f" [{declared.unit}]" if declared.unit else ""
        anchor = f'<a id="{key}"></a>' if anchors else ""
        rows.append((f"{anchor}`{key}`", f"{declared.help}{unit}", declared.allowed, f"`{_value(default)}`"))
    return _table(("key", "what it is", "takes", "default"), rows)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return " ".join(map(_value, value)) or "empty"
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


# ---------------------------------------------------------------- Python, evaluations, spaces


def api_page() -> str:
    """What `import contray` offers, by its own list of names, and what else one's own code meets."""
    names = {name: getattr(contray, name) for name in contray.__all__}
    errors = [name for name, value in names.items() if isinstance(value, type) and issubclass(value, Exception)]
    classes = [name for name, value in names.items() if isinstance(value, type) and name not in errors]
    functions = [name for name in names if name not in (*errors, *classes)]
    parts = ["# Python", "```python\nimport contray\n```", "Heavy modules are imported when they are first used."]
    parts += ["## Functions"]
    for name in functions:  # each has the file of its name, whose own docstring says no more
        parts += [f"[](){{#contray.{name}}}", f"::: contray.{name}.{name}"]
    parts += ["## Config", *(f"::: contray.{name}" for name in classes)]
    for title, paths in API.items():
        parts += [f"## {title}", *(f"::: {path}" for path in paths)]
    parts += ["## Errors", *(f"::: contray.{name}" for name in errors)]
    return "\n\n".join(parts) + "\n"


def evaluations_page() -> str:
    """What can be measured, from the evaluations' files."""
    rows = evaluation_rows()
    text = [
        "# Evaluations",
        "`contray eval NAME --run RUN_ID` measures a trained encoder; `eval.final` and `eval.online` name those that a run makes itself. "
        "[How they differ](../concepts/protocols.md), [what their metrics are](metrics.md).",
        _table(
            ("evaluation", "measures", "needs"),
            ((f"[{row['evaluation']}](#{row['evaluation']})", row["about"], ", ".join(row["needs"]) or "-") for row in rows),
        ),
    ]
    for row in rows:
        file = load_evaluation(row["evaluation"])
        module = inspect.getdoc(importlib.import_module(file.evaluate.__module__)) or ""
        own = RunConfig.make(overrides={"eval.final": [file.name]})
        keys = [
            (key, each, getattr(file.config(), key.rpartition(".")[2]))
            for key, each in declared_keys(own)
            if key.startswith(f"{file.prefix}.")
        ]
        ranks = f"Trials can be ranked by {', '.join(f'`{name}`' for name in row['ranks'])}." if row["ranks"] else ""
        text += [
            f"## {row['evaluation']}", f"{row['about'][0].upper()}{row['about'][1:]}. [{row['paper']}]({row['url']}), {row['year']}. {ranks}", module,
            *([_table_of_keys(keys)] if keys else []),
        ]  # fmt: skip
    return "\n\n".join(filter(None, text)) + "\n"


def spaces_page() -> str:
    """What can be searched, from the spaces' files."""
    text = [
        "# Search spaces",
        "`contray tune SPACE` searches one; a space of your own is [one file](../howto/sweep.md#a-space-of-your-own).",
    ]
    for row in space_rows():
        path = ROOT / "tune_spaces" / f"{row['space']}.py"
        text += [
            f"## {row['space']}", row["about"], f"Method: [{row['method']}](../methods/{row['method']}.md)",
            _table(("key", "over"), ((f"`{key}`", over) for key, over in row["keys"].items())), f"```bash\ncontray tune {shlex.quote(row['space'])}\n```",
            f"```python\n{path.read_text().rstrip()}\n```",
        ]  # fmt: skip
    return "\n\n".join(text) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = Table("", *columns, left=range(len(columns)))
    for row in rows:
        table.add(*row)
    return table.markdown()
