"""A model is read as a graph, or it is said what in it cannot be."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fusible import AddsItsData, fuse, images, state_of, vectors
from lossnav.acceleration.kernel import Kernel
from lossnav.acceleration.trace_graph import NotReadableError
from lossnav.acceleration.trace_reader import read


@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 5)), images(4, 5), "grouped"),
        (nn.Sequential(nn.Linear(4, 5), nn.Tanh()), vectors(4), "aten.tanh"),
        (nn.Conv2d(3, 4, 3), images(3, 5), "not a vector"),
        (nn.Linear(4, 5).double(), vectors(4).double(), "float32"),
        (nn.Sequential(nn.Linear(4, 5), nn.Softmax(0)), vectors(4), "softmax over samples"),
        (
            nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 5, 1), nn.Flatten()),
            vectors(4),
            "view",
        ),
        (nn.Linear(4, 5), images(3, 4), "view|linear layer on images"),
    ],
    ids=["groups", "tanh", "image", "double", "softmax", "unflatten", "linear on images"],
)
def test_what_cannot_be_fused_says_why(model, x, words):
    with pytest.raises(NotReadableError, match=words):
        fuse(model.eval(), x)


class Spread(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(1))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.t())


class TwoShapes(nn.Module):
    """The data as vectors and, by another name for it, as images."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(27, 5), nn.Conv2d(3, 5, 3)

    def forward(self, x):
        again = x.detach()
        return self.linear(x.flatten(1)) + self.conv(again).flatten(1)


class Tupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 5)

    def forward(self, x):
        return (self.layer(x),)


@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), images(3, 5), "flattened image"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(36, 5)), images(3, 5), "flattened image"),
        (nn.Sequential(nn.MaxPool2d(2, 3, ceil_mode=True), nn.Flatten(), nn.Linear(27, 5)), images(3, 7), "max-pool"),
        (Spread(), vectors(4), "spread over outputs"),
        (TwoShapes(), images(3, 3), "two shapes"),
        (Tupled(), vectors(4), "a tuple and not one tensor"),
    ],
    ids=["flat output", "relu on flat", "ceil", "scalar bias", "two shapes", "tuple"],
)
def test_what_would_be_misread_is_not_read(model, x, words):
    with pytest.raises(NotReadableError, match=words):
        fuse(model.eval(), x)


def test_what_is_added_is_not_read_past_its_end():
    model = AddsItsData()
    made = Kernel(read(lambda w, x: functional_call(model, w, (x,)), state_of(model), vectors(13, 3)))
    assert "in[0] + start" not in made.source
