"""A small network with all that plans look for, and a plane around it."""

import torch
from torch import nn

import lossnav as ln
from lossnav.acceleration import planner as planning
from lossnav.acceleration import rules, tuning

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, 8, 8, generator=GENERATOR)
Y = torch.randint(0, 5, (60,), generator=GENERATOR)
GRID = ln.Grid(alpha=(-1, 1, 5), beta=(-0.5, 1, 4))
WAYS = ["auto", "tuned"]


class ConvNet(nn.Module):
    """Convolutions with and without bias, each followed by a BatchNorm; linear layers; an in-place relu."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=False)
        self.dense, self.head = nn.Linear(64, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu_()
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.head(torch.tanh(self.dense(x.flatten(1))))


def trained(model):
    """Running statistics that are not the initial ones."""
    model.train()
    for _ in range(3):
        model(2 * X + 1)
    return model.eval()


def make(model, **options):
    return ln.Objective(trained(model), "cross_entropy", (X, Y), metrics=["accuracy"], batch_size=20, **options)


def plane_of(objective, exclude=("bias", "norm")):
    return ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=exclude, seed=1))


class HookedOutput(ConvNet):
    """A hook changes the output of the convolution before its BatchNorm sees it."""

    def __init__(self):
        super().__init__()
        self.conv2.register_forward_hook(lambda module, given, made: made * 2 + 1)


class OutputUsedTwice(ConvNet):
    """The convolution's output goes to its BatchNorm and past it."""

    def forward(self, x):
        x = self.conv1(x)
        x = torch.relu(self.bn1(x) + 0.5 * x)
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.head(torch.tanh(self.dense(x.flatten(1))))


class NotOnTheData(ConvNet):
    """What the first layer is given looks like the data until a weight says otherwise."""

    def __init__(self):
        super().__init__()
        self.switch = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return super().forward(x + 10 * torch.relu(self.switch - 0.5))


def plan_eagerly(monkeypatch):
    """Plan even for small runs, and take every change that is right, however slow: the traps must be stepped into."""
    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS"):
        monkeypatch.setattr(planning, name, 0)
    monkeypatch.setattr(rules, "_LEAST_INPUTS", 0)
    monkeypatch.setattr(tuning, "_GAIN", 1e9)
    monkeypatch.setattr(tuning, "_clock", lambda run: (run(), 1e-3)[1])
