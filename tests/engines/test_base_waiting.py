"""An engine that waits for its machines says so, and is stopped by the first Ctrl-C."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav._utils.progress import Progress

LINE = ln.Line({"x": torch.zeros(2)}, {"x": torch.tensor([1.0, 0.0])})
NINE = ln.Grid(alpha=(-1, 1, 9))


def bowl():
    return ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})


class Waits(ln.Local):
    """Its machines come after some looks; a signal comes at one of them."""

    def __init__(self, looks, signal_at=None, number=signal.SIGINT):
        super().__init__(plan="plain")
        self.looks, self.signal_at, self.number, self.waited = looks, signal_at, number, 0

    def prepare(self, function, probes, total):
        for _ in range(self.looks):
            self.waited += 1
            if self.waited == self.signal_at:
                os.kill(os.getpid(), self.number)
            self.on_wait(f"machines start, {self.waited * 15} s")
        return super().prepare(function, probes, total)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_wait(number, tmp_path):
    engine, handlers = Waits(100, 3, number), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ln.errors.Interrupted) as caught:
        ln.evaluate(bowl(), LINE, NINE, engine=engine, store=tmp_path / "run.zarr", progress=False)
    assert engine.waited == 3 and caught.value.signal == number
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert engine.on_wait("anything") is None  # nobody listens any more
    engine.looks = 2
    surface = ln.evaluate(bowl(), LINE, NINE, engine=engine, store=tmp_path / "run.zarr", progress=False)
    assert bool((surface["status"] == 1).all())


def test_streams_are_stopped_too():
    engine = Waits(100, 3)
    with pytest.raises(ln.errors.Interrupted):
        list(ln.stream(bowl(), LINE, NINE, engine=engine))
    assert engine.waited == 3


def test_an_engine_that_is_used_alone_waits_in_silence():
    engine = Waits(4)
    engine.prepare(lambda point: {"loss": 0.0}, NINE.axes["alpha"][:1, None], 9)
    assert engine.waited == 4


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Later:
    def __init__(self, seconds, function):
        pass

    def start(self):
        pass

    def cancel(self):
        pass


def test_a_log_file_gets_a_line_every_half_minute_of_a_wait(capsys):
    clock = Clock()
    with Progress("evaluate", 9, "points", show=True, clock=clock, later=Later) as bar:
        clock.now = 100
        with bar.phase("planning"):
            for seconds in range(1, 76):
                clock.now = 100 + seconds
                bar.wait(f"a worker starts, {seconds} s")
    assert capsys.readouterr().err.splitlines() == [
        "evaluate: a worker starts, 30 s …",
        "evaluate: a worker starts, 60 s …",
    ]


@pytest.mark.parametrize("show", [None, False])
def test_nothing_is_said_where_nobody_looks(capsys, show):
    clock = Clock()
    with Progress("evaluate", 9, "points", show=show, clock=clock, later=Later) as bar:
        clock.now = 1000
        bar.wait("a worker starts, 1000 s")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("plan", ["plain", "auto"])
def test_one_engine_serves_several_threads(plan):
    """Each run sets and takes away what it hears; none takes away another's, and all get their values."""
    engine, both = ln.Local(plan=plan), threading.Barrier(4)

    class Together(ln.Grid):
        def rounds(self):
            both.wait()  # all have begun before one ends
            yield from super().rounds()

    def run(number):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        with torch.no_grad():
            for i, weight in enumerate(model.parameters()):
                weight.copy_(torch.linspace(-1, 1, weight.numel()).reshape(weight.shape) * (i + 1))
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
        objective = ln.Objective(model, "cross_entropy", (x, torch.tensor([0, 1, 1, 0])))
        line = ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=3))
        sampler = Together(alpha=(-1, 1, 9 + number))  # each run is another one
        return ln.evaluate(objective, line, sampler, engine=engine, progress=False), objective, line

    with ThreadPoolExecutor(4) as pool:
        for surface, objective, line in pool.map(run, range(4)):
            alone = ln.evaluate(objective, line, ln.Grid(alpha=surface["alpha"].values), engine=ln.Local(plan=plan))
            assert np.allclose(surface["loss"], alone["loss"], rtol=1e-6)
            assert surface.attrs["engine"]["plan"] == alone.attrs["engine"]["plan"]
    assert "on_wait" not in vars(engine)
    with ThreadPoolExecutor(1) as pool:  # that has prepared nothing itself tells of what was prepared last
        assert pool.submit(engine.describe).result()["plan"] == surface.attrs["engine"]["plan"]
