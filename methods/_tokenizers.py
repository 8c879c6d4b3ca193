"""What names an image's patches, for methods that predict tokens (CAE): clusters of pixels, or DALL-E's discrete VAE from a file.

A tokenizer is a module with
    view    which entry of VIEWS it reads
    codes   a persistent buffer that says what its tokens are: the clusters, or the file's digest. Zero until the first step
    fit     (images, size) -> the codes, the same on every rank
    forward (images, codes) -> (B, L) token ids, row by row of the grid
    decode  (B, L) token ids -> (B, L, P) patches in the images' units, or NotImplementedError that says why not
Images are (B, 3, H, W) in [0, 1] for DALL-E, normalised as the encoder's for clusters.

Legend: B rows, L patches, P values of a patch, K tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._parts import kmeans, nearest_centroid, patchify
from ._ranks import from_first, full, gather


class PatchTokenizer(nn.Module):
    """Images to tokens with no download: the nearest of K clusters of the first batch's patches."""

    view = "view"
    codes: Tensor

    def __init__(self, vocabulary: int, patch: int, channels: int = 3) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("codes", torch.zeros(vocabulary, channels * patch**2))  # (K, P)

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, L) token ids."""
        patches = patchify(images, self.patch).to(codes.dtype)  # (B, L, P)
        return nearest_centroid(patches.flatten(0, 1), codes).unflatten(0, patches.shape[:2])

    def decode(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, P) the clusters' centres."""
        return self.codes[tokens]

    def fit(self, images: Tensor, size: int) -> Tensor:
        """The codes (K, P) from the global batch's patches, as many of each image as make 64 for each code.

        Where there are fewer patches than codes, several codes share one, and the first of them names it.
        """
        patches = patchify(images, self.patch)  # (B, L, P)
        each = min(patches.shape[1], -(-64 * len(self.codes) // size))
        spread = torch.linspace(0, patches.shape[1] - 1, each, device=images.device).long()
        rows = gather(patches[:, spread], size).flatten(0, 1).to(self.codes.dtype)
        rows = rows.repeat(-(-len(self.codes) // len(rows)), 1)
        return from_first(lambda: [kmeans(rows, len(self.codes), 20, seed=0)[0]], [self.codes])[0]


# ---------------------------------------------------------------- DALL-E


def convolution(inputs: int, outputs: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2)


class Bottleneck(nn.Module):
    """A residual block of the encoder; `gain` is 1 / (blocks of the network)^2."""

    def __init__(self, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        hidden = outputs // 4
        self.gain = gain
        self.id_path = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        layers = [(inputs, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, outputs, 1)]
        named = [(f"{kind}_{i}", layer) for i, shape in enumerate(layers, 1) for kind, layer in (("relu", nn.ReLU()), ("conv", convolution(*shape)))]  # fmt: skip
        self.res_path = nn.Sequential(OrderedDict(named))

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class DalleEncoder(nn.Module):
    """The encoder of DALL-E's discrete VAE (Ramesh et al. 2021, https://arxiv.org/abs/2102.12092, appendix A; code: openai/DALL-E).

    Four groups of two blocks, of 1, 2, 4 and 8 times `width` channels, with max pooling between: (B, 3, H, W) -> (B, K, H / 8, W / 8).
    Released: width 256, vocabulary 8192.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        groups, inputs = OrderedDict[str, nn.Module](input=convolution(3, width, 7)), width
        for group in range(4):
            outputs = width * 2**group
            blocks = OrderedDict[str, nn.Module]()
            for block in range(2):
                blocks[f"block_{block + 1}"] = Bottleneck(inputs if block == 0 else outputs, outputs, gain=1 / 8**2)
            if group < 3:
                blocks["pool"] = nn.MaxPool2d(2)
            groups[f"group_{group + 1}"], inputs = nn.Sequential(blocks), outputs
        groups["output"] = nn.Sequential(OrderedDict([("relu", nn.ReLU()), ("conv", convolution(inputs, vocabulary, 1))]))
        self.blocks = nn.Sequential(groups)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.blocks(0.8 * pixels + 0.1)  # [0, 1] to [0.1, 0.9], inside the logit-Laplace's range (appendix A.3)


def read_dalle(file: str) -> DalleEncoder:
    """The encoder whose state dict is in `file`; nothing in it is run, since only tensors are unpickled.

    The release is a pickled module. Once, on a machine where you trust it and have OpenAI's package (`pip install DALL-E`):

        python -c "import torch; torch.save(torch.load('encoder.pkl', 'cpu', weights_only=False).state_dict(), 'dalle_encoder.pt')"

    Raises ValueError where there is no such file, or it holds anything else.
    """
    if not Path(file).is_file():
        raise ValueError(f"tokenizer_file: got {file!r}, must be the file of DALL-E's encoder; there is none")
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (
            "pickled code, which is never loaded; save its state dict once, where you trust it"
            if "Weights only" in str(error)
            else "no tensors"
        )
        raise ValueError(f"tokenizer_file: got {file!r}, must be a state dict of DALL-E's encoder; it holds {reason}") from None
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)} if isinstance(found, dict) else {}
    if not {"blocks.input.w", "blocks.output.conv.w"} <= tensors.keys():
        raise ValueError(
            f"tokenizer_file: got {file!r}, must be a state dict of DALL-E's encoder; it lacks blocks.input.w or blocks.output.conv.w"
        )
    state = {re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", key)): value for key, value in tensors.items()}
    with torch.device("meta"):
        encoder = DalleEncoder(len(tensors["blocks.input.w"]), len(tensors["blocks.output.conv.w"]))
    ours, theirs = ({(key, tuple(value.shape)) for key, value in each.items()} for each in (encoder.state_dict(), state))
    if ours != theirs:
        key, shape = min(ours ^ theirs)
        raise ValueError(
            f"tokenizer_file: got {file!r}, must be a state dict of DALL-E's encoder; {key} {shape} is missing or does not belong there"
        )
    encoder.load_state_dict(state, assign=True)
    return encoder.eval().requires_grad_(False)


class DalleTokenizer(nn.Module):
    """DALL-E's encoder from a local file. Its weights are in no checkpoint: the file's digest is, and another file is refused.

    It is read at the first step, so that an encoder trained with it is used where there is no such file.
    """

    view = "pixels"
    codes: Tensor

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.register_buffer("codes", torch.zeros(32, dtype=torch.uint8))  # SHA-256
        self.read: list[DalleEncoder] = []  # a list, so that it is no submodule: not in the state, not cast to another precision

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, L) token ids, L of 8 x 8 px each. Raises ValueError where the file is not the one of `codes`."""
        if not self.read:
            if not torch.equal(self.digest(), codes.cpu()):
                raise ValueError(f"tokenizer_file: {self.file} is not the file that this run began with")
            self.read.append(read_dalle(self.file).to(images.device, full(images).dtype))
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # bf16 would give some patches other names
            return self.read[0](full(images)).argmax(1).flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError(
            "names patches by DALL-E's encoder, and no file of its decoder is known: its tokens cannot be drawn"
        )

    def fit(self, images: Tensor, size: int) -> Tensor:
        """The digest (32,) of rank 0's file."""
        return from_first(lambda: [self.digest().to(self.codes.device)], [self.codes])[0]

    def digest(self) -> Tensor:
        with open(self.file, "rb") as file:
            return torch.tensor(list(hashlib.file_digest(file, "sha256").digest()), dtype=torch.uint8)
