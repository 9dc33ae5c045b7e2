"""Small networks whose buffers say as much as their weights, each trained for a few steps from a seed of its own."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import lossnav as ln

FEATURES, SAMPLES = 6, 48


class Normalizer(nn.Module):
    """Standardises its input by running means that it keeps itself."""

    def __init__(self, width, persistent=True):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width), persistent=persistent)
        self.register_buffer("std", torch.ones(width), persistent=persistent)

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.5).add_(0.5 * x.mean(0))
                self.std.mul_(0.5).add_(0.5 * (x.std(0) + 0.1))
        return (x - self.mean) / self.std


class Quantizer(nn.Module):
    """Fake quantisation with observed ends: a scale, an integer zero point, and a flag."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(8))
        self.register_buffer("enabled", torch.tensor(False))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.low.mul_(0.5).add_(0.5 * x.min())
                self.high.mul_(0.5).add_(0.5 * x.max())
                self.zero_point.copy_((-self.low / (self.high - self.low) * 15).round().clamp(0, 15).long())
                self.enabled.fill_(True)
        if not self.enabled:
            return x
        scale = (self.high - self.low) / 15
        return (x / scale + self.zero_point).clamp(0, 15) * scale - self.zero_point * scale


class Lookup(nn.Module):
    """A table of integers that training sorts anew, in front of an embedding."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(FEATURES))
        self.embedding = nn.Embedding(FEATURES, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        if self.training:
            self.table.copy_(self.embedding.weight.detach().sum(1).argsort())
        return self.out(self.embedding(self.table[x.argmax(1)]))


class Shared(nn.Module):
    """Two layers that hold one buffer, under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Normalizer(FEATURES), Normalizer(FEATURES)
        self.second.mean, self.second.std = self.first.mean, self.first.std
        self.between, self.out = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.second(self.between(self.first(x)))))


class Filtered(nn.Module):
    """A complex filter over frequencies, a running mean of what came; and a mask of booleans."""

    def __init__(self):
        super().__init__()
        self.register_buffer("filter", torch.ones(FEATURES // 2 + 1, dtype=torch.complex64))
        self.register_buffer("mask", torch.ones(8, dtype=torch.bool))
        self.inner, self.out = nn.Linear(FEATURES, 8), nn.Linear(8, 3)

    def forward(self, x):
        spectrum = torch.fft.rfft(x)
        if self.training:
            with torch.no_grad():
                self.filter.mul_(0.5).add_(0.5 * spectrum.mean(0))
                self.mask.copy_(self.inner.weight.norm(dim=1) > self.inner.weight.norm(dim=1).median())
        hidden = torch.relu(self.inner(torch.fft.irfft(spectrum * self.filter, n=FEATURES)))
        return self.out(hidden * self.mask)


class Grown(nn.Module):
    """A buffer that is only registered when the first batch comes."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(FEATURES, 8), nn.Linear(8, 3)

    def forward(self, x):
        if "level" not in dict(self.named_buffers()):
            self.register_buffer("level", x.mean(0))
        if self.training:
            with torch.no_grad():
                self.level.mul_(0.5).add_(0.5 * x.max(0).values)
        return self.out(torch.relu(self.inner(x - self.level)))


def _convolutional(norm):
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    )


def _dense(*between, first=None):
    return nn.Sequential(first or nn.Linear(FEATURES, 8), *between, nn.ReLU(), nn.Linear(8, 3))


KINDS = {
    "BatchNorm1d": lambda: _dense(nn.BatchNorm1d(8)),
    "BatchNorm2d": lambda: _convolutional(nn.BatchNorm2d(4)),
    "BatchNorm without weights": lambda: _dense(nn.BatchNorm1d(8, affine=False, momentum=None)),
    "spectral_norm": lambda: _dense(first=parametrizations.spectral_norm(nn.Linear(FEATURES, 8))),
    "the old spectral_norm": lambda: _dense(first=nn.utils.spectral_norm(nn.Linear(FEATURES, 8))),
    "weight_norm": lambda: _dense(nn.BatchNorm1d(8), first=parametrizations.weight_norm(nn.Linear(FEATURES, 8))),
    "mean and std": lambda: nn.Sequential(Normalizer(FEATURES), *_dense()),
    "InstanceNorm": lambda: _convolutional(nn.InstanceNorm2d(4, track_running_stats=True, affine=True)),
    "quantised": lambda: _dense(Quantizer()),
    "integer table": Lookup,
    "shared": Shared,
    "complex and boolean": Filtered,
    "registered late": Grown,
    "not persistent": lambda: nn.Sequential(Normalizer(FEATURES, persistent=False), *_dense()),
}
IN_A_FILE = [kind for kind in KINDS if kind != "not persistent"]


def data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = 2.0 + 1.5 * torch.randn(SAMPLES, FEATURES, generator=generator)
    return x.to(dtype), torch.randint(0, 3, (SAMPLES,), generator=generator)


def trained(kind, seed, steps=12):
    """A network of a kind in eval mode; its training saw data of its own scale."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, (x, y) = KINDS[kind](), data()
        x = x * (0.6 + 0.5 * seed) - 0.7 * seed
        model.train()
        model(x)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            model.eval()(x)  # the old spectral_norm keeps the weight of the last call, with its graph
    return model


def plain_loss(model, dtype=torch.float64):
    """The loss of a network by torch alone, on a copy of it."""
    model, (x, y) = copy.deepcopy(model).eval(), data()
    if not any(buffer.is_complex() for buffer in model.buffers()):
        model, x = model.to(dtype), x.to(dtype)
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def objective_of(model, **options):
    return ln.Objective(model, F.cross_entropy, data(), batch_size=16, **options)
