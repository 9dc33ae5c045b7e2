"""A surface while it is made: updates, streams, resuming, and the grid made of points."""

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lossnav as ln
from lossnav.errors import LossnavWarning, OptionError

ADAPTIVE = ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.003, max_points=240)
GRID = ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 9))


def problem(function=None, calls=None):
    held = [function]  # in a list: what is enclosed in it is not what the objective is known by

    def f(p):
        if calls is not None:
            calls.append(1)
        x = p["x"]
        return (1 + (x[0] - 0.3) ** 2 * (1 + x[1] ** 2) + torch.exp(1.5 * x[1])) if held[0] is None else held[0](x)

    objective = ln.Objective.from_function(f, {"x": torch.zeros(2)}, name="valley")
    e1, e2 = ({"x": torch.tensor(v)} for v in ([1.0, 0.0], [0.0, 1.0]))
    return objective, ln.Plane(objective.params, e1, e2)


def same(a, b):
    assert a["loss"].equals(b["loss"])
    assert a["status"].equals(b["status"])


# ---------------------------------------------------------------------- while it runs


@pytest.mark.parametrize("sampler", [GRID, ADAPTIVE])
def test_a_stream_ends_with_what_evaluate_returns(sampler):
    surfaces = list(ln.stream(*problem(), sampler))
    assert len(surfaces) >= 2
    assert [s.attrs["finished"] for s in surfaces] == [False] * (len(surfaces) - 1) + [True]
    assert (surfaces[0]["status"].values == 1).sum() == 25
    same(surfaces[-1], ln.evaluate(*problem(), sampler))


def test_a_stream_that_is_left_leaves_nothing_behind():
    handlers = signal.getsignal(signal.SIGINT)
    state = torch.get_rng_state()
    for surface in ln.stream(*problem(), GRID):  # noqa: B007 - looked at below
        assert signal.getsignal(signal.SIGINT) == handlers
        torch.rand(3)
        break
    assert not torch.equal(torch.get_rng_state(), state)  # what the caller drew is drawn
    assert not surface.lossnav.complete


def test_updates_come_from_coarse_to_whole():
    seen = []
    surface = ln.evaluate(*problem(), GRID, on_update=seen.append)
    assert (seen[0]["status"].values == 1).sum() == 25
    assert seen[-1].identical(surface)


def test_what_an_update_does_is_not_done_to_the_result():
    def clear(surface):
        surface["loss"].values[:] = 0

    assert (ln.evaluate(*problem(), GRID, on_update=clear)["loss"] > 1).all()


def test_a_first_round_that_raises_is_no_reason_to_stop():
    def failing(x):
        if float(x[0]) % 0.5 == 0:
            raise RuntimeError("on the coarse grid only")
        return x[0] ** 2 + 1

    seen = []
    with pytest.warns(ln.errors.PointsFailedWarning):
        surface = ln.evaluate(*problem(failing), GRID, check=False, on_update=seen.append)
    assert surface.lossnav.counts["ok"] == 36
    assert seen[0].lossnav.counts["ok"] == 0
    with pytest.warns(ln.errors.PointsFailedWarning):
        assert list(ln.stream(*problem(failing), GRID, check=False))[-1]["loss"].equals(surface["loss"])


def test_a_second_ctrl_c_in_the_last_update_loses_nothing(tmp_path):
    def stop(surface):
        if surface.attrs["finished"]:
            raise KeyboardInterrupt

    with pytest.raises(ln.Interrupted) as caught:
        ln.evaluate(*problem(), GRID, store=tmp_path / "run.zarr", on_update=stop)
    assert caught.value.partial.lossnav.complete
    assert ln.open(tmp_path / "run.zarr").lossnav.complete


def test_an_update_that_raises_does_not_end_the_run():
    def broken(surface):
        raise ValueError("no window")

    with pytest.warns(LossnavWarning, match="no window"):
        surface = ln.evaluate(*problem(), GRID, on_update=broken)
    assert surface.lossnav.complete


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("sampler", [GRID, ADAPTIVE])
@pytest.mark.parametrize("after", [1, 7, 26, 40, 63])
def test_a_stopped_run_goes_on_to_the_same_bits(sampler, after):
    whole = ln.evaluate(*problem(), sampler)
    calls = []

    def stopping(x):
        if len(calls) == after + 2:  # the centre is evaluated twice before
            os.kill(os.getpid(), signal.SIGINT)
        return 1 + (x[0] - 0.3) ** 2 * (1 + x[1] ** 2) + torch.exp(1.5 * x[1])

    with pytest.raises(ln.Interrupted) as caught:
        ln.evaluate(*problem(stopping, calls), sampler)
    part = caught.value.partial
    assert (part["status"].values == 1).sum() == after
    again = []
    resumed = ln.evaluate(*problem(calls=again), sampler, resume=part)
    assert len(again) == 2 + (whole["status"].values == 1).sum() - after
    same(resumed, whole)
    assert resumed.attrs["sampler"] == whole.attrs["sampler"]


def test_points_that_failed_are_tried_again():
    def failing(x):
        if x[0] > 0.9:
            raise RuntimeError("worn out")
        return x[0] ** 2 + 1

    with pytest.warns(ln.errors.PointsFailedWarning):
        part = ln.evaluate(*problem(failing), GRID)
    whole = ln.evaluate(*problem(lambda x: x[0] ** 2 + 1), GRID, resume=part)
    assert whole.lossnav.counts["ok"] == 81


def test_another_sampler_takes_the_points_that_are_there():
    calls = []
    part = ln.evaluate(*problem(calls=[]), GRID)
    finer = ln.Grid(alpha=(-1, 1, 17), beta=(-1, 1, 17))
    same(ln.evaluate(*problem(calls=calls), finer, resume=part), ln.evaluate(*problem(), finer))
    assert len(calls) == 2 + 17 * 17 - 81
    more = ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.003, max_points=300)
    part = ln.evaluate(*problem(), ADAPTIVE)
    same(ln.evaluate(*problem(), more, resume=part), ln.evaluate(*problem(), more))


def test_another_runs_surface_is_refused():
    part = ln.evaluate(*problem(), GRID)
    objective, plane = problem()
    moved, (e1, e2) = objective.at({"x": torch.ones(2)}), plane.basis
    with pytest.raises(OptionError, match="something else:\n  objective.fingerprint: was"):
        ln.evaluate(moved, ln.Plane(moved.params, e1, e2), GRID, resume=part)
    with pytest.raises(OptionError, match=r"chart.directions: was"):  # as long, and the other way
        ln.evaluate(objective, ln.Plane(objective.params, {"x": -e1["x"]}, e2), GRID, resume=part)
    with pytest.raises(OptionError, match="its attributes contain interpolation"):
        ln.evaluate(*problem(), GRID, resume=ln.evaluate(*problem(), ADAPTIVE).lossnav.to_grid(9))
    with pytest.raises(OptionError, match="engine.precision: was 'native', is 'float64'"):
        ln.evaluate(*problem(), GRID, resume=part, engine=ln.Local(precision="float64"))
    with pytest.raises(OptionError, match="loss at the centre was 2.09 in the surface to resume and is 1"):
        ln.evaluate(*problem(lambda x: x[0] ** 2 + 1), GRID, resume=part)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            {"loss": torch.nn.CrossEntropyLoss(torch.tensor([1.0, 1.0]))},
            {"loss": torch.nn.CrossEntropyLoss(torch.tensor([1.0, 9.0]))},
        ),
        ({"loss": torch.nn.CrossEntropyLoss()}, {"loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1)}),
        ({"loss": partial(F.cross_entropy, ignore_index=0)}, {"loss": partial(F.cross_entropy, ignore_index=1)}),
        ({"reduction": "mean"}, {"reduction": "auto"}),
        ({"forward": lambda m, b, k=1: (m(b[0]) * k, b[1])}, {"forward": lambda m, b, k=2: (m(b[0]) * k, b[1])}),
        ({"bn": "frozen"}, {"bn": "batch"}),
    ],
)
def test_a_fingerprint_sees_what_the_loss_depends_on(one, other):
    model, data = torch.nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1]))
    usual = {"loss": "cross_entropy"}
    first, again, second = (ln.Objective(model, data=data, **(usual | options)) for options in (one, one, other))
    assert first.fingerprint == again.fingerprint != second.fingerprint
    assert first.data_fingerprint == second.data_fingerprint


def test_a_fingerprint_sees_numbers_in_closures_and_no_counters():
    def scaled(factor, calls):
        def f(p):
            calls.append(1)
            return factor * p["x"].sum()

        return ln.Objective.from_function(f, {"x": torch.ones(2)}).fingerprint

    assert scaled(1.0, []) == scaled(1.0, [1, 2]) != scaled(2.0, [])


# ---------------------------------------------------------------------- from points to a grid


def test_points_become_a_grid_that_says_what_is_interpolated():
    surface = ln.evaluate(*problem(), ADAPTIVE)
    outcome = surface.attrs["sampler"]["outcome"]
    assert outcome["unresolved"] == 0
    grid = surface.lossnav.to_grid(33)
    truth = ln.evaluate(*problem(), ln.Grid(alpha=(-1, 1, 33), beta=(-1, 1, 33)))
    error = np.abs(grid["loss"] / truth["loss"] - 1)
    assert float(error.max()) <= 2 * outcome["estimated_error"]
    measured = grid["interpolated"].values == 0
    assert 41 <= measured.sum() < 33 * 33
    np.testing.assert_array_equal(grid["loss"].values[measured], truth["loss"].values[measured])
    assert 0 < grid.attrs["interpolation"]["left_out_error_p99"] <= grid.attrs["interpolation"]["left_out_error"] < 0.2
    assert grid.attrs["interpolation"]["points"] == surface.sizes["point"]


def test_a_coarse_picture_fills_its_own_grid():
    part = next(iter(ln.stream(*problem(), GRID)))
    grid = part.lossnav.to_grid()
    assert grid.sizes == part.sizes
    assert (grid["interpolated"] == 0).sum() == 25
    assert np.isfinite(grid["loss"]).all()


def test_nothing_is_drawn_across_a_hole():
    def hole(x):
        return torch.where(x[0] > 0.3, torch.nan, 1 + x[0] ** 2 + x[1] ** 2)

    grid = ln.evaluate(*problem(hole), ADAPTIVE).lossnav.to_grid(41)
    right = grid.sel(alpha=slice(0.45, 1))
    assert np.isnan(right["loss"]).all()
    assert (right["status"] == 2).all()
    assert np.isfinite(grid.sel(alpha=slice(-1, 0.15))["loss"]).all()


def nan_near(x, where, width=0.003):
    return torch.where((x - where).abs() < width, torch.nan, torch.exp(3 * torch.sin(8 * x)))


def test_a_hole_narrower_than_a_step_is_a_hole():
    line = ln.Line({"x": torch.zeros(2)}, {"x": torch.tensor([1.0, 0.0])})
    objective, _ = problem(lambda x: nan_near(x[0], 0.125))
    surface = ln.evaluate(objective, line, ln.Adaptive(alpha=(-1, 1)))
    holes = surface.lossnav.counts["non-finite"]  # the refined rim of the hole lies between two places too
    assert holes >= 1
    grid = surface.lossnav.to_grid()
    np.testing.assert_allclose(grid["alpha"][grid["status"] == 2], [0.12, 0.13])
    assert np.isnan(grid["loss"].sel(alpha=[0.12, 0.13], method="nearest")).all()
    said = grid.attrs["interpolation"]
    assert (said["points"], said["holes"]) == (surface.sizes["point"], holes)
    assert len(said["measured"]) == len(said["values"]["loss"]) == surface.sizes["point"] - holes
    figure = ln.plot.line(surface, points=True)
    assert f"{holes} of them not finite or failed" in figure.layout.annotations[0].text.replace("<br>", " ")
    (marks,) = (trace for trace in figure.data if trace.name == "measured")
    ok = surface["status"].values == 1
    np.testing.assert_array_equal(marks.x, surface["alpha"].values[ok])
    np.testing.assert_array_equal(marks.y, surface["loss"].values[ok])  # not what the curve has there
    figure = ln.plot.line(surface, points=True, log=True, backend="matplotlib")
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), surface["loss"].values[ok])


def test_a_wall_of_points_parts_the_plane():
    wall = ln.evaluate(
        *problem(lambda x: nan_near(x[0], 0.1, 0.01)), ln.Grid(alpha=(-1, 1, 81), beta=(-1, 1, 9)), check=False
    )
    assert wall.lossnav.counts["non-finite"] == 9
    assert np.isnan(wall.lossnav.to_grid(21)["loss"]).any("alpha").all()  # the wall lies on a column of places
    beside = wall.lossnav.to_grid(24)  # and here between two columns, its points between rows but for the ends
    assert (beside["status"] == 2).sum() == 7 * 4 + 2 * 2


def test_places_that_were_measured_stay():
    line = ln.Line({"x": torch.zeros(2)}, {"x": torch.tensor([1.0, 0.0])})
    objective, _ = problem(lambda x: nan_near(x[0], 0.504))
    grid = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 1001))).lossnav.to_grid(11)
    assert np.isfinite(grid["loss"]).all()
    assert grid.attrs["interpolation"]["holes"] > 0


def test_every_variable_has_its_own_holes_and_its_own_range():
    surface = ln.evaluate(*problem(), ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 9)))
    accuracy = np.where(surface["alpha"].values[:, None] + surface["beta"].values > 0.1, 1.0, 0.0)
    accuracy[2, 2] = np.nan
    surface["accuracy"] = (("alpha", "beta"), accuracy, {"units": "1", "long_name": "accuracy"})
    grid = surface.lossnav.to_grid(41)
    assert float(grid["accuracy"].min()) == 0
    assert float(grid["accuracy"].max()) == 1
    assert np.isnan(grid["accuracy"].sel(alpha=-0.5, beta=-0.5))
    assert np.isfinite(grid["loss"]).all()
    assert (grid["status"] == 1).all()


@pytest.mark.parametrize("points", [[(0.3, 0.1)], [(0.3, 0.1), (0.3, 0.2), (0.3, 0.5)]])
def test_points_that_make_no_axis_are_refused(points):
    with pytest.raises(OptionError, match=r"alpha = 0.3, so there is no axis"):
        ln.evaluate(*problem(), ln.Points(points)).lossnav.to_grid()


def test_a_trajectory_in_a_plane_is_drawn_along_itself():
    t = np.linspace(-1, 1, 21)
    grid = ln.evaluate(*problem(), ln.Points(np.stack([t, t / 2], axis=1))).lossnav.to_grid(41)
    assert np.isfinite(grid["loss"]).sum() == 41
    assert (grid["status"] == 0).sum() == 41 * 40


def test_outside_of_all_points_nothing_is_known():
    triangle = ln.Points([(0, 0), (1, 0), (0, 1), (0.3, 0.3), (0.1, 0.6), (0.6, 0.1), (0.2, 0.1)])
    grid = ln.evaluate(*problem(), triangle).lossnav.to_grid(21)
    assert grid["status"].sel(alpha=0.9, beta=0.9, method="nearest") == 0
    assert grid["status"].sel(alpha=0.2, beta=0.2, method="nearest") == 1


def test_a_line_too():
    objective, plane = problem()
    line = ln.Line(objective.params, plane.basis[1])
    surface = ln.evaluate(objective, line, ln.Adaptive(alpha=(-2, 2)))
    grid = surface.lossnav.to_grid()
    assert grid.sizes == {"alpha": 201}
    truth = ln.evaluate(objective, line, ln.Grid(alpha=(-2, 2, 201)))
    assert float(np.abs(grid["loss"] / truth["loss"] - 1).max()) < 0.01


def test_an_automatic_range_is_found_and_recorded():
    objective, plane = problem()
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=("auto", 5), beta=("auto", 5)))
    auto = surface.attrs["sampler"]["auto"]
    assert float(surface["beta"].max()) == auto["beta"]["reach"]
    assert auto["beta"]["found"] >= 10
    with pytest.raises(OptionError, match="A grid needs measured points"):
        surface.lossnav.to_grid(1)


# ---------------------------------------------------------------------- pictures


@pytest.mark.parametrize("kind", ["contour", "heatmap", "surface"])
@pytest.mark.parametrize("ending", ["png", "html"])
def test_points_are_drawn_as_a_plane_that_says_so(kind, ending, tmp_path):
    surface = ln.evaluate(*problem(), ADAPTIVE)
    target = ln.plot.write(kind, surface, tmp_path / f"out.{ending}", points=True)
    assert target.stat().st_size > 10_000
    figure = getattr(ln.plot, kind)(surface, points=True)
    words = " ".join(note.text for note in figure.layout.annotations)
    assert f"interpolated from {surface.sizes['point']} points, estimated error" in words
    marked = [trace for trace in figure.data if trace.x is not None and len(trace.x) == surface.sizes["point"]]
    assert len(marked) == 1


def test_a_line_of_points_and_one_of_seeds(tmp_path):
    objective, plane = problem()
    lines = [ln.Line(objective.params, b) for b in plane.basis]
    one = ln.evaluate(objective, lines[0], ln.Adaptive(alpha=(-1, 1)))
    assert "measured" in {trace.name for trace in ln.plot.line(one, points=True).data}
    many = ln.ensemble(objective, lambda seed: lines[seed], ln.Grid(alpha=(-1, 1, 9)), seeds=[0, 1])
    assert "± 1 standard deviation over seeds" in {trace.name for trace in ln.plot.line(many).data}
    for surface in (one, many):
        ln.plot.write("line", surface, tmp_path / f"{id(surface)}.png", points=True)


def test_what_a_point_surface_is_of_is_counted_in_coordinates():
    plane = ln.evaluate(*problem(), ADAPTIVE)
    with pytest.raises(OptionError, match=r"needs 1 coordinate\(s\), but the surface has \(alpha, beta\)"):
        ln.plot.line(plane)
    objective = ln.Objective.from_function(lambda p: 1 + (p["x"] ** 2).sum(), {"x": torch.zeros(3)})
    points = np.random.default_rng(0).uniform(-1, 1, (60, 3))
    points[0] = 0
    volume = ln.evaluate(
        objective,
        ln.Volume(objective.params, *({"x": row} for row in torch.eye(3))),
        ln.Points(points, dims=("alpha", "beta", "gamma")),
    )
    with pytest.raises(OptionError, match="surface.lossnav.to_grid"):
        ln.plot.contour(volume)
    slice_of_it = volume.lossnav.to_grid(41).sel(gamma=0, method="nearest")  # what the message says
    figure = ln.plot.contour(slice_of_it, points=True)
    assert np.isfinite(np.asarray(figure.data[0].z)).any()
