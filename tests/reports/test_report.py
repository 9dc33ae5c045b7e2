"""Each warning is provoked by a planted case, and the clean picture has none: of what is stored, without torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from planted import PLAIN, bent
from torch import nn
from typer.testing import CliRunner

import lossnav as ln
from conftest import made
from lossnav import errors
from lossnav.cli import app
from lossnav.plots.page import write_page
from lossnav.reports import Finding, Report, thresholds
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import LEVELS, NOTHING, TITLE
from lossnav.reports.fit import fitted
from lossnav.specs.objective_of import load_objective
from lossnav.surface.seeds import join_seeds

LAYERS = {
    "batch_norms": 1, "batch_statistics": 0, "running_statistics": 0, "norm_tensors": 2, "weights": 3, "rectifiers": 1,
}  # fmt: skip
ENGINE = {"kind": "Local", "plan": "plain", "precision": "native"}


def levels(report):
    return {line.check: line.level for line in report.lines}


def picture(values=None, se=1e-4, objective=None, chart=None, **attrs):
    """A bowl as a run of a trained network on all its data leaves it, with one thing else perhaps."""
    if values is None:
        x = np.linspace(-1, 2, 21)
        values = 0.3 + np.add.outer(x**2, x**2)
    objective = {
        "model": "Net", "loss": "cross_entropy", "samples": 1000, "bn": "recompute", "dtype": "float32",
        "layers": LAYERS, "buffers": 3, "cut_samples": 8, "batches": 1,
    } | (objective or {})  # fmt: skip
    recipe = {"kind": "random", "normalize": "filter", "norm": 3.0, "norms": {"a": 2.0, "b": 2.0, "c": 1.0}}
    k = np.ndim(values)
    chart = {
        "kind": "Plane", "dims": ["alpha", "beta"][:k], "directions": [recipe] * k, "cosines": {"0,1": 0.0},
        "center_norm": 3.0, "affine": True,
    } | (chart or {})  # fmt: skip
    if k == 1:
        chart["cosines"] = {}
    still = {"entries": 100, "of": {}}
    defaults = {
        "still": still,
        "engine": ENGINE,
        "center": {"loss": float(np.nanmin(values))},
        "finished": True,
        "interrupted": False,
    }
    return made(values, dims=chart["dims"], se=se, **defaults | attrs | {"objective": objective, "chart": chart})


# ---------------------------------------------------------------------- the whole of it


def test_a_clean_picture_has_no_warning():
    report = ln.report(picture())
    assert not report.warnings, report
    assert set(levels(report)) >= {
        "holes", "grid", "range", "angles", "lengths", "scale", "held still", "batch norm", "data", "noise", "ripples",
        "precision", "minimum", "saddle",
    }  # fmt: skip
    assert report["saddle"].level == "unknown"  # it was not measured
    counts = report.counts
    said = f"0 warnings, 1 note, {counts['unknown']} not known, {counts['ok']} ok"
    assert str(report).splitlines()[-1] == said


def test_every_line_says_why_and_what_to_do():
    bad = picture(se=5.0, objective={"population": 9999, "bn": "batch"}, interrupted=True)
    for report in (ln.report(picture()), ln.report(bad)):
        for line in report.lines:
            assert line.level in LEVELS
            assert line.said.endswith(".") and not line.said[0].islower() and "  " not in line.said, line
            assert line.do.endswith("."), line
            assert (line.do == NOTHING) == (line.level == "ok"), line
        assert max(map(len, str(report).splitlines())) <= 100


def test_a_report_goes_through_json():
    report = ln.report(picture(se=5.0, objective={"population": 9999, "bn": "batch"}))
    assert Report.from_dict(json.loads(report.to_json())).to_dict() == report.to_dict()
    assert report.to_dict()["counts"]["warning"] == len(report.warnings) > 0
    empty = Report("x", (Finding("y", "note", "Z.", "W.", {"inf": np.inf, "nan": np.float64("nan")}),))
    assert json.loads(empty.to_json())["lines"][0]["values"] == {"inf": "inf", "nan": "nan"}


def test_html_holds_every_line_and_escapes_it():
    report = Report("a < b", (Finding("x", "warning", "1 < 2.", "Do & go."), Finding("y", "ok", "Fine.")))
    page = report._repr_html_()
    assert (
        "1 &lt; 2." in page
        and "Do &amp; go." in page
        and "a &lt; b" in page
        and "1 warning, 0 notes, 0 not known, 1 ok" in page
    )
    assert page.index("1 &lt; 2.") < page.index("<details>") < page.index("Fine.")
    assert "<script" not in page and "http" not in page


def test_a_stored_run_is_reported_on_without_torch(tmp_path):
    ln.save(picture(), tmp_path / "run.zarr")
    code = (
        "import sys, lossnav as ln; report = ln.report('run.zarr'); report._repr_html_(); print(report.summary()); "
        "print(sorted({'torch', 'matplotlib', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [ln.report(picture()).summary(), "[]"]


def test_what_belongs_to_no_run_is_refused(tmp_path):
    with pytest.raises(errors.NotASurfaceError, match="neither a surface"):
        ln.report(picture().drop_attrs())
    with pytest.raises(errors.OptionError, match="two datasets of one kind"):
        ln.report(picture(), picture())
    with pytest.raises(errors.OptionError, match="measures nothing"):
        ln.report(picture(), chart=ln.Line({"x": torch.zeros(1)}, {"x": torch.ones(1)}))
    with pytest.raises(errors.NotASurfaceError, match=r"There is no .*nowhere\.zarr"):
        ln.report(tmp_path / "nowhere.zarr")
    other = picture()
    other.attrs["curvature"] = {}
    other.attrs["chart"] = other.attrs["chart"] | {"center": "another"}
    with pytest.raises(errors.OptionError, match="different charts"):
        ln.report(picture(), other)
    model = nn.Linear(2, 1)
    with ln.Trajectory(model, store=tmp_path / "trajectory"):
        pass
    with pytest.raises(errors.NotASurfaceError, match="ln.project"):
        ln.report(tmp_path / "trajectory")


# ---------------------------------------------------------------------- points


def test_holes_and_failures():
    values = 0.3 + np.add.outer(np.linspace(-1, 2, 21) ** 2, np.linspace(-1, 2, 21) ** 2)
    values[0, :3] = np.inf
    assert levels(ln.report(picture(values)))["holes"] == "note"
    values[:3] = np.nan
    assert levels(ln.report(picture(values)))["holes"] == "warning"
    status = np.ones((21, 21), int)
    status[4, 4] = 3
    failed = ln.report(picture(status=status, failures=["(0.1, 0.2): too far"]))["holes"]
    assert failed.level == "warning" and "too far" in failed.said


def test_a_run_that_was_not_finished():
    status = np.ones((21, 21), int)
    status[5:] = 0
    assert levels(ln.report(picture(status=status)))["unfinished"] == "warning"
    for whole in ({"finished": False}, {"interrupted": True}, {}):  # of a grid nothing is left to ask for
        assert levels(ln.report(picture(**whole)))["unfinished"] == "ok"


def test_grid_and_range():
    x = np.linspace(-1, 2, 7)
    assert levels(ln.report(picture(0.3 + np.add.outer(x**2, x**2))))["grid"] == "note"
    rough = np.random.default_rng(0).random((21, 21))
    assert levels(ln.report(picture(rough)))["grid"] == "warning"
    x = np.linspace(-1, 2, 41)
    steep = ln.report(picture(0.3 + np.add.outer(x**12, x**12)))["range"]
    assert steep.level == "note" and "log" in steep.do
    away = picture().assign_coords(alpha=np.linspace(0.5, 1, 21))
    assert "origin" in ln.report(away)["range"].said


def test_what_an_adaptive_sampler_left():
    outcome = {"cells": 100, "unresolved": 0, "non_finite": 0, "estimated_error": 0.01, "estimated_error_p99": 0.02}
    found = [
        levels(ln.report(picture(sampler={"kind": "Adaptive", "outcome": outcome | {"unresolved": n}})))["adaptive"]
        for n in (0, 5, 50)
    ]
    assert found == ["ok", "note", "warning"]


def test_what_was_interpolated_or_corrected():
    found = [
        levels(ln.report(picture(interpolation={"points": 50, "left_out_error_p99": error})))["interpolation"]
        for error in (0.001, 0.05, 0.5, "nan")
    ]
    assert found == ["ok", "note", "warning", "unknown"]
    corrected = ln.report(
        picture(control_variate={"points": 9, "residual_error": 0.03, "relative": True, "outside": 0})
    )
    assert "0.03" in corrected["correction"].said


def test_seeds_that_differ():
    objective = bent(np.linspace(1, 2, 40))

    def chart(seed):
        return ln.Line(objective.params, *ln.directions.random(objective, normalize=None, seed=seed))

    grid = ln.Grid(alpha=(-1, 1, 11))
    surfaces = [ln.evaluate(objective, chart(seed), grid, engine=PLAIN, progress=False) for seed in range(3)]
    alike = ln.report(join_seeds(surfaces, [0, 1, 2]))
    assert alike["seeds"].level == "ok" and "3 seeds" in alike.subject
    surfaces[1]["loss"] = 0.2 + 9 * (surfaces[1]["loss"] - 0.2)
    assert ln.report(join_seeds(surfaces, [0, 1, 2]))["seeds"].level == "warning"


# ---------------------------------------------------------------------- directions, and what is held


@pytest.mark.parametrize(("cosine", "level"), [(0.01, "ok"), (-0.3, "note"), (-0.97, "warning")])
def test_angles(cosine, level):
    assert levels(ln.report(picture(chart={"cosines": {"0,1": cosine}})))["angles"] == level


@pytest.mark.parametrize(("ratio", "level"), [(1.5, "ok"), (4.0, "note"), (40.0, "warning")])
def test_lengths(ratio, level):
    recipe = picture().attrs["chart"]["directions"][0]
    report = ln.report(picture(chart={"directions": [recipe, recipe | {"norm": 3.0 * ratio}]}))
    assert levels(report)["lengths"] == level


def test_a_direction_in_one_tensor():
    recipe = picture().attrs["chart"]["directions"][0] | {"norms": {"a": 0.1, "b": 3.0, "c": 0.1}}
    assert '"b"' in ln.report(picture(chart={"directions": [recipe, recipe]}))["one tensor"].said


@pytest.mark.parametrize(
    ("how", "level"),
    [
        ({"normalize": None}, "warning"),
        ({"normalize": "layer"}, "ok"),
        ({"kind": "gradient", "normalize": None}, "note"),
    ],
)
def test_scale(how, level):
    recipe = picture().attrs["chart"]["directions"][0] | how
    assert levels(ln.report(picture(chart={"directions": [recipe, recipe]})))["scale"] == level


def test_what_is_held_still():
    recipe = picture().attrs["chart"]["directions"][0] | {"excluded": ["d.bias", "e.bias"], "filters_left_out": 2}
    found = ln.report(picture(chart={"directions": [recipe, recipe]}, objective={"parameters_held": 70}))["held still"]
    assert found.level == "note"
    assert "2 of 5 tensors" in found.said and "70 parameters" in found.said and "4 filters" in found.said


@pytest.mark.parametrize(("policy", "level"), [("batch", "warning"), ("frozen", "note"), ("recompute", "ok")])
def test_batch_norm(policy, level):
    assert levels(ln.report(picture(objective={"bn": policy})))["batch norm"] == level


# ---------------------------------------------------------------------- noise


def test_a_subset_too_small_is_warned_of_and_all_the_data_is_not():
    small = ln.report(picture(se=0.6, objective={"samples": 50, "population": 50_000}))
    assert small["data"].level == "note"
    assert small["noise"].level == "unknown" and "independent samples" in small["noise"].said  # paired it may be less
    differing = picture(se=0.6, objective={"samples": 50, "population": 50_000})
    differing["loss_se"] = (
        20 * differing["loss"]
    )  # by so much at the ends of the rise that no correlation makes it less
    assert ln.report(differing)["noise"].level == "warning"
    assert ln.report(picture(se=0.3))["noise"].level == "note"
    assert ln.report(picture(se=0.01, objective={"samples": 900, "population": 50_000}))["noise"].level == "ok"
    assert ln.report(picture(objective={"samples": 9, "population": 50_000}))["data"].level == "warning"
    assert ln.report(picture(se=None))["noise"].level == "unknown"
    assert ln.report(picture(se=None, objective={"samples": None}))["noise"].level == "unknown"


def test_ripples_that_may_be_noise():
    x = np.linspace(-1, 2, 31)
    waves = 0.5 + x**2 + 0.2 * np.cos(12 * x)
    few = {"samples": 50, "population": 50_000}
    unpaired = ln.report(picture(waves, se=0.5, objective=few))["ripples"]
    assert unpaired.level == "unknown" and "independent samples" in unpaired.said
    assert ln.report(picture(waves, se=0.5))["ripples"].level == "note"
    sure = ln.report(picture(waves, se=0.001, objective=few))["ripples"]
    assert sure.level == "ok" and sure.values["local_minima"] >= 2
    assert ln.report(picture(x**2 + 1))["ripples"].values == {"local_minima": 0}


@pytest.mark.parametrize(
    ("precision", "range_", "level"),
    [("bfloat16", 2.0, "ok"), ("bfloat16", 0.2, "note"), ("bfloat16", 0.02, "warning")],
)
def test_reduced_precision(precision, range_, level):
    x = np.linspace(-range_, range_, 21)
    surface = picture(1 + np.add.outer(x**2, x**2) * 8, engine=ENGINE | {"precision": precision, "plan_error": 2e-3})
    surface = surface.assign_coords(alpha=x, beta=x)
    assert ln.report(surface)["precision"].level == level
    exact = surface.copy()
    exact.attrs = surface.attrs | {"engine": ENGINE}
    assert ln.report(exact)["precision"].level == "ok"


# ---------------------------------------------------------------------- the centre


def test_a_centre_that_is_not_a_minimum():
    x = np.linspace(-1, 2, 21)
    values = 0.3 + np.add.outer((x - 0.8) ** 2, (x - 0.8) ** 2)
    found = ln.report(picture(values, center={"loss": 0.3 + 2 * 0.64}))["minimum"]
    assert found.level == "warning" and "alpha = 0.8" in found.said
    unsure = ln.report(picture(values, center={"loss": 0.3 + 2 * 0.64}, se=1.0))["minimum"]
    assert unsure.level == "note"
    assert ln.report(picture())["minimum"].level == "unknown"  # the gradient was not measured


def test_a_fit_finds_the_hessian_of_a_quadratic():
    x = np.linspace(-1, 2, 13)  # 0 is one of them
    a, b = np.meshgrid(x, x, indexing="ij")
    found = fitted(Subject.of([picture(3 + a + 2 * a**2 - a * b + 5 * b**2)]))
    np.testing.assert_allclose(found.hessian, [[4, -1], [-1, 10]], atol=1e-8)
    assert found.error < 0.01
    quartic = fitted(Subject.of([picture(3 + a**4 + b**4)]))
    assert np.abs(quartic.eigenvalues).max() <= quartic.error
    scattered = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    points = ln.Points(scattered)
    objective = bent([4.0, 10.0])
    chart = ln.Plane(objective.params, *(({"x": torch.eye(2, dtype=torch.float64)[i]}) for i in (0, 1)))
    surface = ln.evaluate(objective, chart, points, engine=PLAIN, progress=False)
    np.testing.assert_allclose(fitted(Subject.of([surface])).hessian, [[4, 0], [0, 10]], atol=1e-6)


def curvature_at(surface, low, high, error=1e-3):
    """The surface's curvature as `evaluate_curvature` stores it, on a coarse grid."""
    coarse = surface.isel({dim: slice(0, None, 5) for dim in surface["loss"].dims}).copy()
    coarse = coarse.assign_coords(
        {dim: coarse[dim] - coarse[dim].values[np.abs(coarse[dim].values).argmin()] for dim in coarse.dims}
    )
    for name, value in {"lambda_min": low, "lambda_max": high, "lambda_min_error": error}.items():
        coarse[name] = coarse["loss"] * 0 + value
    coarse.attrs = surface.attrs | {"curvature": {"parameters": 10}}
    return coarse


def test_a_saddle_that_looks_convex_is_warned_of_by_stored_curvature():
    surface = picture()
    found = ln.report(surface, curvature_at(surface, -3.0, 20.0))["saddle"]
    assert found.level == "warning"
    assert "looks convex but the Hessian at its centre has eigenvalue -3" in found.said
    assert ln.report(surface, curvature_at(surface, -0.1, 20.0))["saddle"].level == "note"
    assert ln.report(surface, curvature_at(surface, -3.0, 20.0, error=4.0))["saddle"].level == "unknown"
    assert ln.report(surface, curvature_at(surface, -0.001, 20.0, error=0.01))["saddle"].level == "ok"
    assert ln.report(surface, curvature_at(surface, 0.5, 20.0))["saddle"].level == "ok"
    x = np.linspace(-1, 2, 21)
    shown = picture(9 + np.subtract.outer(x**2, x**2))
    assert ln.report(shown, curvature_at(shown, -3.0, 20.0))["saddle"].level == "ok"  # it misleads nobody


# ---------------------------------------------------------------------- paths


class Walk(nn.Module):
    """A model that is one long vector."""

    def __init__(self, d=1500):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d, 1, dtype=torch.float64))

    def forward(self, x):
        return x @ self.w


def recorded(folder, points):
    model = Walk(points.shape[1])
    with ln.Trajectory(model, store=folder) as trajectory:
        for point in points:
            model.w.data.copy_(torch.as_tensor(point)[:, None])
            trajectory.step()
    return model, trajectory[1:]


@pytest.mark.parametrize(("kind", "level"), [("walk", "warning"), ("descent", "ok")])
def test_a_random_walk_is_told_from_a_descent(tmp_path, kind, level):
    drawn = np.random.default_rng(0)
    points = np.cumsum(drawn.standard_normal((40, 1500)), 0)
    if kind == "descent":
        ways = drawn.standard_normal((2, 1500))
        time = np.arange(40)[:, None]
        points = 5 * 0.9**time * ways[0] + 3 * 0.7**time * ways[1] + 0.01 * points
    model, trajectory = recorded(tmp_path / "path", points)
    found = ln.directions.pca(trajectory)
    data = (
        torch.randn(20, 1500, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        torch.zeros(20, 1).double(),
    )
    objective = ln.Objective(model, "mse", data).at({"w": torch.as_tensor(points[-1])[:, None]})
    plane = ln.Plane(found.center, *found)
    path = ln.evaluate_trajectory(objective, plane, trajectory, progress=False)
    report = ln.report(path)
    assert report["random walk"].level == level, report
    assert "snapshots" in report.subject
    if kind == "descent":
        assert not report.warnings
    across = ln.Plane(found.center, *ln.directions.random(objective, n=2, normalize="layer", exclude=()))
    assert ln.report(ln.project(trajectory, across))["off the plane"].level == "warning"


def test_the_ground_below_a_path_is_held_against_its_loss():
    surface = picture()
    n = 8
    columns = {"residual": np.full(n, 0.1), "distance": np.linspace(1, 2, n), "loss": np.full(n, 0.5)}
    columns |= {"loss_projected": np.full(n, 0.5), "alpha": np.zeros(n), "beta": np.zeros(n)}
    path = xr.Dataset({name: ("snapshot", values) for name, values in columns.items()})
    path.attrs = {"schema": "lossnav.trajectory", "schema_version": 1, "chart": surface.attrs["chart"]}
    assert levels(ln.report(surface, path)) == levels(ln.report(surface)) | {"off the plane": "ok", "shadow": "ok"}
    path["loss_projected"] = 5 * path["loss"]
    path["residual"] = 0.3 * path["distance"]
    found = levels(ln.report(surface, path))
    assert (found["shadow"], found["off the plane"]) == ("warning", "note")


def test_thresholds_have_reasons():
    text = Path(thresholds.__file__).read_text()
    table = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    for name in [name for name in vars(thresholds) if name.isupper()]:
        assert re.search(rf'^{name} = \S+\n"""[-A-Z|]', text, re.MULTILINE), name
    for check in levels(ln.report(picture())):
        assert f"| `{check}`" in table, check


# ---------------------------------------------------------------------- where it is shown


def test_pages_and_interactive_pictures_have_the_panel(tmp_path):
    bad = picture(se=5.0, objective={"population": 9999})
    single = ln.plot.write("contour", bad, tmp_path / "one.html").read_text()
    several = ln.plot.write("contour", [bad, picture()], tmp_path / "two.html", labels=["bad", "good"]).read_text()
    sampler = {"kind": "Grid", "axes": {"alpha": [-1, 2, 21], "beta": [-1, 2, 21]}}
    said = {"sampler": sampler, "seconds": 1.0, "points_per_second": 441.0}
    objective = {"device": "cpu", "fingerprint": "0" * 16}
    surface = picture(se=5.0, objective=objective | {"population": 9999}, **said)
    options = {"title": "T", "lead": "L", "numbers": {}, "sections": []}
    page = write_page(tmp_path / "page.html", **options, surfaces={"plane": surface}).read_text()
    for text in (single, several, page):
        assert TITLE in text and "ther samples may give another shape there" in text
        assert text.index("lossnav-report") < text.rindex("</body>")
    assert "<b>bad</b>" in several and "<b>good</b>" in several and "<b>plane</b>" in page
    known = {"plane": Report("P", (Finding("x", "warning", "Known by measuring.", "Do."),))}
    page = write_page(tmp_path / "page.html", **options, surfaces={"plane": surface}, reports=known).read_text()
    assert "Known by measuring." in page and "other samples may give" not in page


PROJECT = """
import numpy as np
import torch
import lossnav as ln

bends = torch.tensor([*np.full(60, 1.0), -0.5, 4.0], dtype=torch.float64)

def loss(p):
    return 0.2 + (bends * p["x"][0] ** 2).sum() / 2

objective = ln.Objective.from_function(loss, {"x": torch.full((1, 62), 1e-9, dtype=torch.float64)})
"""


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some_saddle.py").write_text(PROJECT)

    def run(*arguments):
        done = CliRunner().invoke(app, ["report", *arguments])
        return done.exit_code, done.stdout, done.stderr

    objective = load_objective("some_saddle.py:objective")
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None))
    ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 21)), store="run.zarr", engine=PLAIN, progress=False)
    code, out, _ = run("run.zarr")
    assert code == 0 and re.fullmatch(r"0 warnings, \d notes?, \d+ not known, \d+ ok", out.splitlines()[-1])
    assert "saddle" in out
    code, out, _ = run("run.zarr", "--measure", "--json", "--trust")
    said = json.loads(out)
    assert code == 0 and said["counts"]["warning"] == 1
    (saddle,) = (line for line in said["lines"] if line["check"] == "saddle")
    assert saddle["values"]["lambda_min"] == pytest.approx(-0.5, rel=1e-3)
    code, out, _ = run("run.zarr")  # what was measured is known now
    assert out.splitlines()[-1].startswith("1 warning,") and "eigenvalue -0.5" in " ".join(out.split())
    assert run("run.zarr", "--spec", "some_saddle.py:objective")[0] == 2
    code, _, err = run("run.zarr", "--measure", "--spec", "nowhere.py:objective")
    assert code == 2 and "nowhere.py" in err
    assert run("nowhere.zarr")[0] == 1


def test_a_run_made_in_python_is_measured_by_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other_saddle.py").write_text(PROJECT)
    objective = load_objective("other_saddle.py:objective")
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None))
    surface = ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 21)), engine=PLAIN, progress=False)
    surface.attrs["objective"] = surface.attrs["objective"] | {"origin": None}
    ln.save(surface, "run.zarr")
    refused = CliRunner().invoke(app, ["report", "run.zarr", "--measure"])
    assert refused.exit_code == 2 and "made in Python" in refused.stderr
    done = CliRunner().invoke(app, ["report", "run.zarr", "--measure", "--spec", "other_saddle.py:objective"])
    assert done.exit_code == 0 and "is a saddle" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective": nn.Linear(2, 2)}, "The objective is .*ln.Objective"),
        ({"objective": "net"}, "The objective is .*ln.Objective"),
        ({"chart": "plane"}, "The chart is .*Make one"),
    ],
)
def test_what_is_no_objective_or_chart_is_named(surface, given, said):
    with pytest.raises(errors.OptionError, match=said):
        ln.report(surface, **given)
    with pytest.raises(errors.OptionError, match="Name what it is: ln.report"):
        ln.report(surface, nn.Linear(2, 2))
