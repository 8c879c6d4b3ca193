"""Features of many images: batch inference by Ray Data, part by part, each part a Parquet file that is whole or absent.

A row is (name, embedding, error): a broken image keeps its row, with no embedding and the reason. What an image is says data/layout.py. Bytes of a name that
are no UTF-8 stand as \\xe9 in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from .. import model
from ..config import RunConfig
from ..config.registry import code_of, method_code, name_code
from ..data.digests import digest
from ..data.native import SUFFIXES as NATIVE
from ..data.pixels import BrokenImage, Depth
from ..errors import UserError
from ..evaluation._base import Show
from ..model.encoder import Encoder
from ..processors import cores
from ..storage.folder import Storage
from ..storage.logins import bare, remember, remembered
from ..tables import STYLE, Table
from .curation.features import PLAN
from .samples import Read, Samples, encoded, found_in, in_samples, parts_of, sampled

ROWS_AT_ONCE = 64
AHEAD = 2 * ROWS_AT_ONCE  # images that are decoded while others are encoded
Inputs = dict[str, Tensor]  # of one image, as the encoder transforms it


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
        storage = Storage(self.out, "--out")
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
    scratch: str = "",
    show: Show = lambda message: None,
) -> Embedded:
    """Write the features of all images of `source` into the folder `out`; parts that stand there are not done again.

    source: images in any form that trains: a folder in any nesting, Parquet, archives, ...; a path or an address. part: images per part (of Parquet
    a part is a row group). scratch: as data.scratch, of what lies in archives and shards. show: is told how far one is. A single part needs no
    cluster, unless the address of one is given. Raises UserError where there is no image, or where `out` holds features of another encoder or of other images.
    """
    source, out = bare(source), bare(out)
    blank = np.zeros((32, 32, trained.config.channels), np.uint8)
    width = trained([blank]).shape[1]  # refuses methods that encode more than an image
    storage, images = Storage(out, "--out"), Storage(source)
    if storage.local and images.local and Path(storage.root).resolve().is_relative_to(Path(images.root).resolve()):
        raise UserError(
            f"--out: {out} lies among the images of {source}, where its parts would be taken for more of them; name a folder elsewhere"
        )
    found, content = found_in(images, source, NATIVE if trained.form.channels else frozenset())
    samples = None
    if in_samples(found, source, trained.form.channels):
        samples = Samples(source, column, trained.form, scratch)
        content = samples.content()
        parts = [
            {"part": number, "first": first, "count": min(part, len(samples) - first)}
            for number, first in enumerate(range(0, len(samples), part))
        ]
    else:
        parts = list(parts_of(images, found, source, column, part))
    state = {name: tensor.cpu() for name, tensor in trained.method.state_dict().items()}
    weights = digest(*(tensor.float().numpy() for tensor in state.values()))
    plan = {"encoder": weights, "sees": _sees(trained.config), "column": column, "images": digest(parts, content)}
    storage.create()
    form = trained.form
    _agree(storage, plan, {"channels": form.channels, "range": list(form.range)})
    there = set(storage.names())
    todo = [each for each in parts if _file(each["part"]) not in there or not _whole(storage, _file(each["part"]))]
    if todo:
        config, sample = trained.config, trained.form.survey(sampled(images, samples, source, column, parts))
        for word in sample.notes:
            print(f"contray: {source}: {word}", file=sys.stderr, flush=True)
        job = _Job(source, out, column, width, config.to_yaml(), state, sample.depth, code_of(config), remembered(), scratch)
        _run(todo, job, address, show)
    metadata = [_footer(storage, _file(each["part"])) for each in parts]
    broken = sum(int((each.metadata or {}).get(b"broken", b"0")) for each in metadata)
    return Embedded(sum(each.num_rows for each in metadata), broken, len(parts), len(parts) - len(todo), out, found.note())


def _footer(storage: Storage, name: str) -> pq.FileMetaData:
    with storage.system.open_input_file(f"{storage.root}/{name}") as file:  # reads the end of the file alone
        return pq.read_metadata(file)


def _whole(storage: Storage, name: str) -> bool:
    """Whether a part that is there can be read; where not, it is said, and it is done again."""
    try:
        _footer(storage, name)
    except (pa.ArrowInvalid, OSError) as error:
        print(
            f"contray: {storage.address}/{name} is damaged ({' '.join(str(error).split())[:100]}); it is done again",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


def _file(part: int) -> str:
    return f"part-{part:06d}.parquet"


def _sees(config: RunConfig) -> str:
    """A digest of what features depend on besides the weights: size, crop and normalisation of images, what of the tokens is taken, the method's code."""
    return digest(config.digest("scale", "track", "train", "optim", "eval", "seed", chars=64), method_code(config.method.name))


def _agree(storage: Storage, plan: dict[str, str], images: dict[str, Any]) -> None:
    """Note what `out` holds, or refuse where it holds something else. images: how they were read, for who looks at them again."""
    names = storage.names()
    try:
        there = json.loads(storage.read(PLAN)) if PLAN in names else plan
        different = any(there.get(key) != value for key, value in plan.items())
    except (ValueError, AttributeError):
        raise UserError(
            f"--out: {storage.address}/{PLAN}, which says whose features these are, is damaged; name another folder"
        ) from None
    if different:
        raise UserError(f"--out: {storage.address} holds features of another encoder or of other images; name another folder")
    if PLAN not in names and names:
        raise UserError(f"--out: {storage.address} holds other files; name a new folder")
    storage.write(PLAN, json.dumps({**plan, **images}).encode())


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
    scratch: str = ""
    threads: int = 1  # that read and decode ahead of the encoder


def _run(todo: list[dict[str, Any]], job: _Job, address: str, show: Show) -> None:
    """Do the parts on all workers of the cluster: a GPU each where there are some, else a CPU each."""
    from ..training.ray_train import ray_session

    job = replace(job, source=Storage(job.source).address, out=Storage(job.out).address)
    if len(todo) == 1 and not (address or os.environ.get("RAY_ADDRESS")):
        job = replace(job, threads=_threads(job, model.device_of(RunConfig.from_yaml(job.config)).type != "cpu", cores()))
        _Embedder(job, show)({name: [value] for name, value in todo[0].items()})
        return
    with ray_session(RunConfig.make("simclr", {"scale.address": address} if address else {}), logs=False):
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        cluster = ray.cluster_resources()
        gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
        most = min(len(todo), gpus or max(cpus - 1, 1))  # Ray Data starves where its actors take every CPU
        held = [
            ray.put(replace(job, threads=_threads(job, gpus > 0, max(1, cpus // most))))
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


def _threads(job: _Job, gpu: bool, most: int) -> int:
    """That decode ahead: where they wait for an object store or a GPU waits for them. Beside an encoder on the CPU they would only take its cores."""
    return most if gpu or not Storage(job.source).local else 1


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
        self.samples: Samples | None = None
        self.encoder = Encoder(config, method.eval().to(model.device_of(config)))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part, images, total = self._images({name: value[0] for name, value in batch.items()})
        found: list[tuple[str, np.ndarray | None, str | None]] = []
        waiting: list[tuple[str, Inputs]] = []
        for name, inputs in self._ahead(images):
            if isinstance(inputs, BrokenImage):
                self._flush(waiting, found)
                found.append((name, None, inputs.reason))
            else:
                waiting.append((name, inputs))
            if len(waiting) == ROWS_AT_ONCE:
                self._flush(waiting, found)
                if total:
                    self.show({"step": len(found), "total": total, "unit": "image"})
        self._flush(waiting, found)
        Storage(self.job.out).write(_file(part), _rows(found, self.job.width))
        return {"part": np.array([part])}

    def _images(self, part: dict[str, Any]) -> tuple[int, Iterator[tuple[str, Read]], int]:
        """(its number, the images of a part, how many they are, 0 where nobody knows yet)."""
        if "first" in part:
            if self.samples is None:
                self.samples = Samples(self.job.source, self.job.column, self.encoder.form, self.job.scratch)
            first, count = int(part["first"]), int(part["count"])
            return int(part["part"]), self.samples.some(first, count), count
        names, group = [os.fsdecode(name) for name in part["names"]], int(part["group"])
        images = encoded(Storage(self.job.source), self.job.source, self.job.column, names, group)
        return int(part["part"]), images, len(names) if group < 0 else 0

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
            for (name, _), row in zip(waiting, features, strict=True):
                found.append((name, row, None) if np.isfinite(row).all() else (name, None, "its features are not finite"))
            waiting.clear()


def _got(held: list[Any]) -> _Job:
    import ray

    return ray.get(held[0])


def _utf8(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _rows(found: list[tuple[str, np.ndarray | None, str | None]], width: int) -> memoryview:
    """One Parquet file: name, embedding (D float32, null where the image is broken), error."""
    broken = sum(row is None for _, row, _ in found)
    flat = np.concatenate([np.zeros(0, np.float32), *(row for _, row, _ in found if row is not None)])
    ends = np.cumsum([0, *(0 if row is None else width for _, row, _ in found)], dtype=np.int32)
    nulls = pa.array([row is None for _, row, _ in found], pa.bool_())
    # pyarrow cannot read back fixed-size lists of which one is null
    embeddings = pa.ListArray.from_arrays(ends, flat, mask=nulls)
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
