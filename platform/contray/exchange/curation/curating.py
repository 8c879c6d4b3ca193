"""From features to a list of the images worth training on, which `data.subset` takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config.sections import DataConfig
from ...data.lists import TABLES
from ...errors import UserError, shown
from ...pictures import ENDINGS
from ...storage.folder import Storage
from ...storage.logins import bare
from ...tables import Shown, Table
from .balance import balanced
from .clusters import assign, hierarchy, kmeans
from .duplicates import Nearest, nearest_before
from .features import Show, read_as, read_features
from .tested import tested_among

GROUPS, NAMED = 5, 3  # groups of duplicates that are told, and their images that are named
SHRINK = 10  # clusters of a level to those of the next
PAIRS = 16  # that are drawn


@dataclass(frozen=True, repr=False)
class Curated(Shown):
    """What was kept of `images` that had features. tested: test images, which had some too and took no part. groups: the largest groups of
    duplicates, of each how many and some names, the kept one first.

    clusters: in each of which duplicates were looked for; levels: clusters of each level that images were drawn from. epsilon: None where no
    duplicates were looked for; picture: of dropped pairs, if drawn.
    """

    out: str
    images: int
    broken: int
    kept: int
    duplicates: int
    tested: int
    clusters: int
    levels: tuple[int, ...]
    epsilon: float | None
    groups: tuple[tuple[int, tuple[str, ...]], ...]
    picture: Path | None = None

    @property
    def shown(self) -> Sequence[Table | str | Path]:
        """As it prints."""
        table = Table("images", "", "images", "share")
        thinned = self.images - self.duplicates - self.kept
        rows = [("with features", self.images), ("duplicates dropped", self.duplicates)] if self.epsilon is not None else []
        rows = rows or [("with features", self.images)]
        rows += [("not drawn, of those left", thinned)] if self.levels else []
        for words, count in (*rows, ("kept", self.kept)):
            table.add(words, f"{count:,}", f"{100 * count / self.images:.1f} %")
        notes = [f"{self.broken:,} more have no features (broken images), and are not kept"] if self.broken else []
        notes += [f"{self.tested:,} more are test images: they take no part"] if self.tested else []
        if self.epsilon is not None:
            notes.append(
                f"duplicates: more similar than {1 - self.epsilon:.4g} (epsilon {self.epsilon:.4g}) within {self.clusters:,} clusters"
            )
        if self.levels:
            notes.append(f"drawn evenly over {', in '.join(f'{count:,}' for count in self.levels)} clusters")
        table.caption = "\n".join(notes)
        groups = Table("largest groups of duplicates", "kept", "images", "others of them", left=(0, 2))
        for count, names in self.groups:
            groups.add(names[0], f"{count:,}", ", ".join(names[1:]) + ", ..." * (count > len(names)))
        last = f"wrote {self.out}; contray train METHOD --data.source SRC --data.subset {self.out}"
        return [table, *([groups] if self.groups else []), *([self.picture] if self.picture else []), last]


def curate(
    features: str,
    out: str,
    *,
    keep: float = 0.0,
    epsilon: float | None = None,
    balance: int = 0,
    clusters: int = 0,
    levels: int = 3,
    source: str = "",
    test_share: float = 0.1,
    label_column: str = DataConfig.label_column,
    seed: int = 0,
    show: Show = lambda message: None,
) -> Curated:
    """Write the list `out` of the images of `features`, a folder of `contray embed`, that are kept. A pure function of features, keys and seed.

    keep, epsilon: drop semantic duplicates (duplicates.py), by how many are to stay or by how much less than 1 their similarity is. balance:
    so many images of what is left, evenly from all clusters (balance.py) of so many `levels`. clusters: of the lowest level; 0: the root of the number
    of images. source: where the images lie: its test images, or the share of them that training sets aside (data.test_share), take no part, and some dropped pairs are
    drawn beside `out`. label_column: by whose classes that share is drawn. Raises UserError before anything is computed.
    """
    _check(out, keep, epsilon, balance, clusters, levels, source)
    found = read_features(features, show)
    keys = DataConfig(source=source, test_share=test_share, label_column=label_column, **read_as(features))
    tests = tested_among(keys, found.names.to_pylist()) if source else np.zeros(len(found.x), bool)
    found = found.take(np.flatnonzero(~tests)) if tests.any() else found
    x, count = found.x, len(found.x)
    if balance > count:
        raise UserError(f"--balance: got {balance:,}, but {count:,} images have features")
    chosen, dropped, near, used = np.arange(count), np.zeros(count, bool), None, 0
    if keep or epsilon is not None:
        centres = kmeans(
            x, min(clusters or max(1, round(math.sqrt(count))), count), np.random.default_rng([seed, 0]), spherical=True
        )
        near, used = nearest_before(x, assign(x, centres, show)[0], centres, show), len(centres)
        threshold = near.threshold_for(keep) if epsilon is None else 1 - epsilon
        epsilon, dropped = 1 - threshold, near.dropped(threshold)
        chosen = np.flatnonzero(~dropped)
    counts: tuple[int, ...] = ()
    if balance and balance < len(chosen):
        rng = np.random.default_rng([seed, 1])
        first = min(clusters or max(2, round(math.sqrt(len(chosen)))), len(chosen))
        wanted = [size for level in range(levels) if (size := round(first / SHRINK**level)) > 1 or not level]
        tree = hierarchy(x[chosen] if near is not None else x, wanted, rng, show)
        counts = tuple(int(level.max()) + 1 for level in tree)
        chosen = chosen[balanced(tree, balance, rng)]
    names = [shown(name) for name in found.names.take(chosen).to_pylist()]
    done = Curated(
        bare(out), count, found.broken, len(chosen), int(dropped.sum()), int(tests.sum()), used, counts, epsilon,
        () if near is None else _groups(near, dropped, found.names.__getitem__),
    )  # fmt: skip
    _write(out, names, done, bare(features), seed)
    if not source or near is None or not dropped.any():
        return done
    from dataclasses import replace

    from .pairs import draw_pairs

    return replace(
        done, picture=draw_pairs(keys, Path(f"{out.removesuffix('.txt')}.png"), *_pairs(near, dropped, found.names.__getitem__))
    )


def _check(out: str, keep: float, epsilon: float | None, balance: int, clusters: int, levels: int, source: str) -> None:
    if not (keep or epsilon is not None or balance):
        raise UserError(
            "--keep: say what to keep: --keep 0.7 or --epsilon 0.05 drops duplicates, --balance 100000 draws so many from everywhere"
        )
    if keep and epsilon is not None:
        raise UserError("--keep: is given beside --epsilon, and each says what a duplicate is; leave one out")
    for option, wrong, allowed in (
        ("--keep", not 0 <= keep <= 1, f"got {keep:g}, must be a share of the images in (0, 1]"),
        (
            "--epsilon",
            epsilon is not None and not 0 <= epsilon <= 2,
            f"got {epsilon}, must be from 0 to 2: 1 less the cosine similarity",
        ),
        ("--balance", balance < 0, f"got {balance}, must be a number of images"),
        ("--clusters", clusters < 0, f"got {clusters}, must be at least 1, or 0 for the root of the number of images"),
        ("--levels", levels < 1, f"got {levels}, must be at least 1"),
        ("--out", not out or out.endswith("/"), f"got {out!r}, must be the file of the list"),
        ("--out", out.lower().endswith(TABLES), f"got {bare(out)}, but the list is a text of a name a line; end it in .txt"),
        (
            "--out",
            out.lower().endswith((*ENDINGS, ".jpeg")),
            f"got {bare(out)}, but the list is a text; end it in .txt",
        ),
        (
            "--out",
            "://" not in out and Path(out).expanduser().is_dir(),
            f"got {out}, which is a folder; name the file of the list",
        ),
        (
            "--data.source",
            bool(source) and "://" in out,
            f"draws dropped pairs beside the list, and {bare(out)} is an address; give --out a path",
        ),
    ):
        if wrong:
            raise UserError(f"{option}: {allowed}")


def _groups(near: Nearest, dropped: np.ndarray, name_of) -> tuple[tuple[int, tuple[str, ...]], ...]:
    stays = near.kept_for(dropped)
    kept, sizes = np.unique(stays[dropped], return_counts=True)
    largest = np.lexsort((kept, -sizes))[:GROUPS]
    return tuple(
        (
            int(sizes[place]) + 1,
            tuple(
                shown(name_of(i).as_py())
                for i in [int(kept[place]), *np.flatnonzero(dropped & (stays == kept[place]))[: NAMED - 1].tolist()]
            ),
        )
        for place in largest.tolist()
    )


def _pairs(near: Nearest, dropped: np.ndarray, name_of) -> tuple[list[str], list[str], list[float]]:
    """Names of dropped images, of those that each is like, and their similarities: from the least similar to the most."""
    ids = np.flatnonzero(dropped)
    ids = ids[np.argsort(near.similarity[ids], kind="stable")]
    ids = ids[np.unique(np.linspace(0, len(ids) - 1, PAIRS).astype(int))]
    likes = near.other[ids]
    return [name_of(i).as_py() for i in ids.tolist()], [name_of(i).as_py() for i in likes.tolist()], near.similarity[ids].tolist()


def _write(out: str, names: list[str], done: Curated, features: str, seed: int) -> None:
    made = [f"of {done.images:,} images with features in {features}" + (f", {done.broken:,} broken" if done.broken else "")]
    made += [f"without the {done.tested:,} that test"] if done.tested else []
    if done.epsilon is not None:
        made.append(f"SemDeDup: epsilon {done.epsilon:.6g} within {done.clusters:,} clusters dropped {done.duplicates:,}")
    if done.levels:
        made.append(f"balanced over {' / '.join(f'{count:,}' for count in done.levels)} clusters")
    heading = f"# {done.kept:,} images kept by contray curate, {'; '.join(made)}; seed {seed}"
    lines = [shown(heading), *(f"./{name}" if name.startswith("#") else name for name in names)]
    if "://" in out:
        folder, _, name = out.rpartition("/")
    else:
        folder, name = str(Path(out).expanduser().absolute().parent), Path(out).name
    try:
        storage = Storage(folder, "--out")
        storage.create()
        storage.write(name, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise UserError(f"--out: {bare(out)} cannot be written ({error})") from None
