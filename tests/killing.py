"""Runs in processes of their own, to be killed. Points are slow, and each is written down before it is computed."""

import contextlib
import os
import time
from pathlib import Path

import torch
from zarr.storage import LocalStore

import lossnav as ln
from lossnav.storage import journal

SAMPLERS = {
    "grid": ln.Grid(alpha=(-1, 1, 13), beta=(-1, 1, 9)),
    "adaptive": ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.003, max_points=140),
}


def problem(log=None, seconds=0.0):
    """A valley with a region where it is infinite."""
    held = [None, seconds]  # in a list: no part of what the objective is known by

    def valley(p):
        x = p["x"]
        if held[0] is not None:
            line = f"{float(x[0]).hex()} {float(x[1]).hex()}\n".encode()
            os.write(held[0], line)
            time.sleep(held[1])
        value = 1 + (x[0] - 0.3) ** 2 * (1 + x[1] ** 2) + torch.exp(1.5 * x[1])
        return value / 0 if x[0] + x[1] > 1.6 else value

    objective = ln.Objective.from_function(valley, {"x": torch.zeros(2, dtype=torch.float64)})
    held[0] = log  # from here on: an objective is tried as it is made
    e1, e2 = torch.eye(2, dtype=torch.float64)
    return objective, ln.Plane(objective.params, {"x": e1}, {"x": e2})


def run(kind, store, log, seconds=0.004):
    """One session of a run, which writes often; ends with 0, or with 143 after SIGTERM."""
    os.environ["OMP_NUM_THREADS"] = "1"
    journal._SECONDS = 0.1
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        ln.evaluate(*problem(file, seconds), SAMPLERS[kind], store=store, check=False, progress=False)
    except ln.Interrupted as stopped:
        os._exit(128 + stopped.signal)
    except ln.errors.StoreError:
        os._exit(1)
    os._exit(0)


def run_until_write(kind, store, log, number, rows):
    """A session with so many rows a tile that dies when it comes to its n-th write; ends with 0 where it has fewer."""
    journal._ROWS = rows
    writes = [0]
    for name in ("set", "delete", "delete_dir"):
        _dying(name, writes, number)
    run(kind, store, log, seconds=0.0)


def regression():
    """A model whose per-sample losses can be had."""
    x = torch.linspace(-1, 1, 37).reshape(-1, 1)
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).requires_grad_(False)
    for i, parameter in enumerate(model.parameters()):
        parameter.copy_(torch.linspace(-1, 1 + i, parameter.numel()).reshape(parameter.shape))
    objective = ln.Objective(model, "mse", (x, x.sin()), batch_size=10)
    return objective, ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))


def keep_samples_until_write(kind, store, number, rows):
    """The same for a run that keeps the per-sample losses."""
    os.environ["OMP_NUM_THREADS"] = "1"
    journal._ROWS = rows
    writes = [0]
    for name in ("set", "delete", "delete_dir"):
        _dying(name, writes, number)
    ln.evaluate(*regression(), SAMPLERS[kind], store=store, keep_samples=True, progress=False)
    os._exit(0)


def _dying(name, writes, number):
    whole = getattr(LocalStore, name)

    async def dying(self, *args, **kwargs):
        writes[0] += 1
        if writes[0] == number:
            os._exit(9)
        return await whole(self, *args, **kwargs)

    setattr(LocalStore, name, dying)


def record_for_ever(store):
    """A recording of a model whose weights are the number of the step."""
    model = torch.nn.Linear(300, 300)  # 360 kB: a write that takes a while
    recorder = ln.Trajectory(model.requires_grad_(False), store=store, resume=True)
    while True:
        model.weight.fill_(recorder._step + 1)
        recorder.step()


def points_in(log):
    """What was written down, in order."""
    with contextlib.suppress(FileNotFoundError), open(log) as file:
        lines = file.read().split("\n")[:-1]  # one that is being written is not whole
        return [tuple(float.fromhex(number) for number in line.split()) for line in lines]
    return []


def ensemble(kind, store, log=None, overwrite=False, seeds=range(7), scale=1.0):
    """An ensemble whose finished seeds are put together three at a time."""
    from lossnav.evaluation import ensemble as ensembles

    ensembles._BLOCK = 3
    objective, plane = problem(log)
    e1 = {"x": torch.tensor([1.0, 0.0], dtype=torch.float64)}

    def line(seed):
        turned = torch.tensor([1.0, scale * seed], dtype=torch.float64) / (1 + seed)
        return ln.Line(plane.center, {"x": turned} if seed else e1)

    sampler = {"grid": ln.Grid(alpha=(-2, 2, 9)), "adaptive": ln.Adaptive(alpha=(-2, 2), tolerance=0.01)}[kind]
    options = {"store": store, "overwrite": overwrite, "check": False, "progress": False}
    return ln.ensemble(objective, line, sampler, seeds, **options)


def ensemble_until(kind, store, log, number):
    """The same, ended as by a kill before the so-many-th write or removal of the ensemble's own, or chart."""
    from lossnav.evaluation import ensemble as ensembles
    from lossnav.surface.parts import Parts

    os.environ["OMP_NUM_THREADS"] = "1"
    count = [0]

    def ending(step):
        def stepped(*arguments, **options):
            count[0] += 1
            if count[0] == number:
                os._exit(9)
            return step(*arguments, **options)

        return stepped

    ensembles.save_surface, Parts.remove = ending(ensembles.save_surface), ending(Parts.remove)
    ensembles.evaluate = ending(ensembles.evaluate)
    with open(log, "ab") as file:
        ensemble(kind, store, file.fileno())
    os._exit(0)


def lives(pid):
    """Whether a process runs: one that has ended and is not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
