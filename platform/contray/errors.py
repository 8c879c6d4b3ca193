"""Errors that a user can mend. The CLI prints them as one line and exits with code 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def shown(text: object) -> str:
    r"""Text on one line that every terminal, file and store takes: control characters and bytes that are no UTF-8 as \n, \x1b, \xe9."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        # Python hands out the bytes of a path that are no UTF-8 as U+DC80 to U+DCFF
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()

    return _UNPRINTABLE.sub(escape, str(text))


class UserError(Exception):
    """Something that the user asked for cannot be done; the message is one line that says what, and how to mend it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shown(message))


class ConfigError(UserError):
    """A refused value of the config. The message starts with the dotted name."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        return (ConfigError, (self.key, self.problem))


class DataError(UserError):
    """A data source that cannot be read or does not hold what was asked of it."""


class OnAllRanks(UserError):
    """Raised by every rank in the same step, or by the first when the others are through: new workers would only meet it again."""


def check_writable(option: str, path: Path) -> None:
    """Make the folder of a file that is to be written. Raises UserError, before there is work to lose, where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            path.open("xb").close()
            path.unlink()
    except FileExistsError:  # another process writes there by now
        return
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be written ({error.strerror or error})") from None


def existing(path: Path) -> Path:
    """The path itself, or the nearest one above it that is there: whoever would make the path needs to write there."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def nearest(word: str, known: Iterable[str], ending: str = "") -> str:
    """' - did you mean a, b?' for the known words nearest to `word`, or a list of what is known when none is near."""
    known = sorted(known, key=lambda name: (name.count("."), name))  # a section's own key before those of its plug-ins
    tail = _tail(word)  # `train.lr` means `optim.lr`, `temprature` means `method.temperature`
    near = [name for name in known if _tail(name) == tail] or difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if not near:
        near_tails = difflib.get_close_matches(tail, {_tail(name) for name in known}, n=2, cutoff=0.6)
        near = [name for name in known if _tail(name) in near_tails]
    if near:
        return f"did you mean {', '.join(near[:3])}?{ending}"
    return f"known: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}{ending}"


def _tail(name: str) -> str:
    return name.rsplit(".", 1)[-1].lstrip("-")
