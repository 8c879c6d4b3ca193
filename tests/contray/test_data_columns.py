"""Views of other columns than the image: arrays, texts, further images of a sample; patches that are moved."""

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contray import RunConfig, data, model
from contray.data.batches import EvalImages, GlobalBatches
from contray.data.views import END, PAD, Pipeline, tokens
from contray.errors import ConfigError, UserError
from contray.methods._base import View, evaluation_view
from contray.model.encoder import Encoder
from contray.pictures.preview import draw


def encoded(value: int, side: int = 20) -> bytes:
    return cv2.imencode(".png", np.full((side, side, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def parquet(tmp_path):
    """Twelve samples with a picture, a depth map, a sound of 50 values in two channels, a caption and a class."""
    count = 12
    table = pa.table(
        {
            "image": [encoded(10 * i) for i in range(count)],
            "depth": [{"bytes": encoded(5 * i), "path": ""} for i in range(count)],
            "sound": [np.arange(100, dtype=np.float32).reshape(2, 50).tolist() for _ in range(count)],
            "mono": [np.arange(50).tolist() for _ in range(count)],
            "caption": [f"number {i}" if i != 3 else None for i in range(count)],
            "label": [i % 2 for i in range(count)],
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")
    return tmp_path


def opened(folder):
    return data.open_source(RunConfig.make("simclr", {"data.source": str(folder), "data.test_share": 0}).data).train


def test_every_column_that_a_view_could_want_is_offered(parquet):
    split = opened(parquet)
    assert split.columns == {"image": "image", "depth": "image", "sound": "array", "mono": "array", "caption": "text"}
    assert split.value(2, "depth", None).mean() == 10
    assert split.value(2, "image", None).mean() == 20
    assert split.value(2, "sound", None).shape == (2, 50)
    assert split.value(2, "caption", None) == "number 2"


def batches(split, views, size=4):
    return GlobalBatches(split, views, strength=1.0, batch_size=size, seed=0, max_broken=0.5)


def test_a_batch_of_all_kinds_has_one_row_of_each_sample(parquet):
    flat = {"crop": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
    views = {
        "picture": View(size=8, **flat),
        "depth": View(size=8, source="depth", **flat),
        "sound": View(size=16, source="sound", kind="array", channels=2),
        "text": View(size=12, source="caption", kind="tokens"),
    }
    batch = batches(opened(parquet), views).load(0, range(4))
    assert 3 not in batch["index"]  # it has no caption: replaced, as a broken image is
    shapes = {name: tuple(rows.shape[1:]) for name, rows in batch["views"].items()}
    assert shapes == {"picture": (8, 8, 3), "depth": (8, 8, 3), "sound": (2, 16), "text": (12,)}
    for row, i in enumerate(batch["index"].tolist()):
        assert batch["views"]["picture"][row].unique().tolist() == [10 * i]
        assert batch["views"]["depth"][row].unique().tolist() == [5 * i]
        assert batch["views"]["text"][row].tolist() == tokens(f"number {i}", 12).tolist()
        assert (batch["views"]["sound"][row].diff(dim=1) == 1).all()


def test_a_sample_without_a_column_is_broken_and_named(parquet):
    loader = batches(opened(parquet), {"text": View(size=12, source="caption", kind="tokens")}, size=6)
    rows = [loader.load(step, range(6)) for step in range(2)]
    broken = {i: reason for row in rows for i, reason in row["broken"].items()}
    assert broken == {3: "column 'caption' is empty"}


def test_windows_are_drawn_for_training_and_the_middle_for_evaluation():
    view = View(size=10, kind="array", source="x")
    signal = np.arange(40, dtype=np.float32)
    starts = {Pipeline({"x": view}, 1.0)(lambda column, rng: signal, (0, 0, i))["x"][0, 0] for i in range(50)}
    assert min(starts) >= 0
    assert max(starts) <= 30
    assert len(starts) > 15
    middle = Pipeline({"x": evaluation_view(view)}, 0.0)(lambda column, rng: signal, (0, 0, 7))["x"]
    assert middle.tolist() == [list(range(15, 25))]
    short = Pipeline({"x": view}, 1.0)(lambda column, rng: signal[:4], (0, 0, 0))["x"]
    assert short.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0, 0, 0]]


def test_channels_that_differ_are_named():
    with pytest.raises(ConfigError, match="column 'x' has 1 channels, its view's `channels` is 2"):
        Pipeline({"x": View(size=4, kind="array", source="x", channels=2)}, 1.0)(lambda column, rng: np.zeros(9), (0, 0, 0))


def test_tokens_are_bytes_an_end_and_padding():
    assert tokens("ab", 5).tolist() == [98, 99, END, PAD, PAD]
    assert tokens("abcdef", 4).tolist() == [98, 99, 100, END]
    assert tokens("", 2).tolist() == [END, PAD]
    assert tokens("\u00e9", 4).tolist() == [0xC3 + 1, 0xA9 + 1, END, PAD]


def test_a_kind_that_the_column_has_not_is_refused(parquet):
    with pytest.raises(
        ConfigError, match=r"^views.x.kind: array are drawn from a column of kind array, 'depth' is of kind image"
    ):
        batches(opened(parquet), {"x": View(kind="array", source="depth")})
    with pytest.raises(
        ConfigError, match=r"^views.x.source: this data set has no column 'normals'; it has image \(image\), depth"
    ):
        batches(opened(parquet), {"x": View(source="normals")})


def test_normalisation_leaves_tokens_and_gives_arrays_their_precision():
    normalise = model.normaliser(RunConfig.make("simclr", {"train.precision": "fp64"}), torch.device("cpu"))
    assert normalise(torch.tensor([[1, 2]])).dtype == torch.int64
    assert torch.equal(normalise(torch.tensor([[0.5]])), torch.tensor([[0.5]], dtype=torch.float64))


# ---------------------------------------------------------------- the digits' own


def digits():
    return data.open_source(RunConfig.make("simclr", {"data.renderings": 1}).data).train


def test_digits_columns_are_of_one_picture():
    split = digits()
    for i in range(0, 200, 20):
        drawn = {column: split.value(i, column, np.random.default_rng(i)) for column in split.columns}
        grey = cv2.cvtColor(drawn["image"], cv2.COLOR_RGB2GRAY)
        assert np.allclose(drawn["scanlines"].reshape(grey.shape) * 255, grey, atol=0.01)
        rows, columns = np.nonzero(drawn["mask"])
        middle = {"top": 0, "middle": 1, "bottom": 2, "left": 0, "centre": 1, "right": 2}
        words = drawn["caption"].split()
        vertical, horizontal = middle[words[5]], middle[words[6]]
        assert abs((rows.min() + rows.max()) / 2 - (10 + 6 * vertical)) < 6, drawn["caption"]
        assert abs((columns.min() + columns.max()) / 2 - (10 + 6 * horizontal)) < 6, drawn["caption"]


def test_captions_name_the_digit():
    split = digits()
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for i in range(0, 300, 7):
        assert split.labels is not None
        assert split.value(i, "caption", None).split()[2] == names[split.labels[i]]


def test_views_of_one_geometry_show_one_picture():
    config = RunConfig.make("clip")
    split = data.open_source(config.data).train
    batch = GlobalBatches(split, config.views, strength=1.0, batch_size=8, seed=0).load(0, range(8))
    again = RunConfig.make("cmc", preset="digits_scene").views
    scene = GlobalBatches(split, again, strength=1.0, batch_size=8, seed=0).load(0, range(8))
    assert batch["views"]["text"].shape == (8, 64)
    for row in range(8):
        mask, edges = scene["views"]["mask"][row].float(), scene["views"]["edges"][row].float()
        assert edges[mask > 128].mean() > 0.8 * edges[mask == 0].mean()  # the digit's outline lies where its mask is


def test_evaluation_takes_the_fixed_picture_of_every_column():
    split = digits()
    views = {
        "image": View(size=32, crop=(0, 0), flip=0),
        "scanlines": View(size=1024, kind="array", source="scanlines", crop=(0, 0)),
    }
    (batch,) = EvalImages(split, views, range(5), 8)
    for row in range(5):
        grey = cv2.cvtColor(batch["views"]["image"][row].numpy(), cv2.COLOR_RGB2GRAY)
        assert np.allclose(batch["views"]["scanlines"][row, 0].numpy() * 255, grey.reshape(-1), atol=0.01)


# ---------------------------------------------------------------- patches that move


def test_patches_move_each_by_itself_within_their_shift():
    picture = np.arange(48, dtype=np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)  # the column's number
    view = View(size=48, kind="patches", grid=(3, 12, 16), grid_shift=4, crop=(0, 0), flip=0)
    found = [Pipeline({"x": view}, 1.0)(lambda column, rng: picture, (0, 0, i))["x"] for i in range(30)]
    offsets = np.stack([patches[:, 0, 0, 0].astype(int) - np.tile([0, 16, 32], 3) for patches in found])  # (30, 9)
    assert offsets.min() == 0
    assert offsets.max() == 4
    assert offsets.std(axis=1).min() > 0
    with pytest.raises(ConfigError, match="moved by up to 5, need size 49, got 48"):
        Pipeline({"x": View(size=48, kind="patches", grid=(3, 12, 16), grid_shift=5)}, 1.0)


# ---------------------------------------------------------------- what uses them


def test_an_encoder_of_several_columns_wants_them_all():
    config = RunConfig.make("cmc", {"backbone.width": 4}, preset="digits_scene")
    encoder = Encoder(config, model.build(config, 50).eval())
    picture = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="cmc encodes more than an image: give a dict with mask too"):
        encoder([picture])
    assert encoder([{"image": picture, "mask": picture[:, :, 0]}]).shape == (1, encoder.method.out_dim)


def test_groups_that_do_not_fit_the_views_are_named():
    config = RunConfig.make("cmc", {"method.groups": (1, 2)}, preset="digits_scene")
    with pytest.raises(
        ConfigError,
        match=r"^method.groups: got 1 2, must be two or more views of 9 channels in all: three for each of view, edges, mask",
    ):
        model.check(config, 1000)


@pytest.mark.parametrize("name", ["clip", "cpc_sequence", "infomin"])
def test_previews_show_every_kind(name, tmp_path):
    config = RunConfig.make(name)
    split = data.open_source(config.data).train
    path = draw(split, config.views, strength=1.0, seed=0, samples=2, out=tmp_path / "views.png")
    assert cv2.imread(str(path)).std() > 5


BAD_ROWS = {
    "not finite": ("mono", [1.0, float("nan")] * 25, "not finite"),
    "null inside": ("mono", [1.0, None] * 25, "not finite"),
    "beyond float32": ("mono", [1e300] * 50, "not finite"),
    "no values": ("mono", [], "empty"),
    "null": ("mono", None, "empty"),
    "channels of two lengths": ("sound", [[1.0, 2.0], [3.0]], "several lengths"),
    "a null channel": ("sound", [[1.0, 2.0], None], "several lengths"),
    "empty text": ("caption", "", "empty"),
    "blank text": ("caption", " \n", "empty"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_row_that_no_view_can_be_drawn_from_is_broken_and_named(tmp_path, case):
    column, bad, reason = BAD_ROWS[case]
    good = {"mono": [0.5] * 50, "sound": [[0.5] * 50] * 2, "caption": "a word"}[column]
    kind = {"mono": pa.list_(pa.float64()), "sound": pa.list_(pa.list_(pa.float64())), "caption": pa.string()}[column]
    cells = pa.array([bad if i == 2 else good for i in range(8)], kind)
    pq.write_table(pa.table({"image": [encoded(10)] * 8, column: cells}), tmp_path / "train.parquet")
    view = {"caption": View(source="caption", kind="tokens", size=16)}.get(
        column, View(source=column, kind="array", size=16, channels=2 if column == "sound" else 1)
    )
    own = batches(opened(tmp_path), {"x": view}, 8)
    batch = own.load(0, range(8))
    assert list(batch["broken"]) == [2]
    assert reason in batch["broken"][2]
    assert 2 not in batch["index"].tolist()


def test_files_that_any_column_names_are_part_of_the_fingerprint(tmp_path):
    """Only the pictures' own files were: a depth map of equal size put in another's place went unnoticed, and a resumed run mixed both."""
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encoded(10 * i))
    table = {"image": [encoded(1)] * 2, "depth": [{"bytes": None, "path": f"{i}.png"} for i in range(2)]}
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    file = tmp_path / "train.parquet"
    before = opened(file).content()
    assert opened(file).content() == before
    (tmp_path / "1.png").write_bytes(encoded(20))
    assert opened(file).content() != before
