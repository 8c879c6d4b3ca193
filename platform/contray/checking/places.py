"""Where in a file of one's own something happens: by its lines while they run, or by what it declares."""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ..config.registry import told


@dataclass(frozen=True)
class Raised:
    """An error of the method's code, in words. line: of the method's file, 0: none of it; at: when."""

    words: str
    line: int
    at: float = 0.0


def raised(error: BaseException, file: str, at: float = 0.0) -> Raised:
    """What was raised, and by which line of the file."""
    path = str(Path(file).expanduser().resolve()) if file.endswith(".py") else file
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return Raised(told(error, None)[:300], lines[-1] or 0 if lines else 0, at)


def line_where(file: str, run: Callable[[], object], state: Callable[[FrameType], Any]) -> int:
    """The first line of the file after which `state` of the frame gives another value than before, while `run()`; 0: none does."""
    found: list[int] = []
    last: list[Any] = []

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != file or found:
            return None
        if not last:
            last.append(state(frame))
        at = [frame.f_lineno]

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            if found:
                return None
            now = state(frame)
            if now != last[0]:
                last[0] = now
                found.append(at[0])
            at[0] = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except (Exception, SystemExit):  # what it raises is told elsewhere
        pass
    finally:
        sys.settrace(before)
    return found[0] if found else 0


def line_of(file: str, name: str) -> int:
    """The line at which the file makes `self.name`, registers a buffer of that name, defines a function or assigns a name so called; 0: none."""
    try:
        tree = ast.parse(Path(file).read_text())
    except (OSError, SyntaxError, ValueError):
        return 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(
                (isinstance(each, ast.Attribute) and each.attr == name and ast.unparse(each.value) == "self")
                or (isinstance(each, ast.Name) and each.id == name)
                for each in targets
            ):
                if isinstance(node, ast.AnnAssign) and node.value is None:
                    continue
                return node.lineno
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node.lineno
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "self.register_buffer"
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and node.args[0].value == name
        ):
            return node.lineno
    return 0
