"""Alignment: permutations that were planted are found, and what comes out is the same network in another order."""

import itertools
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmarks import symmetry_networks as networks
from torch import nn

import lossnav as ln
from lossnav.errors import CheckpointMismatchError, Interrupted, ObjectiveError, OptionError, StructureMismatchError
from lossnav.params import Checkpoint
from lossnav.symmetry import alignment


class ResidualMLP(nn.Module):
    """A residual stream of 24 with three blocks."""

    def __init__(self, width=24):
        super().__init__()
        self.before, self.after = nn.Linear(6, width), nn.Linear(width, 4)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        x = self.before(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return self.after(x)


def mlp():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(8, 6)


def cnn():
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 16, 4),
    )  # fmt: skip
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model, torch.randn(4, 3, 8, 8)


def residual():
    return ResidualMLP(), torch.randn(8, 6)


def gpt():
    return networks.TinyGPT(), torch.randint(0, 17, (2, 6))


PLANTED = {"MLP": mlp, "CNN with BatchNorm": cnn, "residual MLP": residual, "small GPT": gpt}
OTHERS = {"LSTM": networks.TINY["LSTM"], "experts": networks.BY_HAND["mixture of experts"]}


def point(model):
    params = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return Checkpoint(params, {name: buffer.clone() for name, buffer in model.named_buffers()})


def planted(make, seed, method="weights"):
    """Whether a permuted copy of a network is brought back to the bit, buffers too."""
    torch.manual_seed(seed)
    model, x = make()
    found = ln.symmetries(model, x)
    away = found.permute(point(model), found.draw(seed + 1000))
    alignment = ln.align(model.eval(), away, method, data=x, seed=seed, symmetries=found)
    assert alignment.error <= 1e-10
    back = alignment.params
    return all(torch.equal(back[name], t) for name, t in model.named_parameters()) and all(
        torch.equal(back.buffers[name], t) for name, t in model.named_buffers()
    )


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("name", [*PLANTED, *OTHERS])
def test_a_planted_permutation_is_found(name, method):
    assert planted((PLANTED | OTHERS)[name], 0, method)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_planted_permutations_are_found_in_99_of_100_seeds(name):
    assert sum(planted(PLANTED[name], seed) for seed in range(100)) >= 99


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_permuted_and_disturbed_is_brought_back(method):
    torch.manual_seed(0)
    model, x = mlp()
    found = ln.symmetries(model, x)
    chosen = found.draw(5)
    away = found.permute(point(model), chosen)
    noisy = Checkpoint({n: t + 0.02 * torch.randn_like(t) for n, t in away.items()}, {})
    alignment = ln.align(model, noisy, method, data=x, symmetries=found)
    for name, order in chosen.items():
        back = order[alignment.permutations[1][name]]
        assert float((back == torch.arange(len(order))).double().mean()) > 0.9


def brute_force(a, b, size):
    """The best permutation of the hidden units of a network of two layers, by trying all."""
    best, chosen = -np.inf, None
    for order in itertools.permutations(range(size)):
        order = list(order)
        value = float((a["0.weight"] * b["0.weight"][order]).sum() + (a["0.bias"] * b["0.bias"][order]).sum())
        value += float((a["2.weight"] * b["2.weight"][:, order]).sum())
        if value > best:
            best, chosen = value, order
    return best, chosen


def test_one_layer_is_solved_exactly():
    torch.manual_seed(3)
    make = lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()  # noqa: E731
    a, b = make(), make()
    alignment = ln.align(a, b, data=torch.randn(4, 3))
    value, order = brute_force(a.state_dict(), b.state_dict(), 6)
    assert alignment.permutations[1]["0.weight[0]"].tolist() == order
    assert alignment.objective == pytest.approx(value, rel=1e-12)
    assert max(alignment.values[0]) == pytest.approx(value, rel=1e-12)


def test_activations_are_matched_by_their_correlations():
    torch.manual_seed(4)
    make = lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()  # noqa: E731
    a, b, x = make(), make(), torch.randn(200, 3, dtype=torch.float64)
    alignment = ln.align(a, b, "activations", data=x)
    with torch.no_grad():
        first, second = (torch.tanh(model[0](x)).numpy() for model in (a, b))
    correlations = np.corrcoef(first.T, second.T)[:5, 5:]
    best = max(itertools.permutations(range(5)), key=lambda order: correlations[range(5), order].sum())
    assert alignment.permutations[1]["0.weight[0]"].tolist() == list(best)


def test_matching_lowers_the_barrier_between_two_runs():
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    y = (x[:, :3].sum(1) * x[:, 3] > 0).long()

    def train(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model.eval()

    a, b = train(1), train(2)
    objective = ln.Objective(a, "cross_entropy", (x, y))
    alignment = ln.align(objective, b)
    lines = [ln.Line(objective, ln.directions.between(objective, end)) for end in (b, alignment.params)]
    middle = [objective.evaluate(line([0.5]))["loss"] for line in lines]
    assert middle[1] < 0.6 * middle[0]
    ends = [objective.at(end).evaluate(objective.at(end).params)["loss"] for end in (b.state_dict(), alignment.params)]
    assert ends[1] == pytest.approx(ends[0], rel=1e-5)


def test_several_networks_come_into_one_frame():
    torch.manual_seed(0)
    model, x = residual()
    found = ln.symmetries(model, x)
    copies = [found.permute(point(model), found.draw(seed)) for seed in (1, 2, 3)]
    alignment = ln.align([model, *copies], data=x)
    assert len(alignment.points) == 4 and len(alignment.values) == 3
    for one in alignment.points:
        assert all(torch.equal(one[name], parameter) for name, parameter in model.named_parameters())


def test_several_different_networks_gain_by_turns():
    torch.manual_seed(0)
    nets = [mlp()[0] for _ in range(4)]
    alignment = ln.align(nets, data=torch.randn(8, 6))
    pairs = sum(
        float(sum((p[n].double() * q[n].double()).sum() for n in p if not n.startswith("4.bias")))
        for p, q in itertools.combinations(alignment.points, 2)
    )
    assert alignment.objective == pytest.approx(pairs, rel=1e-6) and alignment.objective > alignment.before


def test_nothing_that_is_given_changes():
    torch.manual_seed(0)
    a, x = cnn()
    b, _ = cnn()
    states = [{n: t.clone() for n, t in model.state_dict().items()} for model in (a, b)]
    random_before = torch.get_rng_state()
    alignment = ln.align(a, b, data=x)
    for t in (*alignment.params.values(), *alignment.buffers.values(), *alignment.points[0].values()):
        t.zero_()  # the result is its own
    for model, state in zip((a, b), states, strict=True):
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items()) and model.training
    assert torch.equal(torch.get_rng_state(), random_before)


def test_the_same_call_gives_the_same_permutations():
    torch.manual_seed(0)
    (a, x), (b, _) = residual(), residual()
    first, second = (ln.align(a, b, data=x, restarts=3, seed=7) for _ in range(2))
    assert first.values == second.values and len(first.values[0]) == 3
    assert all(torch.equal(p, second.permutations[1][n]) for n, p in first.permutations[1].items())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("made", [residual, cnn])
def test_starts_in_threads_are_those_of_one(threads, made):
    torch.manual_seed(3)
    (a, x), (b, _) = made(), made()
    found = []
    for count in (1, 3):
        threads(count)
        found.append(ln.align(a, b, data=x, restarts=5, seed=11))
    assert found[0].values == found[1].values
    assert all(torch.equal(p, found[1].permutations[1][n]) for n, p in found[0].permutations[1].items())


def test_a_start_with_nothing_left_to_find_is_the_last_in_threads_too(threads):
    torch.manual_seed(3)
    a, x = residual()
    found = ln.symmetries(a, x)
    copy = found.permute(dict(a.state_dict()), found.draw(5))
    threads(3)
    alignment = ln.align(a, copy, data=x, restarts=6)
    assert len(alignment.values[0]) <= 2
    assert all(torch.equal(alignment.params[n], p) for n, p in a.named_parameters())


@pytest.mark.parametrize("starts", [0, 1, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_the_best_so_far(monkeypatch, threads, starts, number):
    threads(1)  # a signal is raised at one start, and comes in the main thread
    torch.manual_seed(1)
    (a, x), (b, _), (c, _) = mlp(), mlp(), mlp()
    plain, calls = alignment.match, itertools.count()

    def stopped(*given):
        if next(calls) == starts:
            signal.raise_signal(number)
        return plain(*given)

    whole = ln.align([a, b, c], data=x, restarts=4)
    monkeypatch.setattr(alignment, "match", stopped)
    with pytest.raises(Interrupted) as caught:
        ln.align([a, b, c], data=x, restarts=4)
    assert caught.value.signal == number
    kept = caught.value.partial
    assert kept.values[0] == whole.values[0][: starts + 1]
    assert kept.values[1] == ()
    assert kept.error < 1e-10
    assert all(torch.equal(kept.points[2][name], tensor) for name, tensor in c.named_parameters())


def test_printed_it_says_how_well():
    torch.manual_seed(0)
    (a, x), (b, _) = mlp(), mlp()
    text = str(ln.align(a, b, data=x, restarts=2))
    assert "alignment of 2 networks by weights" in text and "proof" in text and "starts" in text


def broken(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["0.weight"][0, 0] = float("nan")
    return state


@pytest.mark.parametrize(
    ("make", "options", "error", "says"),
    [
        (lambda a: nn.Sequential(nn.Linear(6, 5)), {}, (StructureMismatchError, CheckpointMismatchError), "."),
        (
            lambda a: {"0.weight": a[0].weight},
            {},
            (StructureMismatchError, CheckpointMismatchError),
            "missing|lacks|no ",
        ),
        (broken, {}, ObjectiveError, "not finite"),
        (lambda a: None, {}, OptionError, "one network"),
        (lambda a: a, {"method": "magic"}, OptionError, "weights"),
        (lambda a: a, {"restarts": 0}, OptionError, "restarts"),
        (lambda a: a, {"data": None}, OptionError, "data=x"),
        (lambda a: a, {"data": []}, OptionError, "empty list"),
    ],
)
def test_bad_input_is_one_sentence(make, options, error, says):
    a, x = mlp()
    with pytest.raises(error, match=says):
        ln.align(a, make(a), **({"data": x} | options))


def test_a_state_dict_cannot_come_first():
    a, x = mlp()
    with pytest.raises(OptionError, match="first network"):
        ln.align(a.state_dict(), a, data=x)


@pytest.mark.parametrize("count", [2, 3])
def test_networks_without_any_symmetry_stay_as_they_are(count):
    made = [nn.Linear(3, 2) for _ in range(count)]
    alignment = ln.align(made, data=torch.randn(5, 3))
    assert alignment.error == 0 and len(alignment.points) == count
    assert "groups      0" in str(alignment)
    for network, point in zip(made, alignment.points, strict=True):
        assert all(torch.equal(point[name], tensor) for name, tensor in network.named_parameters())
