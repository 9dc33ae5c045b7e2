"""A path on a picture is asked for its numbers: they are those of the projection, in their place."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.plots.picture import prepare
from lossnav.plots.scales import short
from lossnav.plots.trajectory import _round, track_of
from lossnav.surface import assemble


@pytest.fixture(scope="module")
def descent(tmp_path_factory):
    """A bowl, a plane of two of its three axes, and a run that spirals down to it with something off the plane."""
    model = nn.Linear(3, 1, bias=False).requires_grad_(False)
    with ln.Trajectory(model, store=tmp_path_factory.mktemp("run") / "run") as recorder:
        for i in range(60):
            r, t = 1 - i / 60, 0.2 * i
            model.weight.copy_(torch.tensor([[r * np.cos(t), r * np.sin(t), 0.5 * r]]))
            recorder.step(epoch=i // 6)
    objective = ln.Objective.from_function(
        lambda p: 0.1 + (p["weight"] ** 2).sum(),
        {"weight": torch.zeros(1, 3)},
        metrics={"twice": lambda p: 2 * p["weight"].sum()},
    )
    e1, e2 = ({"weight": row[None]} for row in torch.eye(3)[:2])
    plane = ln.Plane(objective.params, e1, e2)
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1.2, 1.2, 9), beta=(-0.8, 0.8, 7)), progress=False)
    return surface, ln.evaluate_trajectory(objective, plane, recorder[1:])


@pytest.mark.parametrize("kind", ["contour", "heatmap"])
def test_plotly_planes_hold_the_path(descent, kind):
    surface, path = descent
    figure = getattr(ln.plot, kind)(surface, trajectory=path)
    (trace,) = (trace for trace in figure.data if trace.name == "trajectory")
    np.testing.assert_array_equal(trace.x, path["alpha"])
    np.testing.assert_array_equal(trace.y, path["beta"])
    np.testing.assert_array_equal(trace.marker.color, path["residual"])
    assert trace.text[30].startswith("step 31, epoch 5<br>loss: ")
    assert f"{float(path['loss_projected'][30]):.5g}" in trace.text[30]
    words = [note.text for note in figure.layout.annotations]
    assert "epoch 0" in words
    assert "2" in words
    assert "60 snapshots, up to 0.5 off the plane" in words[-1]


@pytest.mark.parametrize("kind", ["contour", "heatmap"])
def test_matplotlib_planes_hold_the_path(descent, kind, tmp_path):
    surface, path = descent
    figure = getattr(ln.plot, kind)(surface, trajectory=path, backend="matplotlib")
    axes = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 60]
    assert len(lines) == 2  # and its halo
    np.testing.assert_array_equal(lines[1].get_xydata(), np.c_[path["alpha"], path["beta"]])
    (dots,) = (c for c in axes.collections if c.get_offsets().shape == (60, 2) and c.get_array() is not None)
    np.testing.assert_array_equal(dots.get_array(), path["residual"])
    assert "epoch 0" in [text.get_text() for text in axes.texts]
    assert "distance off the plane" in [bar.get_ylabel() for bar in axes.child_axes]
    figure.savefig(tmp_path / "path.png")


@pytest.mark.parametrize("log", [False, True])
def test_over_a_surface_both_losses_and_their_difference_are_drawn(descent, log):
    surface, path = descent
    scale = np.log10 if log else np.asarray
    figure = ln.plot.surface(surface, trajectory=path, log=log)
    by_name = {trace.name: trace for trace in figure.data}
    inside = np.abs(path["beta"].values) <= 0.8
    np.testing.assert_allclose(by_name["loss at the snapshots"].z, np.where(inside, scale(path["loss"]), np.nan))
    low, high = prepare(surface, "loss", log, 2).range
    lifted = np.where(inside, scale(path["loss_projected"]), np.nan) + 0.004 * (high - low)
    np.testing.assert_allclose(by_name["loss on the plane"].z, lifted)
    stems = np.c_[by_name["stems"].x, by_name["stems"].y, by_name["stems"].z]
    for foot, head in zip(stems[::3], stems[1::3], strict=True):
        i = int(np.argmin(np.abs(path["alpha"].values - foot[0]) + np.abs(path["beta"].values - foot[1])))
        np.testing.assert_allclose(foot[2], scale(float(path["loss_projected"][i])))
        np.testing.assert_allclose(head[2], scale(float(path["loss"][i])))
    assert 20 <= len(stems) // 3 <= 40
    axes = ln.plot.surface(surface, trajectory=path, log=log, backend="matplotlib").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for name, variable in (("loss on the plane", "loss_projected"), ("loss at the snapshots", "loss")):
        np.testing.assert_allclose(lines[name].get_data_3d()[2], np.where(inside, scale(path[variable]), np.nan))


def test_what_lies_outside_of_the_picture_is_said(descent):
    surface, path = descent
    outside = int((np.abs(path["beta"]) > 0.8).sum())
    assert outside > 0
    figure = ln.plot.contour(surface, trajectory=path)
    assert f"{outside} of them outside of the picture" in figure.layout.annotations[-1].text


def test_a_metric_is_drawn_by_its_own_name(descent):
    surface, path = descent
    figure = ln.plot.surface(surface, variable="twice", trajectory=path)
    (trace,) = (trace for trace in figure.data if trace.name == "loss at the snapshots")
    inside = np.abs(path["beta"].values) <= 0.8
    np.testing.assert_allclose(np.asarray(trace.z)[inside], path["twice"].values[inside])


def test_a_path_without_epochs_or_losses(descent):
    surface, path = descent
    bare = path.drop_vars(["epoch", "loss", "loss_projected"])
    texts = [note.text for note in ln.plot.contour(surface, trajectory=bare).layout.annotations]
    assert texts[0] == "step 1"
    assert texts[1] == "11"
    for backend in ("plotly", "matplotlib"):
        with pytest.raises(errors.OptionError, match="evaluate_trajectory"):
            ln.plot.surface(surface, trajectory=bare, backend=backend)


def test_failed_snapshots_are_gaps(descent):
    surface, path = descent
    broken = path.copy(deep=True)
    broken["loss"][20:25] = np.nan
    for log in (False, True):
        track = track_of(broken, surface, prepare(surface, "loss", log, 2), "loss")
        assert np.isnan(track.heights[20:25]).all()
        ln.plot.surface(surface, trajectory=broken, log=log, backend="matplotlib")


def test_a_snapshot_that_is_nowhere_is_left_out(descent, tmp_path):
    surface, path = descent
    diverged = path.copy(deep=True)
    for name in ("alpha", "beta", "residual", "distance", "loss", "loss_projected"):
        diverged[name].values[-1] = np.nan
    figure = ln.plot.contour(surface, trajectory=diverged)
    assert "up to 0.5 off the plane" in figure.layout.annotations[-1].text
    for kind in ("contour", "surface"):
        ln.plot.write(kind, surface, tmp_path / f"{kind}.png", trajectory=diverged)


def test_a_path_over_points_that_lie_on_no_grid(descent):
    surface, path = descent
    places = np.random.default_rng(0).uniform(-1.2, 1.2, (40, 2))
    rows = [{"loss": 0.1 + float(x @ x), "twice": 0.0} for x in places]
    points = assemble.assemble(("alpha", "beta"), None, places, rows, [1] * 40, surface.attrs)
    (trace,) = (t for t in ln.plot.surface(points, trajectory=path).data if t.name == "loss at the snapshots")
    np.testing.assert_array_equal(trace.x, path["alpha"])


def test_paths_of_another_plane_are_refused(descent):
    surface, path = descent
    other = path.copy()
    other.attrs = path.attrs | {"chart": path.attrs["chart"] | {"center": "0" * 16}}
    with pytest.raises(errors.OptionError, match="another chart"):
        ln.plot.contour(surface, trajectory=other)
    with pytest.raises(errors.NotATrajectoryError):
        ln.plot.contour(surface, trajectory=surface)
    several = surface.copy()
    several.attrs = surface.attrs | {"ensemble": {"seeds": [0, 1]}}
    with pytest.raises(errors.OptionError, match="several seeds"):
        track_of(path, several, prepare(surface, "loss", False, 2), "loss")
    with pytest.raises(errors.OptionError, match="on one plane"):
        ln.plot.write("line", surface.isel(beta=0), "line.png", trajectory=path)


@pytest.mark.parametrize("suffix", ["png", "pdf", "html"])
@pytest.mark.parametrize("kind", ["contour", "heatmap", "surface"])
def test_files(descent, tmp_path, kind, suffix):
    surface, path = descent
    target = ln.plot.write(kind, surface, tmp_path / f"{kind}.{suffix}", trajectory=path)
    assert target.stat().st_size > 5000


def test_marks_are_round_numbers():
    assert [_round(x) for x in (0.2, 1, 1.5, 2, 3, 7, 11, 49, 60)] == [1, 1, 2, 2, 5, 10, 20, 50, 100]


@pytest.mark.slow
def test_a_film_of_a_projected_trajectory(descent, tmp_path):
    surface, path = descent
    with Image.open(ln.plot.animate(surface, tmp_path / "run.gif", trajectory=path)) as film:
        assert film.n_frames == 60


def test_four_digits_are_no_exponent():
    assert [short(x) for x in (0.15, 1, 2000, 9999, 1e4, 3e12)] == ["0.15", "1", "2000", "9999", "1e4", "3e12"]
