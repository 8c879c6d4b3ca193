"""What evaluation costs: k-NN beside the bare matrix product that it rests on, and a grid of linear probes trained at once.

    python tests/benchmarks/probes.py

Defaults: 10,000 queries against a bank of 50,000 rows with 512 features; 40 probes for 60 epochs on the same rows, ten classes.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from rich.console import Console
from rich.table import Table

from contray.evaluation.knn import knn_predict
from contray.evaluation.linear import linear_probe

CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bank", type=int, default=50_000, help="bank rows, and rows that the probes are fitted to")
    parser.add_argument("--queries", type=int, default=10_000, help="queries, and rows that the probe is picked on")
    parser.add_argument("--dim", type=int, default=512, help="features")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of the probes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", default="cpu", help="where the work is done; the features stay on the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, options.dim, generator=generator)
    labels = torch.randint(CLASSES, (options.bank + options.queries,), generator=generator)
    features = 0.2 * centres[labels] + torch.randn(len(labels), options.dim, generator=generator)
    (bank, queries), (bank_y, query_y) = (each.split([options.bank, options.queries]) for each in (features, labels))

    table = Table("what", "seconds", "beside the product", title=f"{options.threads} thread(s), {options.device}")

    def timed(what: str, work) -> float:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        table.add_row(what, f"{seconds:.1f}", f"{seconds / product:.2f}" if what.startswith("k-NN") else "")
        return seconds

    product = 1.0

    def multiply() -> None:
        there = bank.to(options.device)
        for piece in queries.split(256):
            (piece.to(options.device) @ there.T)[0, 0].item()

    product = timed("matrix product, 256 queries at a time", multiply)
    timed("k-NN, k 200", lambda: knn_predict(bank, bank_y, queries, classes=CLASSES, device=options.device))
    grid = {"lrs": (0.3, 1.0, 3.0, 10.0, 30.0), "decays": (0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
    timed(
        f"40 probes, {options.epochs} epochs",
        lambda: linear_probe(
            bank, bank_y, queries, query_y, **grid, epochs=options.epochs, classes=CLASSES, seed=0, device=options.device
        ),
    )
    Console().print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.2f} GB, of which features {features.numel() * 4 / 2**30:.2f} GB")


if __name__ == "__main__":
    main()
