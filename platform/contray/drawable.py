"""Names as a picture can show them: of classes, files and settings, which may hold anything."""

from __future__ import annotations

from functools import cache

NAME, SHORT = 60, 16  # characters of a name in a title or legend, and below a small picture


def drawable(name: str, most: int = NAME) -> str:
    """One line of at most `most` characters that matplotlib draws as it stands: no mathematics, and every glyph in its own font.

    What the font lacks, and bytes that are no text, are written as escapes, so that two names never look like one for that. A long name loses
    its middle. matplotlib leaves labels that begin with an underscore out of legends: a space stands before it.
    """
    known = _glyphs()
    line = " ".join("".join(char if char.isspace() or ord(char) in known else _escaped(char) for char in name).split())
    if len(line) > most:
        line = f"{line[: most - most // 2 - 1]}…{line[len(line) - most // 2 :]}"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


def _escaped(char: str) -> str:
    """As Python writes it; the bytes of a file's name that are no text, which Python keeps as lone surrogates, as bytes."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@cache
def _glyphs() -> frozenset[int]:
    """Code points that both faces of matplotlib's default font have, without those that show nothing."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    faces = [FT2Font(findfont(FontProperties(weight=weight))).get_charmap() for weight in ("normal", "bold")]
    return frozenset(code for code in faces[0].keys() & faces[1].keys() if chr(code).isprintable())
