"""Which images an evaluation fits, picks and tests on; what is too little for that is refused before anything is trained."""

from __future__ import annotations

import numpy as np

from ... import data
from ...config import RunConfig
from ...config.evaluations import needing_labels
from ...data.batches import check_broken
from ...data.splits import BrokenImage, EncodedSplit
from ...errors import ConfigError, DataError

PROBED = 32  # test images that are decoded before a run; all of them where too many of these are broken
UNMEASURED = "--eval.final= --eval.every_epochs 0 trains without measuring"


def check_labels(source: data.Source) -> data.Split | None:
    """The labelled test split, None where there is none. Raises DataError where labels are missing, foreign or all the same."""
    train, count = source.train, len(source.train.classes)
    if train.labels is None:
        raise DataError(f"data.source: {source.name} has no labels, and an evaluation needs them")
    labels = train.labels[train.known]
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"data.source: all training images of {source.name} have the same label, and an evaluation needs two classes; {UNMEASURED}"
        )
    if source.test is None or source.test.labels is None:
        return None
    foreign = np.setdiff1d(source.test.labels, labels)
    if len(foreign) or list(source.test.classes) != list(source.train.classes):
        named = ", ".join(sorted(set(source.test.classes) ^ set(source.train.classes))) or ", ".join(map(str, foreign))
        raise DataError(f"data.source: training and test images of {source.name} have other classes ({count} train): {named}")
    return source.test


def held_out(config: RunConfig, source: data.Source) -> tuple[np.ndarray, np.ndarray]:
    """(fit ids, held-out ids) of the labelled training images, by eval.holdout and the run's seed.

    Raises ConfigError where fewer than two images are held out, or those that fit are of one class.
    """
    fit, val = data.holdout(source.train, config.eval.holdout, config.seed)
    assert source.train.labels is not None
    if len(val) >= 2 and len(np.unique(source.train.labels[fit])) >= 2:
        return fit, val
    wider = [share for share in (0.1, 0.2, 0.5) if share > config.eval.holdout]
    enough = [share for share in wider if len(data.holdout(source.train, share, config.seed)[1]) >= 2]
    mend = f"{enough[0]:g} would do" if enough else "it takes classes of several images (or groups of images)"
    raise ConfigError(
        "eval.holdout",
        f"got {config.eval.holdout:g}, which holds out {len(val)} of the {len(fit) + len(val):,} labelled images of {source.name}, too few to "
        f"measure by; {mend}, or {UNMEASURED}",
    )


def measurable(source: data.Source) -> bool:
    """Whether labels are there, and two images or groups of images are left over to ask where one of each class is known."""
    train = source.train
    if train.labels is None:
        return False
    known = train.known
    units = len(known) if train.groups is None else len(np.unique(train.groups[known]))
    return units - len(np.unique(train.labels[known])) >= 2


def check_measurable(config: RunConfig, source: data.Source) -> None:
    """Raises ConfigError or DataError where labels, counts or broken test images make it impossible to measure the run while it trains or after.

    Nothing is asked of data without labels that could measure, nor of a run that measures nothing. Of the test images PROBED are decoded.
    """
    final, online = map(needing_labels, (config.eval.final, config.eval.online if config.eval.every_epochs else ()))
    if not (final or online) or not measurable(source):
        return
    test = check_labels(source)
    held_out(config, source)
    if test is not None and final:
        check_readable(test, config.data.max_broken)


def check_readable(split: data.Split, max_broken: float) -> None:
    """Raises DataError where more than `max_broken` of the images cannot be decoded, as far as PROBED of them tell that all must be asked."""
    if split.generated:
        return
    some = data.part(np.arange(len(split)), None, PROBED, seed=0)
    broken = unreadable(split, some)
    if len(broken) > max(max_broken * len(some), max_broken > 0):
        broken = unreadable(split, np.arange(len(split)))
    if isinstance(split, EncodedSplit):
        split.encoded.close()  # it is long until they are needed
    check_broken(split, broken, max_broken, "test images")


def unreadable(split: data.Split, ids: np.ndarray) -> dict[int, str]:
    """Ids and reasons of the broken images among these."""
    found: dict[int, str] = {}
    for i in ids.tolist():
        try:
            split.image(i, None)
        except BrokenImage as broken:
            found[i] = broken.reason
        except OSError as error:
            raise DataError(f"data.source: {split.describe(i)} cannot be read ({error})") from error
    return found


def counts_of_test(source: data.Source) -> dict[str, int]:
    """test_images: how many of the labelled test images can be read, as evaluations have met them; test_images_broken: the others, if any."""
    if source.test is None or source.test.labels is None:
        return {}
    broken = len(source.test.met)
    return {"test_images": len(source.test) - broken} | ({"test_images_broken": broken} if broken else {})
