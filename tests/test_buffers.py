"""A network is weights and buffers: whatever is asked of it at a point is asked with the buffers that belong there."""

import pickle

import pytest
import torch
import torch.nn.functional as F

import lossnav as ln
from lossnav.curvature import Hessian
from lossnav.errors import StructureMismatchError
from lossnav.params import Checkpoint
from networks_with_buffers import KINDS, data, plain_loss, trained


def objective_of(model, **options):
    return ln.Objective(model, F.cross_entropy, data(), batch_size=16, **options)


def checkpoint_of(model):
    return Checkpoint(dict(model.named_parameters()), dict(model.named_buffers()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_evaluated_with_the_buffers_it_is_given(kind):
    a, b = trained(kind, 0), trained(kind, 1)
    objective, there = objective_of(a), checkpoint_of(b)
    own = objective.evaluate(objective.params)["loss"]
    assert own == pytest.approx(plain_loss(a), rel=1e-6)
    assert objective.evaluate(dict(there), there.buffers)["loss"] == pytest.approx(plain_loss(b), rel=1e-6)
    assert objective.evaluate(there)["loss"] == pytest.approx(plain_loss(b), rel=1e-6)
    assert objective.around(there).evaluate(objective.around(there).params)["loss"] == pytest.approx(
        plain_loss(b), rel=1e-6
    )
    assert objective.evaluate(objective.params)["loss"] == own  # nothing of it stays


def test_second_derivatives_are_those_of_the_network_at_the_point():
    a, b = trained("BatchNorm1d", 0), trained("BatchNorm1d", 1)
    direction = {name: torch.ones_like(tensor) for name, tensor in b.named_parameters()}
    here, there = Hessian(objective_of(a), checkpoint_of(b)) @ direction, Hessian(objective_of(b)) @ direction
    for name, product in there.items():
        torch.testing.assert_close(here[name], product)


def test_buffers_of_another_network_are_refused():
    objective = objective_of(trained("BatchNorm1d", 0))
    with pytest.raises(StructureMismatchError, match="nothing"):
        objective.evaluate(objective.params, {"nothing": torch.zeros(2)})
    with pytest.raises(StructureMismatchError, match="running_mean"):
        objective.evaluate(objective.params, {"1.running_mean": torch.zeros(2)})


def test_a_checkpoint_travels_whole():
    there = checkpoint_of(trained("shared", 1))
    again = pickle.loads(pickle.dumps(there))
    assert list(again) == list(there) and list(again.buffers) == list(there.buffers)
