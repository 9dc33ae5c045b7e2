"""A small training run to record, and what the model was after each of its steps."""

import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 3))


def training(model, steps, recorder=None, after=lambda: None):
    """Train on noise, which uses torch's global generator for the data and for dropout."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(1)
    for i in range(steps):
        x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.step(epoch=i // 4, loss=loss)
        after()


def snapshot(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def record(path):
    """Record every second state of 9 steps: the trajectory, the model's state after each step, the model."""
    model, states = network(), []
    states.append(snapshot(model))
    with ln.Trajectory(model, store=path, every=2) as recorder:
        training(model, 9, recorder, lambda: states.append(snapshot(model)))
    return recorder, states, model
