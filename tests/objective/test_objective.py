"""An objective is a pure function of weights, whatever model, loss and data it is made of."""

import collections
import functools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import lossnav as ln
from lossnav import errors

X = torch.randn(23, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (23,), generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).eval()


def true_loss(model=None) -> float:
    with torch.no_grad():
        return F.cross_entropy((model or net()).double()(X.double()), Y).item()


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], Y[i]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


Batch = collections.namedtuple("Batch", "x y")

SOURCES = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "dict of tensors": lambda: {"input": X, "labels": Y},
    "dataset": Pairs,
    "iterable dataset": Stream,
    "tensor dataset": lambda: TensorDataset(X, Y),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "shuffling loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True),
    "list of tuples": lambda: list(zip(X.split(5), Y.split(5), strict=True)),
    "list of dicts": lambda: [{"input": x, "labels": y} for x, y in zip(X.split(5), Y.split(5), strict=True)],
    "named tuples": lambda: [Batch(x, y) for x, y in zip(X.split(5), Y.split(5), strict=True)],
    "generator": lambda: zip(X.split(5), Y.split(5), strict=True),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_any_data_gives_the_same_loss(kind):
    """A short last batch has its own weight: 23 is divided by none of the batch sizes."""
    objective = ln.Objective(net(), F.cross_entropy, SOURCES[kind](), metrics=["accuracy"], batch_size=10)
    values = objective.evaluate(objective.params)
    assert values["loss"] == pytest.approx(true_loss(), rel=1e-6)
    assert values["accuracy"] == (net()(X).argmax(1) == Y).double().mean().item()
    assert objective.samples == 23
    with torch.no_grad():
        singles = F.cross_entropy(net()(X), Y, reduction="none").double()
    assert values["loss_se"] == pytest.approx((singles.std() / 23**0.5).item(), rel=1e-5)


LOSSES = {
    "name": ("cross_entropy", True),
    "function": (F.cross_entropy, True),
    "module": (nn.CrossEntropyLoss(), True),
    "module none": (nn.CrossEntropyLoss(reduction="none"), True),
    "lambda mean": (lambda out, y: F.cross_entropy(out, y), False),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_any_loss_gives_the_same_mean_and_an_error_bar_where_it_can(kind):
    loss, has_se = LOSSES[kind]
    values = ln.Objective(net(), loss, (X, Y), batch_size=10).evaluate(dict(net().named_parameters()))
    assert values["loss"] == pytest.approx(true_loss(), rel=1e-6)
    assert ("loss_se" in values) == has_se


def test_a_vector_loss_that_says_so():
    objective = ln.Objective(net(), lambda o, y: F.cross_entropy(o, y, reduction="none"), (X, Y), reduction="none")
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(true_loss(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 23])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("how", ["module", "partial", "nll"])
def test_class_weights_and_ignored_targets_are_reckoned_over_all_the_data(batch_size, weighted, late, how):
    """Whatever the batches, and wherever in the data the ignored ones are: torch's mean over everything at once."""
    weight = torch.tensor([1.0, 5.0, 0.1]) if weighted else None
    targets = Y.clone()
    targets[slice(15, 20) if late else slice(0, 3)] = -100
    loss = {
        "module": nn.CrossEntropyLoss(weight=weight),
        "partial": functools.partial(F.cross_entropy, weight=weight),
        "nll": nn.NLLLoss(weight=weight),
    }[how]
    values = ln.Objective(net(), loss, (X, targets), batch_size=batch_size).evaluate(dict(net().named_parameters()))
    assert values["loss"] == pytest.approx(loss(net()(X), targets).item(), rel=1e-6)
    assert values["loss_se"] > 0


def test_language_labels_padded_in_late_batches():
    logits, labels = torch.randn(6, 4, 9), torch.randint(0, 4, (6, 9))
    labels[4:, 3:] = -100
    objective = ln.Objective(
        nn.Linear(1, 1), "cross_entropy", (logits, labels), batch_size=2, metrics=["accuracy"], forward=lambda m, b: b
    )
    values = objective.evaluate(objective.params)
    assert values["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    right = (logits.argmax(1) == labels)[labels >= 0]
    assert values["accuracy"] == pytest.approx(right.double().mean().item())


@pytest.mark.slow
def test_the_error_of_a_ratio_is_right():
    """Against the spread of the value over many data sets of the same kind."""
    torch.manual_seed(0)
    found = []
    for _ in range(300):
        y = torch.randint(0, 3, (60,))
        y[torch.rand(60) < 0.3] = -100
        objective = ln.Objective(nn.Linear(1, 1), "cross_entropy", (torch.randn(60, 3), y), forward=lambda m, b: b)
        found.append(objective.evaluate(objective.params))
    spread = np.std([values["loss"] for values in found])
    assert np.mean([values["loss_se"] for values in found]) == pytest.approx(spread, rel=0.12)


def test_a_loss_that_is_a_plain_mean_only_at_first_is_found_out():
    """The second batch shows that the mean of single losses is not the loss; the pass is made anew by what counts."""

    def trimmed(outputs, targets, reduction="mean"):
        losses = F.cross_entropy(outputs, targets, reduction="none")
        if reduction == "none":
            return losses
        return losses[targets < 2].mean()

    order = torch.argsort(Y)
    x, y = X[order], Y[order]
    batches = [(x[:5], y[:5]), (x[-5:], torch.tensor([0, 1, 2, 2, 2]))]
    objective = ln.Objective(net(), trimmed, batches)
    values = objective.evaluate(objective.params)
    expected = trimmed(net()(torch.cat([x[:5], x[-5:]])), torch.cat([b for _, b in batches])).item()
    assert values["loss"] == pytest.approx(expected, rel=1e-6)
    assert "loss_se" not in values


# ---------------------------------------------------------------------- what is the user's stays the user's


def test_a_model_that_writes_into_its_input():
    class Rude(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = net()

        def forward(self, x):
            x -= 0.5
            return self.layer(x)

    x = X.clone()
    objective = ln.Objective(Rude().eval(), "cross_entropy", (x, Y), batch_size=10)
    first = objective.evaluate(objective.params)
    assert objective.evaluate(objective.params) == first
    assert first["loss"] == pytest.approx(F.cross_entropy(net()(X - 0.5), Y).item(), rel=1e-6)
    assert torch.equal(x, X)


def test_a_model_that_writes_into_its_weights():
    model = nn.Sequential(nn.Embedding(5, 4, max_norm=0.5), nn.Flatten(), nn.Linear(4, 3)).eval()
    weight = model[0].weight.detach().clone()
    objective = ln.Objective(model, "cross_entropy", (torch.arange(5).reshape(5, 1), Y[:5]))
    assert torch.equal(objective.params["0.weight"], weight)
    objective.evaluate(dict(model.named_parameters()))
    assert torch.equal(model[0].weight, weight)
    assert torch.equal(objective.params["0.weight"], weight)


def test_a_generator_that_uses_one_buffer_again():
    def batches():
        buffer = torch.empty(5, 6)
        for start in (0, 5, 10):
            buffer.copy_(X[start : start + 5])
            yield buffer, Y[start : start + 5]

    objective = ln.Objective(net(), "cross_entropy", batches())
    expected = F.cross_entropy(net()(X[:15]), Y[:15]).item()
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_loaders_own_generator_is_left_where_it_was():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    ln.Objective(net(), "cross_entropy", DataLoader(TensorDataset(X, Y), 5, shuffle=True, generator=generator))
    assert torch.equal(generator.get_state(), before)


def test_a_model_with_its_own_loss_and_dict_batches():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, input, labels):
            logits = self.body(input)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    batches = [{"input": x, "labels": y} for x, y in zip(X.split(5), Y.split(5), strict=True)]
    objective = ln.Objective(Own().eval(), None, batches)
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(true_loss(), rel=1e-6)


def test_forward_hook_for_what_does_not_unpack():
    class Graph:
        def __init__(self, x, y):
            self.x, self.y = x, y

        def to(self, device):
            return self

    data = [Graph(X, Y)]
    with pytest.raises(errors.DataError, match="does not unpack.*forward="):
        ln.Objective(net(), F.cross_entropy, data)
    objective = ln.Objective(net(), F.cross_entropy, data, forward=lambda model, batch: (model(batch.x), batch.y))
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(true_loss(), rel=1e-6)


def test_bare_function_with_data_and_metrics():
    def squares(p, batch):
        x, y = batch
        return ((x @ p["w"] - y) ** 2).mean()

    x, y = torch.randn(7, 2), torch.randn(7)
    objective = ln.Objective.from_function(
        squares,
        {"w": torch.ones(2)},
        (x, y),
        metrics={"bias": lambda p, b: (b[0] @ p["w"] - b[1]).mean()},
        batch_size=3,
    )
    values = objective.evaluate({"w": torch.tensor([2.0, -1.0])})
    residual = (x @ torch.tensor([2.0, -1.0]) - y).double()
    assert values["loss"] == pytest.approx((residual**2).mean().item(), rel=1e-6)
    assert values["bias"] == pytest.approx(residual.mean().item(), abs=1e-6)


def test_loss_is_accumulated_in_float64():
    """Many equal float32 values: a float32 sum drifts, ours does not."""
    n = 200_000
    x = torch.full((n, 1), 0.1)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    objective = ln.Objective(model.eval(), "mse", (x, torch.zeros(n, 1)), batch_size=50_000)
    values = objective.evaluate(objective.params)
    assert values["loss"] == pytest.approx(float(torch.tensor(0.1) ** 2), rel=1e-12)
    assert values["loss_se"] == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------- models


def agrees_with_a_displaced_copy(make, batch, loss=F.cross_entropy):
    """Evaluate at displaced weights by value, and by writing the weights into a fresh copy of the model."""
    model = make().eval()
    objective = ln.Objective(model, loss, batch, batch_size=8)
    torch.manual_seed(4)
    moved = {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in objective.params.items()}
    fresh = make().eval()
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            parameter.copy_(moved[name])
        expected = loss(fresh(batch[0]), batch[1]).item()
        assert expected != pytest.approx(loss(model(batch[0]), batch[1]).item(), rel=1e-4)
    assert objective.evaluate(moved)["loss"] == pytest.approx(expected, rel=1e-5)
    return objective


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM(2, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x.reshape(-1, 3, 2))[0][:, -1])


class Aliased(nn.Module):
    """Keeps a second reference to its weight, which functional_call would not swap."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.weights = [self.layer.weight]

    def forward(self, x):
        return F.linear(x, self.weights[0], self.layer.bias)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x).relu_() * self.calls.clamp(max=1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = x.reshape(-1, 3, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


class WeightNormed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))

    def forward(self, x):
        return self.layer(x)


class OldWeightNorm(nn.Module):
    """Keeps its computed weight as a plain attribute, which hangs on a graph."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layer = nn.utils.weight_norm(nn.Linear(6, 3))

    def forward(self, x):
        return self.layer(x)


class Pruned(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        prune.l1_unstructured(self.layer, "weight", 0.5)

    def forward(self, x):
        return self.layer(x)


MODELS = [net, Recurrent, Aliased, InPlace, Attention, WeightNormed, OldWeightNorm, Pruned]


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_every_kind_of_model_moves(make):
    agrees_with_a_displaced_copy(make, (X, Y))


def test_scripted_models_move():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is on its way out, its models are about
        agrees_with_a_displaced_copy(lambda: torch.jit.script(net()), (X, Y))


def test_only_what_params_selects_moves():
    objective = ln.Objective(net(), F.cross_entropy, (X, Y), params="2.*")
    assert list(objective.params) == ["2.weight", "2.bias"]
    assert objective.describe()["parameters_held"] == 49
    with pytest.raises(errors.OptionError, match="No parameter matches params='lora.*0.weight"):
        ln.Objective(net(), F.cross_entropy, (X, Y), params="lora*")


def test_training_on_beside_it_changes_nothing():
    model = net()
    objective = ln.Objective(model, F.cross_entropy, (X, Y))
    before = objective.evaluate(objective.params)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert objective.evaluate(objective.params) == before


def test_at_a_checkpoint():
    objective, other = ln.Objective(net(), F.cross_entropy, (X, Y)), net()
    with torch.no_grad():
        other[0].weight.mul_(2)
    moved = objective.at({f"module.{name}": tensor for name, tensor in other.state_dict().items()})
    assert moved.evaluate(moved.params)["loss"] == pytest.approx(true_loss(other), rel=1e-6)
    assert moved.fingerprint != objective.fingerprint
    with pytest.raises(errors.CheckpointMismatchError, match=r'Sequential: "0.weight" \(7, 6\).* missing'):
        objective.at({"2.weight": other[2].weight})


@pytest.mark.parametrize("bn", ["frozen", "recompute", "batch"])
def test_batch_norm_policies(bn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model(torch.randn(50, 6) * 3)
    model.eval()
    objective = ln.Objective(model, F.cross_entropy, (X, Y), bn=bn, batch_size=23)
    moved = {name: tensor + 0.2 for name, tensor in objective.params.items()}
    h = F.linear(X, moved["0.weight"], moved["0.bias"])
    mean, var = (model[1].running_mean, model[1].running_var) if bn == "frozen" else (h.mean(0), None)
    if var is None:
        var = h.var(0, unbiased=bn == "recompute")  # running variance is the unbiased one, a batch's own is not
    h = (h - mean) / torch.sqrt(var + 1e-5) * moved["1.weight"] + moved["1.bias"]
    expected = F.cross_entropy(F.linear(h, moved["2.weight"], moved["2.bias"]), Y).item()
    for _ in range(2):  # twice: nothing of the first may be left over
        assert objective.evaluate(moved)["loss"] == pytest.approx(expected, rel=1e-5)
    assert objective.describe()["bn"] == bn


def test_recomputed_statistics_average_over_the_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)).eval()
    objective = ln.Objective(model, F.cross_entropy, (X, Y), bn="recompute", batch_size=10)
    parts = X.split(10)
    mean = torch.stack([p.mean(0) for p in parts]).mean(0)
    var = torch.stack([p.var(0) for p in parts]).mean(0)
    h = (X - mean) / torch.sqrt(var + 1e-5)
    expected = F.cross_entropy(F.linear(h, model[1].weight, model[1].bias), Y).item()
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_model_that_draws_random_numbers_draws_the_same_ones():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = net()

        def forward(self, x):
            return self.layer(x + torch.randn_like(x))

    objective = ln.Objective(Noisy().eval(), F.cross_entropy, (X, Y), seed=5)
    torch.manual_seed(1)
    first = objective.evaluate(objective.params)
    torch.manual_seed(2)
    assert objective.evaluate(objective.params) == first
    other = ln.Objective(Noisy().eval(), F.cross_entropy, (X, Y), seed=6)
    assert other.evaluate(other.params) != first


# ---------------------------------------------------------------------- metrics


def test_own_metrics_by_sample_or_batch():
    metrics = {"margin": lambda o, y: o.max(1).values, "top": lambda o, y: o.max()}
    objective = ln.Objective(net(), "cross_entropy", (X, Y), metrics=metrics, batch_size=23)
    values = objective.evaluate(objective.params)
    assert values["margin"] == pytest.approx(net()(X).max(1).values.mean().item(), rel=1e-6)
    assert values["top"] == pytest.approx(net()(X).max().item(), rel=1e-6)


# ---------------------------------------------------------------------- bad input


def test_a_vector_without_saying_so_is_refused():
    with pytest.raises(errors.LossShapeError, match=r"returned shape \(23,\).*reduction='none'"):
        ln.Objective(net(), lambda o, y: F.cross_entropy(o, y, reduction="none"), (X, Y))


def test_a_scalar_where_a_vector_was_promised_is_refused():
    with pytest.raises(errors.LossShapeError, match="reduction='none' needs one value per sample"):
        ln.Objective(net(), lambda o, y: F.cross_entropy(o, y), (X, Y), reduction="none")


def test_a_sum_is_refused():
    with pytest.raises(errors.LossShapeError, match="sums over the batch"):
        ln.Objective(net(), nn.CrossEntropyLoss(reduction="sum"), (X, Y))


@pytest.mark.parametrize("empty", [(X[:0], Y[:0]), [], (), iter(())], ids=["tensors", "list", "tuple", "iterator"])
def test_empty_data_is_refused(empty):
    with pytest.raises(errors.DataError, match="empty.*at least one sample"):
        ln.Objective(net(), "cross_entropy", empty)


def test_no_data_is_refused():
    for nothing in (None, "mnist", 3):
        with pytest.raises(errors.DataError, match=r"Pass \(x, y\) tensors"):
            ln.Objective(net(), "cross_entropy", nothing)


def test_lengths_that_differ_are_refused():
    with pytest.raises(errors.DataError, match=r"differ in length: \(23, 6\), \(22,\)"):
        ln.Objective(net(), "cross_entropy", (X, Y[:22]))


def test_a_generator_over_the_budget_is_refused_and_a_loader_is_read_anew():
    with pytest.raises(errors.DataError, match="only once.*DataLoader"):
        ln.Objective(net(), "cross_entropy", zip(X.split(5), Y.split(5), strict=True), data_budget=100)
    objective = ln.Objective(net(), "cross_entropy", DataLoader(TensorDataset(X, Y), batch_size=5), data_budget=100)
    assert not objective.batches.resident
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(true_loss(), rel=1e-6)


def test_train_mode_says_what_is_done():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Dropout(0.1)).train()
    with pytest.warns(
        errors.TrainModeWarning, match=r"1 BatchNorm1d and 2 Dropout.*dropout is off.*running statistics"
    ):
        objective = ln.Objective(model, "cross_entropy", (X, Y))
    assert model.training
    assert objective.evaluate(objective.params) == ln.Objective(model.eval(), "cross_entropy", (X, Y)).evaluate(
        objective.params
    )


def test_other_structures_are_refused(objective):
    with pytest.raises(errors.StructureMismatchError, match=r'"gain" \(\) is missing.*same objective'):
        objective.evaluate({"w": torch.zeros(2)})


def test_unknown_words_are_refused():
    for options, words in (
        ({"bn": "off"}, "bn='off'.*frozen"),
        ({"reduction": "sum"}, "reduction='sum'.*auto.*batch"),
        ({"metrics": ["precision"]}, "precision.*accuracy"),
        ({"metrics": {"loss": F.mse_loss}}, "cannot be called 'loss'"),
        ({"metrics": {"val/acc": F.mse_loss}}, "cannot be called 'val/acc'"),
        ({"metrics": [lambda o, y: 1.0, lambda o, y: 2.0]}, "Two metrics are called '<lambda>'"),
        ({"loss": "hinge"}, "loss='hinge'.*cross_entropy"),
        ({"loss": 3}, "loss is 3, an int"),
    ):
        loss = options.pop("loss", "cross_entropy")
        with pytest.raises(errors.OptionError, match=words):
            ln.Objective(net(), loss, (X, Y), **options)
    with pytest.raises(errors.OptionError, match="from_function"):
        ln.Objective(lambda x: x, "cross_entropy", (X, Y))


def test_functions_of_what_cannot_move_are_refused():
    with pytest.raises(errors.OptionError, match='"x" is torch.int64, which cannot move by small steps'):
        ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.tensor([0, 0])})
    with pytest.raises(errors.OptionError, match="cannot be called 'loss'"):
        ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.ones(1)}, metrics={"loss": lambda p: 99.0})
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": np.array([3.0, 4.0])})
    assert bowl.evaluate(bowl.params) == {"loss": 25.0}


def test_a_model_of_complex_parameters_alone_is_refused_with_the_reason():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, x):
            return (x[:, :3] * self.phase).abs()

    with pytest.warns(errors.LossnavWarning), pytest.raises(errors.OptionError, match="view_as_real"):
        ln.Objective(Complex().eval(), "cross_entropy", (X, Y))


def test_complex_parameters_are_held_with_a_word():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return (self.layer(x) * self.phase).abs()

    with pytest.warns(errors.LossnavWarning, match='held still: "phase"'):
        objective = ln.Objective(Complex().eval(), "cross_entropy", (X, Y))
    assert "phase" not in objective.params


def test_double_precision_arrays_take_the_models_precision():
    objective = ln.Objective(net(), "cross_entropy", (X.double().numpy(), Y.numpy()))
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(true_loss(), rel=1e-6)


def test_dropout_inside_layers_is_named_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(6, 3, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.rnn(x[:, None])[0][:, 0]

    with pytest.warns(errors.TrainModeWarning, match="1 LSTM"):
        ln.Objective(Net().train(), "cross_entropy", (X, Y))


def test_roles_go_by_what_a_layer_is():
    class Normalizing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, 3))

        def forward(self, x):
            return x @ self.weight

    class MyLayerNorm2d(Normalizing):
        pass

    for kind in (Normalizing, MyLayerNorm2d):  # a matrix is one, whatever the layer is called
        assert ln.Objective(kind().eval(), "cross_entropy", (X, Y)).roles == {"weight": "weight"}


def test_filters_of_a_weight_normed_transposed_convolution():
    layer = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 2, groups=2), dim=1)
    objective = ln.Objective(layer.eval(), "mse", (torch.ones(2, 4, 3, 3), torch.zeros(2, 6, 4, 4)))
    assert objective.transposed == {"parametrizations.weight.original1": 2}


def test_lengths_are_counted_by_what_most_tensors_say():
    batches = [{"classes": torch.arange(100), "x": X[:5], "y": Y[:5]}, {"classes": torch.arange(100), "x": X, "y": Y}]
    forward = lambda model, batch: (model(batch["x"]), batch)  # noqa: E731
    objective = ln.Objective(net(), lambda o, b: F.cross_entropy(o, b["y"]), batches, forward=forward)
    objective.evaluate(objective.params)
    assert objective.samples == 28


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    with pytest.raises(errors.DeviceError, match="'cuda' does not exist.*'cpu'"):
        ln.Objective(net(), "cross_entropy", (X, Y), device="cuda")


def test_lazy_models_are_refused():
    with pytest.raises(errors.ObjectiveError, match="not initialised"):
        ln.Objective(nn.LazyLinear(3), "cross_entropy", (X, Y))


def test_the_users_own_mistake_is_what_is_raised():
    with pytest.raises(errors.ObjectiveError, match="mat1 and mat2") as raised:
        ln.Objective(net(), "cross_entropy", (X[:, :5], Y))
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_overflow_is_recorded_not_raised():
    objective = ln.Objective(net(), "mse", (X, torch.zeros(23, 3)))
    values = objective.evaluate({name: tensor * 1e30 for name, tensor in objective.params.items()})
    assert math.isinf(values["loss"])
    assert np.isnan(objective.evaluate({k: v * math.nan for k, v in objective.params.items()})["loss"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_values_agree():
    here = ln.Objective(net(), "cross_entropy", (X, Y), metrics=["accuracy"])
    there = ln.Objective(net(), "cross_entropy", (X, Y), metrics=["accuracy"], device="cuda")
    assert there.evaluate(here.params) == pytest.approx(here.evaluate(here.params), rel=1e-5)


@pytest.mark.parametrize("bn", ["frozen", "recompute", "batch"])
def test_the_same_objective_in_float64(everything, images, bn):
    loss = nn.CrossEntropyLoss(weight=torch.arange(1.0, 6.0))
    objective = ln.Objective(everything, loss, images, metrics=["accuracy"], batch_size=10, bn=bn)
    double, before = objective.double(), objective.evaluate(objective.params)
    assert {t.dtype for t in double.params.values()} == {torch.float64}
    after = double.evaluate(objective.params)
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
    assert after["loss"] != before["loss"]
    assert after["accuracy"] == before["accuracy"]
    assert objective.evaluate(objective.params) == before  # left as it was
    assert {t.dtype for t in objective.params.values()} == {torch.float32}
    assert loss.weight.dtype == torch.float32
    assert double.fingerprint != objective.fingerprint
    alone = objective.without_metrics().evaluate(objective.params)
    assert alone == {name: value for name, value in before.items() if name != "accuracy"}


@pytest.mark.parametrize(
    "value",
    [(torch.ones(4), torch.zeros(4)), {"f1": 1.0}, None, "0.5", (0.1, 0.2)],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_metric_value_is_refused_by_its_name(value):
    data = torch.ones(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(errors.LossShapeError, match=f"'mine' returned a {type(value).__name__}"):
        ln.Objective(nn.Linear(2, 3), "cross_entropy", data, metrics={"mine": lambda outputs, targets: value})


def test_a_list_of_one_value_a_sample_is_a_metric():
    data = torch.ones(4, 2), torch.zeros(4, dtype=torch.long)
    objective = ln.Objective(
        nn.Linear(2, 3), "cross_entropy", data, metrics={"mine": lambda outputs, targets: [0.0, 1.0, 2.0, 3.0]}
    )
    assert objective.evaluate(objective.params)["mine"] == 1.5
