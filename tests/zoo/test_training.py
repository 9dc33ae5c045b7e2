import itertools

import pytest
import torch

import lossnav as ln
from lossnav import errors
from lossnav.zoo import training


@pytest.fixture(scope="module")
def digits():
    return ln.zoo.digits()


def test_the_notebooks_network_has_its_shapes_and_initial_values():
    model = ln.zoo.notebook_cnn(seed=0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "conv1.weight": (16, 1, 2, 2), "conv1.bias": (16,), "conv2.weight": (8, 16, 2, 2), "conv2.bias": (8,),
        "dense.weight": (10, 288), "dense.bias": (10,),
    }  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 3490
    assert not model.dense.bias.any()
    bound = (6 / (288 + 10)) ** 0.5  # Glorot uniform
    assert 0.95 * bound < model.dense.weight.abs().max() <= bound


def test_seeds_make_the_network_and_leave_the_world_alone():
    before = torch.get_rng_state()
    a, b, c = (ln.zoo.notebook_cnn(seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.conv1.weight, b.conv1.weight)
    assert not torch.equal(a.conv1.weight, c.conv1.weight)


def test_training_learns_and_is_reproducible(digits):
    def once():
        model = ln.zoo.notebook_cnn(0).eval()
        history = ln.zoo.train(model, digits, passes=4, batch_size=25, order="shuffled", seed=1, progress=False)
        assert not model.training
        return model, history

    (a, first), (b, second) = once(), once()
    assert first.loss == second.loss
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert first.loss == sorted(first.loss, reverse=True)
    assert first.accuracy[-1][0] == 4 * 56
    assert first.accuracy[-1][1] > 0.85
    assert first.accuracy[-1][1] == ln.zoo.accuracy(a, digits)


def test_stored_order_is_the_notebooks(digits):
    """Adam by hand over consecutive slices gives the same weights."""
    model, twin = ln.zoo.notebook_cnn(0), ln.zoo.notebook_cnn(0)
    ln.zoo.train(model, digits, passes=1, batch_size=500, progress=False)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for start in range(0, 1397, 500):
        x, y = (part[start : start + 500] for part in digits.train)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
    assert all(torch.allclose(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_accuracy_is_taken_at_most_every_five_seconds(digits, capsys, monkeypatch):
    now, taken = [0.0], []

    def clock():
        now[0] += 0.1  # every look at the clock finds it a tenth of a second later
        return now[0]

    def accuracy(*arguments):
        taken.append(now[0])
        return 0.5

    monkeypatch.setattr(training.time, "monotonic", clock)
    monkeypatch.setattr(training, "accuracy", accuracy)
    history = ln.zoo.train(ln.zoo.notebook_cnn(0), digits, passes=2, batch_size=25, progress=True)
    gaps = [b - a for a, b in itertools.pairwise(taken[:-1])]  # the last is after the last step
    assert len(gaps) > 2
    assert all(5 < gap < 6 for gap in gaps)
    assert capsys.readouterr().err.count("held-out accuracy") == len(history.accuracy) == len(taken)


def test_bad_options(digits):
    model = ln.zoo.notebook_cnn(0)
    for options in ({"passes": 0}, {"batch_size": 0}, {"lr": 0.0}, {"order": "sorted"}):
        with pytest.raises(errors.OptionError):
            ln.zoo.train(model, digits, **options)
    empty = ln.zoo.Data("none", (torch.zeros(0, 1, 28, 28), torch.zeros(0)), digits.test)
    with pytest.raises(errors.DataError, match="no training samples"):
        ln.zoo.train(model, empty)
