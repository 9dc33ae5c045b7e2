"""Paths between two networks on one axis, and the barrier that each picture says."""

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav.errors import OptionError

A, B = {"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([2.0, 0.0])}


def double_well(params):
    x, y = params["w"]
    return ((x - 1) ** 2 - 1) ** 2 + 0.5 * (y - 1) ** 2 * x


@pytest.fixture(scope="module")
def rows():
    objective = ln.Objective.from_function(double_well, A)
    line = ln.evaluate(objective, ln.Line(A, ln.directions.between(A, B)), ln.Grid(alpha=(-0.5, 1.5, 41)))
    bend = {"w": torch.tensor([1.0, 2.0])}
    curve = ln.evaluate(objective, ln.BezierCurve(A, bend, B), ln.Grid(t=(0, 1, 21)))
    return {"straight": line, "curve": curve}


def height(surface, dim):
    inside = surface.sel({dim: slice(-1e-9, 1 + 1e-9)})
    t, loss = inside[dim].values, inside["loss"].values
    return (loss - (1 - t) * loss[0] - t * loss[-1]).max()


def test_the_legend_says_the_barrier_of_each_path(rows):
    figure = ln.plot.connectivity(rows)
    names = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    wanted = [height(rows["straight"], "alpha"), height(rows["curve"], "t")]
    assert names == [f"{label}: barrier {high:.3g}" for label, high in zip(rows, wanted, strict=True)]
    diamonds = [trace for trace in figure.data if trace.mode == "markers"]
    straight = rows["straight"]
    for diamond in diamonds[:1]:
        at = int(np.abs(straight["alpha"].values - diamond.x[0]).argmin())
        assert diamond.y[0] == pytest.approx(float(straight["loss"][at]))
    curves = [trace for trace in figure.data if trace.mode.startswith("lines") and trace.name]
    for trace in curves:  # only what lies between the networks
        assert (trace.x[0], trace.x[-1]) == (pytest.approx(0), pytest.approx(1))


def test_both_backends_and_files_draw_it(rows, tmp_path):
    import matplotlib.pyplot as plt

    figure = ln.plot.connectivity(rows, backend="matplotlib")
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0].startswith("straight: barrier ") and len(labels) == 2
    plt.close(figure)
    for ending in (".png", ".html"):
        assert ln.plot.write("connectivity", rows, tmp_path / f"paths{ending}").stat().st_size > 1000
    one = ln.plot.connectivity({"alone": rows["curve"]})
    assert next(trace.name for trace in one.data if trace.name).startswith("alone: barrier")


def test_what_is_no_path_is_refused(rows):
    objective = ln.Objective.from_function(double_well, A)
    plane = ln.Plane(A, {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])})
    flat = ln.evaluate(objective, plane, ln.Grid(alpha=(0, 1, 3), beta=(0, 1, 3)))
    for given, message in (
        ({"flat": flat}, "a path has one"),
        ({}, "by label"),
        (rows["curve"], "by label"),
        ({"part": rows["straight"].isel(alpha=slice(12, 30))}, "no points at 0 and 1"),
    ):
        with pytest.raises(OptionError, match=message):
            ln.plot.connectivity(given)
    with pytest.raises(OptionError, match="no variable"):
        ln.plot.connectivity(rows, variable="accuracy")
    with pytest.raises(OptionError, match="Use connectivity"):
        ln.plot.write("line", rows, "picture.png")
