"""Several minima: copies are one basin, other solutions are others, and every number is that of its line."""

import itertools
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import lossnav as ln
from lossnav.errors import (
    CheckpointMismatchError,
    Interrupted,
    ObjectiveError,
    OptionError,
    OutputExistsError,
    PlanMismatchError,
    StructureMismatchError,
)
from lossnav.evaluation import tree as module


def network():
    """Narrow and deep: after alignment too, a barrier is left between two solutions."""
    layers = [nn.Linear(64, 14), nn.ReLU(), *(part for _ in range(3) for part in (nn.Linear(14, 14), nn.ReLU()))]
    return nn.Sequential(*layers, nn.Linear(14, 10))


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


@pytest.fixture(scope="module")
def solution(digits):
    """A network after a training of its own."""
    x, y = digits

    def trained(seed):
        torch.manual_seed(seed)
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(40):
            for rows in torch.randperm(1000).split(100):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        return model

    return trained


@pytest.fixture(scope="module")
def two(digits, solution):
    """An objective, its solution, another solution, and the symmetries."""
    x, y = digits
    first = solution(0)
    objective = ln.Objective(first, "cross_entropy", (x[1000:], y[1000:]))
    return objective, first, solution(1), ln.symmetries(objective)


def copies(found, model, count, seed):
    return [found.permute(dict(model.state_dict()), found.draw(seed + k)) for k in range(count)]


def test_copies_are_one_basin_and_another_solution_is_another(two, digits):
    objective, first, other, found = two
    (copy,), others = copies(found, first, 1, 3), copies(found, other, 2, 5)
    tree = ln.tree([objective, others[0], copy, others[1]], names=["a", "b", "a again", "b again"], progress=False)
    assert tree.leaves == ((0, 2), (1, 3))
    assert tree.barrier[0, 2] == tree.barrier[1, 3] == 0
    assert tree.barrier_low[0, 1] > 0 and tree.barrier[0, 1] > 3 * tree.barrier_error[0, 1]
    x, y = (part[1000:] for part in digits)
    for name, state in (("a", first.state_dict()), ("b again", others[1])):
        own = float(F.cross_entropy(torch.func.functional_call(other, dict(state), (x,)), y))
        assert tree.loss[tree.names.index(name)] == pytest.approx(own, rel=1e-5)


def test_a_pass_is_that_of_the_line(two, digits):
    objective, _, other, found = two
    x, y = (part[1000:] for part in digits)
    aligned = ln.align(objective, other, symmetries=found, seed=4, restarts=3).params
    tree = ln.tree([objective, other], points=9, seed=4, restarts=3, progress=False)
    rows = []
    for t in np.linspace(0, 1, 9):
        weights = {n: (1 - t) * p.double() + t * aligned[n].double() for n, p in objective.params.items()}
        model = network().double()
        rows.append(F.cross_entropy(torch.func.functional_call(model, weights, (x.double(),)), y, reduction="none"))
    rows = torch.stack(rows).detach().numpy()
    losses = rows.mean(1)
    top, end = int(losses.argmax()), int(losses[[0, -1]].argmax()) * -1
    np.testing.assert_allclose(tree.pass_loss[0, 1], losses[top], rtol=1e-5)
    np.testing.assert_allclose(tree.barrier[0, 1], losses[top] - losses[end], rtol=1e-4)
    d = rows[top] - rows[end]
    np.testing.assert_allclose(tree.barrier_error[0, 1], d.std(ddof=1) / np.sqrt(len(d)), rtol=1e-3)
    assert tree.where[0, 1] == np.linspace(0, 1, 9)[top] == 1 - tree.where[1, 0]
    assert tree.barrier_low[0, 1] < tree.barrier[0, 1] - 2 * tree.barrier_error[0, 1]


def test_without_alignment_a_copy_is_another_minimum(two):
    objective, first, _, found = two
    tree = ln.tree([objective, *copies(found, first, 1, 8)], align=False, points=7, progress=False)
    assert not tree.aligned and len(tree.leaves) == 2 and "not aligned" in str(tree)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_five_copies_each_of_two_solutions_are_two_leaves(digits, solution, seed):
    x, y = digits
    first, second = solution(10 + 2 * seed), solution(11 + 2 * seed)
    objective = ln.Objective(first, "cross_entropy", (x[1000:], y[1000:]))
    found = ln.symmetries(objective)
    minima = [objective, *copies(found, first, 4, 100 * seed), *copies(found, second, 5, 100 * seed + 50)]
    tree = ln.tree(minima, points=11, seed=seed, progress=False)
    assert tree.leaves == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))


def test_a_stop_keeps_the_pairs_so_far_and_the_same_call_goes_on(two, tmp_path, monkeypatch):
    objective, _, other, found = two
    minima = [objective, other, *copies(found, other, 1, 2)]
    options = {"points": 5, "restarts": 2, "progress": False}
    whole = ln.tree(minima, **options)
    plain, calls = module.evaluate, itertools.count()

    def stopped(*given, **named):
        made = plain(*given, **named)
        if next(calls) == 0:
            signal.raise_signal(signal.SIGTERM)
        return made

    monkeypatch.setattr(module, "evaluate", stopped)
    with pytest.raises(Interrupted, match="1 of 3 pairs") as caught:
        ln.tree(minima, store=tmp_path / "tree", **options)
    assert caught.value.signal == signal.SIGTERM
    part = caught.value.partial
    assert part.pass_loss[0, 1] == whole.pass_loss[0, 1] and np.isnan(part.pass_loss[0, 2])
    assert not (tmp_path / "tree" / "tree.json").exists()
    again = ln.tree(minima, store=tmp_path / "tree", **options)
    for name in ("loss", "pass_loss", "barrier", "barrier_error", "barrier_low", "where"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert str(ln.open_tree(tmp_path / "tree" / "tree.json")) == str(whole)
    with pytest.raises(PlanMismatchError):
        ln.tree(minima, store=tmp_path / "tree", points=7, restarts=2, progress=False)


def test_a_line_that_overflows_is_no_pass(two, digits):
    objective, _, other, _ = two
    state = {name: tensor * (1e20 if name == "0.weight" else 1) for name, tensor in other.state_dict().items()}
    state["2.weight"] = state["2.weight"] * 1e25
    tree = ln.tree([objective, state], align=False, points=5, progress=False)
    assert np.isinf(tree.pass_loss[0, 1]) and np.isnan(tree.barrier_error[0, 1])
    assert len(tree.leaves) == 2 and "inf" in str(tree)


def test_nothing_that_is_given_changes(two):
    objective, first, other, _ = two
    first.train()
    before = [{name: tensor.clone() for name, tensor in m.state_dict().items()} for m in (first, other)]
    random = torch.get_rng_state()
    ln.tree([objective, other], points=3, restarts=1, progress=False)
    for m, held in zip((first, other), before, strict=True):
        assert all(torch.equal(tensor, held[name]) for name, tensor in m.state_dict().items())
        assert all(p.requires_grad for p in m.parameters())
    assert first.training and torch.equal(torch.get_rng_state(), random)


BAD = [
    (lambda o, m: [o], {}, OptionError, "at least two"),
    (lambda o, m: o, {}, OptionError, "at least two"),
    (lambda o, m: [m, o], {}, OptionError, "objective first"),
    (lambda o, m: [o, nn.Linear(3, 2)], {}, StructureMismatchError, "weight"),
    (lambda o, m: [o, "none.pt"], {}, Exception, "none.pt"),
    (lambda o, m: [o, {n: t * np.nan for n, t in m.state_dict().items()}], {}, ObjectiveError, "not finite"),
    (lambda o, m: [o, m], {"points": 2}, OptionError, "3 upwards"),
    (lambda o, m: [o, m], {"points": True}, OptionError, "3 upwards"),
    (lambda o, m: [o, m], {"names": ["a", "a"]}, OptionError, "different names"),
    (lambda o, m: [o, m], {"names": "ab"}, OptionError, "different names"),
    (lambda o, m: [o, m], {"level": 1.0}, OptionError, "probability"),
    (lambda o, m: [o, m], {"restarts": 0}, OptionError, "restarts"),
]


@pytest.mark.parametrize(("minima", "options", "error", "says"), BAD)
def test_bad_input_is_one_sentence(two, minima, options, error, says):
    objective, _, other, _ = two
    with pytest.raises(error, match=says):
        ln.tree(minima(objective, other), progress=False, **options)


def test_a_file_of_another_network_is_named(two, tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointMismatchError, match=r"other\.pt"):
        ln.tree([two[0], tmp_path / "other.pt"], progress=False)


def test_a_folder_that_is_something_else_is_left_alone(two, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputExistsError, match="is a file"):
        ln.tree([two[0], two[2]], store=tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_text() == "mine"
