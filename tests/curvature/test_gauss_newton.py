"""Gauss-Newton products are J^T H J v of what `evaluate` returns: truth is that matrix, written down by autograd."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.curvature import GaussNewton, Hessian
from networks import BATCH, attention, conv_net, conv_outputs, dense_gauss_newton, images, module_loss


def check(objective, truth):
    """Products with two vectors in one pass, the loss and the gradient, native and in float64."""
    vectors = torch.randn(2, len(truth), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for precision, relative in (("native", 1e-4), ("float64", 1e-10)):
        matrix = GaussNewton(objective, precision=precision)
        found = matrix.derive(list(vectors))
        for vector, product in zip(vectors, found.products, strict=True):
            assert torch.linalg.vector_norm(product - truth @ vector) <= relative * torch.linalg.vector_norm(
                truth @ vector
            )
        plain = Hessian(objective, precision=precision).derive()
        assert found.loss == pytest.approx(plain.loss, rel=1e-6)
        assert torch.allclose(found.gradient, plain.gradient, rtol=1e-5, atol=1e-7)
        assert matrix.count == 2
        assert matrix.passes == (3 if objective.bn == "recompute" else 1)


@pytest.mark.parametrize("bn", ["frozen", "recompute", "batch"])
def test_batch_norm_in_every_policy(bn):
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), bn=bn, batch_size=BATCH, metrics=["accuracy"])
    truth = dense_gauss_newton(conv_outputs(model, x, bn), lambda z: F.cross_entropy(z, y), objective.params)
    check(objective, truth)
    assert torch.linalg.eigvalsh(truth)[0] > -1e-9  # cross-entropy is convex in the logits


def test_attention_layer_norm_and_tied_weights():
    model, ids = attention()
    objective = ln.Objective(model, "cross_entropy", (ids, ids), batch_size=2)
    outputs = module_loss(copy.deepcopy(model), lambda out: out, ids)
    check(objective, dense_gauss_newton(outputs, lambda z: F.cross_entropy(z, ids), objective.params))


def simple(n=7, classes=4):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, classes)).eval()
    return model, torch.randn(n, 5), torch.randint(0, classes, (n,))


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.2, 2.0]), ignore_index=1), None),
        (nn.CrossEntropyLoss(label_smoothing=0.1), None),
        (
            lambda outputs, targets: F.cross_entropy(outputs, targets) ** 2,  # the mean of its batches
            lambda z, y: (
                sum(F.cross_entropy(z[i : i + 3], y[i : i + 3]) ** 2 * len(y[i : i + 3]) for i in (0, 3, 6)) / len(y)
            ),
        ),
    ],
    ids=["weights and ignored targets", "smoothed", "means of batches"],
)
@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")  # some are means of their batch
def test_batches_are_joined_as_evaluate_does(loss, by_hand):
    model, x, y = simple()
    objective = ln.Objective(model, loss, (x, y), batch_size=3)
    of_outputs = by_hand or (lambda z, y: copy.deepcopy(loss).double()(z, y))
    outputs = module_loss(copy.deepcopy(model), lambda out: out, x.double())
    check(objective, dense_gauss_newton(outputs, lambda z: of_outputs(z, y), objective.params))


def test_outputs_that_are_more_than_one_tensor_and_targets_that_the_model_makes():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x):
            return {"mean": torch.tanh(self.a(x)), "more": [self.b(x)]}

    def loss(outputs, targets):
        return ((outputs["mean"] - targets) ** 2 * outputs["more"][0].exp()).mean()

    torch.manual_seed(0)
    model, x = Twins().eval(), torch.randn(6, 5)
    forward = lambda model, batch: (model(batch[0]), model.b(batch[0]).sin())  # noqa: E731
    objective = ln.Objective(model, loss, (x, x), forward=forward, batch_size=6)
    double = copy.deepcopy(model).double()

    def outputs(p):
        made = torch.func.functional_call(double, p, (x.double(),))
        return torch.stack([made["mean"], made["more"][0], made["more"][0].sin()])

    of_outputs = lambda z: ((z[0] - z[2]) ** 2 * z[1].exp()).mean()  # noqa: E731
    check(objective, dense_gauss_newton(outputs, of_outputs, objective.params))


def test_logits_of_an_object_and_a_model_that_cannot_be_called_by_value():
    @dataclass
    class Out:
        logits: torch.Tensor

    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.again = inner, [inner[0].weight]  # a second reference, so that it is copied

        def forward(self, x):
            return Out(self.inner[2](torch.tanh(F.linear(x, self.again[0], self.inner[0].bias))))

    model, x, y = simple()
    plain = module_loss(copy.deepcopy(model), lambda out: out, x.double())
    objective = ln.Objective(Wrapped(model).eval(), "cross_entropy", (x, y), batch_size=3)
    shorter = lambda p: plain({name.removeprefix("inner."): tensor for name, tensor in p.items()})  # noqa: E731
    check(objective, dense_gauss_newton(shorter, lambda z: F.cross_entropy(z, y), objective.params))


def test_a_part_of_the_parameters_has_its_block_and_a_linear_loss_nothing():
    model, x, y = simple()
    objective = ln.Objective(model, "cross_entropy", (x, y))
    outputs = module_loss(copy.deepcopy(model), lambda out: out, x.double())
    truth = dense_gauss_newton(outputs, lambda z: F.cross_entropy(z, y), objective.params)
    part = GaussNewton(objective, params="2.*", precision="float64")
    vector = torch.ones(part.size, dtype=torch.float64)
    assert torch.allclose(part.derive([vector]).products[0], truth[36:, 36:] @ vector)
    made = part @ objective.params
    assert not made["0.weight"].any()
    linear = ln.Objective(model, lambda out, y: out.gather(1, y[:, None]).mean(), (x, y))
    assert not GaussNewton(linear).derive([torch.ones(GaussNewton(linear).size)]).products[0].any()


def test_what_has_no_outputs_is_said():
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(2)})
    with pytest.raises(errors.ObjectiveError, match="returns its loss itself.*separate loss.*curvature.Hessian"):
        GaussNewton(bowl)
    with pytest.raises(errors.ObjectiveError, match="returns its loss itself"):
        ln.curvature.trace(ln.curvature.GaussNewton(bowl))

    class Box:
        def __init__(self, value):
            self.value = value

    class Boxed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, x):
            return Box(self.layer(x))

    _, x, y = simple()
    boxed = ln.Objective(Boxed().eval(), lambda out, y: F.cross_entropy(out.value, y), (x, y))
    plain = ln.Objective(nn.Sequential(Boxed().layer).eval(), F.cross_entropy, (x, y))
    point = {name.replace("layer", "0"): tensor for name, tensor in boxed.params.items()}
    vector = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    opened, wanted = (m.derive([vector]).products[0] for m in (GaussNewton(boxed), GaussNewton(plain, point)))
    assert torch.allclose(opened, wanted)  # an object that holds tensors is looked into


def test_eigenpairs_of_it():
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH)
    truth = dense_gauss_newton(conv_outputs(model, x, "frozen"), lambda z: F.cross_entropy(z, y), objective.params)
    pairs = ln.curvature.top_eigenpairs(ln.curvature.GaussNewton(objective), k=3, tolerance=1e-4)
    assert torch.allclose(torch.from_numpy(pairs.values), torch.linalg.eigvalsh(truth)[[-1, -2, -3]], rtol=1e-4)
    assert pairs.passes == pairs.products
