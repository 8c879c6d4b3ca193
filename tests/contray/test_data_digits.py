"""The built-in digits: what views share, what the labels say, what train and test have in common (nothing)."""

import numpy as np
import pytest

from contray.config.sections import DataConfig
from contray.data import holdout, open_source
from contray.data.digits import CELLS, TEXTURES, textures
from contray.errors import ConfigError


def digits(**fields):
    return open_source(DataConfig(source="digits", **fields))


def test_train_and_test_share_no_handwritten_digit():
    source = digits()
    train, test = set(source.train.groups.tolist()), set(source.test.groups.tolist())
    assert not train & test
    assert len(train) + len(test) == 1797
    assert len(source.train) == 4 * len(train)
    assert len(test) / 1797 == pytest.approx(0.2, abs=0.01)
    for split in (source.train, source.test):
        share = np.bincount(split.labels) / len(split)
        assert share == pytest.approx(np.full(10, 0.1), abs=0.01)


@pytest.mark.parametrize(
    ("label", "classes"), [("label", 10), ("digit", 10), ("background", len(TEXTURES)), ("position", len(CELLS))]
)
def test_label_sets(label, classes):
    split = digits(label_column=label).train
    assert split.labels.dtype == np.int64
    assert len(split.classes) == classes
    assert set(split.labels.tolist()) == set(range(classes))
    assert digits(label_column="").train.labels is None


def test_background_and_position_labels_describe_the_fixed_picture():
    split = digits(label_column="position", contrast=0.0, renderings=8).train
    for i in range(0, 400, 7):
        rows, columns = (np.flatnonzero(split.image(i, None).any(axis=(axis, 2))) for axis in (1, 0))
        row, column = divmod(int(split.labels[i]), 3)
        if row == 0:
            assert rows.min() < 8
        if row == 2:
            assert rows.max() > 20
        if column == 2:
            assert columns.max() > 16
    split = digits(label_column="background").train
    rows = [i for i in range(200) if TEXTURES[split.labels[i]] == "rows"]
    for i in rows:
        border = split.image(i, None)[:, 0] if split.own[i, 12] > 0.3 else split.image(i, None)[:, -1]
        assert len(np.unique(border, axis=0)) <= 2  # stripes: two colours, outside of the digit


def views(split, i, count=60):
    """What `count` fresh pictures of sample i draw, read off the numbers that reach the drawing."""
    seen = []
    original, split._draw = split._draw, lambda u: seen.append(u) or np.zeros(1)
    for key in range(count):
        split.image(i, np.random.default_rng(key))
    split.image(i, None)
    split._draw = original
    return np.array(seen[:-1]), np.array(seen[-1])


@pytest.mark.parametrize("share", [(), ("digit",), ("background",), ("digit", "position"), ("digit", "background", "position")])
def test_views_share_what_is_asked_and_nothing_else(share):
    split = digits(share=share).train
    fresh, own = views(split, 123)
    columns = {"digit": range(0, 1), "background": range(1, 11), "position": range(11, 13), "nuisance": range(13, 16)}
    for factor, places in columns.items():
        for place in places:
            values = set(fresh[:, place].tolist())
            assert (values == {own[place]}) == (factor in share), factor


def test_an_unshared_digit_is_any_of_the_same_split():
    split = digits(share=("background",)).test
    fresh, _ = views(split, 5, 500)
    shown = (fresh[:, 0] * len(split.digits)).astype(int)
    assert len(set(shown.tolist())) > 200
    assert max(shown) < len(split.digits)


def test_pictures_are_reproducible_and_fit_their_size():
    split = digits(size=48).train
    assert split.image(3, None).shape == (48, 48, 3)
    assert np.array_equal(split.image(3, None), digits(size=48).train.image(3, None))
    a, b, c = (split.image(3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.dtype == np.uint8


def test_contrast_is_the_loudness_of_the_background():
    dark, loud = (digits(contrast=value).train for value in (0.2, 0.8))
    for split, limit in ((dark, 0.2), (loud, 0.8)):
        corner = np.stack([split.image(i, None)[0] for i in range(200) if split.own[i, 11] > 0.5])  # top row, the digit is below
        assert 0.9 * limit * 255 < corner.max() <= limit * 255
    bright = [dark.image(i, None).max() for i in range(50)]
    assert min(bright) > 200


def test_ten_different_textures():
    bank = textures(32)
    assert bank.shape[0] == len(TEXTURES) == 10
    assert bank.dtype == np.uint8
    assert len({bank[kind, k].tobytes() for kind in range(10) for k in range(bank.shape[1])}) == 10 * bank.shape[1]
    assert all(texture.max() > 150 and texture.min() < 100 for texture in bank.reshape(-1, 64, 64))


def test_holdout_keeps_handwritten_digits_together():
    split = digits().train
    fit, val = holdout(split, 0.1, seed=0)
    assert len(fit) + len(val) == len(split)
    assert not set(split.groups[fit].tolist()) & set(split.groups[val].tolist())
    assert len(val) / len(split) == pytest.approx(0.1, abs=0.01)
    assert np.bincount(split.labels[val]) / len(val) == pytest.approx(np.full(10, 0.1), abs=0.02)
    assert np.array_equal(val, holdout(split, 0.1, seed=0)[1])
    assert not np.array_equal(val, holdout(split, 0.1, seed=1)[1])


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match=r"^data.share: unknown factor 'digits'; did you mean digit\?"):
        digits(share=("digits",))
    with pytest.raises(ConfigError, match=r"^data.label_column: digits have no label 'backgroud'; did you mean background\?"):
        digits(label_column="backgroud")
