"""Every plan that is asked for gives the plain path's values, and goes on where memory runs out."""

import numpy as np
import pytest
import torch

import lossnav as ln
from convnets import GRID, WAYS, ConvNet, HookedOutput, NotOnTheData, OutputUsedTwice, make, plan_eagerly, plane_of
from lossnav import errors
from lossnav.acceleration import ChartFunction, Plan, proof, rules
from lossnav.acceleration import planner as planning
from lossnav.acceleration.planned import Fast
from lossnav.acceleration.structure import look

PLANS = {
    "other batches": Plan(batch_size=7),
    "channels-last": Plan(channels_last=True),
    "folded": Plan(fold_batch_norm=True),
    "amortised": Plan(amortize_first_layer=True),
    "oneDNN": Plan(onednn_linear=True),
    "all": Plan("native", 25, True, True, True, True),
    "float64": Plan("float64", 25, True, True, True),
    "several points": Plan(batch_size=25, points=4),
    "several points, all": Plan("native", 25, True, True, True, points=2),
}


@pytest.fixture
def eager(monkeypatch):
    plan_eagerly(monkeypatch)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("exclude", [("bias", "norm"), ()], ids=["weights", "everything moves"])
def test_every_plan_gives_the_plain_values(name, exclude):
    objective = make(ConvNet())
    plane = plane_of(objective, exclude)
    structure = look(objective, plane([0.4, -0.3]))
    assert structure.first_layer == "conv1"
    assert structure.folds == [("conv1", "bn1"), ("conv2", "bn2")]
    fast = Fast(objective, plane, structure, PLANS[name])
    for point in (np.zeros(2), np.array([0.7, -0.4]), np.array([-1.0, 1.0])):
        plain = objective.evaluate(plane(point))
        got = fast(point)
        assert got.keys() == plain.keys()
        assert got["loss"] == pytest.approx(plain["loss"], rel=2e-6)
        assert got["loss_se"] == pytest.approx(plain["loss_se"], rel=1e-5)
        assert got["accuracy"] == pytest.approx(plain["accuracy"])


def test_several_points_at_once_are_a_surface_too():
    objective = make(ConvNet())
    plane = plane_of(objective)
    engine = ln.Local(plan=Plan(batch_size=25, fold_batch_norm=True, amortize_first_layer=True, points=7))
    surface = ln.evaluate(objective, plane, GRID, engine=engine)
    plain = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    assert surface.attrs["engine"]["plan_fields"]["points"] == 7
    for name in ("loss", "loss_se", "accuracy"):
        np.testing.assert_allclose(surface[name], plain[name], rtol=1e-5)


def test_several_points_at_once_take_fewer_when_memory_runs_out(monkeypatch):
    objective = make(ConvNet())
    real = Fast.many

    def tight(self, points):
        if len(points) > 3 and self.samples is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, points)

    plane = plane_of(objective)
    engine = ln.Local(plan=Plan(points=10))
    monkeypatch.setattr(Fast, "many", tight)
    surface = ln.evaluate(objective, plane, GRID, engine=engine)
    plain = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)
    assert surface.attrs["engine"]["plan_fields"]["points"] == 2
    assert surface.attrs["engine"]["plan_events"] == [
        "out of memory: 5 points at once",
        "out of memory: 2 points at once",
    ]


def test_a_point_that_fails_among_several_fails_alone(monkeypatch):
    objective = make(ConvNet())
    plane = plane_of(objective)
    real = Fast.many

    def failing(self, points):
        if self.samples is None and any(point[0] == 0.5 for point in points):
            raise RuntimeError("no")
        return real(self, points)

    monkeypatch.setattr(Fast, "many", failing)
    with pytest.warns(errors.PointsFailedWarning):
        surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=Plan(points=6)))
    assert surface.lossnav.counts["failed"] == 4
    assert surface.lossnav.counts["ok"] == 16


@pytest.mark.slow
def test_compiled_gives_the_plain_values():
    objective = make(ConvNet())
    plane = plane_of(objective)
    fast = Fast(
        objective, plane, look(objective, plane([0.4, -0.3])), Plan("native", 25, True, True, True, compiled=True)
    )
    for point in (np.zeros(2), np.array([0.7, -0.4]), np.array([0.2, 0.9])):  # 60 = 25 + 25 + a short one of 10
        assert fast(point)["loss"] == pytest.approx(objective.evaluate(plane(point))["loss"], rel=2e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float64", "float32", "tf32"])
def test_precisions_say_how_far_off_they_are(precision):
    objective = make(ConvNet())
    surface = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(precision=precision))
    truth = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan="plain"))
    engine = surface.attrs["engine"]
    worst = float((abs(surface["loss"] - truth["loss"]) / truth["loss"]).max())
    assert precision in engine["plan"]
    assert engine["plan_error"] <= planning.TOLERANCES[precision]
    assert worst < 3 * planning.TOLERANCES[precision]
    if precision == "bfloat16":
        assert engine["plan_error"] > 1e-6  # it is really computed in half precision


@pytest.mark.parametrize(
    ("kind", "field"),
    [(HookedOutput, "fold_batch_norm"), (OutputUsedTwice, "fold_batch_norm"), (NotOnTheData, "amortize_first_layer")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_wrong_plan_that_is_asked_for_falls_back_with_one_warning(kind, field):
    objective = make(kind())
    d1, d2 = ln.directions.random(objective, n=2, exclude=(), seed=1)
    if "switch" in d1:
        d1["switch"].fill_(1.0)
    plane = ln.Plane(objective.params, d1, d2)
    with pytest.warns(errors.PlanFellBackWarning, match="cannot be used.*plan='plain'") as caught:
        surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=Plan(**{field: True})))
    assert len(caught) == 1
    assert surface.attrs["engine"]["plan"] == "plain"
    plain = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_array_equal(surface["loss"], plain["loss"])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["gpu", "cpu"])
def test_out_of_memory_halves_the_batches_and_goes_on(monkeypatch, error):
    objective = make(ConvNet())
    plane = plane_of(objective)
    function = ChartFunction(objective, plane).accelerate(
        np.array([[0.0, 0.0], [0.5, 0.5]]), 10**6, "native", Plan(batch_size=60)
    )
    assert function.choice.plan.batch_size == 60
    real = Fast._functional

    def tight(self, state, pairs):
        pairs = list(pairs)
        if max(len(batch[0]) for batch, _ in pairs) > 16:
            raise error
        return real(self, state, pairs)

    monkeypatch.setattr(Fast, "_functional", tight)
    point = np.array([0.3, 0.3])
    assert function(point)["loss"] == pytest.approx(objective.evaluate(plane(point))["loss"], rel=1e-6)
    assert function.choice.plan.batch_size == 15
    assert function.describe()["plan_events"][-2:] == [
        "out of memory: batches halved to 30", "out of memory: batches halved to 15"
    ]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_first_layer_responses_take_only_a_part_of_the_memory(eager, monkeypatch, way):
    for module in (rules, proof):
        monkeypatch.setattr(module, "free_bytes", lambda device: 1000.0)
    objective = make(ConvNet())
    surface = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    assert "amortize_first_layer" not in surface.attrs["engine"]["plan_fields"]
    said = any("responses of conv1 need" in event for event in surface.attrs["engine"]["plan_events"])
    assert said == (way == "tuned")  # by rule it is not even tried
