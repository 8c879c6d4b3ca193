"""contray new"""

from __future__ import annotations

import builtins
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UserError, nearest
from . import declared
from .options import Positional, arg

EXAMPLES = (
    ("contray new method my_method", "my_method.py, which contray check passes and contray train trains at once"),
    ("contray new evaluation my_probe --out parts/my_probe.py", "an evaluation; backbone, source and listener likewise"),
    ("contray new source my_photos", "where images come from; what each kind defines: docs/examples"),
)
FORMS = {  # a kind: the file of docs/examples that it begins as, and what one does with it
    "method": ("align_uniform", ("contray check {file}", "contray train {file}")),
    "evaluation": ("nearest_centroid", ("contray eval {file} --run RUN_ID",)),
    "backbone": ("vit_like", ("contray train simclr --backbone.name {file}",)),
    "source": ("numpy_array", ("contray train simclr --data.source {file} --data.{name}.path photos.npz",)),
    "listener": ("csv_listener", ("contray train simclr --track.listeners {file}",)),
}
TAKEN = {"method": declared.methods, "evaluation": declared.evaluations}


@dataclass(frozen=True)
class Options:
    """Write a file of your own to begin with: a small part that works, to be changed. KIND: method, evaluation, backbone, source, listener."""

    kind: Annotated[Positional[str], arg("the kind of part", choices=tuple(FORMS))]
    name: Annotated[Positional[str], arg("its name: letters, digits and _")]
    out: Annotated[Path | None, arg("the file to write; default: NAME.py in this folder")] = None


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the file, and say what to do with it."""
    if options.kind not in FORMS:
        raise UserError(f"new {options.kind}: no such kind; {nearest(options.kind, FORMS)}")
    if not re.fullmatch(r"[A-Za-z]\w*", options.name, re.ASCII):
        mend = re.sub(r"\W+", "_", options.name.removesuffix(".py"), flags=re.ASCII).strip("_0123456789") or "mine"
        raise UserError(f"NAME: got {options.name!r}, takes letters, digits and _, beginning with a letter, such as {mend}")
    if not _free(options.kind, camel(options.name)):
        raise UserError(
            f"NAME: {options.name} would name its class {camel(options.name)}, which is something else already; take another"
        )
    if options.name in TAKEN.get(options.kind, list)():
        raise UserError(f"NAME: {options.name} is the name of one that is there (contray {options.kind}s); take another")
    out = options.out or Path(f"{options.name}.py")
    if out.suffix != ".py":
        raise UserError(f"--out: got {out}, must be a .py file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(form(options.kind, options.name, str(out)))
    except FileExistsError:
        raise UserError(f"{out} is there already, and is not overwritten; give another --out, or move it away") from None
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror})") from None
    print(f"wrote {out}; try it:")
    for line in FORMS[options.kind][1]:
        print(f"  {line.format(file=out, name=options.name)}")
    return 0


def form(kind: str, name: str, file: str) -> str:
    """The example of a kind, under another name."""
    stem = FORMS[kind][0]
    text = re.sub(rf"(docs/examples/)?\b{stem}\.py", lambda found: file, _example(kind))
    return re.sub(rf"\b{camel(stem)}\b", camel(name), text.replace(stem, name))


def camel(name: str) -> str:
    """The name of its class."""
    return "".join(word.capitalize() for word in name.split("_"))


def _free(kind: str, name: str) -> bool:
    """Whether a class of the example may be called so."""
    return not (
        keyword.iskeyword(name)
        or hasattr(builtins, name)
        or (name != camel(FORMS[kind][0]) and re.search(rf"\b{name}\b", _example(kind)))
    )


def _example(kind: str) -> str:
    return (declared.ENGINE / "examples" / f"{FORMS[kind][0]}.py").read_text(encoding="utf-8")
