"""CLIP's tokenizer of texts (openai/CLIP, clip/simple_tokenizer.py): byte pairs, merged in the order of a file.

It is given as the release's bpe_simple_vocab_16e6.txt.gz, or another of that form: a first line that is left out, then two symbols a line. Of what the
release has the package ftfy mend, texts of wrong encodings are left as they are.
"""

from __future__ import annotations

import gzip
import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import ConfigError

MOST = 49152 - 256 - 2  # merges of a file that are used
_FIXED = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
_QUOTES = str.maketrans({**dict.fromkeys("ʼ‘’‚‛", "'"), **dict.fromkeys("“”„‟", '"')})


class BytePairs:
    """Texts to ids: first the bytes, then the bytes that end a word, the merges, and the marks of a text's start and end."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        symbols = _symbols()
        self.bytes = [symbols[b] for b in range(256)]
        ends = [f"{symbol}</w>" for symbol in symbols.values()]
        names = [*symbols.values(), *ends, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
        self.names, self.ids = names, {name: i for i, name in enumerate(names)}
        self.ranks = {pair: i for i, pair in enumerate(merges)}
        self.start, self.end = len(names) - 2, len(names) - 1
        self.known = lru_cache(2**16)(self._word)  # captions repeat their words

    def __call__(self, text: str, size: int) -> np.ndarray:
        """(size,) int64: start, as much of the text as fits, end; then zeros."""
        found = [self.start, *(i for word in words(text) for i in self.known(word))][: size - 1]
        return np.array([*found, self.end, *[0] * (size - 1 - len(found))], np.int64)

    def text(self, ids: Iterable[int]) -> str:
        """What ids say between start and end, in small letters."""
        found = itertools.takewhile(lambda i: i != self.end, (i for i in ids if i != self.start))
        values = {symbol: b for b, symbol in enumerate(self.bytes)}
        said = "".join(self.names[i] for i in found).replace("</w>", self.bytes[ord(" ")])
        return bytes(values[symbol] for symbol in said).decode(errors="replace").strip()

    def _word(self, word: str) -> tuple[int, ...]:
        if word in ("<|startoftext|>", "<|endoftext|>"):
            return (self.ids[word],)
        parts = [self.bytes[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            first, second = min(itertools.pairwise(parts), key=lambda pair: self.ranks.get(pair, MOST))
            if (first, second) not in self.ranks:
                break
            merged, at = list[str](), 0
            while at < len(parts):
                both = parts[at : at + 2] == [first, second]
                merged.append(first + second if both else parts[at])
                at += 2 if both else 1
            parts = merged
        return tuple(self.ids[part] for part in parts)


@lru_cache(4)
def read(file: str, key: str) -> BytePairs:
    """Raises ConfigError naming `key` where the file is missing or is something else."""
    if not Path(file).is_file():
        raise ConfigError(
            key, f"got {file!r}, must be a file of byte pair merges, such as CLIP's bpe_simple_vocab_16e6.txt.gz; there is none"
        )
    try:
        data = Path(file).read_bytes()
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode().split("\n")[1 : MOST + 1]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(key, f"got {file!r}, which cannot be read as text ({error})") from None
    merges = [tuple(line.split()) for line in lines if line.strip()]
    if not merges or any(len(pair) != 2 for pair in merges):
        raise ConfigError(
            key, f"got {file!r}, which has no two symbols on each line after its first: these are no byte pair merges"
        )
    return BytePairs([(pair[0], pair[1]) for pair in merges])


def words(text: str) -> Iterator[str]:
    """Runs of letters, single digits, runs of other signs, English endings (`'s`), in small letters: of a text without markup."""
    text = unicodedata.normalize("NFC", text.translate(_QUOTES))
    text = re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip().lower()
    at = 0
    while at < len(text):
        fixed, start = _FIXED.match(text, at), at
        if fixed:
            at = fixed.end()
        elif text[at].isalpha():
            while at < len(text) and text[at].isalpha():
                at += 1
        elif text[at].isalnum() or text[at].isspace():
            at += 1
        else:
            while at < len(text) and not (text[at].isalnum() or text[at].isspace()):
                at += 1
        if not text[start].isspace():
            yield text[start:at]


def _symbols() -> dict[int, str]:
    """A printable character for each byte, in the order of their ids: those that are printable themselves first."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
