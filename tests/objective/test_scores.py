"""Accuracy where a loss changes the outputs before cross-entropy: refused if it does so by their targets."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors

N = 12
G = torch.Generator().manual_seed(6)
x, classes = torch.randn(N, 5, generator=G), torch.randint(0, 3, (N,), generator=G)
some = torch.where(torch.arange(N) % 4 == 1, -1, classes)
prior = torch.tensor([0.5, 0.4, 0.1]).log()


def layer(outputs=3):
    torch.manual_seed(3)
    return nn.Linear(5, outputs).eval()


def additive_margin(outputs, targets):
    """CosFace."""
    return F.cross_entropy(8 * (outputs.tanh() - 0.3 * F.one_hot(targets, 3)), targets)


class Ldam(nn.Module):
    margins = torch.tensor([0.2, 0.3, 0.5])

    def forward(self, outputs, targets):
        rows = torch.arange(len(outputs))
        outputs = outputs.clone()
        outputs[rows, targets] -= self.margins[targets]
        return F.cross_entropy(outputs, targets)


def hardest(outputs, targets):
    rows = F.cross_entropy(outputs, targets, reduction="none").detach().topk(max(1, len(outputs) // 2)).indices
    return F.nll_loss(outputs[rows].log_softmax(1), targets[rows])


def written_in_place(outputs, targets):
    outputs[torch.arange(len(outputs)), targets] -= 0.4
    return F.cross_entropy(outputs, targets)


def binary_margin(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs[:, 0] - targets * 0.4, targets.float())


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (additive_margin, 3, classes),
        (Ldam(), 3, classes),
        (written_in_place, 3, classes),
        (binary_margin, 1, classes % 2),
    ],
    ids=["additive", "of classes", "in place", "binary"],
)
@pytest.mark.parametrize("size", [1, 3, N])
def test_scores_that_depend_on_targets_are_refused_with_both_readings(loss, outputs, targets, size):
    with pytest.raises(errors.OptionError, match="'accuracy' has two readings .* by their targets"):
        ln.Objective(layer(outputs), loss, (x, targets), metrics=["accuracy"], batch_size=size)


def test_the_hardest_samples_are_not_all_of_them():
    with pytest.raises(errors.OptionError, match="'accuracy'"):
        ln.Objective(layer(), hardest, (x, classes), metrics=["accuracy"], reduction="batch")


def adjusted(outputs, targets):
    """Menon et al.: what is learned is the outputs with the prior added."""
    return F.cross_entropy(outputs + prior, targets)


def tempered(outputs, targets):
    return F.nll_loss((outputs / 3).log_softmax(1), targets)


def selected(outputs, targets):
    return F.cross_entropy(2 * outputs[targets >= 0], targets[targets >= 0])


def dropped(outputs, targets):
    """A loss that draws random numbers, the same ones for any targets."""
    return F.cross_entropy(outputs + 1e-9 * torch.rand_like(outputs), targets)


class Counting(nn.Module):
    """A loss with a state, which another call of it must not move."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs, targets):
        self.calls += 1
        return F.cross_entropy(outputs * 2, targets) + 0 * self.calls


SCORES = {
    "prior": (adjusted, classes, lambda o: o + prior),
    "temperature": (tempered, classes, lambda o: o),
    "selected": (selected, some, lambda o: o),
    "random": (dropped, classes, lambda o: o),
    "a state": (Counting(), classes, lambda o: o),
}


@pytest.mark.parametrize("size", [1, 3, 7, N])
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")
def test_scores_that_depend_on_outputs_alone_are_judged(kind, size):
    loss, targets, scores = SCORES[kind]
    keep = targets >= 0
    if kind == "selected" and size == 1:
        return  # the mean over nothing is NaN
    objective = ln.Objective(layer(), loss, (x, targets), metrics=["accuracy"], batch_size=size)
    expected = (scores(layer()(x)).argmax(1) == targets)[keep].double().mean().item()
    assert objective.evaluate(objective.params)["accuracy"] == pytest.approx(expected, abs=1e-12)
    if isinstance(loss, Counting):
        assert loss.calls == 0


class Margin(nn.Module):
    """A model that is given the targets, and returns its loss."""

    def __init__(self, kind, returns="loss"):
        super().__init__()
        torch.manual_seed(3)
        self.body, self.heads, self.kind, self.returns = nn.Linear(5, 4), nn.Parameter(torch.randn(3, 4)), kind, returns

    def scores(self, x, labels):
        cosines = F.linear(F.normalize(torch.tanh(self.body(x))), F.normalize(self.heads))
        one = F.one_hot(labels, 3)
        if self.kind == "ArcFace":
            return 8 * torch.where(one > 0, (cosines.clamp(-0.99, 0.99).arccos() + 0.5).cos(), cosines)
        if self.kind == "CosFace":
            return 8 * (cosines - 0.4 * one)
        if self.kind == "SphereFace":
            return 8 * torch.where(one > 0, (1.5 * cosines.clamp(-0.99, 0.99).arccos()).cos(), cosines)
        return 8 * cosines

    def forward(self, x, labels):
        scores = self.scores(x, labels)
        loss = F.cross_entropy(scores, labels)
        return {"loss": loss, "dict": {"loss": loss, "logits": scores}, "scores": scores}[self.returns]


@pytest.mark.parametrize("size", [1, 5, N])
@pytest.mark.parametrize("returns", ["loss", "dict"])
@pytest.mark.parametrize("kind", ["ArcFace", "CosFace", "SphereFace"])
def test_a_margin_inside_a_model_is_refused_too(kind, returns, size):
    with pytest.raises(errors.OptionError, match="'accuracy' has two readings .* given the targets"):
        ln.Objective(Margin(kind, returns), None, (x, classes), metrics=["accuracy"], batch_size=size)
    ln.Objective(Margin(kind, returns), None, (x, classes), batch_size=size)


def test_a_margin_behind_forward_is_refused_too():
    with pytest.raises(errors.OptionError, match="given the targets"):
        ln.Objective(
            Margin("ArcFace", "scores"), "cross_entropy", (x, classes), metrics=["error"],
            forward=lambda model, batch: (model(*batch), batch[1]),
        )  # fmt: skip


@pytest.mark.parametrize("size", [5, N])
@pytest.mark.parametrize("returns", ["loss", "dict"])
def test_a_model_that_is_given_targets_without_a_margin_is_judged(returns, size):
    model = Margin("none", returns).eval()
    objective = ln.Objective(model, None, (x, classes), metrics=["accuracy"], batch_size=size)
    truth = (model.scores(x, classes).argmax(1) == classes).double().mean()
    assert objective.evaluate(objective.params)["accuracy"] == pytest.approx(float(truth))
