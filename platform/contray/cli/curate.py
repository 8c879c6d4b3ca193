"""contray curate"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from . import documents
from .options import Positional, arg, json_note
from .output import answer, show

EXAMPLES = (
    ("contray curate features --keep 0.7 --out photos.txt", "without near duplicates: seven tenths of the images stay"),
    ("contray curate features --epsilon 0.05 --data.source photos/", "those more similar than 0.95 go; some pairs are drawn"),
    ("contray curate features --keep 0.9 --balance 100000", "then 100,000 of the rest, evenly from all kinds of images"),
)


@dataclass(frozen=True)
class Options:
    """A list of the images worth training on, by the features of `contray embed SRC --out FEATURES`; --data.subset takes it."""

    features: Annotated[Positional[str], arg("folder that contray embed wrote, or Parquet of name and embedding")]
    out: Annotated[str, arg("the list to write, a name a line")] = "curated.txt"
    keep: Annotated[float, arg("drop semantic duplicates (SemDeDup) until this share stays; 0: off")] = 0.0
    epsilon: Annotated[
        float, arg("drop of two images in a cluster one, where their cosine similarity is above 1 - epsilon; -1: as --keep says")
    ] = -1.0
    balance: Annotated[int, arg("draw so many of the rest, evenly over clusters; 0: all")] = 0
    clusters: Annotated[int, arg("of the lowest level; 0: the root of the number of images")] = 0
    levels: Annotated[int, arg("levels of clusters, each a tenth of the one below")] = 3
    data__source: Annotated[
        str,
        arg(
            "their place: test images take no part, some dropped ones are drawn",
            name="data.source",
        ),
    ] = ""
    data__test_share: Annotated[
        float,
        arg("share that training sets aside to test", name="data.test_share"),
    ] = 0.1
    data__label_column: Annotated[str, arg("labels that it is set aside by", name="data.label_column")] = "label"
    seed: Annotated[int, arg("seed of the clusters and draws")] = 0
    json: Annotated[bool, json_note(documents.CURATED)] = False


def run(options: Options, dotted: dict[str, list[str]]) -> int:
    """Write the list."""
    from ..api import curate

    with answer(options.json) as tell:
        done = curate(
            options.features, options.out, keep=options.keep, epsilon=None if options.epsilon == -1 else options.epsilon,
            balance=options.balance, clusters=options.clusters, levels=options.levels, source=options.data__source,
            test_share=options.data__test_share, label_column=options.data__label_column, seed=options.seed,
        )  # fmt: skip
        show(*(f"wrote {each}" if each == done.picture else each for each in done.shown))
        tell(documents.of_curated(done))
    return 0
