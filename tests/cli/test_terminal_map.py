"""A map in the terminal."""

import pytest
import torch

import lossnav as ln
from lossnav.cli.terminal_map import TerminalMap, draw


def surface(dims, sampler, function=lambda x: 1 + (x**2).sum()):
    objective = ln.Objective.from_function(lambda p: function(p["x"]), {"x": torch.zeros(2)})
    e1, e2 = ({"x": torch.tensor(v)} for v in ([1.0, 0.0], [0.0, 1.0]))
    chart = ln.Plane(objective.params, e1, e2) if dims == 2 else ln.Line(objective.params, e1)
    return ln.evaluate(objective, chart, sampler, check=False)


def test_a_plane_is_a_map_with_its_low_in_the_middle():
    text = draw(surface(2, ln.Grid(alpha=(-1, 1, 21), beta=(-1, 1, 21))), width=40)
    lines = text.plain.splitlines()
    assert [len(line) for line in lines[:-1]] == [40] * 10
    assert lines[-1] == "441 points, loss 1 to 3"
    colors = {str(span.style).split()[0] for span in text.spans if span.start == 5 * 41 + 20}
    assert colors == {"#440154"}


def test_a_line_is_a_curve():
    text = draw(surface(1, ln.Adaptive(alpha=(-1, 1))), width=30)
    lines = text.plain.splitlines()
    assert len(lines) == 11
    assert lines[0][0] != " " and lines[0][15] == " "
    assert lines[-2][15] in " ▁▂"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nothing_finite_is_said(value):
    made = surface(2, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), lambda x: x.sum() * 0 + value)
    assert draw(made).plain == "nothing finite yet"


def test_in_a_file_only_the_last_is_told(capsys):
    with TerminalMap() as drawn:
        for n in (3, 5):
            drawn(surface(2, ln.Grid(alpha=(-1, 1, n), beta=(-1, 1, n))))
    said = capsys.readouterr().err
    assert "25 points" in said
    assert "9 points" not in said
