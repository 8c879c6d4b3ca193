"""What NT-Xent costs over large batches: peak memory and time of loss and gradient, in tiles and in one piece.

    python tests/benchmarks/loss_memory.py [--images 1024 4096 16384 65536] [--threads 2] [--device cuda]

A batch of N images is two views of N rows each: 2N anchors against 2N keys, 128 features, float32, temperature 0.5. Each number comes
from a process of its own: its largest resident memory (on a GPU: the largest allocation) less what it held before the loss, the rows
themselves included in the latter. "In one piece" is the plain loss and is left out where it would need more than --limit GiB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

DIM, TEMPERATURE = 128, 0.5
PLAIN_COPIES = 3  # logits, their log-softmax and its gradient stand side by side


def measure(images: int, tile: int, threads: int, device: str) -> None:
    """Prints MiB and seconds."""
    import torch

    from contray.methods import _similarity
    from contray.methods._parts import normalize, nt_xent

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(images, DIM, generator=generator)
    second = first + torch.randn(images, DIM, generator=generator)
    a, b = (normalize(x).to(device).requires_grad_() for x in (first, second))
    slot = torch.arange(images, device=device)

    def step(rows: int) -> None:
        loss, _ = nt_xent(a[:rows], b[:rows], TEMPERATURE, slot[:rows], rows)
        loss.backward()
        loss.item()  # waits for the GPU
        a.grad = b.grad = None

    step(64)  # libraries load
    _similarity.TILE = tile
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before, start = peak(device), time.perf_counter()
    step(images)
    print(peak(device) - before, time.perf_counter() - start)


def peak(device: str) -> float:
    """MiB"""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1024, 4096, 16384, 65536], help="batch sizes")
    parser.add_argument("--tile", type=int, default=2**24, help="similarities of a tile")
    parser.add_argument("--limit", type=float, default=3.0, help="GiB that the plain loss may take")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS, metavar=("IMAGES", "TILE"))
    options = parser.parse_args()
    if options.one:
        measure(*options.one, options.threads, options.device)
        return

    def fresh(images: int, tile: int) -> str:
        command = [
            sys.executable,
            __file__,
            "--one",
            str(images),
            str(tile),
            "--threads",
            str(options.threads),
            "--device",
            options.device,
        ]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        memory, seconds = map(float, run.stdout.split())
        return f"{memory:,.0f} MiB | {seconds:.2f} s"

    print("| images | similarities | tiles: memory | time | one piece: memory | time |")
    print("|---:|---:|---:|---:|---:|---:|")
    for images in options.images:
        need = PLAIN_COPIES * 4 * (2 * images) ** 2 / 2**30
        plain = f"would need {need:,.0f} GiB | -" if need > options.limit else fresh(images, (2 * images) ** 2)
        print(f"| {images:,} | {(2 * images) ** 2:,} | {fresh(images, options.tile)} | {plain} |", flush=True)
    print(f"\ntiles of {options.tile:,} similarities, {DIM} features, {options.threads} thread(s), {options.device}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
