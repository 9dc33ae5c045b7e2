"""A picture of a tree of minima is asked for its numbers."""

import numpy as np
import pytest

import lossnav as ln
from lossnav.errors import OptionError
from lossnav.surface.minima_tree import MinimaTree


def made(passes, loss, error=0.05, names=None):
    passes, loss = np.array(passes, float), np.array(loss, float)
    n = len(loss)
    barrier = passes - np.maximum.outer(loss, loss)
    return MinimaTree(
        names=tuple(names or map(str, range(n))), loss=loss, loss_error=np.full(n, 0.01), pass_loss=passes,
        pass_error=np.full((n, n), error), barrier=barrier, barrier_error=np.full((n, n), error),
        barrier_low=barrier - 3 * error, where=np.full((n, n), 0.5), level=0.95, aligned=True, path="line", seed=0,
    )  # fmt: skip


PASSES = [[0.1, 1.0, 0.6, 1.2], [1.0, 0.2, 1.1, 0.3], [0.6, 1.1, 0.3, 1.4], [1.2, 0.3, 1.4, 0.25]]
LOSSES = [0.1, 0.2, 0.3, 0.25]


def lines_of(axes):
    return {tuple(np.round(line.get_ydata(), 6)) for line in axes.lines if len(line.get_ydata()) == 4}


def test_branches_meet_at_the_passes():
    axes = ln.plot.tree(made(PASSES, LOSSES), backend="matplotlib").axes[0]
    assert {row[1] for row in lines_of(axes)} == {0.3, 0.6, 1.0}
    assert all(row[1] == row[2] >= max(row[0], row[3]) for row in lines_of(axes))
    names = [label.get_text() for label in axes.get_xticklabels()]
    order = [names[int(k)] for k in np.argsort(axes.get_xticks())]
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("13"), frozenset("02")}


@pytest.mark.parametrize("seed", range(20))
def test_no_two_branches_cross(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(3, 12))
    loss = random.uniform(0, 1, n)
    passes = np.maximum.outer(loss, loss) + random.exponential(1, (n, n))
    passes = np.triu(passes, 1) + np.triu(passes, 1).T + np.diag(loss)
    figure = ln.plot.tree(made(passes, loss), backend="plotly")
    x, y = (np.array(column, float) for column in (figure.data[0].x, figure.data[0].y))
    bars = [(x[k], x[k + 2], y[k + 1]) for k in range(0, len(x), 5)]  # across
    posts = [(x[k + i], y[k + j], y[k + 1]) for k in range(0, len(x), 5) for i, j in ((0, 0), (3, 3))]  # upwards
    for left, right, height in bars:
        for at, low, high in posts:
            assert not (left < at < right and low < height < high)


def test_one_colour_a_basin():
    figure = ln.plot.tree(made(PASSES, LOSSES))
    colors = figure.data[2].marker.color
    assert colors[1] == colors[3] and len(set(colors)) == 3


def test_an_unknown_error_is_called_so_and_a_pass_that_is_not_finite_joins_nothing():
    tree = made(PASSES, LOSSES, np.nan)
    assert set(ln.plot.tree(tree).data[1].customdata) == {"unknown"}
    passes = np.array(PASSES)
    passes[[0, 2], 1:4:2] = passes[1:4:2, [0, 2]] = np.inf
    figure = ln.plot.tree(made(passes, LOSSES))
    assert sorted(figure.data[1].y) == [0.3, 0.6]
    assert "no finite pass" in figure.layout.annotations[0].text.replace("<br>", " ")


def test_it_is_written(tmp_path):
    tree = made(PASSES, LOSSES, names=["<b>a</b>", "b", "c", "d"])
    for ending in (".png", ".svg", ".pdf", ".html"):
        assert ln.plot.write("tree", tree, tmp_path / f"tree{ending}").stat().st_size > 1_000
    assert "<b>a</b>" not in ln.plot.tree(tree).layout.xaxis.ticktext
    with pytest.raises(OptionError, match=r"ln\.plot\.tree"):
        ln.plot.write("line", tree, tmp_path / "other.png")


def test_a_minimum_without_a_finite_loss_is_named():
    with pytest.raises(OptionError, match='"bad"'):
        ln.plot.tree(made(PASSES, [0.1, np.inf, 0.3, 0.2], names=["a", "bad", "c", "d"]))
