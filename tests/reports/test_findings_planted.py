"""Each warning is provoked by a planted case."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import lossnav as ln
from lossnav.reports.evidence import Subject
from lossnav.reports.fit import fitted
from lossnav.surface.seeds import join_seeds
from planted import PLAIN, bent
from stored_pictures import ENGINE, curvature_at, levels, picture


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
    assert "outside the picture" in ln.report(away)["range"].said


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
