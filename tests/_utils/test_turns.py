"""Several threads, and processes, on one objective: each call gives what it gives alone; the world stays as it was."""

import multiprocessing
import os
import pickle
import queue
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav._utils import turns
from lossnav.errors import LossnavWarning, ObjectiveError

pytestmark = pytest.mark.filterwarnings("ignore::lossnav.errors.LossnavWarning")  # of queues and copies

THREADS = 8


def data(seed=0, samples=90, shape=(6,)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *shape, generator=generator), torch.randint(0, 3, (samples,), generator=generator)


class Queue(nn.Module):
    """Writes a buffer and counts its calls; what it wrote changes the next batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.calls = 0

    def forward(self, x):
        made = self.layer(x)
        self.mean.mul_(0.9).add_(0.1 * made.mean(0).detach())
        self.calls += 1
        return made + 0.3 * self.mean


class Noisy(nn.Module):
    """Draws random numbers in eval mode too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x + 0.1 * torch.randn_like(x))


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).eval()


def objectives():
    yield "plain", lambda: ln.Objective(mlp(), "cross_entropy", data(), metrics=["accuracy"], batch_size=32)
    convolutional = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    images = data(shape=(2, 5, 5))
    yield "recompute", lambda: ln.Objective(convolutional.eval(), "cross_entropy", images, bn="recompute")
    dropping = nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.5), nn.Linear(9, 3)).train()
    yield "dropout", lambda: ln.Objective(dropping, "cross_entropy", data(), mode="train", batch_size=32)
    yield "queue", lambda: ln.Objective(Queue().eval(), "cross_entropy", data(), batch_size=32)
    yield "noisy", lambda: ln.Objective(Noisy().eval(), "cross_entropy", data(), batch_size=32)
    yield "a copy", lambda: ln.Objective(torch.jit.script(mlp()), "cross_entropy", data())
    counts = [0]

    def counted(outputs, targets):
        counts[0] += 1
        return nn.functional.cross_entropy(outputs, targets) + 0.01 * outputs.square().mean()

    yield "own loss", lambda: ln.Objective(mlp(), counted, data(), batch_size=32)
    vector = {"x": torch.linspace(-1.0, 1.0, 5)}
    yield "function", lambda: ln.Objective.from_function(lambda p: (p["x"] * torch.randn(5)).sin().sum(), vector)


OBJECTIVES = dict(objectives())


def calls(objective):
    """What several threads are to ask, by name."""
    directions = ln.directions.random(objective, n=2, seed=3)
    plane = ln.Plane(objective.params, *directions)
    grid = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))

    def product(point):
        try:
            made = ln.curvature.Hessian(objective.around(plane(point))) @ directions[0]
        except ObjectiveError:  # of what the queue cuts off
            return "refused"
        return torch.cat([part.flatten() for part in made.values()]).tolist()

    asked = {f"point {i}": lambda at=(i / 7 - 0.5, 0.3 - i / 9): objective.evaluate(plane(at)) for i in range(6)}
    asked |= {f"product {i}": lambda at=(i / 5, -0.1): product(at) for i in range(2)}
    plain = ln.Local(plan="plain")
    asked["surface"] = lambda: ln.evaluate(objective, plane, grid, engine=plain, progress=False)["loss"].values.tolist()
    asked["apart"] = lambda: objective.apart().evaluate(plane((0.2, 0.1)))
    asked["alone"] = lambda: objective.without_metrics().evaluate(plane((0.2, 0.1)))["loss"]
    return asked


def in_threads(asked, threads=THREADS, rounds=2):
    """All calls in as many threads, in another order in each; by name all results, errors among them."""
    found, lock, start = {name: [] for name in asked}, threading.Lock(), threading.Barrier(threads)

    def work(number):
        order = np.random.default_rng(number)
        start.wait()
        for _ in range(rounds):
            for name in order.permutation(list(asked)):
                try:
                    made = asked[name]()
                except Exception as error:
                    made = repr(error)
                with lock:
                    found[name].append(made)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_threads_on_one_objective_give_what_one_gives_alone(name):
    objective = OBJECTIVES[name]()
    asked = calls(objective)
    alone = {name: call() for name, call in asked.items()}
    torch.manual_seed(11)
    before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]
    found = in_threads(asked)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state(legacy=False)["state"]["key"])
    for what, values in found.items():
        assert values == [alone[what]] * len(values), what


@pytest.mark.slow
def test_threads_with_a_plan_are_within_its_error():
    objective = ln.Objective(mlp(), "cross_entropy", data(samples=400))
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=3))
    grid = ln.Grid(alpha=(-1, 1, 11), beta=(-1, 1, 11))
    truth = ln.evaluate(objective, plane, grid, engine=ln.Local(plan="plain"), progress=False)["loss"].values
    found = in_threads({"planned": lambda: ln.evaluate(objective, plane, grid, progress=False)}, rounds=1)
    for surface in found["planned"]:
        assert not isinstance(surface, str), surface
        assert np.abs(surface["loss"].values - truth).max() <= max(1e-6, 4 * surface.attrs["engine"]["plan_error"])


def test_a_report_and_sharpness_in_threads_are_those_of_one():
    objective = ln.Objective(mlp(), "cross_entropy", data(), batch_size=32)
    line = ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=3))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 11)), progress=False)
    asked = {
        "report": lambda: [
            (f.check, f.level, f.said) for f in ln.report(surface, objective=objective, progress=False).lines
        ],
        "values": lambda: ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), progress=False).values.tolist(),
        "sam": lambda: ln.sharpness(objective, "sam", progress=False).value,
        "average": lambda: ln.sharpness(objective, "average", progress=False).value,
        "point": lambda: objective.evaluate(line((0.3,))),
    }
    alone = {name: call() for name, call in asked.items()}
    for what, values in in_threads(asked, threads=4, rounds=1).items():
        assert values == [alone[what]] * len(values), what


def test_what_one_thread_hides_another_says():
    inside, leave = threading.Event(), threading.Event()

    def hide():
        with turns.hiding(LossnavWarning):
            warnings.warn("hidden", LossnavWarning, stacklevel=1)
            inside.set()
            leave.wait()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = threading.Thread(target=hide)
        other.start()
        inside.wait()
        with turns.hiding(DeprecationWarning):  # entered second, left first
            warnings.warn("said", LossnavWarning, stacklevel=1)
        leave.set()
        other.join()
        warnings.warn("said after", LossnavWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["said", "said after"]


def value_of(objective, connection):
    connection.send(objective.evaluate(objective.params))
    connection.close()


@pytest.mark.parametrize("name", ["queue", "dropout", "a copy"])
def test_a_fork_beside_running_threads_gives_the_same(name):
    objective = OBJECTIVES[name]()
    truth = objective.evaluate(objective.params)
    elsewhere = {key: tensor + 1 for key, tensor in objective.params.items()}
    stop, running = threading.Event(), threading.Barrier(3)

    def work():
        running.wait()
        while not stop.is_set():
            objective.evaluate(elsewhere)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    running.wait()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(6):
            here, there = context.Pipe()
            child = context.Process(target=value_of, args=(objective, there))
            child.start()
            there.close()
            assert here.recv() == truth
            child.join()
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.mark.slow
def test_a_new_process_is_given_an_objective():
    for objective in (
        ln.Objective(mlp(), "cross_entropy", data(), metrics=["accuracy"], batch_size=32),
        ln.Objective(mlp(), nn.functional.cross_entropy, dict(zip(("input", "labels"), data(), strict=True))),
        ln.Objective(Queue().eval(), nn.CrossEntropyLoss(), data()),
    ):
        again = pickle.loads(pickle.dumps(objective))
        assert again.fingerprint == objective.fingerprint
        assert again.evaluate(again.params) == objective.evaluate(objective.params)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=value_of, args=(objective, there))
    child.start()
    there.close()
    assert here.recv() == objective.evaluate(objective.params)
    child.join()


def test_a_fork_that_a_point_waits_for_goes_on(monkeypatch):
    """Data whose reader forks from a thread of its own: the pass waits for the thread, and the fork for the pass."""
    monkeypatch.setattr(turns, "_FORK_SECONDS", 0.01)
    x, y = torch.linspace(-1, 1, 32).reshape(16, 2), torch.arange(16) % 2
    codes = []

    class Data:
        def __len__(self):
            return 4

        def __iter__(self):
            batches = queue.Queue()

            def feed():
                number = os.fork()
                if not number:
                    try:
                        with turns.alone():
                            os._exit(0)
                    except errors.ForkedInAPointError:
                        os._exit(7)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
                for i in range(4):
                    batches.put((x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]))
                batches.put(None)

            threading.Thread(target=feed).start()
            while (batch := batches.get()) is not None:
                yield batch

    model = nn.Linear(2, 2)
    objective = ln.Objective(model, "cross_entropy", Data())
    truth = torch.nn.functional.cross_entropy(model(x), y).item()
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(truth, rel=1e-6)
    assert codes and set(codes) <= {0, 7} and 7 in codes  # what was forked in a point says so and computes nothing
    with turns.alone():  # this process is as before
        pass
