"""Networks in which samples look at each other, and one in which they do not."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 4)
        self.gate = nn.Parameter(torch.tensor(0.0))

    def hidden(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.last(self.hidden(x))


class Centred(Net):
    def hidden(self, x):
        h = super().hidden(x)
        return h - h.mean(0)


class Attending(Net):
    def hidden(self, x):
        h = super().hidden(x)
        return h + torch.softmax(h @ h.T, 1) @ h


class BatchStatistics(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16, track_running_stats=False)

    def hidden(self, x):
        return self.norm(super().hidden(x))
