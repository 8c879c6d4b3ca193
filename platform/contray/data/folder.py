"""A folder of images: which of them train, which test, and what classes they have, by the names of the folders alone.

`train/CLASS/*.jpg` with `test/` or `val/` beside it, in any spelling that layout.py knows, perhaps one folder further down; `CLASS/*.jpg` without
splits, which all train; or images in any nesting, without labels. What part of the data cannot be placed is refused, never added to the training
images or dropped.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..config.sections import DataConfig
from ..errors import DataError, shown
from . import bands
from .content import Files, content_of
from .digests import digest, lots_of
from .expected import Expected
from .index import Index
from .layout import SUFFIXES, WORDS, alike, alikes, listing, plain, split_named, splits_in
from .names import Tree
from .native import SUFFIXES as NATIVE
from .native import OtherChannels, native
from .pixels import BrokenImage
from .places import File, Remote, bytes_of
from .splits import Encoded, EncodedSplit

RULES = 1  # raised whenever the same names are taken for something else
LOOKED_AT = 64  # images on an object store of which the fingerprint looks at the bytes; of the others it knows the size
HANDFUL = 5  # pictures beside class folders that are left out with a word; more of them are no oversight
_MEND = "name the folders train/ and test/, move what belongs to neither away, or give the folder that you mean"
_PICTURES = {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos"}
_MASKS = {"masks", "mask", "annotations", "annotation", "labels", "label", "trimaps", "groundtruth", "ground_truth", "gt"} | {
    *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "segmentation_masks")
}
_OF_ANOTHER = re.compile(
    r"(.+?)[ _.-](?:mask|masks|gt|seg|segmentation|groundtruth|label|labels|trimap)(?:[ _.-]?\d+)?", re.IGNORECASE
)
_SPOKEN = re.compile(rf"(?<![a-z])({'|'.join(word for words in WORDS.values() for word in words)})(?![a-z])", re.IGNORECASE)


def open_folder(root: File, index: Index, config: DataConfig) -> tuple[EncodedSplit, EncodedSplit | None, list[str]]:
    """(train, test or None, notes on what was taken for what). index: of what lies below `root`."""
    found = index.found
    if not found.images:
        there = f"; {note}" if (note := found.note()) else ""
        if any(found.skipped[kind] for kind in NATIVE):
            there += f"; with --data.channels {', '.join(sorted(NATIVE))} are images too"
        raise DataError(f"data.source: no image under {root} (looked for {', '.join(sorted(SUFFIXES))} in all subfolders{there})")
    banded = {} if _whole(root, found.images, config.channels) else bands.samples_of(found.images, config.channels)
    images, kind = (Tree.of(banded), "-of-bands") if banded else (found.images, "")
    chosen = Chosen(**index.remembered(f"chosen{kind}", RULES, lambda: vars(choose(images, str(root), found.folders))))
    if banded:
        used = {file for each in banded.values() for file in each.values() if file}
        words = f"{len(used):,} files are the bands of {len(banded):,} images: {', '.join(next(iter(banded.values())))}"
        if left := [name for name in found.images if name not in used]:
            words += f"; {len(left):,} files are none of these bands, and are left out ({listing(left, 3)})"
        chosen.notes = [*chosen.notes, words]
    tables = [kind for kind in (".csv", ".tsv", ".jsonl", ".json", ".xlsx", ".mat") if found.skipped[kind]]
    if chosen.train_labels is None and tables:
        chosen.notes.append(f"no labels: they come from the names of folders, and {' or '.join(tables)} files are not read")
    if not config.label_column:
        chosen.train_labels = chosen.test_labels = None

    def bytes_at(name: str) -> bytes:
        if not banded:
            return bytes_of(root / name)
        return bands.packed({band: bytes_of(root / file) if file else None for band, file in banded[name].items()})

    def split(part: str, ids: np.ndarray, labels: np.ndarray | None) -> EncodedSplit:
        names = images.take(ids)

        def content() -> str:
            if isinstance(root, Remote):
                some = np.unique(np.linspace(0, len(names) - 1, LOOKED_AT).astype(int)).tolist()
                read.expect(some)
                sizes = found.images.sizes if banded else np.asarray(found.images.sizes)[ids]
                return digest(names, sizes, [_told(read, i) for i in some])
            files = [file for name in names for file in banded[name].values() if file] if banded else names
            return digest(names, content_of(Files(root, files)))

        read = Expected(lambda i: bytes_at(names[i]))
        encoded = Encoded(
            len(names), read, lambda i: shown(root / names[i]), content, names.__getitem__,
            expect=read.expect if isinstance(root, Remote) else None,
            lots=lambda: index.remembered(f"lots-{part}{kind}", RULES, lambda: {"lots": lots_of(names)})["lots"],
        )  # fmt: skip
        said = [] if labels is None else [shown(name) for name in chosen.classes]
        return EncodedSplit(encoded, config.memory_gb, labels, said, shorter_side=config.shorter_side)

    train = split("train", chosen.train, chosen.train_labels)
    test = split("test", chosen.test, chosen.test_labels) if len(chosen.test) else None
    return train, test, chosen.notes


def _whole(root: File, images: Tree, channels: int) -> bool:
    """Whether a file has all channels itself, whatever its name ends in, as far as the first one that can be read tells."""
    for i in range(min(len(images), HANDFUL) if channels > 1 else 0):
        try:
            return native(bytes_of(root / images[i]), images[i], channels) is not None
        except OtherChannels:
            return False
        except (BrokenImage, OSError):
            continue
    return False


def _told(read: Expected, i: int) -> str:
    try:
        return hashlib.blake2b(read(i), digest_size=12).hexdigest()
    except FileNotFoundError:
        return "gone"


@dataclass
class Chosen:
    """Numbers of the images that train and test, ascending, with the numbers of their classes where these are known: (n,) int64."""

    train: np.ndarray
    train_labels: np.ndarray | None = None
    test: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    test_labels: np.ndarray | None = None
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Folders = list[int]  # by their numbers in the tree


def choose(images: Tree, root: str, there: Iterable[str] = ()) -> Chosen:
    """`_chosen`, and notes on names that may mislead."""
    chosen = _chosen(images, root, there)
    chosen.notes += alikes(chosen.classes) + _named_as_masks(images, np.concatenate([chosen.train, chosen.test]))
    return chosen


def _chosen(images: Tree, root: str, there: Iterable[str]) -> Chosen:
    """What the images of a folder are, by their names relative to it. Raises DataError; `root` is for its message.

    there: all folders, also those without an image: a test set of which nothing could be read is not taken for none.
    """
    base = ""
    while True:
        beside, folders = _level(images, base)
        if any(splits_in(folder) for folder in folders):
            empty = [
                name
                for name in there
                if name.startswith(base) and split_named(name[len(base) :]) and name[len(base) :] not in folders
            ]
            return _by_splits(images, beside, folders, base, root, empty)
        if beside or len(folders) > 1:
            return _without_splits(images, beside, folders, base, root)
        base += f"{next(iter(folders))}/"


def _level(images: Tree, base: str) -> tuple[Folders, dict[str, Folders]]:
    """The folder `base` itself where images lie in it, and of each of its subfolders all that hold images, by their sorted names."""
    beside: Folders = []
    folders: dict[str, Folders] = {}
    for name, number in sorted((name, number) for number, name in enumerate(images.folders)):
        if f"{name}/" == base or not (name or base):
            beside.append(number)
        elif name.startswith(base):
            folders.setdefault(name[len(base) :].partition("/")[0], []).append(number)
    return beside, folders


def _count(images: Tree, folders: Folders) -> int:
    return int(images.counts[folders].sum())


def _check_kinds(folders: Iterable[str], place: str) -> None:
    """Raises DataError where pictures and their masks lie side by side: neither is a class, and nobody wants to train on masks unasked."""
    kinds = {name.lower(): name for name in folders}
    pictures, masks = ([kinds[name] for name in sorted(words & kinds.keys())] for words in (_PICTURES, _MASKS))
    if pictures and masks:
        raise DataError(
            f"data.source: {place} holds images in {listing(pictures)}/ beside {listing(masks)}/, which are no classes; "
            f"move {listing(masks)} away, or give the folder {pictures[0]}"
        )


def _named_as_masks(images: Tree, ids: np.ndarray) -> list[str]:
    """A note on images that are called as another one beside them with _mask or the like behind."""
    meant = {name: match[1] for name in images if (match := _OF_ANOTHER.fullmatch(os.path.splitext(name)[0]))}
    if not meant:
        return []
    wanted = set(meant.values())
    names = images.take(ids)
    stems = {stem: name for name in names if (stem := os.path.splitext(name)[0]) in wanted}
    found = [(name, stems[meant[name]]) for name in names if meant.get(name) in stems]
    if not found:
        return []
    return [
        f"{len(found):,} images are named as if they were masks of others ({found[0][0]} beside {found[0][1]}), and are taken as images; "
        "move masks away"
    ]


def _by_class(folders: dict[str, Folders]) -> dict[str, Folders]:
    """Folders whose names are one in another coding are one class."""
    classes: dict[str, Folders] = {}
    for folder, numbers in folders.items():
        classes.setdefault(plain(folder), []).extend(numbers)
    return classes


# ---------------------------------------------------------------- with splits


def _by_splits(images: Tree, beside: Folders, folders: dict[str, Folders], base: str, root: str, empty: list[str]) -> Chosen:
    kinds: dict[str, list[str]] = {"train": [], "test": [], "val": [], "": []}
    for folder in sorted(folders):
        spoken = splits_in(folder)
        if len(spoken) > 1:
            raise DataError(f"data.source: {root}/{base}{folder} speaks of {' and '.join(sorted(spoken))} at once; {_MEND}")
        kinds[next(iter(spoken), "")].append(folder)
    taken = ", ".join(f"'{kinds[split][0]}' was taken for {split}" for split in WORDS if kinds[split])
    if kinds[""]:
        raise DataError(
            f"data.source: in {root}/{base} {taken}, but {listing(kinds[''])} is no split; {_MEND}; where all of them are classes, put them into one "
            "folder, train/"
        )
    for split in WORDS:
        if len(kinds[split]) > 1:
            raise DataError(f"data.source: in {root}/{base} both {listing(kinds[split])} could be {split}; {_MEND}")
    if not kinds["train"]:
        raise DataError(f"data.source: in {root}/{base} {taken}, and nothing is the training set; {_MEND}")
    for folder in empty:
        split = split_named(folder[len(base) :])
        if not kinds[split] and not (split == "val" and kinds["test"]):
            raise DataError(f"data.source: {root}/{folder} holds no image; fill it, or take it away")
    train_folder = kinds["train"][0]
    test_folder = next(iter(kinds["test"] + kinds["val"]), None)
    chosen = Chosen(images.inside(folders[train_folder]))
    if beside:
        _leave_out(images, beside, f"{root}/{base} beside {train_folder}/", chosen.notes)
    if kinds["test"] and kinds["val"]:
        unused = kinds["val"][0]
        chosen.notes.append(
            f"{unused}/ ({_count(images, folders[unused]):,} images) is not used: {test_folder}/ tests, and training holds out its own"
        )
    elif split_named(train_folder) != train_folder or (test_folder and split_named(test_folder) != test_folder):
        chosen.notes.append(f"{train_folder}/ was taken for training" + (f", {test_folder}/ for testing" if test_folder else ""))

    place = f"{root}/{base}{train_folder}"
    beside, classes = _classes(images, f"{base}{train_folder}/")
    _check_kinds(classes, place)
    named = {split_named(name) for name in classes} - {""}
    if len(named) > 1:
        raise DataError(f"data.source: {place} holds {listing(sorted(classes))}, which are splits again; {_MEND}")
    if len(classes) < 2:
        if classes and not beside:
            chosen.notes.append(f"no labels: all images of {train_folder}/ lie in the one folder {next(iter(classes))}/")
    else:
        if beside:
            _leave_out(images, beside, f"{place} beside the folders of its classes ({listing(sorted(classes))})", chosen.notes)
        chosen.classes = sorted(classes)
        chosen.train, chosen.train_labels = _numbered(images, classes, chosen.classes)
    if test_folder is not None and kinds["val"] and chosen.train_labels is not None:
        hidden, told = (not _classes(images, f"{base}{name}/")[1] for name in (test_folder, kinds["val"][0]))
        if hidden and not told:  # of ImageNet and its like the test images' labels are secret
            chosen.notes = [note for note in chosen.notes if "is not used: " not in note]
            chosen.notes.append(
                f"the images of {test_folder}/ lie in no folders of classes: {kinds['val'][0]}/ tests in its place"
            )
            test_folder = kinds["val"][0]
    if test_folder is not None:
        _test(chosen, images, folders[test_folder], f"{base}{test_folder}/", root)
    return chosen


def _test(chosen: Chosen, images: Tree, folders: Folders, prefix: str, root: str) -> None:
    """Test images join the classes of training by name. Images in no folder at all have hidden labels."""
    beside, classes = _classes(images, prefix)
    if chosen.train_labels is None or not classes:
        chosen.test = images.inside(folders)
        if chosen.train_labels is not None:
            chosen.notes.append(
                f"the {len(chosen.test):,} images of {prefix} lie in no folders of classes: nothing is tested on them"
            )
        elif len(classes) > 1:
            chosen.notes.append(f"the folders of {prefix} are no labels, for the training images have none")
        return
    unknown = sorted(classes.keys() - set(chosen.classes))
    if unknown:
        near = alike(unknown[0], chosen.classes)
        mend = (
            f"it differs from '{near}' in case or spaces alone, rename one"
            if near
            else "move it away, or give train/ such a folder"
        )
        raise DataError(
            f"data.source: {root}/{prefix.rstrip('/')} has '{unknown[0]}', which is no class of train ({listing(chosen.classes, 10)}); {mend}"
        )
    if beside:
        _leave_out(images, beside, f"{root}/{prefix} beside the folders of its classes", chosen.notes)
    chosen.test, chosen.test_labels = _numbered(images, classes, chosen.classes)


def _classes(images: Tree, prefix: str) -> tuple[Folders, dict[str, Folders]]:
    """`_level` of a split; a folder that repeats the split's name, as archives unpack (train/train/CLASS), is no class."""
    own = prefix.rstrip("/").rpartition("/")[2]
    beside, folders = _level(images, prefix)
    while not beside and len(folders) == 1:
        (head,) = folders
        if head != own and split_named(head) not in splits_in(own):
            break
        prefix += f"{head}/"
        beside, folders = _level(images, prefix)
    return beside, _by_class(folders)


# ---------------------------------------------------------------- without splits


def _without_splits(images: Tree, beside: Folders, folders: dict[str, Folders], base: str, root: str) -> Chosen:
    """All images train. Folders are classes where at least two hold images themselves, as the field has it."""
    further = sorted(folder for folder in _folders(images) if split_named(folder.rpartition("/")[2]))
    if further:
        raise DataError(f"data.source: {root} has splits further down ({listing(further)}); give the folder of one set")
    if len(_spoken(images)) > 1:
        raise DataError(f"data.source: the names of the images in {root} speak of splits ({listing(images, 3)}); {_MEND}")
    _check_kinds(folders, os.path.join(root, base.rstrip("/")).rstrip("/"))
    holding = [folder for folder, inside in folders.items() if any(images.folders[number] == base + folder for number in inside)]
    chosen = Chosen(np.arange(len(images)))
    if len(holding) < 2:
        if len(folders) > 1:
            held = f"of the folders {listing(sorted(folders), 3)} fewer than two hold images themselves"
            chosen.notes.append(f"no labels: {held} (labels are the names of folders: CLASS/*.jpg)")
        return chosen
    folders = _by_class(folders)
    if (count := _count(images, beside)) > HANDFUL:
        chosen.notes.append(f"no labels: {count:,} images lie beside the folders ({listing(sorted(folders))})")
        return chosen
    if beside:
        _leave_out(images, beside, f"{root}/{base} beside the folders of its classes", chosen.notes)
    chosen.classes = sorted(folders)
    chosen.train, chosen.train_labels = _numbered(images, folders, chosen.classes)
    chosen.notes.append(f"labels are the names of the {len(folders)} folders ({listing(chosen.classes, 3)})")
    return chosen


def _folders(images: Tree) -> set[str]:
    """All folders above the images."""
    found: set[str] = set()
    for folder in images.folders:
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _spoken(names: Iterable[str]) -> set[str]:
    """The splits of which the file names speak, where every one of them does."""
    spoken = set()
    for name in names:
        word = _SPOKEN.search(name.rpartition("/")[2])
        if word is None:
            return set()
        spoken.add(split_named(word[0]))
    return spoken


def _leave_out(images: Tree, folders: Folders, where: str, notes: list[str]) -> None:
    ids = images.inside(folders)
    names = [images[i].rpartition("/")[2] for i in ids[:HANDFUL].tolist()]
    if len(ids) > HANDFUL:
        raise DataError(
            f"data.source: {len(ids):,} images lie in {where}, such as '{names[0]}'; move them into a folder that says what they are"
        )
    notes.append(f"left out: {listing(names)}, in {where}")


def _numbered(images: Tree, classes: dict[str, Folders], order: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images, ascending, each with the number of its class."""
    numbers = np.full(len(images.folders), -1, np.int64)
    places = {name: number for number, name in enumerate(order)}
    for name, folders in classes.items():
        numbers[folders] = places[name]
    labels = numbers[images.folder_of]
    ids = np.flatnonzero(labels >= 0)
    return ids, labels[ids]
