"""What other implementations reach on the very images that contray is measured on: whether a gap to a published number is the images' or ours.

    PYTHONPATH=platform:. python tests/benchmarks/peers.py lightly --data FOLDER [--epochs 50] [--workers 8] [--json FILE]
    PYTHONPATH=platform:. python tests/benchmarks/peers.py supervised --data FOLDER [--epochs 30] [--json FILE]
    PYTHONPATH=platform:. python tests/benchmarks/peers.py speed --data FOLDER [--images N] [--rounds 3] [--steps 6] [--batch 256] [--json FILE] [--dotted.key VALUE ...]

FOLDER holds CIFAR-10's train.parquet and test.parquet, as for gpu.py. `lightly` is SimCLR put together from lightly's own pieces (`pip install contray[bench]`)
as its cifar10_benchmark.py has it for batches of 512: SimCLRTransform on PIL images, ResNetGenerator("resnet-18"), SimCLRProjectionHead,
NTXentLoss, SGD of 0.06 x batch / 128, its k-NN (k 200, T 0.1) on the training images. Beside it: `gpu.py cifar --epochs 50`.
`supervised` trains torchvision's ResNet-18 with a stem for CIFAR on the labels, with crops and flips; on lossless CIFAR-10 such a run of 30 epochs
reaches 94 to 95 %. Both compute in bf16 where the device does. `speed` is training on a CPU, lightly's beside contray's: peers_speed.py says how.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

BATCH = 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read(file: Path, images: int | None = None) -> tuple[np.ndarray, Tensor]:
    """Pixels [N, 32, 32, 3] of uint8 and labels [N], of the first `images`."""
    table = parquet.read_table(file).slice(0, images)
    labels = next(name for name in table.column_names if "label" in name)
    pictures = next(name for name in table.column_names if name != labels)
    cells = table[pictures].to_pylist()
    pixels = [Image.open(io.BytesIO(cell["bytes"] if isinstance(cell, dict) else cell)).convert("RGB") for cell in cells]
    return np.stack([np.asarray(each) for each in pixels]), torch.tensor(table[labels].to_pylist())


class Views(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, pixels: np.ndarray, transform: Any) -> None:
        self.pixels, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first, second = self.transform(Image.fromarray(self.pixels[index]))
        return first, second


def normalised(pixels: np.ndarray, device: torch.device) -> Tensor:
    """[N, 3, 32, 32] on the device, as torchvision's ToTensor and Normalize give them."""
    values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
    return (values - values.new_tensor(MEAN)[:, None, None]) / values.new_tensor(STD)[:, None, None]


@torch.no_grad()
def encoded(net: nn.Module, images: Tensor) -> Tensor:
    net.eval()
    found = torch.cat([net(part.contiguous(memory_format=torch.channels_last)).float() for part in images.split(2 * BATCH)])
    net.train()
    return found


def nearest(net: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Top-1 of the test images by lightly's own weighted k-NN."""
    from lightly.utils.benchmarking.knn import knn_predict

    bank = nn.functional.normalize(encoded(net, train[0]), dim=1).T.contiguous()
    queries = nn.functional.normalize(encoded(net, test[0]), dim=1)
    most = min(200, bank.shape[1])
    guesses = [knn_predict(part, bank, train[1], num_classes=10, knn_k=most, knn_t=0.1)[:, 0] for part in queries.split(BATCH)]
    return float((torch.cat(guesses) == test[1]).double().mean())


def simclr() -> tuple[nn.Module, nn.Module, nn.Module]:
    """Network, head and loss from lightly's own pieces."""
    from lightly.loss import NTXentLoss
    from lightly.models import ResNetGenerator
    from lightly.models.modules import SimCLRProjectionHead

    net = nn.Sequential(*list(ResNetGenerator("resnet-18").children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net, SimCLRProjectionHead(512, 512, 128), NTXentLoss()


def loader(pixels: np.ndarray, batch: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Two views of each image by lightly's transform for CIFAR-10."""
    from lightly.transforms import SimCLRTransform

    views = Views(pixels, SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0))
    return DataLoader(views, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)


def sgd(batch: int, *modules: nn.Module) -> torch.optim.SGD:
    params = [param for module in modules for param in module.parameters()]
    return torch.optim.SGD(params, lr=0.06 * batch / 128, momentum=0.9, weight_decay=5e-4)


def lightly(options: argparse.Namespace, device: torch.device, amp: torch.autocast) -> dict[str, Any]:
    import lightly as package

    pixels, labels = read(options.data / "train.parquet", options.images)
    checked, truth = read(options.data / "test.parquet", options.images)
    bank, queries = (normalised(pixels, device), labels.to(device)), (normalised(checked, device), truth.to(device))
    net, head, criterion = simclr()
    net = net.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    head, batches = head.to(device), loader(pixels, BATCH, options.workers)
    optimizer = sgd(BATCH, net, head)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    found: dict[str, Any] = {"package": f"lightly {package.__version__}", "untrained": nearest(net, bank, queries), "knn": {}}
    for epoch in range(1, options.epochs + 1):
        losses = []
        for first, second in batches:
            with amp:
                first, second = (
                    head(net(view.to(device, memory_format=torch.channels_last, non_blocking=True))) for view in (first, second)
                )
                loss = criterion(first, second)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        schedule.step()
        if epoch % 10 == 0 or epoch == options.epochs:
            found["knn"][epoch] = nearest(net, bank, queries)
            print(f"epoch {epoch}  loss {torch.stack(losses).mean():.4f}  k-NN {100 * found['knn'][epoch]:.2f} %", flush=True)
    return found


def supervised(options: argparse.Namespace, device: torch.device, amp: torch.autocast) -> dict[str, Any]:
    pixels, labels = read(options.data / "train.parquet", options.images)
    checked, truth = read(options.data / "test.parquet", options.images)
    images, labels = normalised(pixels, device), labels.to(device)
    net: Any = torchvision.models.resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    net = net.to(device, memory_format=torch.channels_last)
    steps = options.epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=steps, pct_start=0.2)
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    grid, found = torch.arange(32, device=device), dict[str, Any]()
    for epoch in range(1, options.epochs + 1):
        for rows in torch.randperm(len(images), device=device)[: len(images) // BATCH * BATCH].split(BATCH):
            at = torch.randint(0, 9, (2, len(rows), 1), device=device) + grid
            columns = torch.where(torch.rand(len(rows), 1, device=device) < 0.5, at[1], at[1].flip(1))
            batch = padded[rows[:, None, None], :, at[0][:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
            with amp:
                loss = nn.functional.cross_entropy(net(batch), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 10 == 0 or epoch == options.epochs:
            guesses = encoded(net, normalised(checked, device)).argmax(1)
            found[f"epoch {epoch}"] = float((guesses == truth.to(device)).double().mean())
            print(f"epoch {epoch}  loss {loss.item():.4f}  test {100 * found[f'epoch {epoch}']:.2f} %", flush=True)  # pyright: ignore[reportPossiblyUnboundVariable]
    return found


def main(words: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("which", choices=["lightly", "supervised", "speed"])
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--epochs", type=int, default=50, help="of the cosine, too")
    parser.add_argument(
        "--workers", type=int, default=8, help="processes that make lightly's views; speed: of the processor's cores at most"
    )
    parser.add_argument("--images", type=int, help="as many of each split, for short tries")
    parser.add_argument("--cases", nargs="+", help="speed: which are measured, lightly first (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="speed: how often each is measured")
    parser.add_argument("--steps", type=int, default=6, help="speed: steps that are timed")
    parser.add_argument("--batch", type=int, default=256, help="speed: images of a batch")
    parser.add_argument("--json", type=Path, help="where the result is written")
    options, rest = parser.parse_known_args(words)
    if options.which == "speed":
        from tests.benchmarks.peers_speed import speed

        return speed(options, rest)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    amp = torch.autocast(device.type, torch.bfloat16, enabled=fast)
    torch.manual_seed(0)
    began = time.monotonic()
    found = {"lightly": lightly, "supervised": supervised}[options.which](options, device, amp)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    found |= {"seconds": round(time.monotonic() - began), "epochs": options.epochs, "gpu": gpu, "torch": torch.__version__}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print(found, flush=True)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
