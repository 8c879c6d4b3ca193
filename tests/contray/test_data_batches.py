"""Order, full batches, broken images, loader processes: the same rows on any number of ranks and from any step on."""

import os
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch

from contray.config.sections import DataConfig
from contray.data import BrokenImage, EvalImages, GlobalBatches, holdout, loader, open_source, order, permutation
from contray.data.splits import ArraySplit
from contray.errors import ConfigError, DataError
from contray.evaluation.common.samples import check_readable
from contray.methods._base import View
from contray.methods._ranks import shares

VIEWS = {"view": View(size=16, count=2, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray=0.2), "small": View(size=8)}


def array_split(n=37):
    images = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return ArraySplit("set", images, np.arange(n) % 3, ["a", "b", "c"])


def image_folder(root: Path, n=23, broken=()):
    for i in range(n):
        image = np.full((12, 12, 3), 10 * i, np.uint8)
        path = root / f"{i:03}.png"
        cv2.imwrite(str(path), image)
        if i in broken:
            path.write_bytes(b"")
    return root


def batches(split, batch_size=8, **options):
    return GlobalBatches(split, VIEWS, strength=1.0, batch_size=batch_size, seed=options.pop("seed", 3), **options)


def equal(a, b):
    assert a["views"].keys() == b["views"].keys()
    assert all(torch.equal(a["views"][name], b["views"][name]) for name in a["views"])
    assert torch.equal(a["index"], b["index"])
    assert torch.equal(a["slot"], b["slot"])


def joined(parts):
    views = {name: torch.cat([part["views"][name] for part in parts]) for name in parts[0]["views"]}
    return {"views": views, "index": torch.cat([p["index"] for p in parts]), "slot": torch.cat([p["slot"] for p in parts])}


def test_permutation_is_pure_and_complete():
    order = permutation(0, 0, 100)
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(order, permutation(0, 0, 100))
    assert not np.array_equal(order, permutation(0, 1, 100))
    assert not np.array_equal(order, permutation(1, 0, 100))


@pytest.mark.parametrize(("size", "world"), [(8, 1), (65, 2), (7, 3), (4, 4)])
def test_shares_are_contiguous_and_even(size, world):
    found = shares(size, world)
    assert [slot for share in found for slot in share] == list(range(size))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_every_batch_is_full_and_epochs_do_not_repeat_a_sample():
    given = batches(array_split())
    assert given.steps_per_epoch == 4
    for epoch in (0, 1):
        seen = np.concatenate([given.ids(4 * epoch + step) for step in range(4)])
        assert len(seen) == len(set(seen.tolist())) == 32
    assert not np.array_equal(given.ids(0), given.ids(4))
    epochs = [joined([given.load(4 * epoch + step, range(8)) for step in range(4)]) for epoch in (0, 1)]
    both = set(epochs[0]["index"].tolist()) & set(epochs[1]["index"].tolist())
    rows = [epochs[k]["views"]["view0"][epochs[k]["index"] == i] for i in both for k in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in zip(rows[::2], rows[1::2], strict=True))


def test_batch_layout():
    batch = batches(array_split()).load(1, range(2, 7))
    assert {name: tuple(view.shape) for name, view in batch["views"].items()} == {
        "view0": (5, 16, 16, 3),
        "view1": (5, 16, 16, 3),
        "small": (5, 8, 8, 3),
    }
    assert all(view.dtype == torch.uint8 for view in batch["views"].values())
    assert batch["slot"].tolist() == [2, 3, 4, 5, 6]
    assert batch["index"].tolist() == batches(array_split()).ids(1)[2:7].tolist()
    assert batch["broken"] == {}


@pytest.mark.parametrize("source", ["array", "digits"])
def test_ranks_together_hold_the_one_rank_batch(source):
    split = array_split() if source == "array" else open_source(DataConfig(source="digits")).train
    whole = batches(split, 9).load(5, range(9))
    for world in (2, 4):
        equal(joined([batches(split, 9).load(5, share) for share in shares(9, world)]), whole)


@pytest.mark.parametrize("source", ["array", "digits"])
def test_loader_processes_change_nothing(source):
    split = array_split() if source == "array" else open_source(DataConfig(source="digits")).train
    runs = [list(loader(batches(split), range(6), range(8), workers=workers, pin=False)) for workers in (0, 1, 2)]
    assert [len(run) for run in runs] == [6, 6, 6]
    for here, one, two in zip(*runs, strict=True):
        equal(here, one)
        equal(here, two)


def test_loader_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(batches(array_split()), range(2), range(8), workers=1, pin=False))
    assert torch.equal(torch.get_rng_state(), before)


def test_resuming_at_a_step_gives_the_same_batches():
    split = array_split()
    through = list(loader(batches(split), range(7), range(8), workers=0, pin=False))
    resumed = list(loader(batches(split), range(3, 7), range(8), workers=1, pin=False))
    for a, b in zip(through[3:], resumed, strict=True):
        equal(a, b)


def test_closing_the_loader_ends_its_processes():
    stream = loader(batches(array_split()), range(1000), range(8), workers=2, pin=False)
    next(stream)
    before = len(children())
    stream.close()
    assert before >= 2
    assert len(children()) <= before - 2


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ConfigError, match=r"^train.batch_size: got 64, but there are 37 training images"):
        batches(array_split(), 64)


def test_views_of_another_column_are_refused():
    with pytest.raises(ConfigError, match=r"^views.depth.source: this data set has no column 'depth'; it has image \(image\)"):
        GlobalBatches(array_split(), {"depth": View(source="depth")}, strength=1.0, batch_size=4, seed=0)


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_alike_on_one_and_two_ranks(tmp_path, memory_gb, workers, monkeypatch):
    monkeypatch.setattr(order, "SHORTEST", 1)
    broken = {2, 11, 19}
    config = DataConfig(source=str(image_folder(tmp_path, broken=broken)), memory_gb=memory_gb)

    def run(slots, known=None):
        given = batches(open_source(config).train, broken=known, max_broken=0.2)
        return list(loader(given, range(6), slots, workers=workers, pin=False))

    whole = run(range(8))
    halves = [run(share) for share in shares(8, 2)]
    known = run(range(8), {i: "known" for i in broken})
    met = {}
    for one, two, again, step in zip(whole, zip(*halves, strict=True), known, range(6), strict=True):
        equal(joined(two), one)
        equal(again, one)
        assert again["broken"] == {}
        met |= one["broken"]
        ids = one["index"].tolist()
        assert len(ids) == 8
        assert not broken & set(ids)
        planned = batches(open_source(config).train).ids(step).tolist()
        tail = set(range(23)) - {i for k in range(2) for i in batches(open_source(config).train).ids(step // 2 * 2 + k).tolist()}
        for found, plan in zip(ids, planned, strict=True):
            assert found == plan or (plan in broken and found in tail)
    assert met.keys() == broken
    assert set(met.values()) == {"no bytes"}


class Holes(ArraySplit):
    """An array with unreadable places that are found only when they are read."""

    def __init__(self, n, holes, error=None):
        base = array_split(n)
        super().__init__("holes", base.images, base.labels, base.classes)
        self.holes, self.error = set(holes), error

    def image(self, i, rng):
        if i in self.holes:
            raise self.error or BrokenImage(self.describe(i), "a hole")
        return super().image(i, rng)


@pytest.mark.parametrize(
    ("n", "place", "also", "expected"),
    [
        (10, 4, [], 8),  # the tail is places 8 and 9; 4 mod 2 = 0
        (10, 5, [], 9),
        (10, 5, [9], 8),  # walks on, around the tail's end
        (10, 4, [8, 9], 0),  # nothing left in the tail: half an epoch away, 4 + 5, and on
        (8, 5, [], 1),  # no tail
        (8, 5, [1, 2], 3),
    ],
)
def test_which_image_replaces_a_broken_one(n, place, also, expected, monkeypatch):
    monkeypatch.setattr(order, "SHORTEST", 1)
    ids = permutation(3, 0, n)
    broken = [int(ids[p]) for p in (place, *also)]
    given = batches(Holes(n, broken), max_broken=1.0)
    batch = given.load(0, range(8))
    assert batch["index"][place] == ids[expected]
    assert batch["broken"].keys() <= set(broken)
    assert given.load(0, range(place, place + 1))["index"].tolist() == [ids[expected]]
    whole = batches(array_split(n)).pipeline(lambda column, rng: array_split(n).images[ids[expected]], (3, 0, int(ids[expected])))
    assert np.array_equal(batch["views"]["view0"][place], whole["view0"])  # its own pixels, not those of the place


def test_known_broken_images_are_not_tried_again():
    ids = permutation(3, 0, 10)
    given = batches(array_split(10), broken={int(ids[4]): "known"}, max_broken=0.1)
    batch = given.load(0, range(8))
    assert batch["index"][4] == ids[9]
    assert batch["broken"] == {}


@pytest.mark.parametrize("n", [64, 65, 80, 90])
def test_several_broken_images_of_a_batch_are_replaced_by_as_many(n):
    """Copies of one image would be each other's negatives."""
    ids = permutation(3, 0, n)
    given = batches(Holes(n, [int(ids[p]) for p in (3, 9, 20, 27)]), 32, max_broken=1.0)
    assert len(set(given.load(0, range(32))["index"].tolist())) == 32


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_too_many_broken_images_stop_the_run_with_one_line(workers):
    order = permutation(3, 0, 26)
    split = Holes(26, [int(order[8 * step]) for step in range(3)])  # one in each batch: no process of two meets all three
    line = r"^data.source: 3 of 26 images are broken, more than data.max_broken 0.1 allows \((holes image \d+: a hole(; )?){3}\)$"
    before = len(children())
    with pytest.raises(DataError, match=line):
        list(loader(batches(split, max_broken=0.1), range(6), range(8), workers=workers, pin=False))
    assert len(children()) == before


@pytest.mark.parametrize(("broken", "most", "refused"), [([2], 0.05, False), ([2], 0.0, True), ([2, 4], 0.05, True)])
def test_one_broken_image_of_few_is_no_reason_to_refuse_them(broken, most, refused):
    """The held-out tenth of sixty photos is six: one broken photo among them must not stop the run."""
    with pytest.raises(DataError, match="of 6 test images are broken") if refused else nullcontext():
        check_readable(Holes(6, broken), most)


def test_too_many_broken_images_are_refused_before_training_where_decoding_finds_them(tmp_path):
    config = DataConfig(source=str(image_folder(tmp_path, broken={1, 2, 3, 4})))
    with pytest.raises(DataError, match=r"^data.source: 4 of 23 images are broken"):
        loader(batches(open_source(config).train, max_broken=0.1), range(6), range(8), workers=0, pin=False)


def test_a_failed_read_in_a_process_surfaces_as_itself():
    split = Holes(26, [int(permutation(3, 0, 26)[0])], OSError(5, "Input/output error"))
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error$") as caught:
        list(loader(batches(split), range(6), range(8), workers=1, pin=False))
    assert caught.value.errno == 5


def test_views_of_generated_pictures_are_fresh_renderings():
    split = open_source(DataConfig(source="digits")).train
    whole = {"view": View(size=32, count=2, crop=(1, 1), ratio=(1, 1), flip=0)}
    given = GlobalBatches(split, whole, strength=1.0, batch_size=16, seed=0)
    views = given.load(0, range(16))["views"]
    assert all(not torch.equal(a, b) for a, b in zip(views["view0"], views["view1"], strict=True))


def test_evaluation_leaves_broken_images_out(tmp_path):
    split = open_source(
        DataConfig(source=str(image_folder(tmp_path, broken={0, 3, 4, 5}))),
    ).train
    images = EvalImages(split, {"image": View(size=12, crop=(0, 0), flip=0)}, range(2, 12), batch_size=3)
    for _ in range(2):
        found = list(images)
        index = torch.cat([batch["index"] for batch in found]).tolist()
        assert index == images.ids.tolist() == [2, 6, 7, 8, 9, 10, 11]
        pixels = torch.cat([batch["views"]["image"] for batch in found])
        assert pixels.shape == (7, 12, 12, 3)
        assert pixels[:, 0, 0, 0].tolist() == [10 * i for i in index]


def test_holdout_without_labels_or_groups():
    split = array_split(40)
    fit, val = holdout(split, 0.25, 0)
    assert sorted([*fit, *val]) == list(range(40))
    assert np.bincount(split.labels[val]).tolist() == [4, 3, 3] or len(val) == 10
    split.labels = None
    assert len(holdout(split, 0.25, 0)[1]) == 10


def test_loader_processes_leave_signals_to_their_parent(tmp_path):
    """A batch system sends SIGTERM to all of a job: the parent saves, and needs its batches until it has."""
    split = ArraySplit("x", np.random.default_rng(0).integers(0, 255, (64, 8, 8, 3), np.uint8), None, [])
    batches = GlobalBatches(split, {"view": View(size=8)}, strength=0.0, batch_size=4, seed=0)
    plain = [batches.load(step, range(4))["index"].tolist() for step in range(14)]
    before = set(psutil.Process().children())
    stream = loader(batches, range(14), range(4), workers=2, pin=False)
    found = [next(stream)["index"].tolist() for _ in range(2)]  # one of each process, which is at work by then
    workers = set(psutil.Process().children()) - before
    assert len(workers) == 2
    for worker in workers:
        worker.terminate()
    found += [batch["index"].tolist() for batch in stream]
    assert found == plain
