"""Marks: the picture is asked where they are."""

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav.errors import OptionError, StructureMismatchError
from lossnav.plots.marks import heights_of, marks_of

A, B, C = ({"w": torch.tensor(w)} for w in ([0.0, 0, 0], [2.0, 0, 1], [1.0, 3, 0]))


@pytest.fixture(scope="module")
def scene():
    objective = ln.Objective.from_function(lambda p: (p["w"] ** 2).sum() + p["w"].prod(), A)
    plane = ln.Plane(A, *ln.directions.through(A, B, C))
    return objective, plane, ln.evaluate(objective, plane, ln.Grid(alpha=(-0.5, 1.5, 9), beta=(-0.5, 1.5, 9)))


def named(figure):
    return {trace.name: np.stack([trace.x, trace.y], 1) for trace in figure.data if trace.name not in (None, "loss")}


def said(figure):
    return " ".join(note.text.replace("<br>", " ") for note in figure.layout.annotations)


@pytest.mark.parametrize("kind", ["contour", "heatmap", "surface"])
def test_the_networks_of_a_plane_through_three_are_marked(scene, kind):
    _, plane, surface = scene
    found = named(getattr(ln.plot, kind)(surface))
    assert list(found) == ["a", "b", "c"]
    for name, end in zip(found, (A, B, C), strict=True):
        assert torch.allclose(plane(found[name][0])["w"], end["w"], atol=1e-5)
    assert not named(getattr(ln.plot, kind)(surface, marks=False))


def test_a_projected_network_lies_where_the_projection_says(scene):
    _, plane, surface = scene
    off = {"w": torch.tensor([1.0, 1.0, 5.0])}
    path = ln.project(off, plane)
    found = plane.project(off)
    np.testing.assert_allclose([path["alpha"][0], path["beta"][0]], found.coords)
    assert float(path["residual"][0]) == pytest.approx(found.residual)
    figure = ln.plot.contour(surface, marks={"off": path})
    np.testing.assert_allclose(named(figure)["off"], [found.coords])
    assert f"off: up to {found.residual:.3g} off the picture" in said(figure)
    curve = ln.BezierCurve(A, C, B)
    on = ln.project([curve([t]) for t in np.linspace(0, 1, 7)], plane)
    figure = ln.plot.contour(surface, marks={"curve": on})
    assert named(figure)["curve"].shape == (7, 2)
    assert "off the picture" not in said(figure)


def test_modules_state_dicts_and_files_are_projected(tmp_path):
    torch.manual_seed(0)
    models = [torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).eval() for _ in range(3)]
    objective = ln.Objective(models[0], "mse", (torch.ones(3, 2), torch.ones(3, 2)))
    plane = ln.Plane(objective, *ln.directions.through(objective, *models[1:], orthogonal=False))
    ln.checkpoints.save(models[1], tmp_path / "b.safetensors")
    for end in (models[1], models[1].state_dict(), objective.at(models[1]), tmp_path / "b.safetensors"):
        path = ln.project(end, plane)
        np.testing.assert_allclose([path["alpha"][0], path["beta"][0]], [1, 0], atol=1e-6)
    with pytest.raises(StructureMismatchError, match="differ at"):
        ln.project({"w": torch.ones(2)}, plane)


def test_marks_on_a_line_and_in_matplotlib(scene, tmp_path):
    objective, _, surface = scene
    line = ln.evaluate(objective, ln.Line(A, ln.directions.between(A, B)), ln.Grid(alpha=(0, 1, 5)))
    figure = ln.plot.line(line, marks={"a": 0, "b": (1,)})
    assert [shape.x0 for shape in figure.layout.shapes] == [0, 1]
    import matplotlib.pyplot as plt

    for kind, of in (("line", line), ("contour", surface), ("heatmap", surface), ("surface", surface)):
        marks = {"here": 0.5} if kind == "line" else {"here": (0.5, 0.5), "way": [(0, 0), (0.5, 1), (1, 0)]}
        figure = getattr(ln.plot, kind)(of, marks=marks, backend="matplotlib")
        texts = [text.get_text().strip() for text in figure.axes[0].texts]
        assert [text for text in texts if text in marks] == list(marks), texts
        plt.close(figure)
        with_marks = ln.plot.write(kind, of, tmp_path / f"{kind}.svg", marks=marks).read_bytes()
        assert with_marks != ln.plot.write(kind, of, tmp_path / f"{kind}-none.svg", marks=False).read_bytes()


def test_heights_are_bilinear_and_unknown_outside(scene):
    _, _, surface = scene
    from lossnav.plots.picture import prepare

    picture = prepare(surface, "loss", False, 2)
    x, y = (axis.values for axis in picture.axes)
    at = np.array([[x[2], y[3]], [(x[2] + x[3]) / 2, y[3]], [9.0, 0.0]])
    found = heights_of(picture, at)
    loss = surface["loss"].values
    np.testing.assert_allclose(found[:2], [loss[2, 3], (loss[2, 3] + loss[3, 3]) / 2])
    assert np.isnan(found[2])


@pytest.mark.parametrize("given", ["b", {"b": (1, 2, 3)}, {"b": "here"}, {"b": (float("nan"), 0)}, {"b": []}])
def test_marks_that_are_no_places_are_refused(scene, given):
    _, _, surface = scene
    with pytest.raises(OptionError):
        ln.plot.contour(surface, marks=given)


def test_a_mark_of_another_chart_is_refused(scene):
    objective, _, surface = scene
    other = ln.Plane(A, *ln.directions.through(A, C, B))
    with pytest.raises(OptionError, match="another chart"):
        ln.plot.contour(surface, marks={"b": ln.project(B, other)})
    assert marks_of(True, ln.evaluate(objective, ln.Line(A, B), ln.Grid(alpha=(0, 1, 3))), ("alpha",)) == ()
