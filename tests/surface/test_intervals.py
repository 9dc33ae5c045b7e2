"""What an interval covers was counted; what makes it too narrow is said; differences are paired."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from typer.testing import CliRunner

import lossnav as ln
from lossnav import cli
from lossnav.surface.intervals import interval_of
from lossnav.surface.sample_spread import spread_of

OPTION = ln.errors.OptionError


def surface_of(losses, subset=None, keep=False, at=((0.0,), (0.5,)), **options):
    """A surface whose samples lose so much at its centre, and b (1 + x²) at x."""
    losses = torch.as_tensor(np.asarray(losses), dtype=torch.float64)
    objective = ln.Objective.from_function(
        lambda p, b: b * (1 + p["x"] ** 2),
        {"x": torch.zeros(1, dtype=torch.float64)},
        losses,
        reduction="none",
        batch_size=len(losses),
    )
    if subset is not None:
        objective = objective.subset(subset, seed=subset)
    line = ln.Line(objective.params, {"x": torch.ones(1, dtype=torch.float64)})
    points = ln.Points([list(each) for each in at], dims=("alpha",))
    return ln.evaluate(objective, line, points, keep_samples=keep, engine=ln.Local(plan="plain"), **options)


def level(surface):
    return ln.report(surface)["intervals"].level


# ---------------------------------------------------------------------- intervals


def test_of_harmless_losses_it_is_students_t():
    x = np.random.default_rng(0).normal(1, 0.3, 40)
    x = np.random.default_rng(1).permutation(np.concatenate([x, 2 * x.mean() - x]))  # no skewness
    found = ln.interval(surface_of(x), [0.0])
    t = 1.9904502102301287  # of 79 degrees of freedom
    half = t * x.std(ddof=1) / np.sqrt(80)
    np.testing.assert_allclose([found.low, found.high], [x.mean() - half, x.mean() + half], rtol=1e-6)
    assert found.holds


def test_of_two_values_it_is_wilsons():
    found = ln.interval(surface_of([1.0] * 7 + [0.0] * 93), {"alpha": 0.0})
    np.testing.assert_allclose([found.low, found.high], [0.03432, 0.13751], atol=2e-4)  # Wilson 1927 for 7 of 100
    other = ln.interval(surface_of([5.0] * 7 + [3.0] * 93), [0.0])  # whatever the two values are
    np.testing.assert_allclose([other.low, other.high], [3 + 2 * found.low, 3 + 2 * found.high], rtol=1e-9)


def test_at_every_point_the_skewness_there_counts_and_kept_samples_more():
    losses = np.random.default_rng(1).exponential(1, 120)
    bare, full = surface_of(losses), surface_of(losses, keep=True)
    for point in ([0.0], [0.5]):
        one, other = ln.interval(bare, point), ln.interval(full, point)
        np.testing.assert_allclose([one.low, one.high], [other.low, other.high], rtol=1e-5)


KINDS = {
    "rare large losses": lambda rng: np.where(np.arange(200) < 3, 100.0, rng.random(200)),
    "lognormal": lambda rng: rng.lognormal(0, 2, 200),
    "a heavy lower tail": lambda rng: -rng.lognormal(0, 2, 200),
    "copies": lambda rng: np.tile(rng.normal(1, 0.3, 20), 10),
    "copies in a row": lambda rng: np.repeat(rng.normal(1, 0.3, 20), 10),
    "groups": lambda rng: np.repeat(rng.normal(0, 1, 20), 10) + rng.normal(0, 0.5, 200),
    "all the same": lambda rng: np.full(200, 0.7),
    "very few": lambda rng: rng.normal(1, 0.3, 8),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_makes_it_too_narrow_is_said_by_the_interval_and_by_the_report(kind):
    surface = surface_of(KINDS[kind](np.random.default_rng(3)))
    assert ln.interval(surface, [0.0]).warnings
    finding = ln.report(surface)["intervals"]
    assert finding.level == "warning"
    assert "too narrow" in finding.said


HARMLESS = {
    "normal": lambda rng: rng.normal(1, 0.3, 200),
    "exponential": lambda rng: rng.exponential(1, 200),
    "errors": lambda rng: (rng.random(200) < 0.1) * 1.0,
    "a few levels": lambda rng: rng.integers(0, 4, 200) / 4,
    "sorted": lambda rng: np.sort(rng.normal(1, 0.3, 200)),
    "evenly spaced": lambda rng: np.linspace(0, 1, 200),
}


@pytest.mark.parametrize("kind", list(HARMLESS))
def test_there_is_no_false_alarm(kind):
    surface = surface_of(HARMLESS[kind](np.random.default_rng(4)))
    assert not ln.interval(surface, [0.0]).warnings
    assert ln.report(surface)["intervals"].level == "ok"


def test_data_sorted_by_class_is_not_in_groups():
    torch.manual_seed(0)
    y = torch.arange(4).repeat_interleave(60)
    x = torch.randn(240, 3) + y[:, None]
    model = nn.Linear(3, 4).requires_grad_(False)
    objective = ln.Objective(model, "cross_entropy", (x, y))
    line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)))
    assert surface.attrs["sampling"]["ordered"] < 3.5


def test_copies_count_once():
    few = np.random.default_rng(5).normal(1, 0.3, 30)
    once, tenfold = ln.interval(surface_of(few), [0.0]), ln.interval(surface_of(np.tile(few, 10)), [0.0])
    assert tenfold.error < once.error / 3  # what is recorded stays what it was
    np.testing.assert_allclose([tenfold.low, tenfold.high], [once.low, once.high], rtol=0.03)


def test_weights_count_by_what_they_are_and_a_class_never_seen_is_named():
    torch.manual_seed(0)
    weight = torch.tensor([0.1, 1.0, 10.0])
    x = torch.randn(100, 4)
    line = {}
    for name, y in {
        "even": torch.arange(100) % 3,
        "one": torch.cat([torch.zeros(90), torch.ones(9), torch.full((1,), 2.0)]).long(),
        "none": torch.cat([torch.zeros(90), torch.ones(10)]).long(),
    }.items():
        objective = ln.Objective(nn.Linear(4, 3), nn.CrossEntropyLoss(weight=weight), (x, y))
        chart = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
        line[name] = ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 3)))
    w = weight[torch.cat([torch.zeros(90), torch.ones(9), torch.full((1,), 2.0)]).long()].double()
    np.testing.assert_allclose(line["one"].attrs["sampling"]["effective"], w.sum() ** 2 / (w**2).sum(), rtol=1e-6)
    assert any("count as" in warning for warning in ln.interval(line["one"], [0.0]).warnings)
    assert any("no sample" in warning for warning in ln.interval(line["none"], [0.0]).warnings)
    assert not any("count as" in warning for warning in ln.interval(line["even"], [0.0]).warnings)


def test_of_a_subset_what_it_missed_is_known_from_all_the_data():
    rng = np.random.default_rng(6)
    losses = rng.random(5000)
    losses[:40] = 100.0  # a class that 50 samples hold none of, most often
    surface = surface_of(losses, subset=50)
    assert ln.report(surface)["intervals"].level == "warning"
    assert ln.interval(surface, [0.0]).warnings
    population = surface.attrs["sampling"]["population"]
    np.testing.assert_allclose(population["loss"], losses.mean(), rtol=1e-9)
    assert ln.report(surface_of(rng.random(5000), subset=50))["intervals"].level == "ok"


def test_all_of_it_drawn_is_no_estimate():
    found = ln.interval(surface_of(np.random.default_rng(0).exponential(1, 60), subset=60), [0.0])
    assert found.low == found.value == found.high
    assert found.holds


def test_a_loss_that_hides_its_samples_is_not_known():
    objective = ln.Objective(nn.Linear(2, 1), lambda out, y: F.mse_loss(out, y), (torch.eye(2), torch.eye(2)[:, :1]))
    line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)))
    with pytest.raises(OPTION, match="reduction='none'"):
        ln.interval(surface, [0.0])
    assert ln.report(surface)["intervals"].level == "unknown"


def test_points_that_were_not_evaluated_are_refused_with_the_nearest():
    surface = surface_of([1.0, 2.0, 3.0])
    with pytest.raises(OPTION, match=r"nearest point with a finite loss is \[0.5\]"):
        ln.interval(surface, [0.4])
    with pytest.raises(OPTION, match="coordinates"):
        ln.interval(surface, [0.4, 0.2])
    with pytest.raises(OPTION, match="level"):
        ln.interval(surface, [0.5], level=95)


def test_what_is_recorded_of_skewness_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(0).gamma(0.7, size=500)
    said = spread_of(x, np.ones(500))
    np.testing.assert_allclose(said["skewness"], stats.skew(x), rtol=1e-9)
    k = 25
    top = np.sort(x - x.mean())[::-1][: k + 1]
    np.testing.assert_allclose(said["tail"], np.log(top[:k] / top[k]).mean(), rtol=1e-9)


@pytest.mark.parametrize("skewness", [-30.0, -3.0, -1e-9, 0.0, 3.0, 30.0])
def test_the_ends_lie_on_both_sides_and_mirror_each_other(skewness):
    one = interval_of(0.0, 1.0, {"samples": 100, "effective": 100.0, "skewness": skewness})
    other = interval_of(0.0, 1.0, {"samples": 100, "effective": 100.0, "skewness": -skewness})
    assert one.low <= 0 <= one.high
    np.testing.assert_allclose([one.low, one.high], [-other.high, -other.low], atol=1e-12)


def test_of_what_is_no_mean_over_samples_there_is_none():
    surface = surface_of(np.random.default_rng(0).random(50), at=[(float(x),) for x in np.linspace(0, 1, 9)])
    with pytest.raises(OPTION, match="interpolation"):
        ln.interval(surface.lossnav.to_grid(9), [0.0])


# ---------------------------------------------------------------------- differences


def kept(weight=None, seed=0, n=150, subset=None):
    torch.manual_seed(seed)
    x, y = torch.randn(n, 4), torch.randint(0, 3, (n,))
    torch.manual_seed(seed + 1)
    model = nn.Linear(4, 3).requires_grad_(False)
    loss = nn.CrossEntropyLoss(weight=weight)
    objective = ln.Objective(model, loss, (x, y), subset=subset)
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=seed, exclude=()))
    return (
        model,
        plane,
        (x, y),
        ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), keep_samples=True),
    )


def losses_at(model, plane, data, point, weight=None):
    out = functional_call(model, plane(point), (data[0],))
    return F.cross_entropy(out, data[1], weight, reduction="none").detach().double().numpy()


def test_a_difference_is_that_of_plain_torch_with_its_paired_error():
    model, plane, data, surface = kept()
    found = ln.difference(surface, [1.0, 0.0], [0.0, -1.0])
    d = losses_at(model, plane, data, [1.0, 0.0]) - losses_at(model, plane, data, [0.0, -1.0])
    np.testing.assert_allclose(found.value, d.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.error, d.std(ddof=1) / np.sqrt(len(d)), rtol=1e-5)
    assert found.samples == 150
    back = ln.difference(surface, {"alpha": 0.0, "beta": -1.0}, [1.0, 0.0])
    np.testing.assert_allclose([back.value, back.low, back.high], [-found.value, -found.high, -found.low])


def test_with_class_weights_it_is_a_ratio():
    weight = torch.tensor([0.1, 1.0, 10.0])
    model, plane, data, surface = kept(weight)
    a, b = (losses_at(model, plane, data, point, weight) for point in ([1.0, 1.0], [0.0, 0.0]))
    w = weight[data[1]].double().numpy()
    value = (a.sum() - b.sum()) / w.sum()
    r, n = (a - b) - value * w, len(w)
    found = ln.difference(surface, [1.0, 1.0], [0.0, 0.0])
    np.testing.assert_allclose(found.value, value, rtol=1e-5)
    np.testing.assert_allclose(found.error, np.sqrt(n * (r**2).sum() / (n - 1)) / w.sum(), rtol=1e-5)


def test_of_a_subset_it_is_of_all_the_data():
    _, _, _, part = kept(subset=50)
    a, b = (part["sample_loss"].sel(alpha=x, beta=0.0).values.astype(float) for x in (1.0, -1.0))
    found = ln.difference(part, [1.0, 0.0], [-1.0, 0.0])
    np.testing.assert_allclose(found.error, (a - b).std(ddof=1) / np.sqrt(50) * np.sqrt(1 - 50 / 150), rtol=1e-5)


def test_two_surfaces_at_a_point_and_only_over_the_same_samples():
    torch.manual_seed(0)
    x, y = torch.randn(80, 4), torch.randint(0, 3, (80,))
    surfaces, models = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(nn.Linear(4, 3).requires_grad_(False))
        objective = ln.Objective(models[-1], "cross_entropy", (x, y))
        line = ln.Line(objective.params, ln.directions.random(objective, seed=0)[0])
        surfaces.append(ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), keep_samples=True))
    found = ln.difference(*surfaces, [0.0])
    d = [F.cross_entropy(model(x), y, reduction="none").double() for model in models]
    d = (d[0] - d[1]).numpy()
    np.testing.assert_allclose([found.value, found.error], [d.mean(), d.std(ddof=1) / np.sqrt(80)], rtol=1e-5)
    with pytest.raises(OPTION, match="different data"):
        ln.difference(surfaces[0], surface_of([1.0, 2.0, 3.0], keep=True, at=[(0.0,)]), [0.0])


def test_at_equal_points_it_is_exactly_nothing():
    *_, surface = kept()
    found = ln.difference(surface, [1.0, 0.0], [1.0, 0.0])
    assert found.value == found.error == found.low == found.high == 0.0


def test_a_difference_of_a_few_samples_says_so():
    losses = np.random.default_rng(0).normal(1, 0.3, 200)
    losses[:2] = 300.0  # whose loss alone differs by much
    assert ln.difference(surface_of(losses, keep=True), [0.5], [0.0]).warnings
    harmless = ln.difference(surface_of(np.random.default_rng(0).random(200), keep=True), [0.5], [0.0])
    assert not harmless.warnings


def test_without_kept_samples_it_says_what_to_do():
    with pytest.raises(OPTION, match="keep_samples=True"):
        ln.difference(surface_of([1.0, 2.0, 3.0]), [0.5], [0.0])


def test_the_report_takes_kept_samples_for_its_differences():
    *_, surface = kept()
    values = ln.report(surface)["noise"].values
    assert values["paired"]
    subject_middle = surface["loss"].values.reshape(-1)
    a, b = (
        surface["sample_loss"].values.reshape(9, -1)[i].astype(float)
        for i in (subject_middle.argmax(), subject_middle.argmin())
    )
    assert values["difference_se"] == pytest.approx((a - b).std(ddof=1) / np.sqrt(150), rel=1e-4)


# ---------------------------------------------------------------------- the command line


def test_the_commands_say_the_same(tmp_path):
    *_, surface = kept()
    other = surface.copy(deep=True)
    ln.save(surface, tmp_path / "run.zarr")
    ln.save(other, tmp_path / "other.zarr")
    run, at = str(tmp_path / "run.zarr"), ["--at", "1", "-1"]
    called = CliRunner().invoke(cli.app, ["difference", run, *at, "--and", "0", "0", "--json"])
    assert called.exit_code == 0, called.output
    said, found = json.loads(called.stdout), ln.difference(surface, [1.0, -1.0], [0.0, 0.0])
    assert (said["value"], said["error"], said["low"]) == (found.value, found.error, found.low)
    called = CliRunner().invoke(cli.app, ["difference", run, *at, "--other", str(tmp_path / "other.zarr"), "--json"])
    assert json.loads(called.stdout)["error"] == 0.0
    called = CliRunner().invoke(cli.app, ["interval", run, "--at", "1,-1", "--json"])
    assert json.loads(called.stdout)["high"] == ln.interval(surface, [1.0, -1.0]).high
    assert "samples" in CliRunner().invoke(cli.app, ["interval", run, *at]).stdout
    assert CliRunner().invoke(cli.app, ["difference", run, *at]).exit_code == 2
    assert CliRunner().invoke(cli.app, ["difference", run, "--at", "0.3", "0", "--and", "0", "0"]).exit_code == 2


# ---------------------------------------------------------------------- counted


def test_the_benchmark_of_honesty_counts_through_the_public_call():
    pytest.importorskip("benchmarks.honesty_intervals")
    from benchmarks.honesty_intervals import cases

    made = {case.name.split(",")[0]: case for case in cases(np.random.default_rng(0))}
    for name in ("normal", "Pareto", "class weights .1/1/10", "difference"):
        case = made[name]
        surface, truth = case.draw(np.random.default_rng(1))
        found = ln.difference(surface, [1.0], [0.0]) if case.of_difference else ln.interval(surface, [0.0])
        assert found.low < found.high
        assert np.isfinite(truth)
    assert any(case.benign for case in made.values())
    assert any(not case.benign for case in made.values())


# ---------------------------------------------------------------------- rounding, and how data is cut


class Sizes(nn.Module):
    """The i-th sample is scaled by the weight: in float64."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    def forward(self, x):
        return self.w * x


@pytest.mark.parametrize("kind", ["alike", "various"])
def test_a_difference_below_what_float32_keeps_is_neither_nothing_nor_sure(kind):
    x = torch.ones(60, 1, dtype=torch.float64) * 0.3
    if kind == "various":
        x = torch.rand(60, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective = ln.Objective(Sizes(), nn.MSELoss(), (x, torch.zeros_like(x)))
    line = ln.Line(objective.params, {"w": torch.ones(1, dtype=torch.float64)})
    at = ln.Points([[0.0], [1e-10], [3e-9], [1e-2]], dims=("alpha",))
    surface = ln.evaluate(objective, line, at, keep_samples=True)
    for step in (1e-10, 3e-9):
        found = ln.difference(surface, [step], [0.0])
        np.testing.assert_allclose(found.value, float((x**2).mean()) * ((1 + step) ** 2 - 1), rtol=1e-4)
        assert found.low < found.value < found.high
        assert any("differences are equal up to rounding" in warning for warning in found.warnings)
    large = ln.difference(surface, [1e-2], [0.0])
    d = (x**2).numpy() * (1.01**2 - 1)
    np.testing.assert_allclose(large.value, d.mean(), rtol=1e-12)
    if kind == "various":
        np.testing.assert_allclose(large.error, d.std(ddof=1) / np.sqrt(60), rtol=1e-4)
        assert not large.warnings


@pytest.mark.parametrize("weight", [None, torch.tensor([0.1, 1.0, 10.0])])
def test_a_difference_is_that_of_the_losses_of_the_surface(weight):
    *_, surface = kept(weight)
    found = ln.difference(surface, [1.0, 0.0], [0.0, 1.0])
    assert found.value == float(surface["loss"].sel(alpha=1.0, beta=0.0) - surface["loss"].sel(alpha=0.0, beta=1.0))


def cut_into(length, form, order=slice(None), x_of=None):
    torch.manual_seed(0)
    x, y = torch.randn(80, 4), torch.randint(0, 3, (80,))
    x, y = (x if x_of is None else x_of(x))[order], y[order]
    objective = {
        "tensors": lambda: ln.Objective(nn.Linear(4, 3), "cross_entropy", (x, y), batch_size=length),
        "dict": lambda: ln.Objective(nn.Linear(4, 3), "cross_entropy", {"input": x, "labels": y}, batch_size=length),
        "list": lambda: ln.Objective(
            nn.Linear(4, 3), "cross_entropy", list(zip(x.split(length), y.split(length), strict=True))
        ),
        "streamed": lambda: ln.Objective(
            nn.Linear(4, 3), "cross_entropy", list(zip(x.split(length), y.split(length), strict=True)), data_budget=1
        ),
        "subset": lambda: ln.Objective(nn.Linear(4, 3), "cross_entropy", (x, y), batch_size=length, subset=40),
    }[form]()
    line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    return objective, (x, y), ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), keep_samples=True)


@pytest.mark.parametrize("form", ["tensors", "dict", "list", "streamed"])
def test_how_the_same_samples_are_cut_into_batches_is_all_one(form):
    one, data, surface = cut_into(80, "tensors")
    other, _, cut = cut_into(7, form)
    found = ln.difference(surface, cut, [0.0])
    losses = [
        F.cross_entropy(functional_call(nn.Linear(4, 3), o.params, (data[0],)), data[1], reduction="none").double()
        for o in (one, other)
    ]
    np.testing.assert_allclose(found.value, float((losses[0] - losses[1]).mean()), atol=1e-7)


@pytest.mark.parametrize("change", ["order", "one bit", "half", "subset"])
def test_other_samples_are_refused_however_they_are_cut(change):
    def bit(x):
        x = x.clone()
        x[3, 1] = torch.nextafter(x[3, 1], torch.tensor(10.0))
        return x

    made = {
        "order": lambda: cut_into(7, "tensors", torch.arange(80).flip(0)),
        "one bit": lambda: cut_into(7, "tensors", x_of=bit),
        "half": lambda: cut_into(7, "tensors", slice(0, 40)),
        "subset": lambda: cut_into(7, "subset"),
    }
    _, _, surface = cut_into(80, "tensors")
    with pytest.raises(OPTION, match="different data"):
        ln.difference(surface, made[change]()[2], [0.0])


def test_what_is_no_point_or_no_level_is_said():
    *_, surface = kept()
    for point in ("x", None, [], [0.0], [0.0, "y"], {"alpha": 0.0}, [[0.0, 0.0]] * 2, {"alpha": "a", "beta": None}):
        for call in (lambda p: ln.interval(surface, p), lambda p: ln.difference(surface, p, [0.0, 0.0])):
            with pytest.raises(OPTION, match="needs the coordinates"):
                call(point)
    for arguments in ((surface, [0.0, 0.0], surface), (surface, surface, surface)):
        with pytest.raises(OPTION, match="last argument must be a point"):
            ln.difference(*arguments)
    for level in ("a", None, 0, 1, float("nan")):
        with pytest.raises(OPTION, match="level="):
            ln.interval(surface, [0.0, 0.0], level=level)


# ---------------------------------------------------------------------- tails


def trained_classifier(seed, n):
    """Losses as a trained network has them: most are almost 0, and the largest end as an exponential does."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(4.0, 3.0, n)
    return np.log1p(np.exp(-margin))


@pytest.mark.parametrize(("n", "most"), [(500, 0.2), (1000, 0.05), (3000, 0.02)])
def test_losses_of_a_trained_classifier_are_not_taken_for_heavy(n, most):
    truth = trained_classifier(0, 2_000_000).mean()
    covered = warned = 0
    for seed in range(1, 201):
        losses = trained_classifier(seed, n)
        found = interval_of(losses.mean(), losses.std(ddof=1) / np.sqrt(n), spread_of(losses, np.ones(n)))
        covered, warned = covered + (found.low <= truth <= found.high), warned + bool(found.warnings)
    assert covered >= 0.91 * 200
    assert warned <= most * 200


@pytest.mark.parametrize("n", [150, 190, 400, 800])
@pytest.mark.parametrize("alpha", [1.5, 1.9])
def test_tails_without_a_variance_are_named_or_covered(n, alpha):
    rng, honest, truth = np.random.default_rng([n, int(10 * alpha)]), 0, alpha / (alpha - 1)
    for _ in range(300):
        losses = rng.pareto(alpha, n) + 1
        found = interval_of(losses.mean(), losses.std(ddof=1) / np.sqrt(n), spread_of(losses, np.ones(n)))
        honest += bool(found.warnings) or found.low <= truth <= found.high
    assert honest >= 0.9 * 300


def test_two_samples_are_no_sample_of_two_values():
    from scipy import stats

    found = ln.interval(surface_of([1.0, 2.0]), [0.0])
    half = stats.t.ppf(0.975, 1) * 0.5
    np.testing.assert_allclose([found.low, found.high], [1.5 - half, 1.5 + half], rtol=1e-6)
    many = np.tile([1.0, 2.0], 10)  # each there ten times they are no more
    spread = spread_of(many, np.ones(20)) | {"copies": 10.0, "distinct": 2}
    again = interval_of(1.5, many.std(ddof=1) / np.sqrt(20), spread)
    assert again.high - again.low > half
    assert again.warnings


@pytest.mark.parametrize("losses", [[1.0], [1e200, 2e200, 3e200]])
def test_where_no_standard_error_is_finite_the_report_says_so_and_not_that_losses_are_hidden(losses):
    found = ln.report(surface_of(losses))["intervals"]
    assert found.level == "unknown"
    assert "no standard error of" in found.said
