"""Execute the example notebooks and keep their outputs: `python examples/execute.py`, or some by how their names begin; `--check` keeps nothing.

Each runs in an empty folder of its own. What differs from machine to machine is left out of the outputs: paths of that folder, ids of runs, counts of
executions; large pictures are kept in fewer colours and pixels. A notebook whose outputs are not of the kinds that are committed (a table, a picture,
a bar, text) is out of date: exit status 1.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SECONDS = 600  # that a cell may take
PICTURE_BYTES = 60_000
CLEAN = {"MLFLOW_TRACKING_URI", "RAY_ADDRESS"}  # a notebook keeps its runs in its own folder


def executed(path: Path, steps: int = 0) -> Any:
    """The notebook as it comes out of a fresh kernel, in an empty folder. steps: of its runs, in the place of what it says; 0: what it says.

    Raises CellExecutionError where a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, 4)
    for cell in book.cells:
        cell.source = re.sub(r'(steps": )\d+', rf"\g<1>{steps}", cell.source) if steps else cell.source
    around = {name: value for name, value in os.environ.items() if name not in CLEAN}
    with tempfile.TemporaryDirectory(prefix="contray-example-") as folder:
        client = NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute(env=around)
        for cell in book.cells:
            _tidy(cell, folder)
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return book


def _tidy(cell: Any, folder: str) -> None:
    cell.metadata = {}
    if cell.cell_type != "code":
        return
    cell.execution_count = None
    kept: list[Any] = []
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = None
        if output.output_type == "stream" and "IProgress not found" in output.text:
            continue  # tqdm, of a machine without ipywidgets
        if output.output_type == "stream":
            output.text = _scrubbed(output.text, folder)
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        elif "data" in output:
            for kind, text in output.data.items():
                if kind == "image/png":
                    output.data[kind] = _small(text)
                else:
                    output.data[kind] = re.sub(
                        '(?<=data:image/png;base64,)[^"]+', lambda found: _small(found[0]), _scrubbed(text, folder)
                    )
            output.metadata = {}
        kept.append(output)
    cell.outputs = kept


def _small(picture: str) -> str:
    """A PNG in base 64 in as few colours and pixels as it takes to have PICTURE_BYTES."""
    from PIL import Image

    data = base64.b64decode(picture)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    while len(data) > PICTURE_BYTES:
        file = io.BytesIO()
        image.quantize(64).save(file, "PNG", optimize=True)
        data = file.getvalue()
        image = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.LANCZOS)
    return base64.b64encode(data).decode()


def _scrubbed(text: str, folder: str) -> str:
    text = text.replace(f"{folder}/", "").replace(folder, ".")
    return re.sub(r"\b[0-9a-f]{32}\b", "RUN_ID", text)


def kinds(cell: Any) -> Counter[str]:
    """What a cell's outputs are, one by one: table, picture, bar, text."""
    found: Counter[str] = Counter()
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        page = data.get("text/html", "")
        if "image/png" in data or "<img" in page:
            found["picture"] += 1
        elif "<progress" in page:
            found["bar"] += 1
        elif "<table" in page:
            found["table"] += 1
        elif output["output_type"] != "stream" or output["name"] == "stdout":
            found["text"] = 1  # how lines are cut into outputs is chance
    return found


def complaints(path: Path, book: Any, committed: Any) -> list[str]:
    """What is wrong with the outputs: kinds that differ from what is committed, pictures that are too large, paths of this machine."""
    found = []
    for number, (cell, known) in enumerate(zip(book.cells, committed.cells, strict=True)):
        for output in cell.get("outputs", ()):
            picture = output.get("data", {}).get("image/png", "")
            if len(picture) * 3 / 4 > PICTURE_BYTES:
                found.append(f"cell {number}: a picture of {len(picture) * 3 // 4:,} bytes, more than {PICTURE_BYTES:,}")
        if any(str(place) + "/" in str(known.get("outputs")) for place in (Path.home(), tempfile.gettempdir())):
            found.append(f"cell {number}: a path of this machine")
        if kinds(cell) != kinds(known):
            found.append(
                f"cell {number}: gives {dict(kinds(cell))}, committed are {dict(kinds(known))}: run python examples/execute.py"
            )
    return [f"{path.name}, {each}" for each in found]


def main(words: list[str]) -> int:
    """Execute those that are named, or all."""
    import nbformat

    check, names = "--check" in words, [word for word in words if not word.startswith("-")]
    found = [[Path(name)] if Path(name).is_file() else sorted(HERE.glob(f"{name}*.ipynb")) for name in names]
    books = [path for paths in found for path in paths] if names else sorted(HERE.glob("*.ipynb"))
    if names and not all(found):
        raise SystemExit(
            f"no notebook of a name that begins so: {', '.join(name for name, paths in zip(names, found, strict=True) if not paths)}"
        )
    wrong: list[str] = []
    for path in books:
        began = time.monotonic()
        book = executed(path)
        said = complaints(path, book, nbformat.read(path, 4) if check else book)
        wrong += said
        if not check:
            nbformat.write(book, path)
        print(f"{path.name}: {time.monotonic() - began:.0f} s", *said, sep="\n  ", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
