"""Whatever is done to go faster gives the plain path's values, or is not done."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.acceleration import ChartFunction, Plan
from lossnav.acceleration import planner as planning
from lossnav.acceleration.planned import Fast
from lossnav.acceleration.structure import look

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, 8, 8, generator=GENERATOR)
Y = torch.randint(0, 5, (60,), generator=GENERATOR)
GRID = ln.Grid(alpha=(-1, 1, 5), beta=(-0.5, 1, 4))


WAYS = ["auto", "tuned"]


class ConvNet(nn.Module):
    """Convolutions with and without bias, each followed by a BatchNorm; linear layers; an in-place relu."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=False)
        self.dense, self.head = nn.Linear(64, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu_()
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.head(torch.tanh(self.dense(x.flatten(1))))


def trained(model):
    """Running statistics that are not the initial ones."""
    model.train()
    for _ in range(3):
        model(2 * X + 1)
    return model.eval()


def make(model, **options):
    return ln.Objective(trained(model), "cross_entropy", (X, Y), metrics=["accuracy"], batch_size=20, **options)


def plane_of(objective, exclude=("bias", "norm")):
    return ln.Plane(objective.params, *ln.directions.random(objective, n=2, exclude=exclude, seed=1))


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


@pytest.fixture
def eager(monkeypatch):
    """Plan even for small runs, and take every change that is right, however slow: the traps must be stepped into."""
    for name in ("_WORTH_PLANNING", "_WORTH_RULES", "_FEWEST_POINTS", "_LEAST_INPUTS"):
        monkeypatch.setattr(planning, name, 0)
    monkeypatch.setattr(planning, "_GAIN", 1e9)
    monkeypatch.setattr(planning, "_clock", lambda run: (run(), 1e-3)[1])


@pytest.mark.parametrize("way", WAYS)
def test_auto_finds_everything_and_proves_it(eager, way):
    objective = make(ConvNet())
    surface = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)
    engine = surface.attrs["engine"]
    for field in ("fold_batch_norm", "amortize_first_layer"):
        assert engine["plan_fields"][field]
    assert 0 < engine["plan_error"] < 1e-5
    assert engine["plan_probes"] >= 8
    assert plain.attrs["engine"]["plan"] == "plain"


# ---------------------------------------------------------------------- planted traps


class HookedInput(ConvNet):
    """A hook changes what the first layer is given, by a weight."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.conv1.register_forward_pre_hook(_gain)

    def forward(self, x):
        self.conv1.gain = self.gain
        return super().forward(x)


def _gain(module, given):
    return (given[0] * module.gain,)


class HookedOutput(ConvNet):
    """A hook changes the output of the convolution before its BatchNorm sees it."""

    def __init__(self):
        super().__init__()
        self.conv2.register_forward_hook(lambda module, given, made: made * 2 + 1)


class NormTwice(ConvNet):
    """One BatchNorm used after two convolutions."""

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.bn2(x + 1)
        return self.head(torch.tanh(self.dense(x.flatten(1))))


class OutputUsedTwice(ConvNet):
    """The convolution's output goes to its BatchNorm and past it."""

    def forward(self, x):
        x = self.conv1(x)
        x = torch.relu(self.bn1(x) + 0.5 * x)
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.head(torch.tanh(self.dense(x.flatten(1))))


class NotOnTheData(ConvNet):
    """What the first layer is given looks like the data until a weight says otherwise."""

    def __init__(self):
        super().__init__()
        self.switch = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        return super().forward(x + 10 * torch.relu(self.switch - 0.5))


class LayerTwice(ConvNet):
    """The first layer is called a second time, on something of the model's own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, x):
        return super().forward(self.first(torch.tanh(self.first(x))))


class ByTheData(ConvNet):
    """Takes another branch, to the same values, where the data says so: not to be compiled as one graph."""

    def forward(self, x):
        x = super().forward(x)
        return x if x.sum() > 0 else (x * 2) / 2


class Tied(ConvNet):
    """The first layer's weight is used again in the end."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(64, 64, bias=False)

    def forward(self, x):
        x = self.embed(x.flatten(2)).reshape_as(x)
        x = F.linear(x.flatten(2), self.embed.weight).reshape_as(x)
        return super().forward(x)


class Dropping(ConvNet):
    """Dropout that is off, and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.drop(super().forward(x))


TRAPS = [HookedInput, HookedOutput, NormTwice, OutputUsedTwice, NotOnTheData, LayerTwice, ByTheData, Tied, Dropping]


@pytest.mark.parametrize("kind", TRAPS, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore::lossnav.errors.PlanFellBackWarning")
@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_plan_is_caught_and_the_surface_is_right_all_the_same(eager, kind, way):
    objective = make(kind())
    d1, d2 = ln.directions.random(objective, n=2, exclude=(), seed=1)
    if "switch" in d1:
        d1["switch"].fill_(1.0)
    plane = ln.Plane(objective.params, d1, d2)
    surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)
    np.testing.assert_allclose(surface["accuracy"], plain["accuracy"], atol=1.01 / 60)


class Noisy(ConvNet):
    """Draws random numbers: the same ones at every point, but others for other batches."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


def _mean_of_the_valid(outputs, targets):
    """A mean without a `reduction` argument: with ignored targets it depends on how the data is cut."""
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("case", ["noise", "mean of the valid"])
@pytest.mark.filterwarnings("ignore::lossnav.errors.PlanFellBackWarning")
@pytest.mark.parametrize("way", WAYS)
def test_what_depends_on_the_batches_keeps_them(eager, case, way):
    """The data is smaller than what plans are tuned on, so the truth is the objective in its own batches."""
    targets = Y.clone()
    targets[45:55] = -100
    if case == "noise":
        objective = ln.Objective(trained(Noisy()), "cross_entropy", (X, Y), batch_size=20)
    else:
        objective = ln.Objective(trained(ConvNet()), _mean_of_the_valid, (X, targets), batch_size=20)
    plane = plane_of(objective)
    surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane, GRID)
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)


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
    with pytest.warns(errors.PlanFellBackWarning, match="did not prove itself.*plan='plain'") as caught:
        surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan=Plan(**{field: True})))
    assert len(caught) == 1
    assert surface.attrs["engine"]["plan"] == "plain"
    plain = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_array_equal(surface["loss"], plain["loss"])


# ---------------------------------------------------------------------- what cannot be accelerated runs plainly


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(192, 5)
        self.weights = [self.layer.weight]

    def forward(self, x):
        return F.linear(x.flatten(1), self.weights[0], self.layer.bias)


@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")  # of a metric of the batch: it is one
@pytest.mark.parametrize("way", WAYS)
def test_models_on_a_private_copy_functions_and_recomputed_statistics_run_plainly(eager, way):
    for objective in (
        make(Aliased()),
        make(ConvNet(), bn="recompute"),
        make(ConvNet(), bn="batch"),
        ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(4)}),
        ln.Objective(trained(ConvNet()), "cross_entropy", (X, Y), metrics={"top": lambda o, y: o.max()}),
    ):
        surface = ln.evaluate(
            objective, plane_of(objective, ()) if objective.batches else _xy(objective), GRID, engine=ln.Local(plan=way)
        )
        assert surface.lossnav.counts["ok"] == 20
        assert surface.attrs["engine"]["plan"] == "plain"
        assert surface.attrs["engine"]["plan_events"][0].startswith("plain: ")


def _xy(objective):
    return ln.Plane(objective.params, *ln.directions.random(objective, 2, normalize=None))


@pytest.mark.parametrize("way", WAYS)
def test_a_charts_bend_does_not_hinder_the_rest(eager, way):
    objective = make(ConvNet())
    raw = {"normalize": None, "distribution": "uniform", "orthogonal": False}
    chart = ln.RescaledBilinear(objective.params, *ln.directions.random(objective, 2, **raw))
    surface = ln.evaluate(objective, chart, GRID, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, chart, GRID, engine=ln.Local(plan="plain"))
    np.testing.assert_allclose(surface["loss"], plain["loss"], rtol=1e-5)
    assert surface.attrs["engine"]["plan_fields"]["fold_batch_norm"]
    assert "amortize_first_layer" not in surface.attrs["engine"]["plan_fields"]


@pytest.mark.parametrize("way", WAYS)
def test_short_runs_are_not_planned(way):
    objective = make(ConvNet())
    surface = ln.evaluate(
        objective, plane_of(objective), ln.Grid(alpha=(-1, 1, 2), beta=(-1, 1, 2)), engine=ln.Local(plan=way)
    )
    assert surface.attrs["engine"]["plan_events"] == ["plain: done before a plan is found"]


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_is_found_once_an_objective(eager, monkeypatch, way):
    objective = make(ConvNet())
    ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    monkeypatch.setattr(planning._Finder, "_search", lambda self: pytest.fail("searched again"))
    ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))


@pytest.mark.parametrize("way", WAYS)
def test_diverging_points_agree_too(eager, way):
    """Corners so far out that the loss overflows are inf or NaN on both paths."""
    objective = make(ConvNet())
    plane = plane_of(objective)
    wide = ln.Grid(alpha=(-1e30, 1e30, 3), beta=(-1e30, 1e30, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.PlanFellBackWarning)
        surface = ln.evaluate(objective, plane, wide, engine=ln.Local(plan=way))
    plain = ln.evaluate(objective, plane, wide, engine=ln.Local(plan="plain"))
    np.testing.assert_array_equal(np.isfinite(surface["loss"]), np.isfinite(plain["loss"]))


# ---------------------------------------------------------------------- memory


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
    monkeypatch.setattr(planning, "free_bytes", lambda device: 1000.0)
    objective = make(ConvNet())
    surface = ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    assert "amortize_first_layer" not in surface.attrs["engine"]["plan_fields"]
    said = any("responses of conv1 take" in event for event in surface.attrs["engine"]["plan_events"])
    assert said == (way == "tuned")  # by rule it is not even tried


# ---------------------------------------------------------------------- options


def test_unknown_words_are_refused():
    for options, words in (
        ({"plan": "fast"}, "plan='fast' is unknown"),
        ({"precision": "int8"}, "precision='int8' is unknown.*bfloat16"),
        ({"plan": "plain", "precision": "bfloat16"}, "computes in the model's own precision"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            ln.Local(**options)


def test_the_default_plans_by_rule_and_gives_the_same_bits_twice(eager):
    plane = plane_of(make(ConvNet()))
    first, second = (ln.evaluate(make(ConvNet()), plane, GRID) for _ in range(2))
    np.testing.assert_array_equal(first["loss"], second["loss"])
    np.testing.assert_array_equal(first["loss_se"], second["loss_se"])
    one, other = (surface.attrs["engine"] for surface in (first, second))
    assert one["plan"] == other["plan"] != "plain"
    assert one["plan_error"] == other["plan_error"] < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_as_before(eager, way):
    model = trained(ConvNet())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = ln.Objective(model, "cross_entropy", (X, Y), batch_size=20)
    ln.evaluate(objective, plane_of(objective), GRID, engine=ln.Local(plan=way))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(objective.params[name], before[name]) for name in objective.params)
    assert type(model.bn1) is nn.BatchNorm2d
    assert type(model.dense) is nn.Linear
