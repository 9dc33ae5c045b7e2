"""Hessian-vector products are those of the loss that `evaluate` returns: truth is a dense Hessian by plain autograd."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav import params as algebra
from networks import BATCH, attention, conv_loss, conv_net, dense, flat, images, module_loss

POLICIES = ("frozen", "recompute", "batch")


def displaced(objective, size=0.05, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + size * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in objective.params.items()
    }


def some_vector(objective, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in objective.params.items()}


def assert_close(got, wanted, relative):
    assert torch.linalg.vector_norm(got - wanted) <= relative * torch.linalg.vector_norm(wanted)


def check(objective, loss, point, relative=2e-5):
    """Loss, gradient and product of an objective at a point against the dense ones, native and in float64."""
    vector = some_vector(objective)
    value, slope, matrix = dense(loss, point)
    for precision, to_within in (("native", relative), ("float64", 1e-10)):
        hessian = ln.curvature.Hessian(objective, point, precision=precision)
        found = hessian.derive([hessian.to_flat(vector)])
        assert found.loss == pytest.approx(value, rel=to_within)
        assert_close(found.gradient, slope, to_within)
        assert_close(found.products[0], matrix @ flat(vector), to_within)
    assert objective.evaluate(point)["loss"] == pytest.approx(value, rel=1e-5)
    assert_close(flat(ln.curvature.Hessian(objective, point) @ vector), matrix @ flat(vector), relative)
    assert_close(flat(ln.curvature.gradient(objective, point)), slope, relative)


@pytest.mark.parametrize("bn", POLICIES)
def test_batch_norm_in_every_policy(bn):
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), metrics=["accuracy"], bn=bn, batch_size=BATCH)
    for point in (objective.params, displaced(objective)):
        check(objective, conv_loss(model, x, y, bn), point)


def test_attention_layer_norm_and_tied_weights():
    model, ids = attention()
    objective = ln.Objective(model, "cross_entropy", (ids, ids), batch_size=2)
    assert "head.weight" not in objective.params  # tied: it moves as the embedding does
    loss = module_loss(copy.deepcopy(model), lambda out: F.cross_entropy(out, ids), ids)
    for point in (objective.params, displaced(objective)):
        check(objective, loss, point, 1e-4)


def test_a_recurrent_network():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    model, x, y = Recurrent().eval(), torch.randn(6, 5, 3), torch.randn(6, 2)
    objective = ln.Objective(model, "mse", (x, y), batch_size=4)
    check(
        objective,
        module_loss(copy.deepcopy(model), lambda out: F.mse_loss(out, y.double()), x.double()),
        objective.params,
    )


def simple(n=7, classes=4):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, classes)).eval()
    return model, torch.randn(n, 5), torch.randint(0, classes, (n,))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.2, 2.0]), ignore_index=1),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda outputs, targets: F.cross_entropy(outputs, targets),
        lambda outputs, targets, reduction="mean": F.cross_entropy(outputs, targets, reduction=reduction) ** 2,
    ],
    ids=["weights and ignored targets", "smoothed", "means of batches", "not the mean of single losses"],
)
@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")  # some are means of their batch
def test_every_loss_is_averaged_as_evaluate_does(loss):
    model, x, y = simple()
    objective = ln.Objective(model, loss, (x, y), batch_size=3)
    point = displaced(objective)
    whole = isinstance(loss, nn.Module)  # else batches are weighted by their length

    def by_hand(p):
        q = copy.deepcopy(model).double()
        outputs = torch.func.functional_call(q, p, (x.double(),))
        own = copy.deepcopy(loss).double() if whole else loss
        if whole:
            return own(outputs, y)
        return sum(own(outputs[i : i + 3], y[i : i + 3]) * len(y[i : i + 3]) for i in (0, 3, 6)) / len(y)

    check(objective, by_hand, point)


def test_a_part_of_the_parameters_has_its_block():
    model, x, y = simple()
    objective = ln.Objective(model, "cross_entropy", (x, y))
    loss = module_loss(copy.deepcopy(model), lambda out: F.cross_entropy(out, y), x.double())
    for options, names in (
        ({"params": "2.*"}, ["2.weight", "2.bias"]),
        ({"exclude": ("bias",)}, ["0.weight", "2.weight"]),
        ({"params": ["0.*", "2.bias"], "exclude": "0.weight"}, ["0.bias", "2.bias"]),
    ):
        hessian, vector = ln.curvature.Hessian(objective, **options), some_vector(objective)
        made = hessian @ vector
        assert hessian.names == tuple(names)
        assert not any(made[name].any() for name in made if name not in names)
        block = dense(loss, objective.params, names)[2]
        assert_close(hessian.to_flat(made), block @ hessian.to_flat(vector), 1e-5)
    held = ln.Objective(model, "cross_entropy", (x, y), params="2.*")
    block = dense(loss, objective.params, held.params)[2]
    assert_close(flat(ln.curvature.Hessian(held) @ some_vector(held)), block @ flat(some_vector(held)), 1e-5)


class Listed(nn.Module):
    """Keeps a second reference to its weights, so that it cannot be called by value."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 4)
        self.path = [[self.first, torch.tanh], [self.second, torch.sigmoid]]
        self.weights = [self.first.weight]

    def forward(self, x):
        return self.second(torch.tanh(F.linear(x, self.weights[0], self.first.bias)))


@pytest.mark.parametrize("kind", ["script", "list"])
def test_models_that_cannot_be_called_by_value(kind):
    torch.manual_seed(4)
    plain, x, y = simple()
    model = torch.jit.script(plain) if kind == "script" else Listed().eval()
    loss_of = {"script": plain, "list": model}[kind]

    def by_hand(p):
        if kind == "script":
            return F.cross_entropy(torch.func.functional_call(copy.deepcopy(loss_of).double(), p, (x.double(),)), y)
        hidden = torch.tanh(F.linear(x.double(), p["first.weight"], p["first.bias"]))
        return F.cross_entropy(F.linear(hidden, p["second.weight"], p["second.bias"]), y)

    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=3)
    before = objective.evaluate(objective.params)
    check(objective, by_hand, displaced(objective))
    assert objective.evaluate(objective.params) == before
    first = next(iter(objective.params))
    part = ln.curvature.Hessian(objective, params=first)
    block = dense(by_hand, objective.params, [first])[2]
    vector = some_vector(objective)
    assert_close((part @ vector)[first].reshape(-1).double(), block @ part.to_flat(vector), 1e-5)


def test_a_function_and_one_without_data():
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 4).sum(), {"x": torch.tensor([1.0, 2.0])})
    hessian = ln.curvature.Hessian(bowl, {"x": torch.tensor([1.0, 3.0])})
    assert torch.equal((hessian @ {"x": torch.tensor([1.0, 1.0])})["x"], torch.tensor([12.0, 108.0]))
    linear = ln.Objective.from_function(lambda p, b: p["x"].sum() * b.mean(), {"x": torch.zeros(3)}, torch.ones(4))
    assert not (ln.curvature.Hessian(linear) @ {"x": torch.ones(3)})["x"].any()
    assert torch.equal(ln.curvature.gradient(linear)["x"], torch.ones(3))


class Noisy(nn.Module):
    """Draws random numbers, the same at every point, and writes into what it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x):
        x += 0.1
        return torch.tanh(self.bn(self.layer(x + 0.3 * torch.randn(x.shape, dtype=torch.float32))))


@pytest.mark.parametrize("bn", POLICIES)
def test_models_that_draw_random_numbers_draw_those_of_evaluate(bn):
    torch.manual_seed(0)
    model, x, y = Noisy().eval(), torch.randn(12, 5), torch.randn(12, 4)
    objective = ln.Objective(model, "mse", (x, y), batch_size=5, bn=bn, seed=6).double()
    vector, h = some_vector(objective), 1e-5
    hessian = ln.curvature.Hessian(objective)
    found = hessian.derive([hessian.to_flat(vector)])
    assert found.loss == pytest.approx(objective.evaluate(objective.params)["loss"], rel=1e-12)
    ahead, behind = (algebra.combine(objective.params, [s * h], [vector]) for s in (1, -1))
    slope = (objective.evaluate(ahead)["loss"] - objective.evaluate(behind)["loss"]) / (2 * h)
    assert slope == pytest.approx(float(found.gradient @ hessian.to_flat(vector)), rel=1e-7)
    gradients = [ln.curvature.gradient(objective, point) for point in (ahead, behind)]
    assert_close(found.products[0], (flat(gradients[0]) - flat(gradients[1])) / (2 * h), 1e-7)


def test_metrics_are_left_alone():
    model, x, y = simple()
    objective = ln.Objective(model, "cross_entropy", (x, y), metrics={"largest": lambda o, t: float(o.numpy().max())})
    ln.curvature.gradient(objective)


def state_of(model):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        {name: (p.requires_grad, p.grad, id(p)) for name, p in model.named_parameters()},
        {name: module.training for name, module in model.named_modules()},
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
    )


def assert_same_state(before, after):
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])
    assert (before[4] == after[4]).all()


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize("bn", POLICIES)
@pytest.mark.parametrize("copied", [True, False])
def test_the_model_stays_as_it_was(bn, copied):
    model, (x, y) = conv_net(), images()
    model.conv1.bias.requires_grad_(False)
    objective = ln.Objective(model, "cross_entropy", (x, y), bn=bn, batch_size=BATCH, copy=copied)
    before, loss = state_of(model), objective.evaluate(objective.params)
    with torch.no_grad():
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), which="both", tolerance=0.1)
    assert_same_state(before, state_of(model))
    assert objective.evaluate(objective.params) == loss
    assert not any(tensor.requires_grad for tensor in objective.params.values())


def test_what_cannot_be_differentiated_twice_is_said_and_leaves_the_model_alone():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, x):
            return OnceOnly.apply(self.layer(x))

    model, x, y = Once().eval(), torch.randn(6, 5), torch.randn(6, 4)
    objective = ln.Objective(model, "mse", (x, y))
    before = state_of(model)
    with pytest.raises(errors.ObjectiveError, match="Once cannot be differentiated twice: .*Replace that operation"):
        _ = ln.curvature.Hessian(objective) @ objective.params
    assert_same_state(before, state_of(model))


def test_batch_norm_that_cannot_be_watched_is_said():
    class Own(nn.BatchNorm1d):
        def forward(self, x):
            given = (self.weight, self.bias, self.running_mean, self.running_var)
            return torch.batch_norm(x, *given, self.training, 0.1, self.eps, False)

    model = nn.Sequential(nn.Linear(5, 4), Own(4)).eval()
    objective = ln.Objective(model, "mse", (torch.randn(6, 5), torch.randn(6, 4)), bn="recompute")
    with pytest.raises(errors.ObjectiveError, match="do not call.*bn='frozen'"):
        ln.curvature.gradient(objective)


def test_bad_options_are_refused():
    model, x, y = simple()
    objective = ln.Objective(model, "cross_entropy", (x, y))
    for options, words in (
        ({"precision": "double"}, "precision='double' is unknown.*'float64'"),
        ({"params": "conv.*"}, "leave no parameter"),
        ({"exclude": ("conv.*",)}, "'conv.*' matches no parameter"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            ln.curvature.Hessian(objective, **options)
    with pytest.raises(errors.StructureMismatchError, match="the point and the objective differ"):
        ln.curvature.gradient(objective, {"w": torch.zeros(1)})


def test_data_that_is_read_anew_is_differentiated_too():
    model, x, y = simple()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=3)
    small = ln.Objective(model, "cross_entropy", loader, data_budget=8)
    assert not small.batches.resident
    kept = ln.Objective(model, "cross_entropy", loader)
    for precision in ("native", "float64"):
        a, b = (ln.curvature.gradient(o, precision=precision) for o in (small, kept))
        assert all(torch.equal(a[name], b[name]) for name in a)
