"""Weights of the same names and shapes may belong to another function: a line does not lead there in silence."""

import copy

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
