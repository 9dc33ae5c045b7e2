"""What a report measures: against plain arithmetic, and against planted cases whose answer is known."""

import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.reports.measuring import parts
from lossnav.reports.measuring.samples import batch_dependence, difference
from lossnav.surface.groups import open_group
from planted import PLAIN, Decayed, bent, clusters, line_of, network, plane_of, train


def levels(report):
    return {line.check: line.level for line in report.lines}


@pytest.fixture(scope="module")
def clean():
    """A network at a minimum of its loss on all its data, and a plane of filter-normalised directions around it."""
    data = clusters()
    model = train(Decayed(network()), data).eval()
    objective = ln.Objective(model, None, data, reduction="none", batch_size=200)
    return (objective, *plane_of(objective, seed=0))


@pytest.fixture(scope="module")
def measured(clean):
    objective, _, surface = clean
    return ln.report(surface, objective=objective)


def test_a_clean_network_has_no_warning(clean, measured):
    assert not measured.warnings, measured
    assert set(levels(measured)) >= {"noise", "minimum", "descent", "saddle", "mean curvature", "batch norm", "radial"}
    ok = ("saddle", "minimum", "descent", "noise", "ripples", "precision", "batch norm", "scale", "holes", "grid")
    assert all(measured[check].level == "ok" for check in ok), measured
    assert not ln.report(clean[2]).warnings
    for line in measured.lines:
        assert line.said.endswith(".") and line.do.endswith("."), line
    assert max(map(len, str(measured).splitlines())) <= 100


def test_what_is_measured_is_what_autograd_says(clean, measured):
    objective, chart, _ = clean
    names = list(objective.params)
    model = objective._pass.whole.model
    x, y = clusters()

    def loss(flat):
        parts = flat.split([objective.params[name].numel() for name in names])
        point = {name: part.view(objective.params[name].shape) for name, part in zip(names, parts, strict=True)}
        return torch.func.functional_call(model, point, (x, y)).mean()

    center = torch.cat([objective.params[name].reshape(-1) for name in names])
    dense = torch.autograd.functional.hessian(loss, center)
    gradient = torch.autograd.functional.jacobian(loss, center)
    basis = torch.stack([torch.cat([d[name].reshape(-1) for name in names]) for d in chart.directions])
    spectrum = torch.linalg.eigvalsh(dense)
    saddle, mean = measured["saddle"].values, measured["mean curvature"].values
    assert saddle["lambda_max"] == pytest.approx(spectrum[-1].item(), rel=0.01)
    assert abs(saddle["lambda_min"] - spectrum[0].item()) <= saddle["lambda_min_error"] + 1e-9
    np.testing.assert_allclose(mean["curvature"], (basis @ dense @ basis.T).diagonal(), rtol=1e-6)
    assert measured["minimum"].values["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-3, abs=1e-12)
    off = abs(mean["trace"]["value"] - dense.trace().item())
    assert off < 4 * mean["trace"]["error"]
    others = mean["others"]
    scale = torch.cat(  # E d^T H d of a filter's random direction is its squared norm times the mean of its diagonal
        [
            (t.norm(dim=1, keepdim=True) / t.shape[1] ** 0.5).expand_as(t).reshape(-1) if t.dim() > 1 else 0 * t
            for t in objective.params.values()
        ]
    )
    expected = (scale**2 * dense.diagonal()).sum().item()
    assert abs(others["mean"] - expected) < 4 * others["spread"] / others["count"] ** 0.5


def test_a_saddle_whose_random_slice_is_convex_is_found():
    saddle = bent([*np.full(300, 1.0), -0.5, -0.2, 4.0])
    _, surface = line_of(saddle, seed=1)
    found = ln.report(surface, objective=saddle)
    assert [line.check for line in found.warnings if line.check == "saddle"] == ["saddle"]
    assert "eigenvalue -0.5" in found["saddle"].said and "hessian(objective" in found["saddle"].do
    bowl = bent([*np.full(300, 1.0), 0.2, 4.0])
    assert ln.report(line_of(bowl, seed=1)[1], objective=bowl)["saddle"].level == "ok"
    nearly = bent([*np.full(300, 1.0), -0.02, 4.0])
    assert ln.report(line_of(nearly, seed=1)[1], objective=nearly)["saddle"].level == "note"
    down = bent([*np.full(300, -1.0), 4.0])
    assert ln.report(line_of(down, seed=1)[1], objective=down)["saddle"].level == "ok"  # the slice shows it


def test_a_centre_that_is_not_a_minimum_is_found_where_the_picture_hides_it():
    """The slope is along one of 300 weights: no slice shows it, the gradient does."""
    tilted = bent(np.full(300, 1.0), tilt=0.3)
    _, surface = line_of(tilted, n=5, reach=0.2, seed=0)
    assert ln.report(surface)["minimum"].level == "unknown"
    found = ln.report(surface, objective=tilted)
    assert found["minimum"].level == "warning"
    assert found["minimum"].values["fall"] == pytest.approx(0.3**2 / 2, rel=1e-3)
    assert found["descent"].level == "note" and found["descent"].values["share"] > 0.9
    high = ln.report(line_of(tilted, n=5, reach=0.5, seed=0)[1], objective=tilted)["minimum"]
    assert high.level == "note" and high.values["part"] < 0.01  # beside a rise of 9 it is hardly one


def test_a_chart_that_cannot_be_made_again_leaves_what_is_of_the_centre():
    saddle = bent([*np.full(30, 1.0), -0.5, 4.0])
    along = {"x": torch.full((32,), 0.2, dtype=torch.float64)}
    line = ln.Line(saddle.params, along)
    surface = ln.evaluate(saddle, line, ln.Grid(alpha=(-1, 1, 13)), engine=PLAIN, progress=False)
    without, with_it = (ln.report(surface, objective=saddle, chart=chart) for chart in (None, line))
    assert without["saddle"].level == with_it["saddle"].level == "warning"
    assert without["descent"].level == without["radial"].level == "unknown" and "chart=" in without["descent"].do
    elsewhere = ln.Line({"x": torch.ones(32, dtype=torch.float64)}, along)
    surface = ln.evaluate(saddle, elsewhere, ln.Grid(alpha=(-1, 1, 3)), engine=PLAIN, progress=False)
    far = ln.report(surface, objective=saddle)
    for check in ("descent", "saddle", "mean curvature"):
        assert far[check].level == "unknown" and "chart=chart" in far[check].do, far[check]
    assert ln.report(surface, objective=saddle, chart=elsewhere)["descent"].level != "unknown"


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm1d(4)])
def test_a_chart_through_files_is_made_again_from_its_recipe(tmp_path, norm):
    data, models, paths = clusters(60), [], []
    for seed in range(3):
        model = network(nn.ReLU, seed=seed)
        model.insert(1, norm().double())
        model.train()(data[0] + seed)
        models.append(model.eval())
        paths.append(tmp_path / f"{seed}.pt")
        torch.save(model.state_dict(), paths[-1])
    first, second = (ln.Objective(model, "cross_entropy", data) for model in models[:2])
    grid = ln.Grid(alpha=(-0.5, 1.5, 5), beta=(-0.5, 1.5, 5))
    plane = ln.Plane(first, *ln.directions.through(first, *paths[1:]))
    by_recipe = ln.evaluate(first, plane, grid, engine=PLAIN, progress=False)
    assert len(by_recipe.attrs["checkpoints"]) == 2
    options = {"probes": 2, "limit": 20, "progress": False}
    found, asked = (ln.report(by_recipe, objective=first, chart=chart, **options) for chart in (None, plane))
    assert found.to_dict() == asked.to_dict()
    assert found["descent"].level != "unknown"
    if norm is nn.Identity:  # files alone say what is a parameter
        plane = ln.Plane(paths[0], *ln.directions.through(*paths))
        surface = ln.evaluate(second, plane, grid, engine=PLAIN, progress=False)  # whose weights are not at the centre
        assert ln.report(surface, objective=second, **options)["descent"].level != "unknown"
        paths[0].unlink()
        lost = ln.report(surface, objective=second, **options)
        assert lost["descent"].level == "unknown" and "chart=chart" in lost["descent"].do
        assert lost["random numbers"].level == "ok"


def relu_nets(factor):
    """A ReLU network trained on clusters, and the same function with other weights."""
    model = network(nn.ReLU, width=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    x, y = clusters()
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        for parameter, by in zip(model.parameters(), (factor, factor, 1 / factor, 1.0), strict=True):
            parameter.mul_(by)
    return ln.Objective(model, "cross_entropy", (x, y))


def test_a_rescaled_twin_is_warned_of_without_normalisation_and_not_with_it():
    pictures = {}
    for factor in (1.0, 8.0):
        objective = relu_nets(factor)
        for how in ("filter", None):
            _, surface = plane_of(objective, n=5, normalize=how)
            pictures[factor, how] = surface, ln.report(surface, objective=objective)
    for factor in (1.0, 8.0):
        bare, normalised = pictures[factor, None][1]["scale"], pictures[factor, "filter"][1]["scale"]
        assert (bare.level, normalised.level) == ("warning", "ok")
        assert (bare.values["multiplied"], bare.values["divided"]) == ("0", "2")
        assert bare.values["loss"] == pytest.approx(bare.values["loss_rescaled"], rel=1e-9)
        assert bare.values["lambda_max_rescaled"] != pytest.approx(bare.values["lambda_max"], rel=0.2)
        assert normalised.values["picture_changes"] < 1e-5 < bare.values["picture_changes"]
    same, other = (
        float(abs(pictures[1.0, how][0]["loss"] - pictures[8.0, how][0]["loss"]).max()) for how in ("filter", None)
    )
    assert same < 1e-6 < 0.1 < other  # what the warning says is so


def test_the_trace_of_the_twin_is_the_trace_of_its_hessian():
    objective = relu_nets(1.0)
    _, surface = plane_of(objective, n=5)
    said = ln.report(surface, objective=objective, probes=64)["scale"].values
    twin = {name: t * {"0": 2.0, "2": 0.5}[name[0]] if name != "2.bias" else t for name, t in objective.params.items()}
    found = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective, twin))
    assert said["lambda_max_rescaled"] == pytest.approx(found.values[0], rel=0.01)
    hessian = ln.curvature.Hessian(objective, twin)
    rows = hessian.derive(list(torch.eye(hessian.size, dtype=torch.float64))).products
    assert said["trace_rescaled"] == pytest.approx(torch.stack(rows).trace().item(), rel=0.25)


def test_no_twin_is_claimed_where_there_is_none(measured):
    assert measured["scale"].level == "ok" and "multiplied" not in measured["scale"].values


class Normed(nn.Module):
    """One BatchNorm, with running statistics or (hidden) without."""

    def __init__(self, tracks=True):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.bn, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=tracks), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.bn(self.first(x))))


@pytest.mark.parametrize(
    ("tracks", "policy", "level", "words"),
    [
        (True, "batch", "warning", "each batch's own statistics"),
        (False, "frozen", "warning", "depends on its batch"),
        (True, "frozen", "note", "1 BatchNorm layer keeps"),
        (True, "recompute", "ok", "recomputed"),
    ],
)
@pytest.mark.filterwarnings("ignore::lossnav.errors.BatchDependenceWarning")  # said when it is made, too
def test_train_mode_batch_norm(tracks, policy, level, words):
    model = Normed(tracks).double()
    x, y = clusters(200)
    model(x)
    objective = ln.Objective(model.eval(), "cross_entropy", (x, y), bn=policy, batch_size=20)
    _, surface = plane_of(objective, n=5)
    found = ln.report(surface, objective=objective)["batch norm"]
    assert found.level == level and words in found.said
    depends = found.values["batch_dependence"]
    assert depends is None if policy == "recompute" else (depends > 0.01) == (level == "warning")


# ---------------------------------------------------------------------- samples


def test_a_difference_has_the_error_of_its_samples(clean):
    objective, chart, _ = clean
    a, b = chart([0.3, -0.2]), chart([0.0, 0.0])
    x, y = clusters()
    model = objective._pass.whole.model
    with torch.no_grad():
        singles = [torch.func.functional_call(model, point, (x, y)) for point in (a, b)]
    d = (singles[0] - singles[1]).numpy()
    np.testing.assert_allclose(difference(objective, a, b), (d.mean(), d.std(ddof=1) / len(d) ** 0.5), rtol=1e-10)
    assert difference(objective, a, b)[0] == pytest.approx(
        objective.evaluate(a)["loss"] - objective.evaluate(b)["loss"]
    )
    part = objective.subset(150, seed=0)
    value, error = difference(part, a, b)
    ends = [part.evaluate(point)["loss_se"] for point in (a, b)]
    assert abs(ends[0] - ends[1]) <= error <= sum(ends)
    assert abs(value - d.mean()) < 5 * error


def test_a_difference_of_class_weighted_losses_is_one_of_ratios():
    x, y = clusters(300)
    weight = torch.tensor([1.0, 5.0, 0.3], dtype=torch.float64)
    objective = ln.Objective(network(), nn.CrossEntropyLoss(weight=weight), (x, y), batch_size=70)
    moved = {name: tensor * 1.3 for name, tensor in objective.params.items()}
    value, error = difference(objective, moved, objective.params)
    before, after = objective.evaluate(objective.params), objective.evaluate(moved)
    assert value == pytest.approx(after["loss"] - before["loss"])
    assert abs(after["loss_se"] - before["loss_se"]) <= error <= after["loss_se"] + before["loss_se"]


def test_losses_that_hide_their_samples_have_no_error_of_differences():
    x, y = clusters(100)
    objective = ln.Objective(network(), lambda out, target: F.cross_entropy(out, target), (x, y))
    assert difference(objective, objective.params, objective.params) == (0.0, None)
    assert batch_dependence(objective) is None
    _, surface = plane_of(objective, n=5)
    assert ln.report(surface, objective=objective)["noise"].level == "unknown"


def test_differences_measured_sample_by_sample_clear_a_subset(clean):
    """Single standard errors say the shape may be noise; differences of the same samples say it is none."""
    objective, _, _ = clean
    part = objective.subset(60, seed=1)
    chart = ln.Plane(part.params, *ln.directions.random(part, n=2, seed=0))
    grid = ln.Grid(alpha=(-0.6, 0.6, 13), beta=(-0.6, 0.6, 13))
    surface = ln.evaluate(part, chart, grid, engine=PLAIN, progress=False)
    stored, known = ln.report(surface)["noise"], ln.report(surface, objective=part)["noise"]
    assert stored.level == "unknown" and stored.values["difference_se"] > known.values["difference_se"]
    assert known.values["paired"] and "sample by sample" in known.said


# ---------------------------------------------------------------------- rounding


def test_rounding_is_measured_against_float64():
    x, y = clusters(200)
    objective = ln.Objective(network().float(), "cross_entropy", (x.float(), y), batch_size=100)
    reach = 1e-7
    _, surface = plane_of(objective, n=5, reach=reach)
    assert ln.report(surface, objective=objective)["precision"].level == "warning"
    _, surface = plane_of(objective, n=5)
    found = ln.report(surface, objective=objective)["precision"]
    assert found.level == "ok" and found.values["measured"]
    assert 0 < found.values["error"] < 1e-5


# ---------------------------------------------------------------------- keeping


def test_what_was_measured_is_kept_beside_the_run(clean, tmp_path):
    objective, chart, surface = clean
    store = tmp_path / "run.zarr"
    ln.save(surface, store)
    first = ln.report(store, objective=objective, chart=chart)
    assert ln.report(store).to_dict() == first.to_dict()
    kept = open_group(store, "report")
    assert ln.report(ln.open(store), kept).to_dict() == first.to_dict()
    assert kept.attrs["passes"] > 10 and kept.attrs["schema"] == "lossnav.report"
    assert ln.open(store).equals(surface)
    other = surface.copy()
    other.attrs = surface.attrs | {"objective": surface.attrs["objective"] | {"fingerprint": "0" * 16}}
    assert ln.report(other, kept)["descent"].level == "unknown"  # measured on something else


def test_another_objective_or_chart_is_refused(clean):
    objective, _, surface = clean
    with pytest.raises(errors.PlanMismatchError, match="fingerprint"):
        ln.report(surface, objective=objective.subset(50))
    chart = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=9))
    with pytest.raises(errors.PlanMismatchError, match="chart"):
        ln.report(surface, objective=objective, chart=chart)
    with pytest.raises(errors.OptionError, match="made in Python"):
        ln.report(surface, measure=True)
    with pytest.raises(errors.OptionError, match="probes"):
        ln.report(surface, objective=objective, probes=1)


@pytest.mark.parametrize("measured", [False, True])
def test_a_store_that_holds_a_spectrum_is_reported(clean, tmp_path, measured):
    """As `lossnav evaluate`, `lossnav curvature` and `lossnav report --measure` leave it."""
    objective, plane, _ = clean
    ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 9)), store=tmp_path / "a.zarr")
    found = ln.spectrum(objective, top=2, store=tmp_path / "a.zarr")
    options = {"objective": objective, "chart": plane} if measured else {}
    said = ln.report(tmp_path / "a.zarr", **options)["saddle"]
    smallest = found["eigenvalue"].values[found["end"].values == "smallest"].min()
    assert said.values["lambda_min"] == pytest.approx(smallest, abs=0 if not measured else 1)
    assert said.level != "unknown"


def test_a_stored_spectrum_counts(clean, monkeypatch):
    import xarray as xr

    objective, _, surface = clean
    said = surface.attrs
    spectrum = xr.Dataset(
        {"eigenvalue": ("eigenpair", [-3.0, -2.0, 9.0]), "eigenvalue_error": ("eigenpair", [0.1, 0.1, 0.2])},
        coords={"end": ("eigenpair", ["smallest", "smallest", "largest"])},
        attrs={
            "schema": "lossnav.spectrum", "schema_version": 1, "objective": said["objective"], "operator": "hessian",
            "point": said["chart"]["center"], "gradient_norm": 1e-9, "parameters": 43,
            "trace": {"value": 4.3, "error": 0.1, "products": 5},
        },
    )  # fmt: skip
    stored = ln.report(surface, spectrum)
    assert stored["saddle"].level == "warning" and stored["saddle"].values["lambda_min"] == -3.0
    assert stored["mean curvature"].values["mean_eigenvalue"] == pytest.approx(0.1)
    monkeypatch.setattr(ln.curvature, "top_eigenpairs", None)  # it is not asked again
    monkeypatch.setattr(parts, "rescaled_twin", lambda *given: ({}, 0))
    again = ln.report(surface, spectrum, objective=objective)
    assert again["saddle"].values["lambda_max"] == 9.0
    spectrum.attrs["point"] = "elsewhere"
    assert ln.report(surface, spectrum)["saddle"].level == "unknown"


def test_a_report_that_is_stopped_keeps_what_it_measured(clean, tmp_path, monkeypatch):
    objective, _, surface = clean
    store = tmp_path / "run.zarr"
    ln.save(surface, store)
    trace = parts._Measuring.trace

    def stopped(self):
        os.kill(os.getpid(), signal.SIGINT)
        trace(self)

    monkeypatch.setattr(parts._Measuring, "trace", stopped)
    with pytest.raises(errors.Interrupted) as caught:
        ln.report(store, objective=objective)
    assert caught.value.partial["descent"].level == "ok"
    assert caught.value.partial.to_dict() == ln.report(store).to_dict()
    assert "step" not in open_group(store, "report").attrs


def test_model_and_random_state_are_as_before(clean):
    objective, _, surface = clean
    torch.manual_seed(5)
    before = torch.get_rng_state(), ln.Objective(objective._pass.whole.model, None, clusters(), reduction="none")
    fingerprint = objective.fingerprint
    weights = {name: tensor.clone() for name, tensor in objective.params.items()}
    ln.report(surface, objective=objective)
    assert torch.equal(before[0], torch.get_rng_state())
    assert objective.fingerprint == fingerprint
    assert all(torch.equal(weights[name], tensor) for name, tensor in objective.params.items())
