"""Weights of the same names and shapes may belong to another function: a line does not lead there in silence."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav.errors import StructureMismatchError


class Net(nn.Module):
    def __init__(self, activation=None, eps=1e-5, scale=1.0, norm=nn.LayerNorm, rate=0.0):
        super().__init__()
        self.first, self.norm, self.scale = nn.Linear(6, 8), norm(8, eps=eps), scale
        self.activation, self.drop, self.last = activation or nn.ReLU(), nn.Dropout(rate), nn.Linear(8, 4)

    def forward(self, x):
        return self.scale * self.last(self.drop(self.activation(self.norm(self.first(x)))))


def data():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(60, 6, generator=generator), torch.randint(0, 4, (60,), generator=generator)


def net(seed=0, **how):
    torch.manual_seed(seed)
    return Net(**how).eval()


def ways(objective, other):
    """Each way to lead to another network, by name."""
    third = objective.at(net(7, norm=type(other.norm)))
    return {
        "at": lambda: objective.at(other),
        "between a module": lambda: ln.directions.between(objective, other),
        "from a module": lambda: ln.directions.between(other, objective),
        "between objectives": lambda: ln.directions.between(objective, ln.Objective(other, "cross_entropy", data())),
        "through": lambda: ln.directions.through(objective, third, other),
    }


WAYS = ["at", "between a module", "from a module", "between objectives", "through"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "how", [{"activation": nn.Tanh()}, {"activation": nn.LeakyReLU(0.3)}, {"eps": 0.5}, {"scale": 2.0}]
)
def test_another_function_with_the_same_weights_is_refused(way, how):
    objective = ln.Objective(net(), "cross_entropy", data())
    other = net(1, **how)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(StructureMismatchError, match=r"another function than .*samples have a loss of"):
        ways(objective, other)[way]()
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore::lossnav.errors.TrainModeWarning")
def test_the_same_function_at_other_weights_is_not(way, training):
    """Dropout is off in both; running statistics are the ends' own."""
    objective = ln.Objective(net(norm=nn.BatchNorm1d), "cross_entropy", data())
    other = net(1, norm=nn.BatchNorm1d, rate=0.5).train(training)
    with torch.no_grad():
        other.norm.running_mean.add_(1.0)
    ways(objective, other)[way]()
    assert other.training == training and other.norm.num_batches_tracked == 0


def test_at_the_end_of_the_line_lies_the_other_network():
    objective, other = ln.Objective(net(), "cross_entropy", data()), net(1)
    line = ln.Line(objective, ln.directions.between(objective, other))
    inputs, targets = data()
    truth = nn.functional.cross_entropy(other(inputs), targets).item()
    assert objective.evaluate(line((1.0,)))["loss"] == pytest.approx(truth, rel=1e-5)


def drawn(objective, chart):
    return ln.evaluate(objective, chart, ln.Grid(**dict.fromkeys(chart.dims, (0, 1, 2))), progress=False)


CHARTS = {
    "line of modules": lambda a, b, c: ln.Line(a, ln.directions.between(a, b)),
    "to the other": lambda a, b, c: ln.Line(c, ln.directions.between(c, b)),
    "plane of modules": lambda a, b, c: ln.Plane(a, *ln.directions.through(a, c, b)),
}


@pytest.mark.parametrize("how", [{"activation": nn.Tanh()}, {"eps": 0.5}, {"scale": 2.0}])
@pytest.mark.parametrize("chart", CHARTS)
def test_modules_alone_are_held_to_the_objective_that_meets_them(chart, how):
    """Nothing says which function is meant until then."""
    a, b, c = net(0), net(1), net(2)
    objective = ln.Objective(net(5), "cross_entropy", data())
    drawn(objective, CHARTS[chart](a, b, c))
    other = net(1, **how)
    led_there = CHARTS[chart](a, other, c)
    with pytest.raises(StructureMismatchError, match="another function than"):
        drawn(objective, led_there)
    assert other.scale  # it was kept until here


def test_what_is_held_to_it_can_be_sent():
    line = ln.Line(net(0), ln.directions.between(net(0), net(1)))
    sent = pickle.loads(pickle.dumps(line))
    assert torch.equal(sent((1.0,))["last.weight"], line((1.0,))["last.weight"])


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "one's own": Wrapper,
    "compile": torch.compile,
    "double": lambda model: model.double(),
    "bfloat16": lambda model: model.bfloat16(),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_or_in_other_numbers_it_is_the_same_function_or_not(wrapper, alone):
    wrap, objective = WRAPPERS[wrapper], ln.Objective(net(), "cross_entropy", data())
    start = wrap(net(3)) if alone else objective
    for how, fails in (({}, False), ({"activation": nn.Tanh()}, True), ({"scale": 3.0}, True)):
        end = wrap(net(1, **how))
        with pytest.raises(StructureMismatchError, match="another function than") if fails else nullcontext():
            drawn(objective, ln.Line(net(3) if alone else objective, ln.directions.between(start, end)))
