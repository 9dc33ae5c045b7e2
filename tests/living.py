"""A small live session without a socket: messages are collected, frames read."""

import queue
import time

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav.explorer import requests
from lossnav.explorer.live.start import begin
from lossnav.explorer.server import wire
from lossnav.explorer.stored.handlers import Client
from talking import is_idle, kind, unframe

SIDE = 9


class Page:
    """A client of a handler: what it is sent, in order."""

    def __init__(self, handler):
        self.handler, self.waiting, self.number = handler, queue.Queue(), 0
        self.client = Client(self.waiting.put)
        handler.join(self.client)

    def ask(self, type_, **words):
        """Send a request; return its number."""
        self.number += 1
        dims = len(self.handler.session.place(self.client.place).dims)
        self.handler.answer(self.client, requests.parse({"type": type_, "id": self.number, **words}, dims))
        return self.number

    def receive(self, seconds=30.0):
        data = self.waiting.get(timeout=seconds)
        return unframe(data) if isinstance(data, bytes) else data

    def until(self, wanted, seconds=60.0):
        seen, end = [], time.monotonic() + seconds
        while True:
            seen.append(self.receive(max(0.01, end - time.monotonic())))
            if wanted(seen[-1]):
                return seen

    def whole(self, type_, **words):
        """Send, and return all that comes until that is done."""
        number = self.ask(type_, **words)
        seen = self.until(lambda m: is_idle(m) and m["id"] == number)
        errors = [m for m in seen if kind(m) == "error"]
        assert not errors, errors
        return seen


def of(seen, word):
    return [message for message in seen if kind(message) == word]


class Calls:
    """How often a function was called: kept beside it, since what a pass changes in an object is put back."""

    def __init__(self):
        self.held = [0]  # in a list: no part of what the objective is known by

    @property
    def calls(self):
        return self.held[0]


def bowl(seconds=0.0):
    """An objective of three numbers that takes its time, a plane of the first two, and the number of calls."""
    counted = Calls()
    held = counted.held

    def function(p):
        held[0] += 1
        time.sleep(seconds)
        return 1 + (p["x"] ** 2).sum() + p["x"][0] * p["x"][1]

    objective = ln.Objective.from_function(function, {"x": torch.zeros(3, dtype=torch.float64)}, name="bowl")
    e = torch.eye(3, dtype=torch.float64)
    return objective, ln.Plane(objective.params, {"x": e[0]}, {"x": 2 * e[1]}), counted


def classifier():
    """Three classes, four numbers, a layer between; in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(31, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (31,), generator=generator)
    objective = ln.Objective(model, "cross_entropy", (x, y), metrics=["accuracy"], batch_size=10)
    return objective, ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0)), (model, x, y)


@pytest.fixture
def coarse(monkeypatch):
    """No window is finer than 9 by 9: the laws are the same."""
    monkeypatch.setitem(wire.LIMITS, "side", SIDE)


@pytest.fixture
def started(tmp_path):
    """Begin sessions, which end with the test."""
    handlers = []

    def start(objective, chart, store=None, **options):
        handlers.append(begin(objective, chart, store=store or tmp_path / "run.zarr", **options))
        return handlers[-1]

    yield start
    for handler in handlers:
        handler.close()


WINDOW = [[-1, 1], [-1, 1]]


def rows(store):
    """What a store holds, by its coordinates."""
    surface = ln.open(store)
    points, losses = surface.lossnav.points()
    return dict(zip(map(tuple, np.round(points, 12).tolist()), losses.tolist(), strict=True))
