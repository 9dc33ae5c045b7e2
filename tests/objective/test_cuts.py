"""One value whatever the batches, or a warning that names both."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors

N, T = 8, 6
G = torch.Generator().manual_seed(2)
x = torch.randn(N, 5, generator=G)
sequences = torch.randn(N, T, 5, generator=G)
lengths = torch.tensor([6, 6, 6, 6, 1, 2, 5, 1])  # nothing is padded in the first batches
inside = torch.arange(T) < lengths[:, None]
tags = torch.where(inside, torch.randint(1, 3, (N, T), generator=G), 0)
values = torch.randn(N, T, 3, generator=G)


def layer():
    torch.manual_seed(0)
    return nn.Linear(5, 3).eval()


def in_batches(size, *parts):
    return list(zip(*(part.split(size) for part in parts), strict=True))


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=0)


def cross_entropy_by_hand(outputs, targets):
    losses = -outputs.log_softmax(2).gather(2, targets.unsqueeze(2)).squeeze(2)
    return (losses * (targets != 0)).sum() / (targets != 0).sum()


def masked_squares(outputs, targets):
    wanted, here = targets
    return (F.mse_loss(outputs, wanted, reduction="none").mean(2) * here).sum() / here.sum()


def regularised(outputs, targets):
    return cross_entropy(outputs, targets) + 0.3


def scaled(outputs, targets):
    return 0.5 * cross_entropy(outputs, targets)


def summed(outputs, targets):
    total = F.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=0, reduction="sum")
    return total / (targets != 0).sum()


def chosen(outputs, targets):
    return F.cross_entropy(outputs[targets != 0], targets[targets != 0])


def per_sequence(outputs, targets):
    """Each sequence counts the same: a mean over samples after all."""
    losses = F.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=0, reduction="none")
    return (losses.sum(1) / (targets != 0).sum(1)).mean()


class KnowsItsLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, inputs, labels):
        logits = self.layer(inputs)
        return SimpleNamespace(loss=cross_entropy(logits, labels), logits=logits)


class Connectionist(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, batch):
        return self.layer(batch[0]).log_softmax(2).transpose(0, 1)


def symbols(size):
    """Targets of all samples one after the other, as CTC may have them."""
    wanted = torch.tensor([3, 3, 1, 1, 1, 2, 1, 1])
    for start in range(0, N, size):
        part = slice(start, start + size)
        long = wanted[part]
        joined = torch.cat([1 + torch.arange(int(k)) % 2 for k in long])
        yield sequences[part], joined, torch.full((len(long),), T), long


class Graphs:
    """Nodes of several graphs in one tensor, with the graph of each."""

    def __init__(self, start, stop):
        sizes = lengths[start:stop]
        self.num_graphs = stop - start
        self.nodes = torch.cat([sequences[i, : int(lengths[i])] for i in range(start, stop)])
        self.labels = torch.cat([tags[i, : int(lengths[i])] for i in range(start, stop)])
        self.graph = torch.repeat_interleave(torch.arange(stop - start), sizes)

    def to(self, device):
        return self


def ctc(outputs, targets):
    joined, given, wanted = targets
    return F.ctc_loss(outputs, joined, given, wanted, blank=0)


def pooled(model, batch):
    sums = torch.zeros(batch.num_graphs, 3).index_add(0, batch.graph, model(batch.nodes))
    return sums, torch.arange(batch.num_graphs) % 3 * 0


def by_size(make):
    """An objective for each batch size."""
    return {size: make(size) for size in (1, 3, 7, N)}


def padded(loss):
    return lambda size: ln.Objective(layer(), loss, (sequences, tags), batch_size=size)


def truth(loss, outputs=sequences, targets=tags):
    with torch.no_grad():
        return loss(layer()(outputs), targets).double().item()


def mean_of_singles(loss):
    return lambda: sum(truth(loss, sequences[i : i + 1], tags[i : i + 1]) for i in range(N)) / N


def ctc_truth():
    model = Connectionist()
    with torch.no_grad():
        singles = [ctc(model(batch), batch[1:]).double().item() for batch in symbols(1)]
    return sum(singles) / N


def masked_data(size):
    return [(s, (v, i)) for s, v, i in in_batches(size, sequences, values, inside)]


def nodes_truth():
    whole = Graphs(0, N)
    return truth(F.cross_entropy, whole.nodes, whole.labels)


graphs = lambda size: [Graphs(i, min(i + size, N)) for i in range(0, N, size)]  # noqa: E731
STRUCTURES = {  # what is made for a batch size, and the one value
    "padding in a lambda": (padded(lambda o, t: cross_entropy(o, t)), lambda: truth(cross_entropy)),
    "padding in a scaled loss": (padded(scaled), lambda: truth(scaled)),
    "padding and a constant": (padded(regularised), lambda: truth(regularised)),
    "a sum over a count": (padded(summed), lambda: truth(summed)),
    "chosen targets": (padded(chosen), lambda: truth(chosen)),
    "padding by hand, no function of torch's": (padded(cross_entropy_by_hand), lambda: truth(cross_entropy)),
    "each sequence alike": (padded(per_sequence), mean_of_singles(per_sequence)),
    "a module": (
        lambda size: ln.Objective(
            layer(), nn.CrossEntropyLoss(ignore_index=0), (sequences, tags), batch_size=size,
            forward=lambda m, b: (m(b[0]).transpose(1, 2), b[1]),
        ),
        lambda: truth(cross_entropy),
    ),
    "the model's own": (
        lambda size: ln.Objective(KnowsItsLoss().eval(), None, {"inputs": sequences, "labels": tags}, batch_size=size),
        lambda: truth(cross_entropy),
    ),
    "squares with a mask": (
        lambda size: ln.Objective(
            layer(), masked_squares, masked_data(size), forward=lambda m, b: (m(b[0]), b[1]),
        ),
        lambda: truth(masked_squares, targets=(values, inside)),
    ),
    "ctc, all symbols in one tensor": (
        lambda size: ln.Objective(
            Connectionist().eval(), ctc, list(symbols(size)), forward=lambda m, b: (m(b), b[1:])
        ),
        ctc_truth,
    ),
    "ctc as a module": (
        lambda size: ln.Objective(
            Connectionist().eval(), lambda o, t: nn.CTCLoss()(o, *t), list(symbols(size)),
            forward=lambda m, b: (m(b), b[1:]),
        ),
        ctc_truth,
    ),
    "labels of nodes": (
        lambda size: ln.Objective(
            layer(), F.cross_entropy, graphs(size), forward=lambda m, b: (m(b.nodes), b.labels)
        ),
        nodes_truth,
    ),
    "labels of nodes in a lambda": (
        lambda size: ln.Objective(
            layer(), lambda o, t: F.cross_entropy(o, t), graphs(size), forward=lambda m, b: (m(b.nodes), b.labels)
        ),
        nodes_truth,
    ),
    "labels of graphs": (
        lambda size: ln.Objective(layer(), F.cross_entropy, graphs(size), forward=pooled),
        lambda: F.cross_entropy(*pooled(layer(), Graphs(0, N))).double().item(),
    ),
    "a divergence by batch": (
        lambda size: ln.Objective(
            layer(), nn.KLDivLoss(reduction="batchmean"), (x, values[:, 0].softmax(1)), batch_size=size,
            forward=lambda m, b: (m(b[0]).log_softmax(1), b[1]),
        ),
        lambda: F.kl_div(layer()(x).log_softmax(1), values[:, 0].softmax(1), reduction="batchmean").double().item(),
    ),
    "ragged lists": (
        lambda size: ln.Objective(
            layer(), lambda o, t: F.cross_entropy(torch.cat(o), torch.cat(t)),
            [
                ([s[:k] for s, k in zip(ss, ks, strict=True)], [t[:k] for t, k in zip(ts, ks, strict=True)])
                for ss, ts, ks in in_batches(size, sequences, tags, lengths)
            ],
            forward=lambda m, b: ([m(s) for s in b[0]], b[1]),
        ),
        nodes_truth,
    ),
    "a bare function": (
        lambda size: ln.Objective.from_function(
            lambda p, b: cross_entropy(b[0] @ p["w"].T, b[1]), {"w": layer().weight}, (sequences, tags), batch_size=size
        ),
        lambda: F.cross_entropy((sequences @ layer().weight.T).transpose(1, 2), tags, ignore_index=0).double().item(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRUCTURES)
def test_one_value_whatever_the_batches(kind):
    make, true = STRUCTURES[kind]
    for objective in by_size(make).values():
        assert objective.evaluate(objective.params)["loss"] == pytest.approx(true(), rel=1e-5)
        assert objective.samples == N
        assert objective.describe()["cut"] is None


def contrastive(outputs, targets):
    features = F.normalize(outputs, dim=1)
    return F.cross_entropy(features @ features.T / 0.5, torch.arange(len(features)))


def root(outputs, targets):
    return F.mse_loss(outputs, targets).sqrt()


def own_weights(outputs, targets):
    weights = torch.tensor([1.0, 7.0, 0.2])[targets]
    return (F.cross_entropy(outputs, targets, reduction="none") * weights).sum() / weights.sum()


def total(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="sum")


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, x):
        return self.layer(x - x.mean(0))


classes = torch.tensor([0, 1, 2, 0, 1, 2, 1, 1])
DEPENDENT = {
    "contrastive": (layer, contrastive, classes),
    "a root of a mean": (layer, root, values[:, 0]),
    "weights of classes by hand": (layer, own_weights, classes),
    "a sum": (layer, total, classes),
    "a model that looks at its batch": (lambda: Centred().eval(), F.cross_entropy, classes),
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_what_depends_on_the_cut_says_so_with_both_values(kind):
    make, loss, targets = DEPENDENT[kind]
    with pytest.warns(errors.BatchDependenceWarning, match="8 samples gave .* as one batch and .* as two") as caught:
        objective = ln.Objective(make(), loss, (x, targets))
    cut = objective.describe()["cut"]
    with torch.no_grad():
        whole = loss(make()(x), targets).double().item()
        parts = [loss(make()(x[a:b]), targets[a:b]).double().item() * (b - a) / N for a, b in ((0, 2), (2, N))]
    assert cut["samples"] == N and cut["whole"] == pytest.approx(whole, rel=1e-5)
    assert cut["parts"] == pytest.approx(sum(parts), rel=1e-5)
    assert f"{cut['whole']:.6g}" in str(caught[0].message) and f"{cut['parts']:.6g}" in str(caught[0].message)


@pytest.mark.parametrize("kind", DEPENDENT)
def test_a_value_that_belongs_to_its_batch_is_taken_as_it_is(kind):
    make, loss, targets = DEPENDENT[kind]
    loss = loss if kind != "a model that looks at its batch" else lambda o, t: F.cross_entropy(o, t)
    objective = ln.Objective(make(), loss, (x, targets), reduction="batch", batch_size=6)
    with torch.no_grad():
        expected = sum(loss(make()(x[a:b]), targets[a:b]).double().item() * (b - a) / N for a, b in ((0, 6), (6, N)))
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(expected, rel=1e-5)


def test_batch_norm_of_each_batch_is_asked_for():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    ln.Objective(model, F.cross_entropy, (x, classes), bn="batch", batch_size=4)


def test_who_counts_is_not_warned():
    objective = ln.Objective(layer(), own_weights, (x, classes), count=lambda batch: len(batch[0]), batch_size=3)
    with torch.no_grad():
        parts = [(3, slice(0, 3)), (3, slice(3, 6)), (2, slice(6, 8))]
        expected = sum(n * own_weights(layer()(x[part]), classes[part]).double().item() for n, part in parts) / N
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(expected, rel=1e-5)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, x):
        return self.layer(x + torch.randn_like(x))


class OfOneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, x):
        return self.layer(x.reshape(4, -1).reshape(4, 5))


@pytest.mark.parametrize("model", [Noisy, OfOneSize])
def test_what_cannot_be_known_is_not_warned_of(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ln.Objective(model().eval(), lambda o, t: F.cross_entropy(o, t), (x, classes), batch_size=4)


def test_a_batch_in_which_nothing_counts_changes_nothing():
    targets = tags.clone()
    targets[3:6] = 0
    for loss in (lambda o, t: cross_entropy(o, t), cross_entropy_by_hand, summed, chosen):
        objective = ln.Objective(layer(), loss, (sequences, targets), batch_size=3)
        expected = truth(cross_entropy, sequences, targets)
        assert objective.evaluate(objective.params)["loss"] == pytest.approx(expected, rel=1e-5)


def test_one_ignored_among_thousands_is_seen():
    """A knob for single losses, and a mean that leaves one out: within 1e-4, and not the same."""

    def loss(outputs, targets, reduction="mean"):
        losses = F.mse_loss(outputs, targets, reduction="none")
        return losses if reduction == "none" else losses[1:].mean()

    outputs, targets = torch.randn(20_000, 1), torch.zeros(20_000, 1)
    with pytest.warns(errors.BatchDependenceWarning):
        objective = ln.Objective(nn.Linear(1, 1), loss, (outputs, targets), forward=lambda m, b: b, batch_size=20_000)
    value = objective.evaluate(objective.params)["loss"]
    assert value == pytest.approx((outputs[1:].double() ** 2).mean().item(), rel=1e-6)


def test_gradients_are_those_of_the_one_value():
    objective = ln.Objective(layer(), lambda o, t: cross_entropy(o, t), (sequences, tags), batch_size=3)
    model = layer()
    cross_entropy(model(sequences), tags).backward()
    gradient = ln.directions.gradient(objective)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name].float(), parameter.grad, rtol=1e-4, atol=1e-6)
