"""The names of very many files in few bytes: an Arrow array instead of Python's texts, which may lie in a file that all processes map."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

AT_ONCE = 65_536  # names that are texts at a time


class Names(Sequence[str]):
    """File names, relative to a place, in the order of their bytes; what is no UTF-8 stands as Python has it in names (surrogates)."""

    def __init__(self, array: pa.LargeBinaryArray, ids: np.ndarray | None = None) -> None:
        """ids: (N,) which of the array's they are; None: all of them."""
        self.array, self.ids = array, ids

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        return cls(pa.array(sorted(map(os.fsencode, names)), pa.large_binary()))

    def __len__(self) -> int:
        return len(self.array) if self.ids is None else len(self.ids)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            found = self.array[i] if self.ids is None else pc.take(self.array, pa.array(self.ids[i]))
            return list(map(os.fsdecode, found.to_pylist()))
        return os.fsdecode(self.array[int(i if self.ids is None else self.ids[i])].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"Names({self[:5]!r}{'...' if len(self) > 5 else ''})"

    def take(self, ids: np.ndarray) -> Names:
        """Those of the given numbers, of the same array."""
        return Names(self.array, ids if self.ids is None else self.ids[ids])


class Tree(Names):
    """The names with the folders that they lie in. folders: of all files, without a slash behind; "" is the place itself; of: (N,) numbers of them."""

    def __init__(self, array: pa.LargeBinaryArray, folders: list[str], of: np.ndarray, sizes: np.ndarray | None = None) -> None:
        """sizes: (N,) int64 bytes of the files, where the listing told them."""
        super().__init__(array)
        self.folders, self.folder_of, self.sizes = folders, of, sizes
        self.counts = np.bincount(of, minlength=len(folders))

    @classmethod
    def of(cls, names: Iterable[str]) -> Tree:
        grown = Grown()
        for name in names:
            folder, _, file = name.rpartition("/")
            grown.add(folder, [file])
        return grown.tree()

    def inside(self, numbers: Sequence[int]) -> np.ndarray:
        """(n,) int64: the images that lie in these folders themselves, ascending."""
        wanted = np.zeros(len(self.folders) + 1, bool)
        wanted[list(numbers)] = True
        return np.flatnonzero(wanted[self.folder_of])


class Grown:
    """A tree in the making, folder by folder."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: list[pa.LargeBinaryArray] = []
        self._of: list[np.ndarray] = []
        self._waiting: list[bytes] = []
        self._owners: list[int] = []
        self._sizes: list[np.ndarray] = []

    def add(self, folder: str, files: Sequence[str], sizes: Sequence[int] = ()) -> None:
        """folder: without a slash behind; its name may come again. sizes: bytes of each file, of all or of none."""
        if files:
            number = self._numbers.setdefault(folder, len(self._numbers))
            above = os.fsencode(f"{folder}/" if folder else "")
            self._waiting += [above + os.fsencode(file) for file in files]
            self._owners += [number] * len(files)
            self._sizes.append(np.array(sizes, np.int64))
            if len(self._waiting) >= AT_ONCE:
                self._pack()

    def keep(self, tree: Tree, folders: Iterable[str]) -> None:
        """The images of these folders as a tree has them."""
        numbers = {name: number for number, name in enumerate(tree.folders)}
        kept = {numbers[name]: self._numbers.setdefault(name, len(self._numbers)) for name in folders if name in numbers}
        ids = tree.inside(list(kept))
        self._parts.append(pc.take(tree.array, pa.array(ids)))
        renumbered = np.zeros(len(tree.folders), np.int32)
        renumbered[list(kept)] = list(kept.values())
        self._of.append(renumbered[tree.folder_of[ids]])

    def _pack(self) -> None:
        self._parts.append(pa.array(self._waiting, pa.large_binary()))
        self._of.append(np.array(self._owners, np.int32))
        self._waiting, self._owners = [], []

    def tree(self) -> Tree:
        self._pack()
        names = pa.concat_arrays(self._parts)
        self._parts = []
        order = pc.array_sort_indices(names)  # pyright: ignore[reportAttributeAccessIssue]
        places = order.to_numpy()
        sizes = np.concatenate(self._sizes or [np.zeros(0, np.int64)])
        return Tree(
            names.take(order),
            list(self._numbers),
            np.concatenate(self._of)[places],
            sizes[places] if len(sizes) == len(places) else None,
        )
