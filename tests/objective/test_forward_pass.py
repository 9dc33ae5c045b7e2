"""One pass over the data with given weights and buffers: held against plain torch, batch by batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import lossnav as ln
from lossnav import errors

DRAW = torch.Generator().manual_seed(5)
X, Y = torch.randn(23, 4, generator=DRAW), torch.randint(0, 3, (23,), generator=DRAW)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


@pytest.fixture
def objective():
    return ln.Objective(network().eval(), F.cross_entropy, (X, Y), metrics=["accuracy"], batch_size=8)


def displaced(objective):
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in objective.params.items()}


def losses_of(values):
    """Per-sample losses: numerators over weights."""
    numerators, weights = values["loss"]
    return numerators / weights


def test_what_a_batch_gives_is_plain_torchs(objective):
    model, point = network().eval(), displaced(objective)
    steps = objective.forward_pass(point)
    assert [n for n, _ in steps] == [8, 8, 7]
    for (_, values), x, y in zip(steps, X.split(8), Y.split(8), strict=True):
        outputs = functional_call(model, point, (x,))
        torch.testing.assert_close(losses_of(values).float(), F.cross_entropy(outputs, y, reduction="none"))
        hits, counted = values["accuracy"]
        assert (hits / counted).tolist() == (outputs.argmax(1) == y).double().tolist()
    values, count = objective.forward_pass.reduce(steps)
    assert count == 23
    assert values == objective.evaluate(point)


def test_buffers_and_batches_may_be_others(objective):
    model, point = network().eval(), displaced(objective)
    buffers = {"1.running_mean": torch.full((6,), 0.3)}
    (step,) = objective.forward_pass(point, buffers, [(X[:5], Y[:5])])
    state = dict(model.named_buffers()) | buffers | point
    expected = F.cross_entropy(functional_call(model, state, (X[:5],)), Y[:5], reduction="none")
    torch.testing.assert_close(losses_of(step[1]).float(), expected)
    (plain,) = objective.forward_pass(point, batches=[(X[:5], Y[:5])])
    assert not torch.equal(losses_of(plain[1]), losses_of(step[1]))


def test_something_else_may_be_measured(objective):
    def widest(model, batch):
        outputs, _ = objective.forward_pass.outputs_and_targets(model, batch)
        return len(outputs), {"widest": outputs.amax()}

    found = objective.forward_pass(objective.params, step=widest)
    model = network().eval()
    expected = [pytest.approx(float(model(x).detach().max())) for x in X.split(8)]
    assert [float(values["widest"]) for _, values in found] == expected


def test_functions_of_parameters_pass_too():
    def bowl(p, batch):
        return ((p["x"] - batch) ** 2).sum(1)

    data = torch.arange(6.0).reshape(3, 2)
    objective = ln.Objective.from_function(bowl, {"x": torch.zeros(2)}, data, reduction="none", batch_size=2)
    at = {"x": torch.tensor([1.0, 2.0])}
    losses = torch.cat([values["loss"].reshape(-1) for _, values in objective.forward_pass(at)])
    torch.testing.assert_close(losses, ((at["x"] - data) ** 2).sum(1))
    assert objective.forward_pass.is_function


def test_nothing_is_left_changed_and_shapes_are_checked(objective):
    before = torch.random.get_rng_state()
    state = {name: tensor.clone() for name, tensor in objective.params.items()}
    point = displaced(objective)
    torch.random.set_rng_state(before)
    objective.forward_pass(point)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(tensor, objective.params[name]) for name, tensor in state.items())
    with pytest.raises(errors.StructureMismatchError):
        objective.forward_pass({"0.weight": torch.zeros(2, 2)})
    with pytest.raises(errors.StructureMismatchError):
        objective.forward_pass(point, {"1.running_mean": torch.zeros(5)})
