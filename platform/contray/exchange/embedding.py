"""Features of many images: batch inference by Ray Data, part by part, each part a Parquet file that is whole or absent.

A row is (name, embedding, error): a broken image keeps its row, with no embedding and the reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from .. import model
from ..config import RunConfig
from ..data.folder import SUFFIXES
from ..data.splits import BrokenImage, decode, digest
from ..encoder import Encoder
from ..errors import DataError, UserError
from ..logins import bare, remember, remembered
from ..registry import code_of, name_code
from ..training.checkpoint import Storage

PLAN, ROWS_AT_ONCE, PAUSES = "_plan.json", 64, (0.2, 1.0)


@dataclass(frozen=True)
class Embedded:
    """What was done: images in all, broken ones among them, and parts that an earlier call had done."""

    rows: int
    broken: int
    parts: int
    there: int
    out: str

    def __str__(self) -> str:
        kept = f", {self.there} of {self.parts} parts were there" if self.there else ""
        return f"{self.rows:,} images in {self.out} ({self.broken:,} broken{kept})"


def embed(source: str, out: str, trained: Encoder, *, column: str = "image", part: int = 2048, address: str = "") -> Embedded:
    """Write the features of all images of `source` into the folder `out`; parts that stand there are not done again.

    source: a folder of images in any nesting, a Parquet file, or a folder of them; a path or an address. part: images per part (of Parquet
    a part is a row group). Raises UserError where there is no image, or where `out` holds features of another encoder or of other images.
    """
    source, out = bare(source), bare(out)
    width = trained([np.zeros((32, 32, 3), np.uint8)]).shape[1]  # refuses methods that encode more than an image
    storage, parts = Storage(out), list(_parts(Storage(source), source, column, part))
    state = {name: tensor.cpu() for name, tensor in trained.method.state_dict().items()}
    weights = digest(*(tensor.float().numpy() for tensor in state.values()))
    plan = {"encoder": weights, "column": column, "images": digest(parts)}
    storage.create()
    _agree(storage, plan)
    there = set(storage.names())
    todo = [each for each in parts if _file(each["part"]) not in there]
    if todo:
        _run(
            todo,
            _Job(source, out, column, width, trained.config.to_yaml(), state, code_of(trained.config.method.name), remembered()),
            address,
        )
    metadata = [pq.read_metadata(pa.BufferReader(storage.read(_file(each["part"])))) for each in parts]
    broken = sum(int((each.metadata or {}).get(b"broken", b"0")) for each in metadata)
    return Embedded(sum(each.num_rows for each in metadata), broken, len(parts), len(parts) - len(todo), out)


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


def _parts(storage: Storage, source: str, column: str, size: int) -> Iterator[dict[str, Any]]:
    """{part, names (relative to the source), group (the row group of Parquet, else -1)}, in the order of names."""
    from pyarrow import fs

    if storage.system.get_file_info(storage.root).type == fs.FileType.File:
        found = [""]
    else:
        infos = storage.system.get_file_info(fs.FileSelector(storage.root, recursive=True, allow_not_found=True))
        files = [info.path for info in infos if info.type == fs.FileType.File and not info.base_name.startswith((".", "_"))]
        found = sorted(path[len(storage.root.rstrip("/")) + 1 :] for path in files)
    tables = [name for name in found if (name or source).lower().endswith(".parquet")]
    if tables:
        groups = [(name, group) for name in tables for group in range(_table(storage, name, column).metadata.num_row_groups)]
        yield from ({"part": number, "names": [name], "group": group} for number, (name, group) in enumerate(groups))
        return
    images = [name for name in found if f".{name.rpartition('.')[2].lower()}" in SUFFIXES]
    if not images:
        raise DataError(f"{source}: no image and no Parquet file there (images: {', '.join(sorted(SUFFIXES))})")
    for number, first in enumerate(range(0, len(images), size)):
        yield {"part": number, "names": images[first : first + size], "group": -1}


def _table(storage: Storage, name: str, column: str) -> pq.ParquetFile:
    place = f"{storage.root}/{name}" if name else storage.root
    try:
        table = pq.ParquetFile(place, filesystem=storage.system)
    except pa.ArrowInvalid as error:
        raise DataError(f"{place} is no readable Parquet file: {str(error).splitlines()[0]}") from None
    if column not in table.schema_arrow.names:
        raise UserError(f"--column: {place} has no column {column!r} (it has {', '.join(table.schema_arrow.names)})")
    return table


@dataclass(frozen=True)
class _Job:
    """What a worker needs."""

    source: str
    out: str
    column: str
    width: int
    config: str
    state: dict[str, Tensor]
    code: tuple[str, ...]
    logins: dict[str, tuple[str, str]] = field(repr=False)


def _run(todo: list[dict[str, Any]], job: _Job, address: str) -> None:
    """Do the parts on all workers of the cluster: a GPU each where there are some, else a CPU each."""
    from ..training.ray_train import ray_session

    job = replace(job, source=Storage(job.source).address, out=Storage(job.out).address)
    with ray_session(RunConfig.make("simclr", {"scale.address": address} if address else {})):
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        cluster = ray.cluster_resources()
        gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
        most = min(len(todo), gpus or max(cpus - 1, 1))  # Ray Data starves where its actors take every CPU
        held = [ray.put(job)]  # in a list: an actor whose own argument is a reference could not be started again
        parts = ray.data.from_items(todo, override_num_blocks=min(len(todo), 1000))
        done = parts.map_batches(
            _Embedder,
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
            fn_constructor_args=(held,),
        )
        for _ in done.iter_batches(batch_size=None):
            pass


class _Embedder:
    """An actor of Ray Data: a batch is one part."""

    def __init__(self, job: list[Any] | _Job) -> None:
        import ray

        self.job: _Job = job if isinstance(job, _Job) else ray.get(job[0])
        name_code(*self.job.code)
        remember(self.job.logins)
        config = RunConfig.from_yaml(self.job.config)
        method = model.build(config, int(self.job.state["samples"]))
        method.load_state_dict(self.job.state)
        self.encoder = Encoder(config, method.eval().to(model.device_of(config)))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        part, names, group = int(batch["part"][0]), [str(name) for name in batch["names"][0]], int(batch["group"][0])
        found: list[tuple[str, np.ndarray | None, str | None]] = []
        waiting: list[tuple[str, np.ndarray]] = []
        for name, data in self._encoded(names, group):
            try:
                waiting.append((name, decode(data, name)))
            except BrokenImage as broken:
                self._flush(waiting, found)
                found.append((name, None, broken.reason))
            if len(waiting) == ROWS_AT_ONCE:
                self._flush(waiting, found)
        self._flush(waiting, found)
        Storage(self.job.out).write(_file(part), _rows(found, self.job.width))
        return {"part": np.array([part])}

    def _flush(self, waiting: list[tuple[str, np.ndarray]], found: list[Any]) -> None:
        if waiting:
            features = self.encoder([image for _, image in waiting]).numpy()  # (n, D)
            found.extend((name, row, None) for (name, _), row in zip(waiting, features, strict=True))
            waiting.clear()

    def _encoded(self, names: list[str], group: int) -> Iterator[tuple[str, bytes | None]]:
        """(name, encoded bytes) of each image of a part; None where the file is gone or the cell empty."""
        storage, column = Storage(self.job.source), self.job.column
        if group < 0:
            yield from ((name, _read(storage, name)) for name in names)
            return
        table = _table(storage, names[0], column)
        first = sum(table.metadata.row_group(i).num_rows for i in range(group))
        for number, value in enumerate(table.read_row_group(group, columns=[column])[column].to_pylist()):
            label = names[0] or self.job.source.rpartition("/")[2]
            yield f"{label}#{first + number}", value["bytes"] if isinstance(value, dict) else value


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
            "name": pa.array([name for name, _, _ in found], pa.string()),
            "embedding": embeddings,
            "error": pa.array([error for _, _, error in found], pa.string()),
        }
    ).replace_schema_metadata({"broken": str(broken)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return memoryview(sink.getvalue())
