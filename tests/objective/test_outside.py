"""State outside of a model: globals, attributes of classes, what functions enclose; all copies share it."""

import functools
import itertools
import random
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(1))

CALLS = 0
SCALE = 1.0
CACHE: dict = {}
HISTORY: list = []
SHAPES: dict = {}
LOG: list = []
MEAN = torch.zeros(6)
ARRAY = np.ones(1)
FEATURES = None
TEACHER = nn.Linear(5, 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def hidden(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.second(self.hidden(x))


class Counts(Net):
    def forward(self, x):
        global CALLS
        CALLS += 1
        return super().forward(x) * (1 + 0.1 * CALLS)


class Anneals(Net):
    def forward(self, x):
        global SCALE
        SCALE *= 0.9
        return super().forward(x) * SCALE


class KeepsInADict(Net):
    def forward(self, x):
        if "weight" not in CACHE:
            CACHE["weight"] = self.first.weight.detach().clone()
        return self.second(torch.tanh(F.linear(x, CACHE["weight"], self.first.bias)))


class KeepsInAGlobal(Net):
    def forward(self, x):
        global FEATURES
        if FEATURES is None or len(FEATURES) != len(x):
            FEATURES = self.hidden(x).detach()
        return self.second(FEATURES)


class KeepsInItsClass(Net):
    kept = None

    def forward(self, x):
        if type(self).kept is None:
            type(self).kept = self.second.bias.detach() * 3
        return super().forward(x) + type(self).kept


class CountsInItsClass(Net):
    steps = 0

    def forward(self, x):
        CountsInItsClass.steps += 1
        return super().forward(x) / CountsInItsClass.steps


class Momentum(Net):
    def forward(self, x):
        hidden = self.hidden(x)
        MEAN.mul_(0.9).add_(hidden.detach().mean(0), alpha=0.1)
        return self.second(hidden - MEAN)


class Array(Net):
    def forward(self, x):
        ARRAY[0] += 0.5
        return super().forward(x) * float(ARRAY[0])


class Appends(Net):
    def forward(self, x):
        HISTORY.append(super().forward(x).detach().mean())
        return super().forward(x) * sum(HISTORY)


def helper(x, seen={}):  # noqa: B006 - the mistake that is meant
    seen["n"] = seen.get("n", 0) + 1
    return x * seen["n"]


class ByADefault(Net):
    def forward(self, x):
        return helper(super().forward(x))


class Registry:
    scores: ClassVar[dict] = {}

    @classmethod
    def remember(cls, value):
        return cls.scores.setdefault("first", value.detach())


class ByAnother(Net):
    def forward(self, x):
        return super().forward(x) + Registry.remember(self.second.bias)


class ByLRU(Net):
    def forward(self, x):
        return super().forward(x) * once(x.shape[0], self)


def once(n, model):
    return remembered(n, _Key(model))


class _Key:
    """Equal to all others: a cache that forgets what it depends on."""

    def __init__(self, model):
        self.model = model

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


@functools.cache
def remembered(n, key):
    return float(key.model.first.weight.detach().sum())


class Trains(Net):
    def forward(self, x):
        with torch.no_grad():
            TEACHER.weight.lerp_(self.second.weight @ self.first.weight, 0.5)
        return super().forward(x) + TEACHER(x)


HARMFUL = [
    Counts, Anneals, KeepsInADict, KeepsInAGlobal, KeepsInItsClass, CountsInItsClass, Momentum, Array, Appends,
    ByADefault, ByAnother, ByLRU, Trains,
]  # fmt: skip


@pytest.fixture(autouse=True)
def at_first():
    this = sys.modules[__name__]
    before = {name: getattr(this, name) for name in ("CALLS", "SCALE", "FEATURES")}
    yield
    for name, value in before.items():
        setattr(this, name, value)
    for container in (CACHE, HISTORY, SHAPES, LOG, Registry.scores, helper.__defaults__[0]):
        container.clear()
    MEAN.zero_()
    ARRAY[:] = 1
    KeepsInItsClass.kept, CountsInItsClass.steps = None, 0
    remembered.cache_clear()


def state():
    tensors = [MEAN.clone(), TEACHER.weight.detach().clone()]
    plain = [CALLS, SCALE, dict(CACHE), FEATURES, list(HISTORY), dict(Registry.scores), dict(helper.__defaults__[0])]
    return tensors, [*plain, KeepsInItsClass.kept, CountsInItsClass.steps, ARRAY.tolist()]


def made(kind):
    torch.manual_seed(3)
    return kind().eval()


@pytest.mark.parametrize("kind", HARMFUL)
@pytest.mark.parametrize("copy", [True, False])
def test_a_model_whose_points_would_see_each_other_is_refused_and_its_state_put_back(kind, copy):
    before = state()
    with pytest.raises(errors.ObjectiveError, match="keeps state outside"):
        ln.Objective(made(kind), "cross_entropy", (X, Y), copy=copy)
    after = state()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]


@pytest.mark.parametrize("kind", [KeepsInADict, KeepsInAGlobal, KeepsInItsClass, ByAnother])
def test_a_cache_that_was_filled_before_is_refused_too(kind):
    model = made(kind)
    model(X[:4] if kind is KeepsInAGlobal else X)
    before = state()[1]
    with pytest.raises(errors.ObjectiveError, match="keeps state outside"):
        ln.Objective(model, "cross_entropy", (X[:4], Y[:4]))
    after = state()[1]
    assert all(a is b or a == b for a, b in zip(before[:3], after[:3], strict=True)) and after[3] is before[3]


class Harmless(Net):
    calls = 0

    def forward(self, x):
        global CALLS
        CALLS += 1
        Harmless.calls += 1
        LOG.append(x.shape)
        SHAPES.setdefault(tuple(x.shape), torch.arange(x.shape[1]).float())
        return super().forward(x + SHAPES[tuple(x.shape)] * SCALE)


class Resets(Net):
    def forward(self, x):
        HISTORY.clear()
        HISTORY.append(self.hidden(x))
        return self.second(HISTORY[-1])


@pytest.mark.parametrize("kind", [Harmless, Resets])
def test_what_changes_no_value_is_let_be(kind):
    model = made(kind)
    objective = ln.Objective(model, "cross_entropy", (X, Y), batch_size=24)
    for seed in (1, 2):
        direction = ln.directions.random(objective, seed=seed)[0]
        point = {name: objective.params[name] + 0.5 * direction[name] for name in objective.params}
        moved = made(kind)
        moved.load_state_dict(point)
        with torch.no_grad():
            truth = float(F.cross_entropy(moved(X), Y))
        assert objective.evaluate(point)["loss"] == pytest.approx(truth, rel=1e-5)


def losses_with_state():
    count, kept = 0, {}

    def counting(outputs, targets):
        nonlocal count
        count += 1
        return F.cross_entropy(outputs, targets) * count

    def keeping(outputs, targets):
        kept.setdefault("scale", outputs.detach().abs().mean())
        return F.cross_entropy(outputs, targets) / kept["scale"]

    def by_global(outputs, targets):
        HISTORY.append(1)
        return F.cross_entropy(outputs, targets) * len(HISTORY)

    return {"nonlocal": counting, "dict": keeping, "global": by_global}


@pytest.mark.parametrize("name", losses_with_state())
def test_losses_and_forward_are_held_to_it_too(name):
    loss = losses_with_state()[name]
    with pytest.raises(errors.ObjectiveError, match="keeps state outside"):
        ln.Objective(made(Net), loss, (X, Y))
    with pytest.raises(errors.ObjectiveError, match="keeps state outside"):
        ln.Objective(made(Net), None, (X, Y), forward=lambda model, batch: (loss(model(batch[0]), batch[1]), batch[1]))


def first_result():
    kept = {}

    def function(p):
        if "loss" not in kept:
            kept["loss"] = ((X @ p["w"]) ** 2).mean()
        return kept["loss"]

    return function


def first_number():
    kept = None

    def function(p):
        nonlocal kept
        kept = float((p["w"] ** 2).sum()) if kept is None else kept
        return kept + p["w"].sum()

    return function


def of_a_global(p):
    CACHE.setdefault("w", p["w"].detach().clone())
    return ((p["w"] - CACHE["w"] - 1) ** 2).sum()


def by_default(p, seen=[]):  # noqa: B006 - the mistake that is meant
    seen.append(float(p["w"].sum()))
    return (p["w"] ** 2).sum() + sum(seen)


@functools.cache
def _sum(key):
    return float(key.model.sum())


def by_lru(p):
    return (p["w"] ** 2).sum() + _sum(_Key(p["w"].detach()))


@pytest.mark.parametrize("function", [first_result(), first_number(), of_a_global, by_default, by_lru])
def test_bare_functions_likewise(function):
    with pytest.raises(errors.ObjectiveError, match="keeps state outside"):
        ln.Objective.from_function(function, {"w": torch.ones(5)})


def test_a_function_that_keeps_nothing_is_not_called_when_the_objective_is_made():
    point, factor = {"w": torch.ones(5)}, 2.0

    def unbound(p):
        raise AssertionError

    ln.Objective.from_function(lambda p: factor * unbound(X @ p["w"]), point)


TICKS = itertools.count(1)


class ByAnIterator(Net):
    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * next(TICKS))


def test_what_cannot_be_put_back_is_warned_of():
    with pytest.warns(errors.LossnavWarning, match="for the same samples at the same weights"):
        ln.Objective(made(ByAnIterator), "cross_entropy", (X, Y))
    with pytest.warns(errors.LossnavWarning, match="for the same samples at the same weights"):
        ln.Objective.from_function(lambda p: (p["w"] ** 2).sum() * next(TICKS), {"w": torch.ones(5)})


def test_random_numbers_of_any_kind_are_not_drift():
    def noisy(p):
        return (p["w"] ** 2).sum() * (1 + random.random() + np.random.rand() + torch.rand(()))

    objective = ln.Objective.from_function(noisy, {"w": torch.ones(5)})
    assert objective.evaluate(objective.params) == objective.evaluate(objective.params)


class OfSlots:
    __slots__ = ("kept",)


SLOTS = OfSlots()
SLOTS.kept = None


class ByAttributes(Net):
    def forward(self, x):
        if SLOTS.kept is None:
            SLOTS.kept = self.first.weight.detach().sum()
        return super().forward(x) * SLOTS.kept


class ByGenerator(Net):
    def forward(self, x):
        return super().forward(x) * GENERATOR.random()


GENERATOR = np.random.default_rng(0)


def test_objects_and_generators_are_looked_into():
    for kind in (ByAttributes, ByGenerator):
        with pytest.raises(errors.ObjectiveError, match="keeps state outside"):
            ln.Objective(made(kind), "cross_entropy", (X, Y))
    assert SLOTS.kept is None
    assert GENERATOR.random() == np.random.default_rng(0).random()


def test_a_constant_that_the_user_changes_later_is_read_when_it_is_used():
    global SCALE
    objective = ln.Objective(made(Harmless), "cross_entropy", (X, Y), batch_size=24)
    first = objective.evaluate(objective.params)["loss"]
    SCALE = 2.0
    model = made(Harmless)
    with torch.no_grad():
        truth = float(F.cross_entropy(model(X), Y))
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(truth, rel=1e-5)
    assert truth != pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("function", [False, True])
def test_metrics_are_held_to_it_as_well(function):
    seen = []

    def running(outputs, targets):
        seen.append(float((outputs.argmax(1) - targets).float().mean() + outputs.abs().mean()))
        return sum(seen) / len(seen)

    def running_size(p):
        seen.append(float(p["w"].abs().sum()))
        return sum(seen)

    def made_of(function):
        if function:
            metrics = {"running": running_size}
            return ln.Objective.from_function(lambda p: (p["w"] ** 2).sum(), {"w": torch.ones(5)}, metrics=metrics)
        return ln.Objective(made(Net), "cross_entropy", (X, Y), metrics={"running": running})

    with pytest.raises(errors.ObjectiveError, match="keeps state outside.*its running"):
        made_of(function)
    assert not seen
