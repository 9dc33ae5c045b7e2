"""Runs in processes of their own that meet in one store. They speak by pipes: nothing waits for a clock."""

import os
import signal

import torch

import lossnav as ln
from lossnav import errors
from lossnav.storage import journal, lease

GRID = ln.Grid(alpha=(-1, 1, 21), beta=(-1, 1, 21))


def truth(points):
    """What the problem's losses are, by numpy."""
    return 1 + (points[:, 0] - 0.3) ** 2 * (1 + points[:, 1] ** 2)


def problem(at=None):
    """A valley; `at` is called at each point with how many came before."""
    calls = [0]
    held = [at]  # in a list: no part of what the objective is known by

    def valley(p):
        if held[0] is not None:
            held[0](calls[0])
        calls[0] += 1
        x = p["x"]
        return 1 + (x[0] - 0.3) ** 2 * (1 + x[1] ** 2)

    objective = ln.Objective.from_function(valley, {"x": torch.zeros(2, dtype=torch.float64)})
    e1, e2 = torch.eye(2, dtype=torch.float64)
    return objective, ln.Plane(objective.params, {"x": e1}, {"x": e2})


def run(store, pipe, pauses, rows=8, kind="grid", host=None):
    """Evaluate; before each of some points say how far it is and do what is said, at the end say how it ended."""
    os.environ["OMP_NUM_THREADS"] = "1"
    journal._ROWS = rows
    lease.BEAT = 1e6  # the heart beats when it is told to
    if host is not None:
        lease._host = lambda: host

    def at(count):
        if count in pauses:
            pipe.send(count)
            while (word := pipe.recv()) != "go on":
                if word == "beat":
                    pipe.send([held.beat() for held in list(lease._HELD.values())])
                elif word == "stop":
                    os.kill(os.getpid(), signal.SIGTERM)

    sampler = GRID if kind == "grid" else ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=1e-9, max_points=300)
    try:
        made = ln.evaluate(*problem(at), sampler, store=store, check=False, progress=False)
        pipe.send(("done", int((made["status"] != 0).sum())))
    except ln.Interrupted as stopped:
        pipe.send(("stopped", int((stopped.partial["status"] != 0).sum())))
    except errors.StoreError as error:
        kept = None if error.surface is None else int((error.surface["status"] != 0).sum())
        pipe.send((type(error).__name__, kept, str(error)))


def record(store, pipe, steps):
    """Record a trajectory; after each step say so and wait for a word."""
    model = torch.nn.Linear(3, 1).requires_grad_(False)
    try:
        recorder = ln.Trajectory(model, store=store, resume=True)
        for _ in range(steps):
            model.weight.add_(1)
            recorder.step()
            pipe.send(int(recorder.steps[-1]))
            pipe.recv()
        recorder.close()
        pipe.send(("done", len(recorder)))
    except errors.StoreError as error:
        pipe.send((type(error).__name__, None, str(error)))
