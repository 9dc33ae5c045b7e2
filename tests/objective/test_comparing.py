"""Samples in other company: who looks at the others in a batch is found, who does not is left in peace."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.objective.comparing import Column, Shaken, column, depends_on_batches, explained, join
from networks_that_mix import Attending, BatchStatistics, Centred, Net

pytestmark = pytest.mark.filterwarnings(  # said when such an objective is made; here of its other batches
    "ignore::lossnav.errors.BatchDependenceWarning"
)

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(90, 6, generator=GENERATOR)
Y = torch.randint(0, 4, (90,), generator=GENERATOR)


class Gated(Net):
    """Mixes samples only where a weight is not zero, as at the centre it is."""

    def hidden(self, x):
        h = super().hidden(x)
        return h + self.gate * h.mean(0)


class Neighbour(Net):
    """Looks at the sample before it."""

    def hidden(self, x):
        h = super().hidden(x)
        return h + 0.01 * h.roll(1, 0)


class First(Net):
    """The first of a batch is treated in its own way."""

    def hidden(self, x):
        h = super().hidden(x)
        return torch.cat([h[:1] * 1.5, h[1:]])


def in_batch_negatives(outputs, targets, reduction="mean"):
    z = F.normalize(outputs, dim=1)
    return F.cross_entropy(10 * z @ z.T, torch.arange(len(z)), reduction=reduction)


def hardest(outputs, targets, reduction="mean"):
    distance = torch.cdist(outputs, outputs)
    other = targets[:, None] != targets[None]
    losses = F.relu(2 - distance.masked_fill(~other, 9.0).amin(1))
    return losses if reduction == "none" else losses.mean()


def normalised(outputs, targets, reduction="mean"):
    return F.cross_entropy((outputs - outputs.mean(0)) / outputs.std(0), targets, reduction=reduction)


def of_the_valid(outputs, targets):
    """A mean over what is valid in a batch."""
    return F.cross_entropy(outputs, torch.where(targets == 0, -100, targets))


def retrieved(outputs, targets):
    """1 where the most similar other sample of the batch has the same label."""
    z = F.normalize(outputs, dim=1)
    near = (z @ z.T - 9 * torch.eye(len(z))).argmax(1)
    return (targets[near] == targets).double()


def rank(outputs, targets):
    """How many of the batch are nearer to the sample's target than its own output."""
    margin = outputs.gather(1, targets[:, None])
    return (margin < margin.T).double().sum(1)


def faintly(outputs, targets):
    return outputs[:, 0] ** 2 * (1 + 3e-4 * len(targets))


def confident(outputs, targets):
    return outputs.softmax(1).amax(1)


def right(outputs, targets):
    return (outputs.argmax(1) == targets).int()


def found(model, loss="cross_entropy", metrics=(), data=(X, Y), away=0.5):
    objective = ln.Objective(model.eval(), loss, data, metrics=metrics, batch_size=20)
    joined, samples = join(objective.batches)
    elsewhere = {name: tensor + away * torch.ones_like(tensor) for name, tensor in objective.params.items()}
    return depends_on_batches(objective, joined, samples, [objective.params, elsewhere])


@pytest.mark.parametrize("kind", [Centred, Attending, BatchStatistics, Gated, Neighbour, First])
def test_models_that_mix_samples_are_found(kind):
    assert "loss" in found(kind())


def test_what_shows_only_away_from_the_centre_needs_another_point():
    assert found(Gated(), away=0.0) == []
    assert found(Gated()) == ["loss"]


@pytest.mark.parametrize("loss", [in_batch_negatives, hardest, normalised])
def test_losses_that_look_at_their_batch_are_found(loss):
    assert found(Net(), loss) == ["loss"]


def test_a_mean_over_what_counts_is_one_over_all_the_data():
    assert found(Net(), of_the_valid) == []


@pytest.mark.parametrize("metric", [retrieved, rank, faintly])
def test_metrics_that_look_at_their_batch_are_found(metric):
    assert found(Net(), metrics={"it": metric, "sure": confident}) == ["it"]


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 1.0, 0.2]))])
def test_who_looks_at_nobody_is_left_in_peace(loss):
    targets = torch.where(torch.arange(90) % 7 == 0, -100, Y)
    assert found(Net(), loss, ["accuracy", "error"], (X, targets)) == []
    assert found(Net(), loss, {"sure": confident, "right": right}) == []


def test_a_tie_that_rounding_breaks_is_nobodys_company():
    """Two classes with the same weights: which is larger depends on how a product of that length is added up."""
    model = Net()
    with torch.no_grad():
        model.last.weight[1:] = model.last.weight[0] * (1 + torch.tensor([[0.0], [1e-7], [-1e-7]]))
        model.last.bias.zero_()
    assert found(model, metrics=["accuracy"], away=0.0) == []


# ---------------------------------------------------------------------- margins


def test_a_count_is_unsure_exactly_where_its_margin_is_below_the_part():
    margins = torch.tensor([1e-7, 1e-4, 1e-2, 1.0, -1e-7, -1e-2])
    outputs = torch.stack([torch.ones(6), 1 + margins], 1)  # the largest output is about 1
    moved = Shaken(right, 1e-3, seed=0)(outputs, torch.ones(6, dtype=torch.long))
    assert (moved > 0).tolist() == [True, True, False, False, True, False]
    binary = Shaken(lambda outputs, targets: (outputs[:, 0] > 0).double(), 1e-3, seed=0)
    single = torch.tensor([[1e-6], [2.0], [-1e-6], [-0.5]])
    assert (binary(single, None) > 0).tolist() == [True, False, True, False]


def test_counts_differ_in_samples_that_are_unsure_and_nowhere_else():
    ones = torch.ones(4, dtype=torch.float64)
    plain = Column(torch.tensor([1.0, 0.0, 3.0, 2.0], dtype=torch.float64), ones, True)
    fast = Column(torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=torch.float64), ones, True)
    for moved, answer in (([0, 1, 4, 0], True), ([9, 9, 0, 9], False), ([0, 0, 0, 0], False)):
        assert explained(plain, fast, Column(torch.tensor(moved, dtype=torch.float64), ones, True)) == answer


def test_a_column_is_what_the_objective_says():
    targets = torch.where(torch.arange(90) % 7 == 0, -100, Y)
    objective = ln.Objective(Net(), "cross_entropy", (X, targets), metrics={"accuracy": "accuracy", "sure": confident})
    values, steps = objective.evaluate(objective.params), objective.forward_pass.checked(objective.params)
    for name in ("loss", "accuracy", "sure"):
        assert column(steps, name).mean == pytest.approx(values[name], rel=1e-12)


# ---------------------------------------------------------------------- subsets


@pytest.mark.parametrize(
    ("model", "loss", "metrics"),
    [(Net, in_batch_negatives, ()), (Centred, "cross_entropy", ()), (Net, "cross_entropy", {"hit": retrieved})],
)
def test_a_subset_of_what_looks_at_its_batch_comes_with_a_warning(model, loss, metrics):
    objective = ln.Objective(model().eval(), loss, (X, Y), metrics=metrics, batch_size=30)
    with pytest.warns(errors.LossnavWarning, match="on the other samples in its batch"):
        objective.subset(40)


class Noisy(Net):
    """Draws random numbers, and mixes nothing."""

    def hidden(self, x):
        h = super().hidden(x)
        return h + 0.1 * torch.randn_like(h)


@pytest.mark.parametrize("model", [Net, Noisy])
def test_other_subsets_are_drawn_in_silence(model):
    objective = ln.Objective(model().eval(), "cross_entropy", (X, Y), metrics=["accuracy"], batch_size=30)
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.subset(40)
    assert torch.equal(torch.random.get_rng_state(), before)
