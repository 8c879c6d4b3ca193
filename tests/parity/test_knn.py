"""Weighted k-NN against DINO's evaluation script."""

import pytest
import torch

from contray.evaluation.knn import knn_predict, knn_top1


@pytest.mark.parametrize("chunk_bytes", [256_000_000, 20_000])
def test_top1_is_the_references(golden, chunk_bytes: int) -> None:
    g = golden("knn")
    bank, labels, queries, truth = (
        torch.from_numpy(g[name]) for name in ("train_features", "train_labels", "test_features", "test_labels")
    )
    k, temperature, classes = int(g["k"]), float(g["temperature"]), int(g["num_classes"])
    predicted = knn_predict(bank, labels, queries, k=k, temperature=temperature, classes=classes, chunk_bytes=chunk_bytes)
    assert 100 * (predicted == truth).double().mean().item() == pytest.approx(float(g["top1"]), abs=1e-9)
    top1 = knn_top1(3 * bank, labels, 0.2 * queries, truth, k=k, temperature=temperature, classes=classes)
    assert 100 * top1 == pytest.approx(float(g["top1"]), abs=1e-9), "features are normalised inside"


@pytest.mark.parametrize("chunk_bytes", [20_000, 60_000, 256_000_000])
def test_a_bank_in_pieces_that_is_read_for_some_queries_at_a_time_gives_the_same(chunk_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(300, 16, generator=generator), torch.randn(200, 16, generator=generator)
    labels, ks = torch.arange(300) % 7, (1, 5, 300)
    whole = knn_predict(bank, labels, queries, k=ks, classes=7)
    pieces = [bank[:10], bank[10:10], bank[10:173], bank[173:]]
    found = knn_predict(pieces, labels, queries, k=ks, classes=7, chunk_bytes=chunk_bytes)
    assert all(torch.equal(found[k], whole[k]) for k in ks)
