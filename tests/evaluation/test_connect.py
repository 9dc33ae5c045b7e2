"""Curves of low loss between two networks: their ends, their gradient, their store, and what is left as it was."""

import copy
import itertools
import math
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.evaluation.minibatches import ShuffledData
from lossnav.evaluation.path_training import learning_rate
from lossnav.evaluation.slopes import Slopes

KINDS = ("bezier", "chain", "band")


def ring(dtype=torch.float32):
    """A loss that is zero on the unit circle: the straight line crosses a hill, an arc does not."""
    centre = {"x": torch.tensor([1.0, 0.0], dtype=dtype)}
    return ln.Objective.from_function(lambda p: ((p["x"] ** 2).sum() - 1) ** 2, centre)


END = {"x": torch.tensor([-0.6, 0.8])}


class Net(nn.Module):
    def __init__(self, normalised=True):
        super().__init__()
        self.a, self.b = nn.Linear(2, 8), nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(8) if normalised else nn.Identity()

    def forward(self, x):
        return self.b(torch.tanh(self.norm(self.a(x))))


def moons(n=200, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    angle = rng.uniform(0, np.pi, n)
    x = np.stack([np.cos(angle) * (1 - 2 * y) + y, np.sin(angle) * (1 - 2 * y) + 0.4 * y], 1) + rng.normal(
        0, 0.15, (n, 2)
    )
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def trained(seed, normalised=True):
    torch.manual_seed(seed)
    model, (x, y) = Net(normalised), moons()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def pair():
    return trained(1), trained(2)


def bits(params):
    return {name: tensor.numpy().tobytes() for name, tensor in params.items()}


def losses_along(objective, curve, n=11):
    return ln.evaluate(objective, curve, ln.Grid(t=(0, 1, n)), progress=False)["loss"].values


# ---------------------------------------------------------------------- the curve


@pytest.mark.parametrize("kind", KINDS)
def test_around_a_hill_the_curve_follows_the_ring(kind):
    objective = ring()
    epochs = 40 if kind == "band" else 300
    connection = ln.connect(objective, END, kind, epochs=epochs, lr=0.02, cycles=3, progress=False)
    middle = objective.evaluate({"x": (objective.params["x"] + END["x"]) / 2})["loss"]
    assert middle > 0.6  # of the straight line
    assert losses_along(objective, connection.curve, 21).max() < (0.25 if kind == "chain" else 0.1) * middle
    assert bits(connection.curve([0.0])) == bits(objective.params)
    assert bits(connection.curve([1.0])) == bits(END)
    assert connection.finished
    assert len(connection.losses) == len(connection.places) == epochs * (3 if kind == "band" else 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bn", ["frozen", "batch", "recompute"])
def test_ends_are_the_networks_with_their_buffers_and_the_barrier_falls(pair, kind, bn):
    a, b = pair
    objective = ln.Objective(a, "cross_entropy", moons(), bn=bn)
    line = ln.PolygonalChain(a, b)
    curve = ln.connect(objective, b, kind, epochs=12, batch_size=50, lr=0.2, cycles=2, progress=False).curve
    for t, model in ((0.0, a), (1.0, b)):
        assert bits(curve([t])) == bits({name: tensor.detach() for name, tensor in model.named_parameters()})
        assert bits(curve([t]).buffers) == bits(dict(model.named_buffers()))
    assert curve.trained["bn"] == bn
    assert losses_along(objective, curve).max() < losses_along(objective, line).max()


def test_a_step_is_that_of_autograd_through_the_curve():
    """One step of a Bézier curve with two bends, in float64, against autograd, with momentum and decay."""
    a, b = (trained(seed, normalised=False).double() for seed in (1, 2))
    x, y = moons(40)
    objective = ln.Objective(a, "cross_entropy", (x.double(), y))
    options = {"epochs": 2, "batch_size": 40, "lr": 0.1, "momentum": 0.5, "weight_decay": 0.02, "seed": 3}
    found = ln.connect(objective, b, "bezier", bends=2, **options, progress=False)
    ends = [{n: p.detach() for n, p in model.named_parameters()} for model in (a, b)]
    bends = [{n: torch.lerp(p, ends[1][n], j / 3).requires_grad_() for n, p in ends[0].items()} for j in (1, 2)]
    velocity = [{n: torch.zeros_like(p) for n, p in ends[0].items()} for _ in bends]
    for i, t in enumerate(found.places):
        c = [math.comb(3, j) * t**j * (1 - t) ** (3 - j) for j in range(4)]
        point = {n: c[0] * ends[0][n] + c[1] * bends[0][n] + c[2] * bends[1][n] + c[3] * ends[1][n] for n in ends[0]}
        plain = F.cross_entropy(torch.func.functional_call(a, point, (x.double(),)), y)
        assert plain.item() == pytest.approx(found.losses[i], rel=1e-9)
        loss = plain + 0.02 / 2 * sum((p**2).sum() for p in point.values())
        gradients = torch.autograd.grad(loss, [p for bend in bends for p in bend.values()])
        gradients = iter(gradients)
        for bend, speed in zip(bends, velocity, strict=True):
            for n in bend:
                speed[n] = 0.5 * speed[n] + next(gradients)
                bend[n] = (bend[n].detach() - learning_rate(0.1, i / 2) * speed[n]).requires_grad_()
    for j, bend in enumerate(bends, 1):
        for n, tensor in bend.items():
            torch.testing.assert_close(found.curve.points[f"bend{j}"][n], tensor.detach(), rtol=1e-9, atol=1e-12)


def test_bends_of_half_precision_move_by_steps_below_its_rounding():
    objective = ring(torch.bfloat16)
    curve = ln.connect(objective, {"x": END["x"].bfloat16()}, epochs=200, lr=0.002, progress=False).curve
    middle = (objective.params["x"] + END["x"].bfloat16()) / 2
    assert curve.points["bend1"]["x"].dtype == torch.bfloat16
    assert float((curve.points["bend1"]["x"].float() - middle.float()).norm()) > 0.3


def test_minibatches_are_all_samples_once_a_pass():
    x = torch.arange(101.0).reshape(-1, 1)
    objective = ln.Objective(nn.Linear(1, 1), "mse", (x, x), batch_size=7)
    data = ShuffledData(objective, 32, seed=5)
    passes = [[batch[0][:, 0].tolist() for batch, _ in data.batches(i)] for i in range(2)]
    for one in passes:
        assert sorted(itertools.chain.from_iterable(one)) == x[:, 0].tolist()
        assert {len(batch) for batch in one} <= {25, 26}
    assert passes[0] != passes[1]
    rest = [batch[0][:, 0].tolist() for batch, _ in data.batches(1, start=2)]
    assert rest == passes[1][2:]
    places = [t for i in range(50) for _, t in data.batches(i)]
    assert min(places) >= 0 and max(places) <= 1 and abs(np.mean(places) - 0.5) < 0.1


@pytest.mark.parametrize(("resident", "words", "steps"), [(True, {}, 1), (True, {"word": "a"}, 3), (False, {}, 3)])
def test_data_of_other_kinds_keeps_its_batches(resident, words, steps):
    batches = [{"x": torch.full((n, 1), float(n)), "y": torch.zeros(n, 1), **words} for n in (3, 5, 2)]
    forward = lambda model, batch: (model(batch["x"]), batch["y"])  # noqa: E731
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    budget = {} if resident else {"data_budget": 1}
    objective = ln.Objective(nn.Linear(1, 1), "mse", loader, forward=forward, **budget)
    end = {"weight": torch.ones(1, 1), "bias": torch.zeros(1)}
    found = ln.connect(objective, end, epochs=2, lr=1e-3, progress=False)
    assert len(found.losses) == 2 * steps


# ---------------------------------------------------------------------- nothing else changes


def test_what_is_given_stays_as_it_was(pair):
    a, b = (copy.deepcopy(model) for model in pair)
    a.train()
    a.b.weight.grad = torch.ones_like(a.b.weight)
    x, y = moons()
    with pytest.warns(errors.TrainModeWarning):
        objective = ln.Objective(a, "cross_entropy", (x, y))
    before = [bits(model.state_dict()) for model in (a, b)]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    for kind in KINDS:
        ln.connect(objective, b, kind, epochs=1, bn="batch", cycles=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert [bits(model.state_dict()) for model in (a, b)] == before
    assert a.training and not b.training and a.b.weight.grad.min() == 1 and a.a.weight.grad is None
    assert bits(objective.params) == bits({n: p.detach() for n, p in a.named_parameters()})


def test_random_numbers_of_a_model_are_those_of_the_seed(pair):
    class Dropping(Net):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5, training=True)

    def both():
        a, b = Dropping(), Dropping()
        a.load_state_dict(pair[0].state_dict())
        b.load_state_dict(pair[1].state_dict())
        return ln.Objective(a.eval(), "cross_entropy", moons()), b.eval()

    first, second = (ln.connect(*both(), epochs=2, seed=4, progress=False) for _ in range(2))
    np.testing.assert_array_equal(first.losses, second.losses)
    assert not np.array_equal(ln.connect(*both(), epochs=2, seed=5, progress=False).losses, first.losses)


# ---------------------------------------------------------------------- stops and stores


CALLS = [math.inf]  # left until Ctrl-C; not in the loss, whose own state is restored before each pass


def stopping(outputs, targets):
    """A loss that sends Ctrl-C to its own process at one of its calls."""
    CALLS[0] -= 1
    if CALLS[0] == 0:
        os.kill(os.getpid(), signal.SIGINT)
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [5, 12])
def test_a_stopped_training_goes_on_to_the_same_bits(pair, kind, after, tmp_path):
    a, b = pair
    objective = ln.Objective(a, stopping, moons())
    options = {"kind": kind, "epochs": 3, "batch_size": 40, "cycles": 2, "lr": 0.1, "progress": False}
    whole = ln.connect(objective, b, **options)
    CALLS[0] = after + 2 * len(objective.batches)
    with pytest.raises(ln.Interrupted, match="resumes from") as stopped:
        ln.connect(objective, b, **options, store=tmp_path / "curve.safetensors")
    CALLS[0] = math.inf
    partial = stopped.value.partial
    assert not partial.finished and 0 < len(partial.losses) < len(whole.losses)
    kept = ln.open_connection(tmp_path / "curve.safetensors")
    np.testing.assert_array_equal(kept.losses, partial.losses)
    assert bits(kept.curve([0.4])) == bits(partial.curve([0.4]))
    again = ln.connect(objective, b, **options, store=tmp_path / "curve.safetensors")
    np.testing.assert_array_equal(again.losses, whole.losses)
    assert {n: bits(p) for n, p in again.curve.points.items()} == {n: bits(p) for n, p in whole.curve.points.items()}
    written = (tmp_path / "curve.safetensors").stat().st_mtime_ns
    finished = ln.connect(objective, b, **options, store=tmp_path / "curve.safetensors")
    assert finished.finished and (tmp_path / "curve.safetensors").stat().st_mtime_ns == written
    np.testing.assert_array_equal(finished.losses, whole.losses)


def test_a_stored_curve_is_opened_without_anything_else(pair, tmp_path):
    a, b = pair
    objective = ln.Objective(a, "cross_entropy", moons())
    made = ln.connect(objective, b, "chain", bends=2, epochs=1, store=tmp_path / "c.safetensors", progress=False)
    opened = ln.open_connection(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(losses_along(objective, opened.curve), losses_along(objective, made.curve))
    assert opened.options == made.options and str(opened).splitlines()[0] == "curve       chain, 2 bends"
    surface = ln.evaluate(objective, made.curve, ln.Grid(t=(0, 1, 5)), store=tmp_path / "r.zarr",
                          save_directions=True, progress=False)  # fmt: skip
    assert surface.attrs["chart"]["options"]["trained"]["epochs"] == 1
    np.testing.assert_array_equal(ln.resume(tmp_path / "r.zarr", objective)["loss"], surface["loss"])


def test_another_training_does_not_go_on_with_a_store(pair, tmp_path):
    a, b = pair
    objective = ln.Objective(a, "cross_entropy", moons())
    store = tmp_path / "c.safetensors"
    ln.connect(objective, b, epochs=1, store=store, progress=False)
    before = store.read_bytes()
    for change in ({"epochs": 2}, {"seed": 1}, {"kind": "chain"}, {"bends": 2}):
        with pytest.raises(errors.PlanMismatchError, match="has another curve"):
            ln.connect(objective, b, **({"epochs": 1} | change), store=store, progress=False)
    with pytest.raises(errors.PlanMismatchError, match="end: was"):
        ln.connect(objective, trained(3), epochs=1, store=store, progress=False)
    assert store.read_bytes() == before
    (tmp_path / "other.safetensors").write_bytes(b"not a curve")
    with pytest.raises(errors.LossnavError, match="cannot be read as a stored curve"):
        ln.connect(objective, b, epochs=1, store=tmp_path / "other.safetensors", progress=False)
    assert (tmp_path / "other.safetensors").read_bytes() == b"not a curve"


# ---------------------------------------------------------------------- refusals


def test_bad_input_is_refused_in_a_sentence(pair, tmp_path):
    a, b = pair
    objective = ln.Objective(a, "cross_entropy", moons())
    store = tmp_path / "c.safetensors"
    broken = copy.deepcopy(b)
    with torch.no_grad():
        broken.a.weight[0, 0] = math.nan
    wider = nn.Sequential(nn.Linear(2, 9), nn.Linear(9, 2))
    cases = [
        (broken, {}, errors.ObjectiveError, r'"a\.weight" of the Net is not finite'),
        (wider, {}, errors.StructureMismatchError, "does not fit|differ"),
        (copy.deepcopy(a), {}, errors.OptionError, "same weights"),
        (b, {"kind": "spline"}, errors.OptionError, "kind is 'spline'"),
        (b, {"epochs": 0}, errors.OptionError, "epochs is 0"),
        (b, {"lr": -1.0}, errors.OptionError, "lr is -1"),
        (b, {"momentum": 1.0}, errors.OptionError, "momentum is 1"),
        (b, {"bn": "yes"}, errors.OptionError, "bn is 'yes'"),
    ]
    for end, options, kind, words in cases:
        with pytest.raises(kind, match=words):
            ln.connect(objective, end, **options, store=store, progress=False)
        assert not store.exists()
    with pytest.raises(errors.ObjectiveError, match="Use a smaller lr"):
        ln.connect(ring(), END, lr=1e20, epochs=9, store=store, progress=False)
    assert not store.exists()
    with pytest.raises(
        errors.OptionError, match=r"first network is a Net .a model.\..*ln\.Objective\(model, loss, data\)"
    ):
        ln.connect(a, b)


def test_a_loss_without_a_gradient_is_refused(pair):
    a, b = pair
    objective = ln.Objective(a, lambda out, y: F.cross_entropy(out.detach(), y), moons())
    with pytest.raises(errors.ObjectiveError, match="has no gradient by its weights"):
        ln.connect(objective, b, epochs=1, progress=False)


def test_the_slope_is_that_of_the_mean_over_the_minibatch(pair):
    a, _ = pair
    x, y = moons(30)
    weight = torch.tensor([1.0, 3.0])
    objective = ln.Objective(a, nn.CrossEntropyLoss(weight=weight), (x, y), batch_size=30)
    loss, slope = Slopes(objective, "frozen")(objective.params, (x, y), 0)
    a.zero_grad(set_to_none=True)
    truth = F.cross_entropy(a(x), y, weight=weight)
    truth.backward()
    assert loss == pytest.approx(truth.item(), rel=1e-6)
    for name, parameter in a.named_parameters():
        torch.testing.assert_close(slope[name], parameter.grad, rtol=1e-4, atol=1e-6)
    a.zero_grad(set_to_none=True)
