"""Networks that one kernel can compute, and the data they take."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import lossnav as ln
from lossnav.acceleration import compiler
from lossnav.acceleration.kernel import Kernel
from lossnav.acceleration.trace_reader import read

HALF = pytest.mark.skipif("avx512_bf16" not in compiler.processor(), reason="no bfloat16 instructions")


def images(channels, size, n=30):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def vectors(features, n=30):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """Both kinds of shortcut, additions in either order, a sum used twice, global pooling."""

    def __init__(self):
        super().__init__()
        self.start = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn_a, self.bn_b = nn.BatchNorm2d(8), nn.BatchNorm2d(16, affine=False)
        self.short, self.bn_short = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.start(x))
        x = F.relu(x + self.bn_a(self.a(x)))
        y = self.bn_b(self.b(x))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        z = x + x
        x = self.bn_short(self.short(z)) + z
        return self.head(x.mean((2, 3)))


class PreActivation(nn.Module):
    """BatchNorm before the convolution, and on vectors."""

    def __init__(self):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(5), nn.Conv2d(5, 7, 3, dilation=2)
        self.down, self.bn1 = nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.conv(F.relu_(self.bn(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        x = self.bn1(F.relu(self.down(x)))
        return F.log_softmax(self.head(x + x), dim=1)


CASES = {
    "notebook": lambda: (ln.zoo.NotebookCNN(), images(1, 28)),
    "linear": lambda: (nn.Linear(13, 5), vectors(13)),
    "mlp": lambda: (
        nn.Sequential(
            nn.Flatten(), nn.Linear(27, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 48, bias=False), nn.ReLU(True),
            nn.Linear(48, 5), nn.Softmax(1)
        ), images(3, 3),
    ),
    "strides": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 17, (3, 2), stride=(2, 1), padding=(0, 1)), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(17, 24, 3, padding="same"), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24 * 3, 5)
        ), images(3, 13),
    ),
    "wide": lambda: (
        nn.Sequential(nn.Conv2d(2, 64, 3), nn.ReLU(), nn.Conv2d(64, 96, 3), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(),
                      nn.Linear(384, 5)), images(2, 8),
    ),
    "residual": lambda: (Residual(), images(3, 9)),
    "pre-activation": lambda: (PreActivation(), images(5, 8)),
    "resnet": lambda: (ResNetLike(), images(3, 16)),
}  # fmt: skip


class ResNetLike(nn.Module):
    """A second convolution on an image that is also what is added later."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(c, 32, 3, padding=1) for c in (3, 32, 32, 32))
        self.head = nn.Linear(32 * 16, 5)

    def forward(self, x):
        x = F.relu(self.layers[0](x))
        y = self.layers[1](x)
        y += self.layers[2](x)
        x = F.max_pool2d(F.relu(self.layers[3](y) + x), 4)
        return self.head(x.reshape(len(x), -1))


def state_of(model):
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def ready(case):
    torch.manual_seed(0)
    model, x = CASES[case]()
    model.train()
    model(2 * x + 1)
    return model.eval(), x


def fuse(model, x, half=False):
    state = state_of(model)
    made = Kernel(read(lambda weights, x: functional_call(model, weights, (x,)), state, x[:3]), half=half)
    made.load(state)
    return lambda x: made([x]) if made.graph.tail is None else made.graph.tail(made([x]))


class AddsItsData(nn.Module):
    """Reads its data as a term of a sum: rows of 13 have no room for a whole vector after the last."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(13, 13)

    def forward(self, x):
        return self.layer(x) + x
