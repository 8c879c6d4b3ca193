"""A folder of 1.28 million files: how long its first and its later openings take, and what all processes of a machine need for it together.

python tests/benchmarks/index.py            # --files 1_281_000, in 1,000 classes, and 50,000 test files; makes and removes them
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from contray.config.sections import DataConfig
from contray.data import open_source


def make(root: Path, files: int, classes: int = 1000) -> None:
    for split, count in (("train", files), ("val", 50_000)):
        for number in range(classes):
            folder = root / split / f"n{number * 137:08d}"
            folder.mkdir(parents=True)
            for i in range(count // classes):
                os.close(os.open(f"{folder}/n{number * 137:08d}_{i * 7}.JPEG", os.O_CREAT | os.O_WRONLY, 0o644))
    time.sleep(3.5)  # a folder that changed just now is read again


def share() -> int:
    """Bytes of this process, of what it shares with others its part of them."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def opened(root: Path, scratch: Path, pipe: Connection) -> None:
    """What one process of a run does: opens the set, and reads names from all over it."""
    small = scratch.parent / f"small-{os.getpid()}"
    small.mkdir()
    (small / "1.png").write_bytes(b"")
    open_source(DataConfig(source=str(small), scratch=str(scratch)))  # what opening any folder imports is not this one's
    before, begin = share(), time.perf_counter()
    source = open_source(DataConfig(source=str(root), scratch=str(scratch)))
    seconds = time.perf_counter() - begin
    for i in np.random.default_rng(0).integers(0, len(source.train), 20_000).tolist():
        source.train.key(i)
    pipe.send(seconds)
    pipe.recv()  # all have opened it
    pipe.send(share() - before)
    pipe.recv()


def measure(root: Path, scratch: Path, processes: int) -> tuple[list[float], int]:
    """(seconds of each opening, bytes of all processes together)."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(processes)]
    workers = [context.Process(target=opened, args=(root, scratch, end[1])) for end in ends]
    for worker in workers:
        worker.start()
    seconds = [end[0].recv() for end in ends]
    for end in ends:
        end[0].send(None)
    total = sum(end[0].recv() for end in ends)
    for end in ends:
        end[0].send(None)
    for worker in workers:
        worker.join()
    return seconds, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_281_000)
    parser.add_argument("--folder", default="", help="a folder that is there already; empty: one is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(options.folder or f"{scratch}/set")
        if not options.folder:
            make(root, options.files)
        for words, processes in (("first opening", 1), ("again, one process", 1), ("again, four at once", 4)):
            seconds, total = measure(root, Path(scratch) / "index", processes)
            print(f"{words:20} {max(seconds):6.2f} s, {total / 1e6:6.1f} MB in all processes together", flush=True)
        if not options.folder:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
