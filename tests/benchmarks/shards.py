"""Peak memory of every process that loads a set larger than its budgets, and images per second.

    python tests/benchmarks/shards.py --gb 2 --kind parquet --shuffle blocks --disk_gb 1
    python tests/benchmarks/shards.py --gb 20 --kind tar --shuffle full

Writes a synthetic set of that size (JPEGs with noise behind their end, so that decoding costs little), loads a part
of an epoch through the loader with two processes, and removes it.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import tarfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contray.config.sections import DataConfig
from contray.data import GlobalBatches, loader, open_source, window
from contray.methods._base import View

SIZE, SHARD = 100_000, 128 * 10**6  # bytes of an image and of a shard


def write(folder: Path, kind: str, gb: float) -> None:
    folder.mkdir(parents=True)
    jpeg = cv2.imencode(".jpg", np.full((64, 64, 3), 100, np.uint8))[1].tobytes()
    each, shards = SHARD // SIZE, max(1, round(gb * 1e9 / SHARD))
    for shard in range(shards):
        images = [jpeg + os.urandom(SIZE - len(jpeg)) for _ in range(each)]
        if kind == "parquet":
            table = pa.table({"image": pa.array(images, pa.binary())})
            pq.write_table(table, folder / f"train-{shard:05}.parquet", row_group_size=each // 4, use_dictionary=False)
            continue
        with tarfile.open(folder / f"train-{shard:05}.tar", "w") as tar:
            for i, image in enumerate(images):
                info = tarfile.TarInfo(f"{shard:05}{i:05}.jpg")
                info.size = len(image)
                tar.addfile(info, io.BytesIO(image))


def peaks() -> dict[int, int]:
    """kB of the peak of this process and of those below it."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in place.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        pid = int(place.parent.name)
        if pid == os.getpid() or int(lines["PPid"]) == os.getpid():
            found[pid] = int(lines.get("VmHWM", "0").split()[0])
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gb", type=float, default=2.0)
    arguments.add_argument("--kind", choices=["parquet", "tar"], default="parquet")
    arguments.add_argument("--shuffle", choices=["full", "blocks"], default="blocks")
    arguments.add_argument("--window", type=int, default=2)
    arguments.add_argument("--disk_gb", type=float, default=0.0)
    arguments.add_argument("--images", type=int, default=20_000, help="to load")
    arguments.add_argument("--folder", default="/tmp/contray-shards")
    given = arguments.parse_args()
    folder, most, done = Path(given.folder), dict[int, int](), threading.Event()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        writer = multiprocessing.get_context("fork").Process(target=write, args=(folder / "set", given.kind, given.gb))
        writer.start()  # a process of its own: what writing takes is not what loading takes
        writer.join()
        config = DataConfig(
            source=str(folder / "set"), scratch=str(folder / "scratch"), memory_gb=0.0, disk_gb=given.disk_gb, shuffle=given.shuffle, window=given.window
        )  # fmt: skip

        def watch() -> None:
            while not done.wait(0.2):
                for pid, peak in peaks().items():
                    most[pid] = max(peak, most.get(pid, 0))
                    copies = sum(path.stat().st_blocks * 512 for path in (folder / "scratch").glob("*") if path.exists())
                    most[0] = max(most.get(0, 0), copies)

        began = time.perf_counter()
        split = open_source(config).train
        print(
            f"{len(split):,} images opened in {time.perf_counter() - began:.1f} s; {config.shuffle}, data.disk_gb {config.disk_gb:g}"
        )
        batches = GlobalBatches(split, {"view": View(size=64)}, strength=0.0, batch_size=256, seed=0, window=window(config))
        watcher = threading.Thread(target=watch)
        watcher.start()
        began, steps = time.perf_counter(), min(given.images, len(split)) // 256
        for _ in loader(batches, range(steps), range(256), workers=2, pin=False):
            pass
        print(f"{steps * 256 / (time.perf_counter() - began):,.0f} images/s over {steps * 256:,} images")
        done.set()
        watcher.join()
        print(f"copies on the disk: at most {most.pop(0, 0) / 1e9:.2f} GB")
        for pid, peak in most.items():
            print(f"process {pid}{' (this one)' if pid == os.getpid() else ''}: peak {peak / 1e6:.2f} GB")
    finally:
        done.set()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
