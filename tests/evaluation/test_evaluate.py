"""The verb: values, places, provenance, and what it must leave alone."""

import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav import params as algebra

# ---------------------------------------------------------------------- the grid means what it says


def quadratic(dtype=torch.float64):
    """0.5 (x - m)' H (x - m) with known H and m, its parameters split over two tensors."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=dtype)
    hessian, minimum = root @ root.T, torch.randn(6, generator=generator, dtype=dtype)

    def f(p):
        d = torch.cat([p["a"].reshape(-1), p["b"]]) - minimum
        return 0.5 * d @ hessian @ d

    start = torch.randn(6, generator=generator, dtype=dtype)
    return f, {"a": start[:4].reshape(2, 2), "b": start[4:]}, hessian, minimum


@pytest.mark.parametrize("sizes", [(5, 5), (4, 7), (2, 3)])
@pytest.mark.parametrize("ends", [((-1, 1), (-1, 1)), ((-0.3, 2), (1, 4))])
def test_a_quadratic_is_evaluated_exactly(sizes, ends):
    f, center, hessian, minimum = quadratic()
    objective = ln.Objective.from_function(f, center)
    d1, d2 = ln.directions.random(objective, 2, normalize=None, seed=5)
    grid = ln.Grid(alpha=(*ends[0], sizes[0]), beta=(*ends[1], sizes[1]))
    surface = ln.evaluate(objective, ln.Plane(center, d1, d2), grid)
    assert surface["loss"].shape == sizes

    def flat(p):
        return torch.cat([p["a"].reshape(-1), p["b"]]).numpy()

    x, u, v, H, m = flat(center), flat(d1), flat(d2), hessian.numpy(), minimum.numpy()
    for i, alpha in enumerate(np.linspace(*ends[0], sizes[0])):
        for j, beta in enumerate(np.linspace(*ends[1], sizes[1])):
            d = x + alpha * u + beta * v - m
            assert surface["loss"].values[i, j] == pytest.approx(0.5 * d @ H @ d, rel=1e-10)
            assert surface["loss"].sel(alpha=alpha, beta=beta, method="nearest") == surface["loss"][i, j]


def test_axis_order_by_a_function_of_two_parameters():
    """f(x, y) = 10 x + y: alpha is the first axis, beta the second, nothing is transposed or mirrored."""
    objective = ln.Objective.from_function(
        lambda p: 10 * p["x"] + p["y"], {"x": torch.tensor(0.5), "y": torch.tensor(0.0)}
    )
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    plane = ln.Plane(objective.params, {"x": one, "y": zero}, {"x": zero, "y": one})
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 2, 4), beta=(0, 1, 3)))
    assert surface["loss"].dims == ("alpha", "beta")
    expected = 10 * (0.5 + np.array([-1, 0, 1, 2.0]))[:, None] + np.array([0, 0.5, 1])
    np.testing.assert_allclose(surface["loss"].values, expected)
    np.testing.assert_array_equal(surface["alpha"], [-1, 0, 1, 2])


def test_a_volume_is_in_order_too():
    objective = ln.Objective.from_function(lambda p: p["x"] @ torch.tensor([100.0, 10.0, 1.0]), {"x": torch.zeros(3)})
    volume = ln.Volume(objective.params, *({"x": row} for row in torch.eye(3)))
    surface = ln.evaluate(objective, volume, ln.Grid(alpha=(0, 1, 2), beta=(0, 2, 3), gamma=(0, 3, 4)))
    assert surface["loss"].sel(alpha=1, beta=2, gamma=3) == 123


def test_a_real_model_agrees_with_the_plain_loop(objective, plane, everything, images):
    """Against the loop one would write by hand, on a copy of the model."""
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 3), beta=(0, 1, 2)))
    with torch.no_grad():
        center = {name: parameter.clone() for name, parameter in everything.named_parameters()}
        for i, alpha in enumerate((-1, 0, 1)):
            for j, beta in enumerate((0, 1)):
                for name, parameter in everything.named_parameters():
                    parameter.copy_(center[name] + alpha * plane.directions[0][name] + beta * plane.directions[1][name])
                outputs = everything(images[0]).double()
                assert surface["loss"][i, j] == pytest.approx(F.cross_entropy(outputs, images[1]).item(), rel=1e-5)
                assert surface["accuracy"][i, j] == (outputs.argmax(1) == images[1]).double().mean().item()


# ---------------------------------------------------------------------- the same call, the same bits


def test_same_call_same_bits_twice(objective):
    def once():
        chart = ln.Plane(objective.params, *ln.directions.random(objective, 2, seed=11))
        return ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5)))

    first = once()
    torch.manual_seed(99)
    second = once()
    for name in first.data_vars:
        np.testing.assert_array_equal(first[name].values, second[name].values)
    assert first.attrs["objective"] == second.attrs["objective"]
    assert first.attrs["chart"] == second.attrs["chart"]


def test_provenance_is_complete(surface):
    attrs = surface.attrs
    assert attrs["chart"]["directions"][0]["seed"] == 0
    assert attrs["chart"]["directions"][0]["normalize"] == "filter"
    assert set(attrs["chart"]["directions"][0]["norms"]) >= {"conv.weight", "first.weight"}
    assert attrs["objective"]["samples"] == 23
    assert attrs["objective"]["bn"] == "frozen"
    assert attrs["objective"]["dtype"] == "float32"
    assert len(attrs["objective"]["fingerprint"]) == 16
    assert attrs["sampler"] == {"kind": "Grid", "axes": {"alpha": [-1, 1, 5], "beta": [-0.5, 1, 4]}}
    assert attrs["engine"]["kind"] == "Local"
    assert attrs["center"]["loss"] == pytest.approx(float(surface["loss"].sel(alpha=0, beta=0)), rel=1e-6)


# ---------------------------------------------------------------------- what it must leave alone


CALLS = {"made": 0, "allowed": 0}  # of Boom; here, since what a pass changes in a model is put back


class Boom(nn.Module):
    """Counts its calls, writes into a buffer, draws random numbers, and goes off at the n-th call."""

    def __init__(self, error):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.bn = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.error = error
        self.register_buffer("scratch", torch.zeros(3))

    def forward(self, x):
        CALLS["made"] += 1
        self.scratch += 1
        torch.rand(1)
        random.random()
        np.random.rand()
        if self.error is not None and CALLS["made"] > CALLS["allowed"]:
            raise self.error
        return self.drop(self.bn(self.layer(x)))


def everything_about(model):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [(name, module.training) for name, module in model.named_modules()],
        [(name, parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()],
        [id(parameter) for parameter in model.parameters()] + [id(buffer) for buffer in model.buffers()],
        (torch.get_rng_state(), random.getstate(), np.random.get_state()),
    )


def assert_same(a, b):
    assert a[0].keys() == b[0].keys()
    assert all(torch.equal(a[0][name], b[0][name]) for name in a[0])
    assert a[1:4] == b[1:4]
    assert torch.equal(a[4][0], b[4][0])
    assert a[4][1] == b[4][1]
    assert all(np.array_equal(x, y) for x, y in zip(a[4][2], b[4][2], strict=True))


DATA = (torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3)

CASES = {
    "it ends well": (None, None),
    "every point raises": (RuntimeError("boom"), errors.EvaluationError),
    "Ctrl-C inside the model": (KeyboardInterrupt(), ln.Interrupted),
    "the system exits": (SystemExit(1), SystemExit),
}


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("bn", ["frozen", "recompute", "batch"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::lossnav.errors.TrainModeWarning")
def test_model_and_world_are_as_before(case, bn, train):
    error, expected = CASES[case]
    model = Boom(error).train(train)
    CALLS["allowed"] = 10**9
    model.layer.bias.requires_grad_(False)
    before = everything_about(model)
    objective = ln.Objective(model, "cross_entropy", DATA, bn=bn, batch_size=5)
    assert_same(before, everything_about(model))
    line = ln.Line(objective.params, *ln.directions.random(objective))
    CALLS["made"] = 0
    objective.evaluate(objective.params)
    a_pass = CALLS["made"]
    CALLS.update(made=0, allowed=2 * a_pass)  # after the two passes at the centre

    def run():
        return ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 4)))

    if expected is None:
        run()
    else:
        with pytest.raises(expected):
            run()
    assert_same(before, everything_about(model))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_point_and_keeps_what_was_computed(number, tmp_path):
    calls = []

    def f(p):
        calls.append(1)
        if len(calls) == 5:  # two at the centre, then the third point
            os.kill(os.getpid(), number)
        return (p["x"] ** 2).sum()

    objective = ln.Objective.from_function(f, {"x": torch.ones(2)})
    line = ln.Line(objective.params, {"x": torch.ones(2)})
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        ln.Interrupted, match="Stopped after 3 of 10 points. It is stored in .* lossnav resume"
    ) as caught:
        ln.evaluate(objective, line, ln.Grid(alpha=(0, 9, 10)), store=tmp_path / "run.zarr")
    assert caught.value.signal == number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    stored = ln.open(tmp_path / "run.zarr")
    assert stored["status"].values.tolist() == [1, 0, 1, 0, 1, 0, 0, 0, 0, 0]  # coarse first: 0, 2, 4, 6, 9
    assert stored["loss"].values[[0, 2, 4]].tolist() == [2, 18, 50]
    assert np.isnan(stored["loss"].values[[1, 3, 5, 6, 7, 8, 9]]).all()
    assert stored.attrs["interrupted"]
    assert stored.identical(caught.value.partial)


def test_the_second_signal_stops_at_once():
    calls = []

    def f(p):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal should have stopped this")
        return p["x"].sum()

    objective = ln.Objective.from_function(f, {"x": torch.ones(2)})
    with pytest.raises(ln.Interrupted) as caught:
        ln.evaluate(objective, ln.Line(objective.params, {"x": torch.ones(2)}), ln.Grid(alpha=(0, 9, 10)))
    assert caught.value.partial["status"].values.tolist() == [1] + [0] * 9


# ---------------------------------------------------------------------- bad points, bad input


def pole():
    """1/x, which is inf at 0, and raises above 1."""

    def f(p):
        if p["x"] > 1:
            raise ValueError("too far")
        return 1 / p["x"]

    return ln.Objective.from_function(f, {"x": torch.tensor(0.5)})


def test_bad_points_are_recorded_and_the_rest_is_there():
    objective = pole()
    with pytest.warns(errors.PointsFailedWarning, match=r"1 of 4 points.*\(1\): ValueError: too far"):
        surface = ln.evaluate(
            objective, ln.Line(objective.params, {"x": torch.tensor(1.0)}), ln.Grid(alpha=[-1.0, -0.5, 0.5, 1.0])
        )
    np.testing.assert_array_equal(surface["loss"].values, [-2, np.inf, 1, np.nan])
    assert surface["status"].values.tolist() == [1, 2, 1, 3]
    assert surface.lossnav.counts == {"not evaluated": 0, "ok": 2, "non-finite": 1, "failed": 1}
    assert surface.attrs["failures"] == ["(1): ValueError: too far"]


def test_nan_at_the_centre_says_why(images, everything):
    with torch.no_grad():
        everything.first.weight[0, 0] = float("nan")
    objective = ln.Objective(everything, "cross_entropy", images)
    line = ln.Line({**objective.params}, {name: torch.ones_like(t) for name, t in objective.params.items()})
    with pytest.raises(errors.NonFiniteCenterError, match='loss at the centre is nan.*NaN or inf in "first.weight"'):
        ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), check=False)
    assert surface.lossnav.counts["non-finite"] == 3


def test_nan_in_the_data_says_so(everything, images):
    images[0][13, 0, 0, 0] = float("nan")
    objective = ln.Objective(everything, "cross_entropy", images, batch_size=10)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    with pytest.raises(errors.NonFiniteCenterError, match="data contains NaN or inf in batch 1"):
        ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)))


def test_a_loss_that_is_no_function_is_found():
    class Augmented:
        """A loader that gives other data on each pass."""

        passes = 0

        def __iter__(self):
            Augmented.passes += 1
            yield torch.full((4, 3), float(Augmented.passes)), torch.zeros(4, dtype=torch.long)

    model = nn.Linear(3, 2).eval()
    objective = ln.Objective(model, "cross_entropy", Augmented(), data_budget=0)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    with pytest.raises(errors.NotDeterministicError, match="gave .* and .* at the same point.*check=False"):
        ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)))
    assert ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), check=False).lossnav.complete


def test_things_that_do_not_fit_are_refused(objective, plane):
    with pytest.raises(
        errors.SamplerError, match=r"has the coordinates \(alpha\), but the chart has \(alpha, beta\).*ln.Grid\(alpha="
    ):
        ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 3)))
    other = ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.ones(2)})
    with pytest.raises(errors.StructureMismatchError, match="the chart's centre and the objective differ"):
        ln.evaluate(other, plane, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)))


def test_an_output_that_exists_is_found_before_anything_is_computed(objective, plane, tmp_path):
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr" / "notes.txt").write_text("somebody's")  # an empty folder would be free to use
    calls = []
    objective.evaluate = lambda params: calls.append(1)
    with pytest.raises(errors.OutputExistsError, match=r"run.zarr is no surface of ours"):
        ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), store=tmp_path / "run.zarr")
    assert not calls


def test_an_off_centre_chart_is_allowed(objective, plane):
    """A chart may lie anywhere in the objective's space, not only around its own weights."""
    shifted = ln.Line(plane([0.5, 0.5]), plane.directions[0])
    surface = ln.evaluate(objective, shifted, ln.Grid(alpha=(0, 1, 2)))
    assert surface["loss"][0] == pytest.approx(objective.evaluate(plane([0.5, 0.5]))["loss"])
    assert surface.attrs["chart"]["center"] != algebra.fingerprint(objective.params)


def test_parameters_that_require_grad_may_be_centre_and_direction(images, everything):
    """A chart around the model's own parameters: detached, and the model is as before."""
    objective = ln.Objective(everything, "cross_entropy", images)
    own = dict(everything.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in own.items()}
    for chart in (ln.Line(own, own), ln.RescaledLine(own, own)):
        assert ln.evaluate(objective, chart, ln.Grid(alpha=(-0.5, 0.5, 3))).lossnav.counts["ok"] == 3
    assert all(torch.equal(own[name], before[name]) for name in own)


def test_nothing_is_computed_before_it_is_known_that_it_can_be_described():
    named = ln.Objective.from_function(
        lambda p: p["x"].sum(), {"x": torch.ones(2)}, metrics={"alpha": lambda p: p["x"][0]}
    )
    with pytest.raises(errors.OptionError, match="have the same name, 'alpha'"):
        ln.evaluate(named, ln.Line(named.params, {"x": torch.ones(2)}), ln.Grid(alpha=(-1, 1, 3)))


def test_batches_nobody_can_pickle_are_evaluated_all_the_same():
    class Local:
        x, y = DATA

    model = nn.Linear(4, 3).eval()
    forward = lambda model, batch: (model(batch.x), batch.y)  # noqa: E731
    objective = ln.Objective(model, "cross_entropy", [Local()], forward=forward)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    assert ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3))).lossnav.complete


# ---------------------------------------------------------------------- what it would cost


def test_an_estimate_plans_and_says_what_a_run_costs():
    torch.manual_seed(0)
    data = torch.randn(2000, 64), torch.randint(0, 5, (2000,))
    objective = ln.Objective(torch.nn.Linear(64, 5), "cross_entropy", data)
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    before = torch.random.get_rng_state()
    found = ln.estimate(objective, plane, ln.Grid(alpha=(-1, 1, 200), beta=(-1, 1, 200)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found.points == 40_000
    assert found.plan != "plain"
    assert found.plan_error < 1e-5
    assert found.seconds == pytest.approx(
        found.checking_seconds + found.planning_seconds + 40_000 * found.seconds_per_point
    )
    assert 0 < found.seconds_per_point < 1
    assert found.memory > 1e7
    with pytest.raises(errors.SamplerError):
        ln.estimate(objective, plane, ln.Grid(alpha=(-1, 1, 3)))


def working():
    """A clock that only the objective moves: a second a point, and ten for each coordinate that is not zero."""
    work = SimpleNamespace(now=0.0, points=[])

    def loss(params):
        work.points.append(tuple(params["x"].tolist()))
        work.now += 1 + 10 * float((params["x"] != 0).sum())
        return (params["x"] ** 2).sum() + 1

    return work, loss


SAMPLERS = {
    "grid": ln.Grid(alpha=(-1, 1, 11), beta=(-1, 1, 11)),
    "a small grid": ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 2)),
    "a large grid": ln.Grid(alpha=(-1, 1, 71), beta=(-1, 1, 71)),
    "automatic ranges": ln.Grid(alpha=("auto", 7), beta=("auto", 7)),
    "points on an axis": ln.Points([(x / 10, 0.0) for x in range(20)]),
    "one point": ln.Points([(0.5, 0.5)]),
    "the centre alone": ln.Points([(0.0, 0.0)]),
    "adaptive": ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=1e-4),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_estimate_is_of_points_like_those_of_the_run(monkeypatch, name):
    """At the centre nothing is added, so it says nothing about what a point costs."""
    from lossnav.evaluation import estimate

    (work, loss), sampler = working(), SAMPLERS[name]
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: work.now))
    objective = ln.Objective.from_function(loss, {"x": torch.zeros(2)})
    directions = [{"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([0.0, 1.0])}]
    plane = ln.Plane(objective.params, *directions)
    found = ln.estimate(objective, plane, sampler)
    timed = [point for point in work.points if point != (0.0, 0.0)]
    work.now = 0.0
    surface = ln.evaluate(objective, plane, sampler, progress=False)
    estimated = found.seconds_for(int((surface["status"] > 0).sum()))
    assert 1 / 1.5 < estimated / work.now < 1.5
    assert name in ("automatic ranges", "one point", "the centre alone") or len(set(timed)) == len(timed) >= 4
    assert found.planning_seconds == found.compiling_seconds == 0


@pytest.mark.parametrize("together", [1, 4])
def test_an_estimate_counts_workers_and_what_the_planning_takes(monkeypatch, together):
    """Of an engine that computes several points in the time of one, and plans for a minute."""
    from lossnav.evaluation import estimate

    work, loss = working()

    class Crew(ln.Local):
        concurrency = together

        def prepare(self, function, probes, total):
            work.now += 60
            return function

        def run(self, function, points):
            for start in range(0, len(points), together):
                before = work.now
                for outcome in super().run(function, points[start : start + together]):
                    yield outcome._replace(number=start + outcome.number)
                work.now = before + 21.0

    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: work.now))
    objective = ln.Objective.from_function(loss, {"x": torch.zeros(2)})
    plane = ln.Plane(objective.params, {"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([0.0, 1.0])})
    grid = ln.Grid(alpha=(-1, 1, 20), beta=(-1, 1, 20))
    found = ln.estimate(objective, plane, grid, engine=Crew())
    assert found.planning_seconds == 60
    assert found.seconds_per_point == pytest.approx(21.0, rel=0.1)
    assert found.workers == together
    work.now = 0.0
    ln.evaluate(objective, plane, grid, engine=Crew(), progress=False)
    assert found.seconds == pytest.approx(work.now, rel=0.1)
