"""What to make of a run, in words: what training bought and how sure that is, whether more would help, and what to try next. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHANCE = 0.05  # how probable a gain may be without one, to be called beyond chance
FEW = 5  # labelled images of a class below which nobody can say much of it
LEAST, WINDOW = 5, 4  # points of a curve that tell a slope, and at least as many are its end
# Student's t, one-sided 95 %, of 1 to 10 degrees of freedom; on: 1.75
T95 = (
    6.31,
    2.92,
    2.35,
    2.13,
    2.02,
    1.94,
    1.89,
    1.86,
    1.83,
    1.81,
)
T975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)  # two-sided
SCORES = {
    "linear_top1": "linear",
    "knn_top1": "k-NN",
    "knn_val_top1": "k-NN",
    "linear_val_top1": "linear",
}  # the first that is there counts


@dataclass(frozen=True)
class Told:
    """What a verdict needs to know besides metrics and curve.

    tested: the images that test, in words, where they were set aside; counts: labelled training images of each class. longer, next: commands
    that train longer and that try something else; labels: one that measures with labels. collapse: the alarm's words. epochs: of the run.
    """

    tested: str = ""
    counts: Sequence[int] = ()
    longer: str = ""
    next: str = ""
    seeds: str = ""
    labels: str = ""
    collapse: str = ""
    epochs: float = 0.0


def words(metrics: Mapping[str, float], curve: Sequence[tuple[float, float]] = (), told: Told = Told()) -> str:
    """The verdict. metrics: of the evaluations, with what they stand on (`Measured.about`); curve: (epoch, held-out k-NN top-1) while it trained.

    Empty where nothing was measured.
    """
    about = _whole(metrics)
    scores = [name for name in SCORES if name in about and "_val_" not in name] or [name for name in SCORES if name in about]
    if not scores:
        return _unlabelled(about, told) if "rankme" in about else ""
    found = [told.collapse and f"The features collapsed while it trained: {told.collapse.partition(';')[0]}."]
    gained, sure = _gain(about, scores, told)
    trend, rising = _trend(curve, int(about.get("val_images", 0)), told)
    found += [gained, _classes(told.counts), trend]
    if not rising and not told.collapse:
        found.append(_next(sure, told))
    return " ".join(filter(None, found))


# ---------------------------------------------------------------- gain


def _gain(about: Mapping[str, float], scores: Sequence[str], told: Told) -> tuple[str, int]:
    """What training bought over the untrained encoder and raw pixels; 1, 0 or -1: it gains beyond chance, chance explains it, it loses."""
    tested = "_val_" not in scores[0]
    count = int(about.get("test_images" if tested else "val_images", 0))
    number, plural = f"{count:,} " if count else "", "" if count == 1 else "s"
    on = f"{number}{'test' if tested else 'held-out training'} image{plural}"
    on = f"{told.tested} ({number}image{plural})" if tested and told.tested else on
    beside = [score for score in scores if f"random_{score}" in about]
    if not beside:
        level = " and ".join(f"{SCORES[score]} top-1 is {100 * about[score]:.1f} %" for score in scores)
        return f"On {on} {level}; nothing was measured beside it.", 0
    signs, said = set[int](), []
    for score in beside:
        gain, error = about[score] - about[f"random_{score}"], _error(about, "random_", score, count)
        chance = chance_of(gain, error, count)
        if chance < CHANCE / len(beside):  # either score may show it
            signs.add(1 if gain > 0 else -1)
        by = f"by {100 * gain:+.1f} ± {100 * error:.1f} points ({_often(chance)})" if gain or error else "not at all"
        said.append(f"{SCORES[score]} top-1 {by}")
    sure = signs.pop() if len(signs) == 1 else 0
    text = f"On {on} training changed {' and '.join(said)} over the untrained encoder"
    pixels = [
        f"{SCORES[score]} {100 * (about[score] - about[name]):+.1f}" for score in beside if (name := f"pixels_{score}") in about
    ]
    text += f"; over raw pixels {' and '.join(pixels)}." if pixels else "."
    verdict = {
        1: "It learnt what serves these classes.",
        -1: "It unlearnt what serves these classes.",
        0: "That is no proof of a gain",
    }[sure]
    if sure == 0:
        least = max(200 * _error(about, "random_", beside[0], count), 200 / max(count, 1))
        verdict += f": so many images tell apart about {least:.0f} points and more." if count else "."
    return f"{text} {verdict}", sure


def _error(about: Mapping[str, float], prefix: str, score: str, count: int) -> float:
    """The gain's standard error: paired where it was measured, else as if either encoder had been asked other images, which is more."""
    variances = sum(about[name] * (1 - about[name]) for name in (score, prefix + score))
    return about.get(f"{prefix}{score.partition('_')[0]}_gain_error", math.sqrt(variances / max(count, 1)))


def chance_of(gain: float, error: float, count: int) -> float:
    """The probability of a gain in top-1 at least as large, either way, if both encoders were equally good: McNemar's exact test.

    Of `count` images, gain and its paired standard error (see `protocol.gain_error`) tell how many only one of both tells right.
    """
    only = round(count * (count * error**2 + gain**2))  # b + c, for error^2 = ((b + c) / n - gain^2) / n
    more = round((only + abs(gain) * count) / 2)
    if not only:
        return 1.0
    tail = sum(_binomial(only, k) for k in range(more, only + 1))
    return min(1.0, 2 * tail)


def _binomial(n: int, k: int) -> float:
    """Of a fair coin."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def _often(chance: float) -> str:
    return "beyond chance" if chance < CHANCE else f"luck alone gives as much in {100 * chance:.0f} of 100 cases"


def _classes(counts: Sequence[int]) -> str:
    """Classes of which too little is there to say much."""
    few, one = sum(count < FEW for count in counts), sum(count == 1 for count in counts)
    if not few:
        return ""
    alone = f", {one} of them a single one, which can neither test nor pick" if one else ""
    return (
        f"{few} of {len(counts)} classes have fewer than {FEW} labelled training images{alone}: of these the numbers say little."
    )


def _next(sure: int, told: Told) -> str:
    if sure == 0 and told.seeds:
        return f"To be surer: label more test images, or ask several seeds: `{told.seeds}`."
    if sure < 0 and told.next:
        return f"What was learnt does not serve these classes; weaker or other augmentations may: `{told.next}`."
    return f"To try next: `{told.next}`." if told.next else ""


# ---------------------------------------------------------------- curve


@dataclass(frozen=True)
class Trend:
    """Where a held-out curve goes at its end. slope: per epoch; error: its standard error; since: the epoch from which it is flat, within `noise`."""

    slope: float
    error: float
    points: int
    since: float
    noise: float

    @property
    def kind(self) -> str:
        """rising, falling or flat: a slope counts where noise alone would show it in one of twenty curves."""
        sure = abs(self.slope) > _quantile(T95, self.points - 2, 1.75) * self.error
        return ("rising" if self.slope > 0 else "falling") if sure else "flat"


def trend_of(curve: Sequence[tuple[float, float]], images: int = 0) -> Trend | None:
    """The slope of the last half of (epoch, top-1) points, by least squares; None where there are fewer than LEAST.

    Its error is that of the points' scatter about the line, and no less than half of the binomial error of `images` makes it: the same images are
    asked each time, so that a quiet curve is not therefore a sure one.
    """
    points = sorted({epoch: value for epoch, value in curve if math.isfinite(value)}.items())
    if len(points) < LEAST:
        return None
    end = points[-max(WINDOW, math.ceil(len(points) / 2)) :]
    slope, error = _line(end, images)
    level = sum(value for _, value in end) / len(end)
    noise = max(_scatter(end), _noise(level, images))
    since = next(epoch for epoch, value in points if value >= level - noise)
    return Trend(slope, error, len(end), since, noise)


def _line(points: Sequence[tuple[float, float]], images: int) -> tuple[float, float]:
    """(slope, its standard error)."""
    count = len(points)
    middle, level = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - middle) ** 2 for x, _ in points)
    slope = sum((x - middle) * (y - level) for x, y in points) / spread
    left = sum((y - level - slope * (x - middle)) ** 2 for x, y in points)
    deviation = max(math.sqrt(left / (count - 2)), _noise(level, images))
    return slope, deviation / math.sqrt(spread)


def _scatter(points: Sequence[tuple[float, float]]) -> float:
    level = sum(y for _, y in points) / len(points)
    return math.sqrt(sum((y - level) ** 2 for _, y in points) / (len(points) - 1))


def _noise(level: float, images: int) -> float:
    return 0.5 * math.sqrt(max(level * (1 - level), 1 / (images + 1)) / images) if images else 0.0


def _quantile(table: Sequence[float], freedom: int, beyond: float) -> float:
    return table[freedom - 1] if freedom <= len(table) else beyond


def _trend(curve: Sequence[tuple[float, float]], images: int, told: Told) -> tuple[str, bool]:
    """What the curve says of more training, and whether it is still rising."""
    found = trend_of(curve, images)
    if found is None:
        asked = "eval.every_epochs asks more often" if curve else "eval.every_epochs asks while it trains"
        longer = f"; twice as long tells: `{told.longer}`" if told.longer and not told.collapse else ""
        return f"The held-out curve has too few points to tell whether more training would help ({asked}){longer}.", False
    per_epoch = f"{100 * abs(found.slope):.2g} points per epoch"
    if found.kind == "rising":
        longer = f": `{told.longer}`" if told.longer else ""
        return f"Held-out k-NN was still rising at the end, by {per_epoch}: train longer{longer}.", True
    if found.kind == "falling":
        return (
            f"Held-out k-NN fell at the end, by {per_epoch}: longer would not help; the best checkpoint is kept (best.pt).",
            False,
        )
    noise = f"within its noise of ± {100 * found.noise:.1f} points"
    flat = f"Held-out k-NN is flat since about epoch {found.since:.3g}, {noise}"
    if told.epochs and found.since > told.epochs / 2:  # where a rate that decays has made steps small
        longer = f"`{told.longer}`" if told.longer else "twice the length"
        return f"{flat}: it settled as the learning rate fell; whether a longer run would gain more, {longer} tells.", False
    return f"{flat}: more of the same would bring little.", False


# ---------------------------------------------------------------- without labels


def _unlabelled(about: Mapping[str, float], told: Told) -> str:
    """What the geometry tells, and what it does not."""
    collapsed = told.collapse or (about["rankme"] < 2 and about.get("feature_std", 1.0) < 0.1)
    rank, before = about["rankme"], about.get("random_rankme")
    found = [
        "There are no labels, so this tells how the features lie, not how right they are.",
        f"They vary in about {rank:.3g} independent directions (RankMe)"
        + ("." if before is None else f", the untrained encoder's in {before:.3g}{_more(rank, before)}."),
    ]
    apart, apart_before = (_margin(about, prefix) for prefix in ("", "random_"))
    if apart is not None:
        line = f"Two views of one image are alike to {about['positive_similarity']:.2f}, two images to {about['negative_similarity']:.2f}"
        if apart_before is not None:
            line += (
                f" (untrained: {about['random_positive_similarity']:.2f} and {about['random_negative_similarity']:.2f}): "
                + ("it has learnt to tell images apart" if apart > apart_before + 0.05 else
                   "it tells images apart no better than before" if apart > apart_before - 0.05 else "it tells images apart less than before")
            )  # fmt: skip
        found.append(f"{line}.")
    if about.get("feature_std") is not None and "random_feature_std" in about:
        found.append(
            f"They fill {100 * about['feature_std']:.0f} % of the spread of even ones (untrained {100 * about['random_feature_std']:.0f} %)."
        )
    if collapsed:
        found.append(f"The features have collapsed: nearly all images look the same to this encoder{_mend(told)}.")
    else:
        found.append(
            "Whether that serves you shows in the nearest neighbours (neighbours.png of the run) and in a few labels of yours"
        )
        found[-1] += f": `{told.labels}`." if told.labels else "."
    return " ".join(found)


def _more(rank: float, before: float) -> str:
    return " (richer)" if rank > 1.1 * before else " (poorer)" if rank < before / 1.1 else " (about as many)"


def _margin(about: Mapping[str, float], prefix: str) -> float | None:
    pair = [about.get(f"{prefix}{kind}_similarity") for kind in ("positive", "negative")]
    return None if pair[0] is None or pair[1] is None else pair[0] - pair[1]


def _mend(told: Told) -> str:
    return f"; a lower rate usually mends it: `{told.next}`" if told.next else ""


# ---------------------------------------------------------------- over seeds


def _whole(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with what they stand on."""
    return {**metrics, **getattr(metrics, "about", {})}


def over_seeds(results: Sequence[Mapping[str, float]]) -> str:
    """The gain over the untrained encoder over seeds, with the standard error of its mean; without labels, what the features' ranks are. Empty for
    fewer than two seeds that were measured.
    """
    score = next((name for name in SCORES if sum(name in each and f"random_{name}" in each for each in results) > 1), "")
    if not score:
        ranks = [(each["rankme"], each["random_rankme"]) for each in results if "rankme" in each and "random_rankme" in each]
        if len(ranks) < 2:
            return ""
        trained, before = ([f"{end(column):.3g}" for end in (min, max)] for column in zip(*ranks, strict=True))
        return (
            f"Over {len(ranks)} seeds the features vary in {' to '.join(trained)} independent directions (RankMe), the untrained encoder's in "
            f"{' to '.join(before)}. There are no labels, so this tells how the features lie, not how right they are."
        )
    gains = [each[score] - each[f"random_{score}"] for each in results if score in each and f"random_{score}" in each]
    mean, count = sum(gains) / len(gains), len(gains)
    spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (count - 1))
    counts = [_whole(each).get("test_images", 0) for each in results]
    images = min(filter(None, counts), default=math.inf)
    error = max(spread, 1 / images) / math.sqrt(count)  # few seeds may differ by less than one test image by chance
    sure = abs(mean) > _quantile(T975, count - 1, 2.2) * error and mean != 0
    how = "beyond what seeds differ by" if sure else "no more than seeds differ by: the sign is not known"
    verb = "gains" if mean >= 0 else "loses"
    span = f"{100 * min(gains):+.1f} to {100 * max(gains):+.1f}"
    return (
        f"Over {count} seeds training {verb} {100 * abs(mean):.1f} ± {100 * error:.1f} points of {SCORES[score]} top-1 over the untrained encoder "
        f"({span}), {how}. All seeds are measured on the same images, whose choice this does not count."
    )
