"""What lossnav calls is a copy of the user's model and loss, whatever these are made of; theirs stay as they are."""

import copy
import random
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav.errors import ObjectiveError
from lossnav.objective import contents as contents_module

pytestmark = pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")

torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.randint(0, 3, (24,))
SIZE = 8


def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def plain(make, weights, loss=F.cross_entropy):
    """The mean over the batches in order of a model made anew, in eval mode."""
    model = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        model.eval()
        return float(np.mean([float(loss(model(x), y)) for x, y in zip(X.split(SIZE), Y.split(SIZE), strict=True)]))


def moved(params):
    generator = torch.Generator().manual_seed(1)
    return {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in params.items()}


def hold(make, loss=F.cross_entropy, measure=None, **options):
    """Every value is plain torch's, twice over and along a line, and the model is as before."""
    model = make()
    before = copy.deepcopy({name: t.clone() for name, t in model.state_dict().items()})
    modes = [module.training for module in model.modules()]
    objective = ln.Objective(model, loss, (X, Y), batch_size=SIZE, **options)
    for point in (objective.params, moved(objective.params), objective.params):
        # a loss of one's own is made anew for the truth
        truth = plain(make, point, measure() if measure else F.cross_entropy)
        assert objective.evaluate(point)["loss"] == pytest.approx(truth, rel=1e-5)
    line = ln.Line(objective, ln.directions.random(objective, n=1, seed=2)[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), progress=False)
    truth = plain(make, line([1.0]), measure() if measure else F.cross_entropy)
    assert float(surface["loss"][-1]) == pytest.approx(truth, rel=1e-5)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    return objective, model


# ---------------------------------------------------------------------- state that is no tensor

DRAWS = {
    "numpy": (lambda: np.random.default_rng(1), lambda g: float(g.random())),
    "numpy, older": (lambda: np.random.RandomState(1), lambda g: float(g.random())),
    "random": (lambda: random.Random(1), lambda g: g.random()),
    "torch": (lambda: torch.Generator().manual_seed(1), lambda g: float(torch.rand((), generator=g))),
}


class Slotted:
    __slots__ = ("steps",)

    def __init__(self):
        self.steps = 0


def _count_array(array):
    array += 1
    return float(array[0])


def _count_slot(counter):
    counter.steps += 1
    return counter.steps


def _count_bytes(buffer):
    buffer[0] += 1
    return buffer[0]


COUNTS = DRAWS | {
    "array": (lambda: np.zeros(2), _count_array),
    "large array": (lambda: np.zeros(2**17), _count_array),
    "slots": (Slotted, _count_slot),
    "bytes": (lambda: bytearray(4), _count_bytes),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_a_model_with_state_of_any_kind_starts_each_pass_anew(kind):
    make_state, step = COUNTS[kind]

    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.state = body(), make_state()

        def forward(self, x):
            return self.body(x) * (1 + 0.3 * step(self.state))

    _, model = hold(Stateful)
    assert step(model.state) == step(make_state())


@pytest.mark.parametrize("kind", COUNTS)
def test_a_loss_with_state_of_any_kind_starts_each_pass_anew(kind):
    make_state, step = COUNTS[kind]

    class Scaled:
        def __init__(self):
            self.state = make_state()

        def __call__(self, outputs, targets):
            return F.cross_entropy(outputs, targets) * (1 + 0.3 * step(self.state))

    loss = Scaled()
    hold(body, loss, Scaled)
    assert step(loss.state) == step(make_state())


# ---------------------------------------------------------------------- modules that copy themselves


class Backbone(nn.Module):
    """Large and frozen in its author's mind: a copy is itself."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        return self.norm(self.linear(x))


class Forgetful(nn.Module):
    """A copy of it has the default temperature."""

    def __init__(self):
        super().__init__()
        self.temperature, self.body = 1.0, body()

    def __deepcopy__(self, memo):
        made = Forgetful()
        made.load_state_dict(self.state_dict())
        return made

    def forward(self, x):
        return self.body(x) * self.temperature


class Uncopied(Forgetful):
    def __deepcopy__(self, memo):
        raise RuntimeError("not this one")


def _set(kind):
    def make():
        torch.manual_seed(3)
        made = kind()
        made.temperature = 3.0
        return made

    return make


def _on_backbone():
    torch.manual_seed(3)
    return nn.Sequential(Backbone(), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.filterwarnings("ignore::lossnav.errors.TrainModeWarning")
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("make", [_on_backbone, _set(Forgetful), _set(Uncopied)])
def test_a_module_that_copies_itself_is_copied_whole(make, share):
    hold(make, copy=not share)


@pytest.mark.filterwarnings("ignore:The loss:lossnav.errors.LossnavWarning")
def test_a_loss_that_copies_itself_is_as_before():
    class Perceptual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.features = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))

        def __deepcopy__(self, memo):
            return self

        def forward(self, outputs, targets):
            return F.cross_entropy(self.features(outputs), targets)

    class Counted:
        def __init__(self):
            self.calls = 0

        def __deepcopy__(self, memo):
            return self

        def __call__(self, outputs, targets):
            self.calls += 1
            return F.cross_entropy(outputs, targets) * self.calls

    loss = Perceptual()
    before = [t.clone() for t in loss.state_dict().values()]
    hold(body, loss, lambda: Perceptual().eval())
    assert loss.training and all(module.training for module in loss.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, loss.state_dict().values(), strict=True))
    counted = Counted()
    hold(body, counted, Counted)
    assert counted.calls == 0


def test_a_copy_that_is_another_model_is_refused():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature, self.body = 3.0, body()

        def __getstate__(self):
            return {name: value for name, value in vars(self).items() if name != "temperature"}

        def __setstate__(self, state):
            vars(self).update(state, temperature=1.0)

        def forward(self, x):
            return self.body(x) * self.temperature

    with pytest.raises(ObjectiveError, match="A copy of Plain is another model"):
        ln.Objective(Plain(), "cross_entropy", (X, Y), batch_size=SIZE)


# ---------------------------------------------------------------------- weights reached through functions


def _patched_once():
    model = body()
    old = model.forward

    def forward(self, x):
        return old(x) * model[2].bias.exp().mean()

    model.forward = types.MethodType(forward, model)
    return model


def _patched_twice():
    model = _patched_once()
    old = model.forward

    def forward(self, x):
        return old(x) * self[0].weight.abs().mean()

    model.forward = types.MethodType(forward, model)
    return model


def _patched_layer_in_a_list():
    model = body()
    old = model[0].forward

    def forward(self, x):
        return old(x) * model[2].weight.norm()

    model[0].calls = [types.MethodType(forward, model[0])]
    model[0].forward = lambda x: model[0].calls[0](x)
    return model


@pytest.mark.parametrize("make", [_patched_once, _patched_twice, _patched_layer_in_a_list])
def test_a_forward_that_was_put_into_a_module_follows_its_weights(make):
    _, model = hold(make)
    assert torch.equal(model(X), make()(X))


def test_weights_in_the_default_of_an_argument_follow():
    model = body()
    objective = ln.Objective(
        model,
        lambda outputs, targets, m=model, *, rate=0.1, layers=tuple(model): (
            F.cross_entropy(outputs, targets) + rate * sum(p.square().sum() for p in m.parameters())
            + layers[2].bias.sum()
        ),
        (X, Y),
        batch_size=SIZE,
    )  # fmt: skip
    for point in (objective.params, moved(objective.params)):
        decay = 0.1 * sum(float(p.double().square().sum()) for p in point.values()) + float(point["2.bias"].sum())
        assert objective.evaluate(point)["loss"] == pytest.approx(plain(body, point) + decay, rel=1e-5)


def test_nothing_of_what_is_copied_is_written_to():
    model = _patched_twice()
    function = model.forward.__func__
    cells = [cell.cell_contents for cell in function.__closure__]
    made = contents_module.copied(model, {})
    assert model.forward.__func__ is function
    assert all(a is b.cell_contents for a, b in zip(cells, function.__closure__, strict=True))
    assert made.forward.__func__ is not function and made.forward.__self__ is made
    mine = {id(module) for module in model.modules()}
    assert not any(id(part) in mine for part in contents_module.reachable(made))


def test_what_is_kept_alive_while_copying_is_no_copy_of_anything():
    model, memo = body(), {}

    def loss(outputs, targets, m=model, *, layers=tuple(model)):
        return m(outputs) + len(layers)

    made = contents_module.copied(loss, memo)
    assert made is not loss and made.__defaults__[0] is memo[id(model)]
    lists = [key for key, value in memo.items() if isinstance(value, list) and value]
    assert lists == [id(memo)]  # the id of a living object
