import itertools
import signal

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


# ---------------------------------------------------------------------- as in Li et al. 2018


def small(n=96, seed=0):
    """Random coloured images of 32x32 with a label that shows in their colour."""
    drawn = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 10, (n,), generator=drawn)
    x = torch.rand(n, 3, 32, 32, generator=drawn) * 0.2 + y.reshape(-1, 1, 1, 1) / 12
    return ln.zoo.Data("colours", (x, y), (x[:20], y[:20])).normalized(ln.zoo.CIFAR_MEAN, ln.zoo.CIFAR_STD)


PAPER = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "drops": (1 / 2, 3 / 4, 11 / 12), "order": "shuffled"}


def test_the_learning_rate_scales_with_the_length():
    drops = (150 / 300, 225 / 300, 275 / 300)
    full = [ln.zoo.learning_rate(step, 300 * 391, 0.1, drops) for step in range(0, 300 * 391, 391)]
    assert full == [0.1] * 150 + [0.01] * 75 + [0.001] * 50 + [0.0001] * 25
    for steps in (12, 120, 391 * 7):
        rates = [ln.zoo.learning_rate(step, steps, 0.1, drops) for step in range(steps)]
        parts = [rates.count(rate) / steps for rate in (0.1, 0.01, 0.001, 0.0001)]
        assert parts == pytest.approx([1 / 2, 1 / 4, 1 / 6, 1 / 12], abs=1 / steps)
    assert ln.zoo.learning_rate(99, 100, 0.3, ()) == 0.3


def test_sgd_is_the_papers():
    """Nesterov momentum, weight decay, a new order each pass and the drops, by hand."""
    data, model, twin = small(), ln.zoo.resnet(8), ln.zoo.resnet(8)
    history = ln.zoo.train(model, data, passes=4, batch_size=32, seed=7, progress=False, **PAPER)
    assert history.loss[-1] < history.loss[0]
    (x, y), order = data.train, torch.Generator().manual_seed(7)
    velocity = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    twin.train()
    rates = iter([0.1] * 6 + [0.01] * 3 + [0.001] * 2 + [0.0001])
    for _ in range(4):
        for chosen in torch.split(torch.randperm(96, generator=order), 32):
            loss = torch.nn.functional.cross_entropy(twin(x[chosen]), y[chosen])
            gradients = torch.autograd.grad(loss, list(twin.parameters()))
            rate = next(rates)
            with torch.no_grad():
                for (name, p), gradient in zip(twin.named_parameters(), gradients, strict=True):
                    total = gradient + 5e-4 * p
                    velocity[name] = 0.9 * velocity[name] + total
                    p -= rate * (total + 0.9 * velocity[name])
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3), name


@pytest.mark.parametrize("options", [PAPER | {"augment": True}, {"optimizer": "adam", "augment": True}])
def test_a_training_that_was_kept_ends_as_one_that_was_not_stopped(tmp_path, options):
    data, keep = small(), tmp_path / "unfinished.safetensors"
    options = options | {"batch_size": 32, "seed": 3, "held_out": 10, "progress": False}

    whole, stopped, resumed = (ln.zoo.resnet(8, seed=seed) for seed in (0, 0, 9))
    calls = itertools.count(1)

    def stop(model, images):
        if model.training and next(calls) == 8:  # of 3 a pass: in the third one
            signal.raise_signal(signal.SIGINT)

    stopped.register_forward_pre_hook(stop)
    first = stopped.conv1.weight.detach().clone()
    expected = ln.zoo.train(whole, data, passes=4, **options)
    with pytest.raises(errors.Interrupted, match="8 of 12 batches") as caught:
        ln.zoo.train(stopped, data, passes=4, keep=keep, **options)
    assert caught.value.signal == signal.SIGINT
    assert not torch.equal(stopped.conv1.weight, first)  # it holds what was learnt
    history = ln.zoo.train(resumed, data, passes=4, keep=keep, **options)
    assert history.loss == expected.loss
    assert history.accuracy[-1] == expected.accuracy[-1]
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    again = ln.zoo.train(ln.zoo.resnet(8), data, passes=4, keep=keep, **options)
    assert again.loss == expected.loss
    with pytest.raises(errors.CheckpointMismatchError, match="not a training with these settings"):
        ln.zoo.train(ln.zoo.resnet(8), data, passes=5, keep=keep, **options)
    with pytest.raises(errors.CheckpointMismatchError):
        ln.zoo.train(ln.zoo.resnet(8, skip=False), data, passes=4, keep=keep, **options)


def test_augmentation_pads_with_black_and_comes_by_the_seed(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "crop_and_flip", lambda images, generator, black: seen.append(black) or images)
    data = small(32)
    ln.zoo.train(ln.zoo.resnet(8), data, passes=1, batch_size=32, augment=True, progress=False)
    assert seen == [data.black]
    monkeypatch.undo()
    models = [ln.zoo.resnet(8) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        ln.zoo.train(model, data, passes=1, batch_size=32, augment=True, seed=seed, progress=False)
    assert torch.equal(models[0].conv1.weight, models[1].conv1.weight)
    assert not torch.equal(models[0].conv1.weight, models[2].conv1.weight)


def test_bad_options_of_sgd(digits):
    for options in ({"optimizer": "lbfgs"}, {"weight_decay": -1.0}, {"drops": (0.5, 1.5)}, {"drops": (0.0,)}):
        with pytest.raises(errors.OptionError):
            ln.zoo.train(ln.zoo.notebook_cnn(0), digits, **options)
