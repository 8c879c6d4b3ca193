"""Why something failed, in a line."""

from __future__ import annotations

import re


def one_line(error: BaseException) -> str:
    """What a worker's failure comes down to; Ray's own message carries pages of tracebacks, which its log keeps."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    if "running low on memory" in str(cause):
        return "its process was ended because its node ran out of memory"
    if "ActorDiedError" in type(cause).__name__ or "The actor died" in str(cause) or "actor is dead" in str(cause):
        return "its process died" + (f" ({reason})" if (reason := _reason(lines)) else "")
    last = lines[-1].strip() if lines else repr(cause)
    return re.sub(r"^contray\.[\w.]+: ", "", last)[:500]  # of an error of ours the words suffice


def _reason(lines: list[str]) -> str:
    return next(
        (
            line.strip()[:200]
            for line in lines
            if "unexpected" in line or "OOM" in line or ("node" in line.lower() and "died" in line)
        ),
        "",
    )
