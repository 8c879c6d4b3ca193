"""A file for each band: TILE_B01.tif, TILE_B02.tif, ... are one sample, TILE, its bands in sorted order.

Files whose names end in what calls a band, as Sentinel's, Landsat's and microscopes' do, belong together by what comes before it. Where nothing does
(B01.tif, B02.tif, ...), and where every folder holds the bands of one sample alone, that folder is the sample.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ..errors import DataError

_MARK = b"contray bands\0\0\1"
_BAND = re.compile(
    r"(?:^|(?P<stem>.*?)[_. -])(?P<band>B\d{1,3}[A-Z]?|(?:SR_)?B\d{1,3}|band[_ -]?\d{1,3}|ch(?:annel)?[_ -]?\d{1,3}|[cw]\d{1,3}|[VH]{2})",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")


def samples_of(names: Sequence[str], channels: int) -> Mapping[str, Mapping[str, str]]:
    """{sample: {band: its file, "" where there is none}} of the images of a folder; {} where they are no bands of one set of `channels`.

    names: of the files, relative to the folder, with / between. Raises DataError where most of them are bands, of another number.
    """
    if channels < 2:
        return {}
    found: dict[str, dict[str, str]] = {}
    taken = 0
    for name in names:
        folder, slash, file = name.rpartition("/")
        match = _BAND.fullmatch(file.rpartition(".")[0])
        if match:
            bands = found.setdefault(f"{folder}{slash}{match['stem'] or ''}", {})
            if match["band"].upper() in bands:
                raise DataError(
                    f"data.source: {name} and {bands[match['band'].upper()]} are one band of one sample; take one away"
                )
            bands[match["band"].upper()] = name
            taken += 1
    sets = Counter(tuple(sorted(bands, key=_order)) for bands in found.values())
    usual = max(sets, key=lambda each: (sets[each], len(each)), default=())
    every = tuple(sorted({band for bands in sets for band in bands}, key=_order))
    if len(every) == channels and len(every) > 1:
        usual = every
    if len(usual) < 2 or 2 * taken < len(names):
        return {}
    if len(usual) != channels:
        raise DataError(
            f"data.channels: got {channels}, but the files are of {len(usual)} bands ({', '.join(usual)}), such as {next(iter(found))}; "
            f"give --data.channels {len(usual)}"
        )
    samples = {name: {band: bands.get(band, "") for band in usual} for name, bands in found.items()}
    folders = Counter(name.rpartition("/")[0] for name in samples)
    if max(folders.values()) == 1 and "" not in folders:
        samples = {name.rpartition("/")[0]: bands for name, bands in samples.items()}
    return samples


def _order(band: str) -> tuple[object, ...]:
    """B2 before B10, and B8A after B8."""
    number = _DIGITS.search(band)
    return (_DIGITS.sub("", band[: number.end()] if number else band), int(number[0]) if number else 0, band)


# ---------------------------------------------------------------- as one


def packed(parts: Mapping[str, bytes | memoryview | None]) -> bytes:
    """The files of a sample's bands, by their names, as one; None of a band that is missing."""
    found = [_MARK, struct.pack("<I", len(parts))]
    for name, data in parts.items():
        encoded = name.encode()
        found += [struct.pack("<Iq", len(encoded), -1 if data is None else len(data)), encoded, data or b""]
    return b"".join(found)


def is_packed(data: bytes | memoryview) -> bool:
    return bytes(data[: len(_MARK)]) == _MARK


def unpacked(data: bytes | memoryview) -> Iterator[tuple[str, bytes | memoryview | None]]:
    """What was `packed`."""
    at = len(_MARK) + 4
    for _ in range(struct.unpack_from("<I", data, len(_MARK))[0]):
        named, length = struct.unpack_from("<Iq", data, at)
        at += 12
        name = bytes(data[at : at + named]).decode()
        at += named
        yield name, None if length < 0 else data[at : at + length]
        at += max(length, 0)
