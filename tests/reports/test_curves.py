"""The report's line about a curve between networks."""

import torch

import lossnav as ln

A, B = {"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([-0.6, 0.8])}
DATA = torch.linspace(0.9, 1.1, 40)


def objective(data=DATA):
    return ln.Objective.from_function(
        lambda p, rows: ((p["x"] ** 2).sum() - rows) ** 2, A, data, reduction="none", batch_size=20
    )


def line_of(target, curve):
    return ln.report(ln.evaluate(target, curve, ln.Grid(t=(0, 1, 11)), progress=False))["curve"]


def test_along_a_trained_curve_the_loss_is_an_upper_bound():
    curve = ln.connect(objective(), B, epochs=3, progress=False).curve
    found = line_of(objective(), curve)
    assert found.level == "note" and "was trained for 3 passes on the data of this surface" in found.said
    assert "upper bound" in found.said and "held-out" in found.do
    other = line_of(objective(DATA + 0.01), curve)
    assert "on other data than that of this surface" in other.said and other.values["same_data"] is False


def test_bends_that_were_given_are_said_and_a_line_has_none():
    bend = {"x": torch.tensor([0.3, 1.2])}
    assert "somebody chose" in line_of(objective(), ln.PolygonalChain(A, bend, B)).said
    surface = ln.evaluate(objective(), ln.BezierCurve(A, B), ln.Grid(t=(0, 1, 5)), progress=False)
    assert not any("bends" in line.said for line in ln.report(surface).lines)
