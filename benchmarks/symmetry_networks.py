"""Networks whose symmetries are looked for: small ones by hand, and many of Hugging Face from configurations.

Each is a function that gives a model with random weights and an example of its input. Nothing is downloaded. Those of
Hugging Face are in `symmetry_hugging_face`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.symmetry_hugging_face import HUGGING_FACE, MORE, Network
from benchmarks.workloads import TransformerBlock
from lossnav import zoo

# ---------------------------------------------------------------------- nine small ones, as of many a test


class FunctionalMLP(nn.Module):
    """An MLP whose activations are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.c(F.gelu(self.b(F.relu(self.a(x)))))
        return out


class Block(nn.Module):
    """A residual block with BatchNorm and a shortcut convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != width or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class TinyResNet(nn.Module):
    """Three such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 12, 2), Block(12, 12, 1))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.head(self.blocks(F.relu(self.bn(self.stem(x)))).mean((2, 3)))
        return out


class Concatenating(nn.Module):
    """Two branches, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(5, 9), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.c(torch.cat([torch.tanh(self.a(x)), F.relu(self.b(x))], 1))
        return out


class TinyGPT(nn.Module):
    """Two blocks with a fused qkv and a head tied to the embedding."""

    def __init__(self, vocabulary: int = 17, width: int = 16, heads: int = 4, depth: int = 2, length: int = 8) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, and logits of the last position."""

    def __init__(self, layer: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.layer = layer(6, 8, batch_first=True, **options)
        directions = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear(directions * int(options.get("proj_size", 8)), 3)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.head(self.layer(self.embed(ids))[0].mean(1))
        return out


class EncoderLayer(nn.Module):
    """`nn.TransformerEncoderLayer` between two linear layers."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.after(self.layer(self.before(x)))
        return out


def _images(n: int = 2, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def _vectors(width: int, *lengths: int) -> Tensor:
    return torch.randn(*lengths, width, generator=torch.Generator().manual_seed(1))


def _ids(vocabulary: int = 11, n: int = 2, length: int = 6) -> Tensor:
    return torch.randint(0, vocabulary, (n, length), generator=torch.Generator().manual_seed(1))


TINY: dict[str, Network] = {
    "MLP of modules": lambda: (
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3)),
        _vectors(6, 4),
    ),
    "MLP of functions": lambda: (FunctionalMLP(), _vectors(6, 4)),
    "conv, flatten, linear": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10), nn.ReLU(), nn.Linear(10, 3)
        ),
        _images(),
    ),
    "ResNet with BatchNorm": lambda: (TinyResNet(), _images()),
    "concatenation": lambda: (Concatenating(), _vectors(5, 4)),
    "depthwise convolution": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 8, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 6, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        _images(),
    ),
    "TransformerEncoderLayer": lambda: (EncoderLayer(), _vectors(5, 2, 4)),
    "GPT, fused qkv, tied head": lambda: (TinyGPT(), _ids(17)),
    "LSTM": lambda: (Recurrent(nn.LSTM), _ids()),
}


# ---------------------------------------------------------------------- more by hand


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a connection across."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 10, 3, 2, 1)
        self.up, self.norm = nn.ConvTranspose2d(10, 6, 2, 2), nn.InstanceNorm2d(6, affine=True)
        self.out = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits a pixel."""
        a = F.silu(self.down1(x))
        b = F.silu(self.down2(a))
        out: Tensor = self.out(torch.cat([a, self.norm(self.up(b))], 1))
        return out


class Shuffling(nn.Module):
    """Grouped convolutions with a shuffle of the channels between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.c, self.head = nn.Conv2d(8, 12, 3, groups=4), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.b(F.relu(self.a(x))))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        out: Tensor = self.head(F.relu(self.c(x)).amax((2, 3)))
        return out


class Experts(nn.Module):
    """A softmax over four experts, the best two of which answer."""

    def __init__(self, experts: int = 4, width: int = 8) -> None:
        super().__init__()
        self.before, self.gate = nn.Linear(5, width), nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)) for _ in range(experts)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.before(x)
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == i)
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, place, None])
        made: Tensor = self.head(x + out)
        return made


class Scaled(nn.Module):
    """Layers under weight norm and spectral norm, PReLU, a gated unit, a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(5, 8))
        self.b, self.act = nn.Linear(8, 12), nn.PReLU(8)
        self.c, self.bi = nn.Linear(6, 7), nn.Bilinear(6, 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y = F.glu(self.b(self.act(self.a(x))))
        out: Tensor = self.bi(y, torch.tanh(self.c(y)))
        return out


class Einsum(nn.Module):
    """Attention written as sums of Einstein, keys and values with fewer heads, RMSNorm."""

    def __init__(self, width: int = 8, heads: int = 4, shared: int = 2, d: int = 3) -> None:
        super().__init__()
        self.heads, self.shared, self.d = heads, shared, d
        self.before, self.norm = nn.Linear(5, width), nn.RMSNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, n * d, bias=False) for n in (heads, shared, shared))
        self.out, self.head = nn.Linear(heads * d, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.before(x)
        y, (n, t, _) = self.norm(x), x.shape
        q = self.q(y).view(n, t, self.shared, self.heads // self.shared, self.d)
        k, v = (layer(y).view(n, t, self.shared, self.d) for layer in (self.k, self.v))
        scores = torch.einsum("ntgrd,nsgd->ngrts", q, k).softmax(-1)
        mixed = torch.einsum("ngrts,nsgd->ntgrd", scores, v).reshape(n, t, -1)
        out: Tensor = self.head(x + self.out(mixed))
        return out


class Volume(nn.Module):
    """Convolutions in one and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(2, 6, 2), nn.Conv3d(6, 4, 2, groups=2)
        self.c, self.d = nn.Conv1d(4, 10, 3, padding="same"), nn.ConvTranspose1d(10, 3, 2)
        self.norm = nn.BatchNorm3d(6)

    def forward(self, x: Tensor) -> Tensor:
        """Three signals."""
        x = F.avg_pool3d(F.leaky_relu(self.norm(self.a(x))), 2, 1)
        out: Tensor = self.d(F.elu(self.c(self.b(x).flatten(2))))
        return out


class TwoTowers(nn.Module):
    """An encoder and a decoder of torch, with masks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Embedding(11, 8), nn.Linear(8, 11)
        self.core = nn.Transformer(8, 2, 1, 2, 12, batch_first=True)

    def forward(self, source: Tensor, ids: Tensor) -> Tensor:
        """Logits."""
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        out: Tensor = self.head(self.core(self.a(source), self.b(ids), tgt_mask=mask, tgt_is_causal=True))
        return out


BY_HAND: dict[str, Network] = {
    "VGG-9 (zoo)": lambda: (zoo.vgg9(), _images(size=32)),
    "ResNet-20 (zoo)": lambda: (zoo.resnet(20), _images(size=32)),
    "notebook CNN (zoo)": lambda: (zoo.notebook_cnn(), _images(channels=1, size=28)),
    "U-Net, transposed, InstanceNorm": lambda: (UNet(), _images()),
    "grouped convolutions, channel shuffle": lambda: (Shuffling(), _images()),
    "GroupNorm": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.GroupNorm(3, 12), nn.SiLU(), nn.Conv2d(12, 5, 3), nn.Flatten(), nn.Linear(80, 3)
        ),
        _images(),
    ),
    "mixture of experts": lambda: (Experts(), _vectors(5, 24)),
    "weight norm, PReLU, GLU, bilinear": lambda: (Scaled(), _vectors(5, 4)),
    "einsum, grouped queries, RMSNorm": lambda: (Einsum(), _vectors(5, 2, 4)),
    "convolutions in 1 and 3 dimensions": lambda: (Volume(), torch.randn(2, 2, 5, 5, 5)),
    "nn.Transformer with masks": lambda: (TwoTowers(), (_vectors(5, 2, 4), _ids(length=5))),
    "GRU, two layers": lambda: (Recurrent(nn.GRU, num_layers=2), _ids()),
    "RNN, both directions": lambda: (Recurrent(nn.RNN, bidirectional=True), _ids()),
    "LSTM, both directions, two layers": lambda: (Recurrent(nn.LSTM, bidirectional=True, num_layers=2), _ids()),
    "LSTM with a projection": lambda: (Recurrent(nn.LSTM, proj_size=4), _ids()),
    "TransformerEncoderLayer, norm first": lambda: (EncoderLayer(norm_first=True), _vectors(5, 2, 4)),
}


# ---------------------------------------------------------------------- one that is concatenations all over


class Dense(nn.Module):
    """One layer of a DenseNet."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What was there, and some channels more."""
        made = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, made], 1)


def dense_net(growth: int = 4, layers: tuple[int, ...] = (3, 3, 2)) -> nn.Module:
    """Huang et al. 2017: blocks of dense layers, with a transition between blocks."""
    width = 2 * growth
    parts: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for i, count in enumerate(layers):
        for _ in range(count):
            parts.append(Dense(width, growth))
            width += growth
        parts += [nn.BatchNorm2d(width), nn.ReLU()]
        if i + 1 < len(layers):
            parts += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


BY_HAND["DenseNet"] = lambda: (dense_net(), _images(size=16))
ALL: dict[str, Network] = TINY | BY_HAND | HUGGING_FACE | MORE
