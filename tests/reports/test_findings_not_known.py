"""Every line of the report has a case in which it says that it does not know; and what was said falsely before."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import lossnav as ln
from lossnav.reports import Finding, Report
from lossnav.reports.noise import MOST_FOR_MINIMA
from lossnav.surface.seeds import join_seeds
from planted import PLAIN, bent
from stored_pictures import curvature_at, picture

X = np.linspace(-1, 2, 21)
BOWL = 0.3 + np.add.outer(X**2, X**2)
RIPPLED = 0.5 + X**2 + 0.2 * np.cos(12 * X)
OUTCOME = {"cells": 9, "unresolved": 0, "non_finite": 0, "estimated_error": 0.01, "noise": "nan"}


def recipe_without(*keys, **others):
    recipe = picture().attrs["chart"]["directions"][0]
    return {key: value for key, value in (recipe | others).items() if key not in keys}


def directions(*keys, **others):
    return {"chart": {"directions": [recipe_without(*keys, **others)] * 2}}


def scattered(values=None, **attrs):
    """Points on no grid."""
    places = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    objective = bent([4.0, 10.0])
    chart = ln.Plane(objective.params, *({"x": torch.eye(2, dtype=torch.float64)[i]} for i in (0, 1)))
    surface = ln.evaluate(objective, chart, ln.Points(places), engine=PLAIN, progress=False)
    surface.attrs |= attrs
    return surface


def without(key, **options):
    surface = picture(**options)
    surface.attrs = {name: value for name, value in surface.attrs.items() if name != key}
    return surface


def stopped():
    surface = scattered(sampler={"kind": "Adaptive"})
    del surface.attrs["finished"]
    return surface


def one_seed():
    objective = bent(np.linspace(1, 2, 40))
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None))
    surface = ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 11)), engine=PLAIN, progress=False)
    return join_seeds([surface], [0])


def along(residual=0.1, distance=1.0, **columns):
    """A path of eight snapshots."""
    n = 8
    values = {"residual": np.full(n, residual), "distance": np.full(n, distance)} | columns
    values |= {"alpha": np.zeros(n), "beta": np.zeros(n)}
    path = xr.Dataset({name: ("snapshot", each) for name, each in values.items()})
    recipes = [recipe_without(kind="pca", explained=0.4, random_walk=0.3, scale=None, norm_drift=0.1)] * 2
    chart = picture().attrs["chart"] | {"directions": recipes}
    path.attrs = {"schema": "lossnav.trajectory", "schema_version": 1, "chart": chart}
    return path


def drifting():
    path = along()
    for recipe in path.attrs["chart"]["directions"]:
        recipe.pop("norm_drift", None)
    return path


def scaled():
    path = along()
    path.attrs["chart"]["directions"] = [recipe_without(kind="pca", explained=0.4, random_walk=0.3, scale="filter")] * 2
    return path


def narrow():
    """All the rise in the outer half, where all points are."""
    return picture(BOWL).isel(alpha=[0, 20], beta=[0, 20])


def unmeasured():
    return ln.report(picture())


def repaired_somehow():
    surface = picture()
    surface.attrs["repair"] = {"data": "00"}
    return surface


def trained_somehow():
    surface = picture()
    surface.attrs["chart"] |= {"kind": "BezierCurve", "points": ["0", "1", "2"], "options": {"trained": {"epochs": 2}}}
    return surface


NOT_KNOWN = {  # of each line: a surface or path in which it is not known, and words of the reason
    "holes": (lambda: picture(status=np.zeros((21, 21), int)), "no point was evaluated"),
    "unfinished": (stopped, "does not record whether its sampler had finished"),
    "constant": (lambda: picture(np.where(BOWL.max() == BOWL, BOWL, np.nan)), "a difference needs two"),
    "grid": (scattered, "are not on a grid"),
    "range": (narrow, "fewer than two points"),
    "automatic range": (lambda: picture(sampler={"auto": {"alpha": {"reach": 1.0}}}), "range search along alpha"),
    "adaptive": (lambda: picture(sampler={"kind": "Adaptive"}), "was stopped before its sampler"),
    "adaptive_noise": (lambda: picture(sampler={"kind": "Adaptive", "outcome": OUTCOME}), "evaluated twice"),
    "interpolation": (lambda: picture(interpolation={"points": 5, "left_out_error_p99": "nan"}), "predicted"),
    "correction": (lambda: picture(control_variate={"points": 1, "residual_error": "nan"}), "has too few"),
    "seeds": (one_seed, "only one seed"),
    "angles": (lambda: picture(chart={"cosines": {}}), "record the angles"),
    "lengths": (lambda: picture(**directions("norm")), "record the lengths"),
    "one tensor": (lambda: picture(**directions("norms")), "in each tensor"),
    "radial": (picture, "were not measured"),
    "scale": (lambda: picture(**directions(normalize=None), objective={
        "layers": {"batch_norms": 0, "norm_tensors": 0, "weights": 3, "rectifiers": 0}}), "was not measured"),
    "held still": (lambda: without("still"), "which entries"),
    "buffers": (lambda: without("still"), "whether the model has buffers"),
    "random numbers": (picture, "whether the loss draws random numbers"),
    "train mode": (lambda: picture(objective={"mode": "train"}), "record the seed of its noise"),
    "batch norm": (lambda: older("layers"), "does not record whether the model has layers"),
    "data": (lambda: picture(objective={"samples": None}), "the number of samples"),
    "batches": (lambda: older("cut_samples"), "in other batches"),
    "intervals": (lambda: picture(se=None), "per-sample losses are not available"),
    "noise": (lambda: picture(se=None), "per-sample losses are not available"),
    "ripples": (lambda: picture(RIPPLED, se=None), "per-sample losses are not available"),
    "precision": (lambda: picture(objective={"dtype": "float8_e4m3fn"}), "the number of digits of"),
    "minimum": (picture, "the gradient at the centre was not measured"),
    "descent": (picture, "the gradient at the centre was not measured"),
    "saddle": (picture, "the extreme eigenvalues of the Hessian were not measured"),
    "mean curvature": (picture, "no other curvature was measured"),
    "repair": (repaired_somehow, "not which layers"),
    "curve": (trained_somehow, "is not recorded"),
    "random walk": (scaled, "scaled"),
    "norm drift": (drifting, "how the norm of the weights changed"),
    "off the plane": (lambda: along(0.0, 0.0), "does not leave the centre"),
    "shadow": (along, "was not evaluated along the path"),
}  # fmt: skip


def older(key):
    """A surface of a version that did not say this of its objective."""
    surface = picture()
    surface.attrs["objective"] = {name: v for name, v in surface.attrs["objective"].items() if name != key}
    return surface


@pytest.mark.parametrize("check", NOT_KNOWN)
def test_a_line_says_that_it_does_not_know(check):
    make, words = NOT_KNOWN[check]
    line = ln.report(make())[check]
    assert line.level == "unknown", line
    assert line.said.startswith("Not known, because ") and words in line.said, line
    assert line.do.endswith(".") and line.said.endswith("."), line


def test_every_line_of_the_report_has_such_a_case():
    folder = Path(ln.__file__).parent / "reports"
    named = set()
    for path in folder.glob("*.py"):
        named |= set(re.findall(r'(?:Finding|unknown)\(\s*"([a-z_ ]+)"', path.read_text()))
    assert named == set(NOT_KNOWN)
    table = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    assert set(re.findall(r"^\| `([a-z_ ]+)`", table, re.MULTILINE)) == set(NOT_KNOWN)


def test_what_is_not_known_is_counted_printed_and_goes_through_json():
    report = ln.report(picture())
    assert report.unknowns and report.counts["unknown"] == len(report.unknowns)
    assert f"{len(report.unknowns)} not known" in report.summary()
    printed = str(report)
    assert printed.index("\nnote ") < printed.index("\nunknown  ") < printed.index("\nok ")
    assert Report.from_dict(json.loads(report.to_json())).unknowns == Report.from_dict(report.to_dict()).unknowns
    page = Report("x", (Finding("y", "unknown", "Not known, because Z.", "W."),))._repr_html_()
    assert "Not known, because Z." in page and "<details>" not in page


# ---------------------------------------------------------------------- and what is known, and was said falsely


def test_pits_of_more_points_than_are_looked_at_are_not_called_one_valley():
    many = int(MOST_FOR_MINIMA**0.5) + 2
    x = np.linspace(-1, 1, many)
    waves = 1 + np.add.outer(x**2, x**2) + 0.1 * np.add.outer(np.cos(30 * x), np.cos(30 * x))
    found = ln.report(picture(waves))["ripples"]
    assert found.level == "unknown" and f"{MOST_FOR_MINIMA:,}" in found.said


def test_pits_no_deeper_than_the_arithmetic_are_of_the_arithmetic():
    noise = np.random.default_rng(0).normal(size=(21, 21)) * 1e-5
    found = ln.report(picture(300 + 1e-6 * BOWL + noise, se=1e-9))["ripples"]
    assert found.level == "note" and "numerical error" in found.said


def test_another_basin_is_no_reason_to_call_a_centre_no_minimum():
    x = np.linspace(-1, 2, 31)
    wells = 1 - 0.5 * np.exp(-((x / 0.3) ** 2)) - 0.7 * np.exp(-(((x - 1.2) / 0.3) ** 2))
    said = ln.report(picture(wells, center={"loss": 0.5}))["minimum"]
    assert said.level == "unknown" and "beyond a barrier" in said.said
    slope = ln.report(picture(1 - 0.3 * x, center={"loss": 1.0}))["minimum"]
    assert slope.level == "warning" and "alpha = 2" in slope.said


def test_basins_are_told_apart_on_points_of_no_grid_too():
    """By a triangulation of them; a slope is one all the same."""
    places = np.random.default_rng(0).uniform(-1, 2, (400, 2))

    def wells(p):
        far, near = (((p["x"] - x) ** 2).sum() / 0.2 for x in (torch.tensor([1.2, 1.2]).double(), 0.0))
        return 2 - 0.9 * torch.exp(-far) - 0.5 * torch.exp(-near) + 0.05 * (p["x"] ** 2).sum()

    said = []
    for loss in (wells, lambda p: 2 - 0.3 * p["x"].sum()):
        objective = ln.Objective.from_function(loss, {"x": torch.zeros(2, dtype=torch.float64)})
        chart = ln.Plane(objective.params, *({"x": torch.eye(2, dtype=torch.float64)[i]} for i in (0, 1)))
        surface = ln.evaluate(objective, chart, ln.Points([[0.0, 0.0], *places]), engine=PLAIN, progress=False)
        said.append(ln.report(surface)["minimum"])
    assert said[0].level == "unknown" and "beyond a barrier" in said[0].said
    assert said[1].level == "warning"


def test_an_error_that_hides_a_negative_eigenvalue_is_no_ok():
    surface = picture()
    assert ln.report(surface, curvature_at(surface, -0.05, 20.0, error=2.0))["saddle"].level == "unknown"
    assert ln.report(surface, curvature_at(surface, 0.3, 20.0, error=0.01))["saddle"].level == "ok"


@pytest.mark.parametrize("kind", ["Points", "Explorer", "Grid", "Adaptive"])
def test_nothing_is_missing_where_nothing_is_missing(kind):
    surface = scattered(interrupted=False, finished=False)
    surface.attrs["sampler"] = surface.attrs["sampler"] | {"kind": kind}
    found = ln.report(surface)["unfinished"]
    assert found.level == ("ok" if kind in ("Points", "Explorer") else "warning")
    assert "0 of" not in found.said


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_what_never_reaches_the_loss_is_said_to_be_constant_along_its_axis():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    objective = ln.Objective(Detached().eval(), "cross_entropy", (x, (x[:, 0] > 0).long()))
    (d,) = ln.directions.random(objective)
    used, unused = ({n: t * n.startswith(name) for n, t in d.items()} for name in ("used", "unused"))
    grid = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5))
    surface = ln.evaluate(objective, ln.Plane(objective.params, used, unused), grid, progress=False)
    found = ln.report(surface)["constant"]
    assert found.level == "warning" and found.values["along"] == ["beta"]
    line = ln.evaluate(objective, ln.Line(objective.params, unused), ln.Grid(alpha=(-1, 1, 5)), progress=False)
    found = ln.report(line)
    assert found["constant"].level == "warning" and "exactly" in found["constant"].said
    assert not {"noise", "ripples", "precision", "grid"} & {each.check for each in found.lines}


def test_what_is_zero_in_every_direction_is_counted_and_named():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = 0
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    objective = ln.Objective(model.eval(), "cross_entropy", (x, (x[:, 0] > 0).long()))
    grid = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
    for lazy in (False, True):
        for normalize in ("filter", "weight", None):
            d = ln.directions.random(objective, n=2, normalize=normalize, lazy=lazy)
            surface = ln.evaluate(objective, ln.Plane(objective.params, *d), grid, progress=False)
            still = sum(int(((d[0][name] == 0) & (d[1][name] == 0)).sum()) for name in objective.params)
            found = ln.report(surface)["held still"]
            assert found.values["still"] == still == (5 if normalize is None else 9)
            assert ("0.weight" in found.said) == (normalize is not None)
            assert "2 of 4 tensors are excluded" in found.said
    everything = ln.directions.random(objective, n=2, normalize=None, exclude=())
    surface = ln.evaluate(objective, ln.Plane(objective.params, *everything), grid, progress=False)
    assert ln.report(surface)["held still"].said == "Every parameter (23) moves along the directions."


@pytest.mark.parametrize("kind", ["Line", "Plane", "Volume", "RescaledLine", "RescaledBilinear"])
def test_what_a_chart_holds_still_is_what_no_point_of_it_moves(kind):
    """Counted from points of the chart; one filter and one tensor of the centre are zero, one direction has zeros."""
    generator = torch.Generator().manual_seed(3)
    center = {name: torch.randn(4, 3, generator=generator).double() for name in ("a", "b", "c")}
    center["a"][1], center["b"] = 0, torch.zeros(4, 3).double()
    ways = [{name: torch.randn(4, 3, generator=generator).double() for name in center} for _ in range(3)]
    for way in ways:
        way["a"][:2], way["c"] = 0, torch.zeros(4, 3).double()
    count = {"Line": 1, "Plane": 2, "Volume": 3, "RescaledLine": 1, "RescaledBilinear": 2}[kind]
    chart = getattr(ln.charts, kind)(center, *ways[:count])
    places = np.random.default_rng(0).uniform(0.1, 0.9, (8, count))
    moved = {name: torch.zeros(4, 3, dtype=torch.bool) for name in center}
    for place in places:
        for name, tensor in chart(place).items():
            moved[name] |= tensor != center[name]
    assert chart.still() == {name: int((~where).sum()) for name, where in moved.items() if not where.all()}


@pytest.mark.parametrize(("bend", "words"), [(1e9, "smallest range tried"), (1e-4, "capped")])
def test_an_automatic_range_at_an_end_says_so(bend, words):
    objective = ln.Objective.from_function(lambda p: 1 + bend * p["x"].square().sum(), {"x": torch.zeros(2)})
    line = ln.Line(objective.params, {"x": torch.ones(2)})
    surface = ln.evaluate(objective, line, ln.Grid(alpha=("auto", 11)), progress=False)
    found = ln.report(surface)["automatic range"]
    assert found.level == "note" and words in found.said
    said = surface.attrs["sampler"]["auto"]["alpha"]
    assert said["floored"] == (bend > 1) and said["capped"] == (bend < 1)


def test_a_path_about_one_place_is_not_called_diffusion(tmp_path):
    model = nn.Linear(800, 1, bias=False).double()
    with ln.Trajectory(model, store=tmp_path / "path") as trajectory:
        for point in np.random.default_rng(0).standard_normal((40, 800)):
            model.weight.data.copy_(torch.as_tensor(point)[None])
            trajectory.step()
    for center in ("final", "mean"):
        found = ln.directions.pca(trajectory[1:], center=center)
        line = ln.report(ln.project(trajectory[1:], ln.Plane(found.center, *found)))["random walk"]
        assert line.level == "warning" and "to and fro" in line.said and "diffusion" not in line.said


def test_a_function_is_told_nothing_of_layers_and_training():
    objective = ln.Objective.from_function(lambda p: (p["x"] - 3).square().sum(), {"x": torch.zeros(3)})
    line = ln.Line(objective.params, {"x": torch.ones(3)})
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 11)), progress=False)
    for report in (ln.report(surface), ln.report(surface, objective=objective, chart=line, progress=False)):
        text = str(report)
        assert not re.search(r"Train|network|layer|BatchNorm|ReLU|model|buffer", text), text
        assert report["minimum"].level == "warning" and report["data"].level == "unknown"


@pytest.mark.parametrize(
    ("params", "words"), [("trainable", "not trained (requires_grad is False)"), ("all", "may move")]
)
def test_frozen_parameters_are_counted_and_named(params, words):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    model[0].requires_grad_(False)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    objective = ln.Objective(model, "cross_entropy", (x, (x[:, 0] > 0).long()), params=params)
    line = ln.Line(objective.params, *ln.directions.random(objective, exclude=()))
    found = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), progress=False))["held still"]
    assert found.level == "note" and words in found.said
    assert "15 parameters" in found.said and "0.weight, 0.bias" in found.said
