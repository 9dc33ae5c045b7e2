"""Pictures that are compared share what makes them comparable: frame, levels, colours, heights, camera."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import lossnav as ln
from commands import lossnav
from conftest import made
from lossnav import errors
from lossnav.plots.comparison import compare

KINDS = ["contour", "heatmap", "surface"]


@pytest.fixture(autouse=True)
def no_open_figures():
    yield
    plt.close("all")


@pytest.fixture
def low():
    return made(1 + np.arange(4)[:, None] + 10 * np.arange(3))  # 1 … 24


@pytest.fixture
def high():
    return made(10.0 ** np.add.outer(np.arange(4), np.arange(3)), ends=(0, 4))  # 1 … 1e5, another range


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title() or axes.get_title(loc="left")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("log", [False, True])
def test_matplotlib_panels_have_one_scale_and_one_frame(low, high, kind, log):
    figure = ln.plot.compare([low, high], labels=["low", "high"], kind=kind, log=log, backend="matplotlib")
    figure.canvas.draw()
    first, second = panels(figure)
    assert (first.get_title(), second.get_title()) == ("low", "high")
    half = 0.5 * np.array([1, 1.5, 4 / 3, 2]) if kind == "heatmap" else np.zeros(4)  # outer cells reach beyond
    np.testing.assert_allclose(first.get_xlim(), (-1 - half[0], 4 + half[2]))
    np.testing.assert_allclose(first.get_ylim(), (-1 - half[1], 4 + half[3]))
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    ends = (0.0, 5.0) if log else (1.0, 1e5)
    for axes in (first, second):
        for drawn in axes.collections:  # of 1 … 24 no contour up to 1e5 is seen
            assert (drawn.norm.vmin, drawn.norm.vmax) == ends
    assert first.collections or (kind, log) == ("contour", False)
    if kind == "surface":
        assert first.get_zlim() == second.get_zlim()
        assert (first.elev, first.azim) == (second.elev, second.azim)
    assert "blank: not measured" in figure.get_supxlabel()


def test_contours_of_one_level_have_one_colour(low, high):
    figure = ln.plot.compare([low, high], backend="matplotlib")
    colors = [
        {level: tuple(color) for level, color in zip(lines.levels, lines.to_rgba(lines.levels), strict=True)}
        for lines in (axes.collections[0] for axes in panels(figure))
    ]
    shared = set(colors[0]) & set(colors[1])
    assert len(shared) >= 2
    assert all(colors[0][level] == colors[1][level] for level in shared)
    assert set(colors[0]) <= {level for level in colors[1] if level < np.log10(24)}


@pytest.mark.parametrize("kind", KINDS)
def test_plotly_panels_have_one_scale_and_hold_the_numbers(low, high, kind):
    figure = ln.plot.compare([low, high], labels=["low", "high"], kind=kind, log=True)
    found = [trace for trace in figure.data if trace.type == kind]
    for trace, dataset in zip(found, (low, high), strict=True):
        np.testing.assert_allclose(trace.z, np.log10(dataset["loss"].values.T))
        ends = (trace.cmin, trace.cmax) if kind == "surface" else (trace.zmin, trace.zmax)
        assert ends == (0, 5)
    assert [trace.showscale for trace in found] == [True, False]
    assert {note.text for note in figure.layout.annotations} >= {"low", "high"}
    if kind == "surface":
        first, second = figure.layout.scene, figure.layout.scene2
        assert first.camera == second.camera
        assert first.zaxis.range == second.zaxis.range == (0, 5)
    else:
        first, second = figure.layout, figure.layout
        assert first.xaxis.range == first.xaxis2.range == (-1, 4)
        assert first.yaxis.range == first.yaxis2.range == (-1, 4)


def test_heights_of_one_range_have_no_blank(low):
    other = low.copy(deep=True)
    other["loss"] *= 2
    figure = ln.plot.compare([low, other], backend="matplotlib")
    assert "blank" not in figure.get_supxlabel()


@pytest.mark.parametrize("backend", ["plotly", "matplotlib"])
def test_lines_lie_in_one_pair_of_axes_with_their_bands(backend):
    a, b = made([4.0, 1, 2, 8], dims=("alpha",), se=0.5), made([3.0, np.nan, 2], dims=("alpha",), ends=(0, 5))
    figure = ln.plot.compare([a, b], labels=["a", "b"], kind="line", backend=backend)
    if backend == "plotly":
        curves = {trace.name: trace for trace in figure.data if trace.name}
        np.testing.assert_array_equal(curves["a"].y, [4, 1, 2, 8])
        np.testing.assert_array_equal(curves["b"].x, [0, 2.5, 5])
        assert curves["a"].line.color != curves["b"].line.color
        assert len(figure.data) == 4  # two curves and the two ends of one band
        note = figure.layout.annotations[0].text
    else:
        (axes,) = figure.axes
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [4, 1, 2, 8])
        np.testing.assert_array_equal(axes.lines[1].get_ydata(), [3, np.nan, 2])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
        assert axes.lines[0].get_color() != axes.lines[1].get_color()
        assert len(axes.collections) == 1
        note = figure.get_supxlabel().replace("\n", " ")
    assert "bands: a: ± 1 standard error" in note
    assert "b: left out of 3 points: 1 not finite" in note


def test_many_lines_are_told_apart():
    lines = [made([1.0, 2, 3 + i], dims=("alpha",)) for i in range(10)]
    (axes,) = ln.plot.compare(lines, kind="line", backend="matplotlib").axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 10


@pytest.mark.parametrize(("count", "shape"), [(2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (8, (3, 3))])
def test_panels_fill_rows(low, count, shape):
    comparison = compare([low] * count, None, "contour", "loss", True, 2, False)
    assert comparison.shape == shape
    assert comparison.labels == tuple(f"surface {i + 1}" for i in range(count))


def test_labels_are_titles_where_these_differ(low, high):
    high.attrs["objective"]["model"] = "Other"
    comparison = compare([low, high], None, "contour", "loss", True, 2, False)
    assert comparison.labels == ("Net · Plane · 100 samples", "Other · Plane · 100 samples")
    assert comparison.whole.title == ""


def test_directions_that_differ_are_said(low, high):
    high.attrs["chart"]["directions"][0]["normalize"] = None
    high["alpha"].attrs["long_name"] = "α, random Gaussian"
    figure = ln.plot.compare([low, high], labels=["low", "high"], backend="matplotlib")
    note = figure.get_supxlabel().replace("\n", " ")
    assert "high: α: random Gaussian; β: random Gaussian, filter-normalised" in note


def test_extreme_values_get_one_power_of_ten(low):
    huge = made(3e200 * np.array([[1.0, 2.0], [3.0, 4.0]]))
    comparison = compare([low, huge], None, "heatmap", "loss", False, 2, False)
    assert {picture.label for picture in comparison.pictures} == {"loss (10²⁰¹ nat)"}
    assert comparison.pictures[0].limits == pytest.approx((0, 1.2))
    np.testing.assert_allclose(comparison.pictures[1].values * 10, huge["loss"].values / 1e200)


def test_nothing_to_draw_is_drawn(low, tmp_path):
    nothing = made(np.full((3, 3), np.nan))
    for kind in KINDS:
        for suffix in ("png", "html"):
            ln.plot.write(kind, [low, nothing], tmp_path / f"{kind}.{suffix}")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("log", [False, True])
def test_a_flat_surface_beside_a_steep_one(high, log, tmp_path):
    for kind in KINDS:
        ln.plot.write(kind, [made(np.full((3, 3), 0.5)), high], tmp_path / f"{kind}.png", log=log)


def test_points_and_seeds_are_compared_too(bowl):
    def place(seed):
        return ln.Plane(bowl.params, *ln.directions.random(bowl, n=2, seed=seed))

    points = ln.evaluate(bowl, place(0), ln.Points([[-1, -1], [1, -1], [-1, 1], [1, 1], [0, 0], [0.3, 0.1]]))
    seeds = ln.ensemble(bowl, place, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), range(2))
    figure = ln.plot.compare([points, seeds], kind="heatmap", labels=["points", "seeds"])
    note = " ".join(note.text for note in figure.layout.annotations)
    assert "points: interpolated from 6 points" in note.replace("<br>", " ")


# ---------------------------------------------------------------------- what cannot be compared, or should not


def test_other_losses_and_units_are_warned_of(low, high):
    high.attrs["objective"]["loss"] = "mse_loss"
    with pytest.warns(errors.ComparisonWarning, match=r"different losses \(low: cross_entropy, high: mse_loss\)"):
        ln.plot.compare([low, high], labels=["low", "high"])
    ln.plot.compare([low, high], variable="accuracy")  # which has nothing to do with it
    high.attrs["objective"]["loss"] = "cross_entropy"
    high["loss"].attrs["units"] = "bit"
    with pytest.warns(errors.ComparisonWarning, match="different units"):
        ln.plot.compare([low, high])


def test_what_cannot_be_compared_is_said(low, high):
    volume = made(np.ones((2, 2, 2)), dims=("alpha", "beta", "gamma"))
    across = volume.isel(alpha=0)
    for surfaces, options, words in (
        ([low], {}, "at least two surfaces, got 1"),
        ([low, across], {}, r"surface 2 has the coordinates \(beta, gamma\), but surface 1 has \(alpha, beta\)"),
        ([volume, volume], {}, r"needs 2 coordinate\(s\)"),
        ([low, high], {"labels": ["one"]}, "2 surfaces need as many distinct labels, got 'one'"),
        ([low, high], {"labels": ["same", "same"]}, "Give each surface its own label"),
        ([low, high.drop_vars("accuracy")], {"variable": "accuracy"}, "surface 2 has no variable 'accuracy'"),
        ([low, high], {"kind": "pie"}, "no plot 'pie'"),
        ([low, high], {"kind": "line"}, "needs 1 coordinate"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            ln.plot.compare(surfaces, **options)
    ln.plot.compare([low, volume.isel(gamma=0)])


# ---------------------------------------------------------------------- the command line


def test_compare_on_the_command_line(low, high, tmp_path):
    low.lossnav.save(tmp_path / "a" / "run.zarr")
    high.lossnav.save(tmp_path / "b" / "run.zarr")
    done = lossnav("compare", "a/run.zarr", "b/run.zarr", "-o", "both.svg", "--labels", "skip, no skip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "both.svg\n"
    words = (tmp_path / "both.svg").read_text()
    assert ">skip<" in words
    assert ">no skip<" in words
    done = lossnav("compare", "a/run.zarr", "b/run.zarr", "-o", "s.html", "--kind", "surface", "--log", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "s.html").read_text()
    assert "plotly_relayout', change" in page
    assert "b\\u002frun.zarr" in page  # two folders of one name are told apart by where they are
    done = lossnav("compare", "a/run.zarr", "-o", "c.png", cwd=tmp_path)
    assert done.returncode == 2
    assert "two surfaces" in done.stderr
