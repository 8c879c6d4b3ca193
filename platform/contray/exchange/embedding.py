"""Features of many images: batch inference by Ray Data, part by part, each part a Parquet file that is whole or absent.

A row is (name, embedding, error): a broken image keeps its row, with no embedding and the reason. What an image is says data/layout.py. Bytes of a name that
are no UTF-8 stand as \\xe9 in it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from .. import model
from ..config import RunConfig
from ..config.registry import code_of, name_code
from ..data.content import content_of
from ..data.digests import digest
from ..data.layout import SUFFIXES, TABLE, Found, listing, scan, sort_out
from ..data.native import SUFFIXES as NATIVE
from ..data.parquet import cell_bytes, is_image, read_file
from ..data.pixels import BrokenImage, Depth
from ..errors import DataError, UserError
from ..evaluation._base import Show
from ..model.encoder import Encoder
from ..storage.folder import Storage
from ..storage.logins import bare, remember, remembered
from ..tables import STYLE, Table

PLAN, ROWS_AT_ONCE, PAUSES = "_plan.json", 64, (0.2, 1.0)
AHEAD = 2 * ROWS_AT_ONCE  # images that are decoded while others are encoded
Inputs = dict[str, Tensor]  # of one image, as the encoder transforms it
Read = Callable[[], bytes | memoryview | None]
SAMPLED, PLACES = 64, 4  # images that tell what the values mean, and parts that they are taken from


@dataclass(frozen=True, repr=False)
class Embedded:
    """What was done: images in all, broken ones among them, and parts that an earlier call had done. `read()` gives the features."""

    rows: int
    broken: int
    parts: int
    there: int
    out: str
    skipped: str = ""  # a line on what of the source was left out

    def read(self) -> tuple[list[str], np.ndarray]:
        """Names (N) and features (N, D) float32 of all images but the broken ones, in the order of the files in `out`."""
        storage = Storage(self.out)
        names, rows = list[str](), list[np.ndarray]()
        for part in range(self.parts):
            table = pq.read_table(pa.BufferReader(storage.read(_file(part))), columns=["name", "embedding"])
            table = table.filter(table["embedding"].is_valid())
            names += table["name"].to_pylist()
            rows.append(table["embedding"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1))
        return names, np.concatenate([each for each in rows if len(each)] or [np.zeros((0, 0), np.float32)])

    def _repr_html_(self) -> str:
        table = Table("features", "images", "broken", "files", "of those there before", "folder", left=(4,))
        table.add(f"{self.rows:,}", f"{self.broken:,}", str(self.parts), str(self.there), self.out)
        table.caption = self.skipped
        return STYLE + table.html()

    def __str__(self) -> str:
        kept = f", {self.there} of {self.parts} parts were there" if self.there else ""
        return f"{self.rows:,} images in {self.out} ({self.broken:,} broken{kept})"

    __repr__ = __str__


def embed(
    source: str,
    out: str,
    trained: Encoder,
    *,
    column: str = "image",
    part: int = 2048,
    address: str = "",
    show: Show = lambda message: None,
) -> Embedded:
    """Write the features of all images of `source` into the folder `out`; parts that stand there are not done again.

    source: a folder of images in any nesting, a Parquet file, or a folder of them; a path or an address. part: images per part (of Parquet
    a part is a row group). show: is told how far one is. A single part needs no cluster, unless the address of one is given. Raises UserError
    where there is no image, or where `out` holds features of another encoder or of other images.
    """
    source, out = bare(source), bare(out)
    blank = np.zeros((32, 32, trained.config.channels), np.uint8)
    width = trained([blank]).shape[1]  # refuses methods that encode more than an image
    storage, images = Storage(out), Storage(source)
    found, content = _found(images, source, NATIVE if trained.form.channels else frozenset())
    parts = list(_parts(images, found, source, column, part))
    state = {name: tensor.cpu() for name, tensor in trained.method.state_dict().items()}
    weights = digest(*(tensor.float().numpy() for tensor in state.values()))
    plan = {"encoder": weights, "column": column, "images": digest(parts, content)}
    storage.create()
    _agree(storage, plan)
    there = set(storage.names())
    todo = [each for each in parts if _file(each["part"]) not in there]
    if todo:
        config, sample = trained.config, trained.form.survey(_sampled(images, source, column, parts))
        for word in sample.notes:
            print(f"contray: {source}: {word}", file=sys.stderr, flush=True)
        job = _Job(source, out, column, width, config.to_yaml(), state, sample.depth, code_of(config), remembered())
        _run(todo, job, address, show)
    metadata = [_footer(storage, _file(each["part"])) for each in parts]
    broken = sum(int((each.metadata or {}).get(b"broken", b"0")) for each in metadata)
    return Embedded(sum(each.num_rows for each in metadata), broken, len(parts), len(parts) - len(todo), out, found.note())


def _footer(storage: Storage, name: str) -> pq.FileMetaData:
    with storage.system.open_input_file(f"{storage.root}/{name}") as file:  # reads the end of the file alone
        return pq.read_metadata(file)


def _file(part: int) -> str:
    return f"part-{part:06d}.parquet"


def _agree(storage: Storage, plan: dict[str, str]) -> None:
    """Note what `out` holds, or refuse where it holds something else."""
    names = storage.names()
    if PLAN in names and json.loads(storage.read(PLAN)) != plan:
        raise UserError(f"--out: {storage.address} holds features of another encoder or of other images; name another folder")
    if PLAN not in names and names:
        raise UserError(f"--out: {storage.address} holds other files; name a new folder")
    storage.write(PLAN, json.dumps(plan).encode())


def _found(storage: Storage, source: str, also: frozenset[str]) -> tuple[Found, str]:
    """What lies there (of a single Parquet file it is the name ""), and a digest of its contents; on an object store, of its sizes."""
    from pyarrow import fs

    kind = fs.FileType
    info = storage.system.get_file_info(storage.root)
    if info.type == kind.File:
        if not source.lower().endswith(TABLE):
            raise DataError(f"{source}: no image folder and no Parquet file; give the folder that an image lies in")
        return Found(tables=[""]), content_of([Path(storage.root)]) if storage.local else str(info.size)
    if storage.local:
        found = scan(storage.root, "SOURCE", also=also) if info.type == kind.Directory else Found()
        return found, content_of([Path(storage.root, name) for name in (*found.images, *found.tables)])
    above = len(storage.root.rstrip("/")) + 1
    infos = storage.system.get_file_info(fs.FileSelector(storage.root, recursive=True, allow_not_found=True))
    sizes = {info.path[above:]: info.size for info in infos if info.type == kind.File}
    found = sort_out(sizes, also)
    return found, digest([sizes[name] for name in (*found.images, *found.tables)])


def _parts(storage: Storage, found: Found, source: str, column: str, size: int) -> Iterator[dict[str, Any]]:
    """{part, names (bytes, relative to the source), group (the row group of Parquet, else -1)}, in the order of names."""
    tables = []
    for name in found.tables:
        with _table(storage, name) as table:
            if is_image(table.schema_arrow, column):
                tables.append((name, table.metadata.num_row_groups))
            elif not found.images:
                place, names = _place(storage, name), ", ".join(table.schema_arrow.names)
                raise UserError(f"data.image_column: {place} has no images in a column {column!r} (it has {names})")
            else:
                found.skipped[f"{TABLE} without images in a column {column!r}"] += 1
    if tables and found.images:
        both = f"images ({listing(found.images, 1)}) and Parquet with images ({listing([name for name, _ in tables], 1)})"
        raise DataError(f"{source} holds both {both}; give the folder or the file of one")
    if not (tables or found.images):
        there = f"; {note}" if (note := found.note()) else ""
        raise DataError(f"{source}: no image and no Parquet file there (images: {', '.join(sorted(SUFFIXES))}{there})")
    groups = [(name, group) for name, count in tables for group in range(count)]
    parts = [([name], group) for name, group in groups] if tables else [
        (found.images[first : first + size], -1) for first in range(0, len(found.images), size)
    ]  # fmt: skip
    for number, (names, group) in enumerate(parts):
        yield {
            "part": number,
            "names": [os.fsencode(name) for name in names],
            "group": group,
        }  # bytes: Arrow has no other strings than UTF-8


def _place(storage: Storage, name: str) -> str:
    return f"{storage.root}/{name}" if name else storage.root


@contextmanager
def _table(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    """An open Parquet file. Raises DataError where it is none."""
    place = _place(storage, name)
    with open(place, "rb") if storage.local else storage.system.open_input_file(place) as file:
        try:
            yield pq.ParquetFile(file)
        except pa.ArrowException as error:
            raise DataError(
                f"{place} is no readable Parquet file ({str(error).splitlines()[0]}); fetch it again (git lfs pull, where it is a pointer), or leave it out"
            ) from None


@dataclass(frozen=True)
class _Job:
    """What a worker needs."""

    source: str
    out: str
    column: str
    width: int
    config: str
    state: dict[str, Tensor]
    depth: Depth | None  # of the source's images of more than 8 bits
    code: tuple[str, ...]
    logins: dict[str, tuple[str, str]] = field(repr=False)
    threads: int = 1  # that read and decode ahead of the encoder


def _run(todo: list[dict[str, Any]], job: _Job, address: str, show: Show) -> None:
    """Do the parts on all workers of the cluster: a GPU each where there are some, else a CPU each."""
    from ..training.ray_train import ray_session

    job = replace(job, source=Storage(job.source).address, out=Storage(job.out).address)
    if len(todo) == 1 and not (address or os.environ.get("RAY_ADDRESS")):
        job = replace(job, threads=os.cpu_count() or 1)
        _Embedder(job, show)({name: [value] for name, value in todo[0].items()})
        return
    with ray_session(RunConfig.make("simclr", {"scale.address": address} if address else {})):
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        cluster = ray.cluster_resources()
        gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
        most = min(len(todo), gpus or max(cpus - 1, 1))  # Ray Data starves where its actors take every CPU
        held = [
            ray.put(replace(job, threads=max(1, cpus // most)))
        ]  # in a list: an actor whose own argument is a reference could not be started again
        parts = ray.data.from_items(todo, override_num_blocks=min(len(todo), 1000))
        done = parts.map_batches(
            _Embedder,
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            fn_constructor_args=(held,),
        )
        for count, _ in enumerate(done.iter_batches(batch_size=None), 1):
            show({"step": count, "total": len(todo), "unit": "part"})


class _Embedder:
    """An actor of Ray Data: a batch is one part."""

    def __init__(self, job: list[Any] | _Job, show: Show = lambda message: None) -> None:
        self.job: _Job = job if isinstance(job, _Job) else _got(job)
        self.show = show
        name_code(*self.job.code)
        remember(self.job.logins)
        config = RunConfig.from_yaml(self.job.config)
        method = model.build(config, int(self.job.state["samples"]))
        method.load_state_dict(self.job.state)
        self.encoder = Encoder(config, method.eval().to(model.device_of(config)))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part, names, group = int(batch["part"][0]), [os.fsdecode(name) for name in batch["names"][0]], int(batch["group"][0])
        found: list[tuple[str, np.ndarray | None, str | None]] = []
        waiting: list[tuple[str, Inputs]] = []
        for name, inputs in self._ahead(_encoded(Storage(self.job.source), self.job.source, self.job.column, names, group)):
            if isinstance(inputs, BrokenImage):
                self._flush(waiting, found)
                found.append((name, None, inputs.reason))
            else:
                waiting.append((name, inputs))
            if len(waiting) == ROWS_AT_ONCE:
                self._flush(waiting, found)
                if group < 0:
                    self.show({"step": len(found), "total": len(names), "unit": "image"})
        self._flush(waiting, found)
        Storage(self.job.out).write(_file(part), _rows(found, self.job.width))
        return {"part": np.array([part])}

    def _ahead(self, images: Iterator[tuple[str, Read]]) -> Iterator[tuple[str, Inputs | BrokenImage]]:
        """The images in order, made ready by threads, as many ahead as keep these at work while some are encoded."""
        waiting: deque[tuple[str, Future[Inputs | BrokenImage]]] = deque()
        pool = ThreadPoolExecutor(self.job.threads)
        try:
            for name, read in images:
                waiting.append((name, pool.submit(self._ready, name, read)))
                if len(waiting) > AHEAD:
                    name, ready = waiting.popleft()
                    yield name, ready.result()
            yield from ((name, ready.result()) for name, ready in waiting)
        finally:
            pool.shutdown(cancel_futures=True)

    def _ready(self, name: str, read: Read) -> Inputs | BrokenImage:
        side = self.encoder.config.data.shorter_side
        try:
            return self.encoder.transform(self.encoder.form.decode(read(), name, lambda: self.job.depth, side))
        except BrokenImage as broken:
            return broken

    def _flush(self, waiting: list[tuple[str, Inputs]], found: list[Any]) -> None:
        if waiting:
            features = self.encoder.encode([inputs for _, inputs in waiting]).numpy()  # (n, D)
            found.extend((name, row, None) for (name, _), row in zip(waiting, features, strict=True))
            waiting.clear()


def _got(held: list[Any]) -> _Job:
    import ray

    return ray.get(held[0])


def _encoded(storage: Storage, source: str, column: str, names: list[str], group: int) -> Iterator[tuple[str, Read]]:
    """(name, read) of each image of a part; read() gives its encoded bytes, None where the file is gone or the cell empty, or raises BrokenImage."""
    if group < 0:
        yield from ((name, partial(_read, storage, name)) for name in names)
        return
    label = names[0] or source.rpartition("/")[2]
    folder = Path("/", _place(storage, names[0])).parent
    read = read_file if storage.local else partial(_stored, storage)
    with _table(storage, names[0]) as table:
        first = sum(table.metadata.row_group(i).num_rows for i in range(group))
        cells = table.read_row_group(group, columns=[column])[column]
    for number, cell in enumerate(cells):
        yield f"{label}#{first + number}", partial(cell_bytes, cell, folder, read)


def _sampled(storage: Storage, source: str, column: str, parts: list[dict[str, Any]]) -> Iterator[tuple[str, bytes | memoryview]]:
    """(name, encoded bytes) of about SAMPLED images from all over the source; those that cannot be read are left out."""
    places = np.unique(np.linspace(0, len(parts) - 1, PLACES).astype(int)).tolist()
    for part in (parts[place] for place in places):
        names, most = [os.fsdecode(name) for name in part["names"]], -(-SAMPLED // len(places))
        if part["group"] < 0:
            names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, most).astype(int)).tolist()]
        for name, read in islice(_encoded(storage, source, column, names, part["group"]), most):
            with suppress(BrokenImage):
                if data := read():
                    yield name, data


def _stored(storage: Storage, place: str) -> bytes:
    """place: absolute, also where the store's own names have no slash before them."""
    with storage.system.open_input_file(place if storage.root.startswith("/") else place[1:]) as file:
        return file.read()


def _read(storage: Storage, name: str) -> bytes | None:
    """A read that fails is tried again; one that fails for good ends the call, for it says nothing about the image."""
    for pause in (*PAUSES, None):
        try:
            return storage.read(name)
        except FileNotFoundError:
            return None
        except OSError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


def _utf8(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _rows(found: list[tuple[str, np.ndarray | None, str | None]], width: int) -> memoryview:
    """One Parquet file: name, embedding (D float32, null where the image is broken), error."""
    broken = sum(row is None for _, row, _ in found)
    flat = np.concatenate([np.zeros(0, np.float32), *(row for _, row, _ in found if row is not None)])
    ends = np.cumsum([0, *(0 if row is None else width for _, row, _ in found)], dtype=np.int32)
    nulls = pa.array([row is None for _, row, _ in found], pa.bool_())
    embeddings = pa.ListArray.from_arrays(
        ends, flat, mask=nulls
    )  # pyarrow cannot read back fixed-size lists of which one is null
    table = pa.table(
        {
            "name": pa.array([_utf8(name) for name, _, _ in found], pa.string()),
            "embedding": embeddings,
            "error": pa.array([error for _, _, error in found], pa.string()),
        }
    ).replace_schema_metadata({"broken": str(broken)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return memoryview(sink.getvalue())
