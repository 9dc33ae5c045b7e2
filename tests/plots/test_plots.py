"""A plot is asked for its numbers: what is drawn is what was measured, in its place."""

import numpy as np
import pytest
import xarray as xr

import lossnav as ln
from conftest import made
from lossnav import errors
from lossnav.plots.picture import prepare
from lossnav.plots.scales import distinct, levels


@pytest.fixture
def slope():
    """loss = 1 + i + 10 j on 4 x 3 points: nothing symmetric about it."""
    return made(1 + np.arange(4)[:, None] + 10 * np.arange(3))


@pytest.fixture
def hole():
    values = 10.0 ** np.add.outer(np.arange(5.0), np.arange(4.0))
    values[1, 2], values[4, 3], values[0, 0] = np.nan, np.inf, -1
    return made(values)


@pytest.mark.parametrize("kind", ["contour", "heatmap", "surface"])
@pytest.mark.parametrize("log", [False, True])
def test_plotly_planes_hold_the_measured_numbers(slope, kind, log):
    trace = getattr(ln.plot, kind)(slope, log=log).data[0]
    np.testing.assert_array_equal(trace.x, slope["alpha"])
    np.testing.assert_array_equal(trace.y, slope["beta"])
    expected = slope["loss"].values.T  # plotly's z is [row of y, column of x]
    np.testing.assert_allclose(trace.z, np.log10(expected) if log else expected)
    np.testing.assert_array_equal(np.asarray(trace.customdata)[..., 0], expected)


@pytest.mark.parametrize("log", [False, True])
def test_matplotlib_heatmap_holds_the_measured_numbers(slope, log):
    figure = ln.plot.heatmap(slope, log=log, backend="matplotlib")
    mesh = figure.axes[0].collections[0]
    expected = slope["loss"].values.T
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(3, 4), np.log10(expected) if log else expected)
    assert figure.axes[0].get_xlabel() == "α  (random Gaussian, filter-normalised)"
    assert figure.axes[0].get_ylabel() == "β  (random Gaussian, filter-normalised)"
    bar = figure.axes[0].child_axes[0]
    assert bar.get_ylabel() == "loss (nat)"
    for tick, words in zip(bar.get_yticks(), bar.get_yticklabels(), strict=True):
        number = float(words.get_text().replace("−", "-"))
        assert number == pytest.approx(10**tick if log else tick, rel=0.01)


def test_matplotlib_contours_lie_where_the_values_are(slope):
    figure = ln.plot.contour(slope, log=False, backend="matplotlib")
    lines = figure.axes[0].collections[0]
    step_x, step_y = np.diff(slope["alpha"])[0], np.diff(slope["beta"])[0]
    assert len(lines.levels) > 3
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        for x, y in path.vertices:
            assert 1 + (x + 1) / step_x + 10 * (y + 1) / step_y == pytest.approx(level, abs=1e-6)


def test_matplotlib_surface_holds_log10(slope):
    figure = ln.plot.surface(slope, log=True, backend="matplotlib")
    assert figure.axes[1].get_ylabel() == "log₁₀ loss (nat)"
    low, high = figure.axes[0].get_zlim()
    assert high == pytest.approx(np.log10(slope["loss"].values.max()))
    assert min(figure.axes[0].get_zticks()) >= np.log10(slope["loss"].values.min()) > low


@pytest.mark.parametrize("log", [False, True])
def test_lines_hold_numbers_band_and_centre(log):
    line = made([4.0, 1.0, 2.0, 8.0], dims=("alpha",), se=0.5)
    figure = ln.plot.line(line, log=log)
    below, above, curve, center = figure.data
    np.testing.assert_array_equal(curve.y, [4, 1, 2, 8])
    np.testing.assert_array_equal(curve.x, line["alpha"])
    np.testing.assert_array_equal(np.asarray(above.y) - np.asarray(below.y), [1, 1, 1, 1])
    assert (center.x, center.y) == ((0,), (1.0,))
    assert figure.layout.yaxis.type == ("log" if log else "linear")
    axes = ln.plot.line(line, log=log, backend="matplotlib").axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [4, 1, 2, 8])
    assert axes.get_yscale() == ("log" if log else "linear")


@pytest.mark.parametrize(("low", "high"), [(1.35, 1.5), (2.3025, 2.3027), (0.9999, 1.0001), (1e-3, 1e7), (5e4, 5.01e4)])
@pytest.mark.parametrize("log", [False, True])
def test_no_two_contours_have_one_label(low, high, log):
    surface = made(np.linspace(low, high, 30)[:, None] + np.zeros(20))
    axes = ln.plot.contour(surface, log=log, backend="matplotlib").axes[0]
    ticks = [word.get_text() for word in axes.child_axes[0].get_yticklabels()]
    words = distinct(levels(prepare(surface, "loss", log, 2)))
    assert len(words) > 3
    for labels in (words, ticks, sorted({text.get_text() for text in axes.texts})):
        assert len(set(labels)) == len(labels), labels
    np.testing.assert_allclose([float(w) for w in words], levels(prepare(surface, "loss", log, 2)), rtol=0.01)


def test_labels_name_their_own_number_and_no_neighbour():
    generator = np.random.default_rng(0)
    for _ in range(300):
        values = np.sort(10 ** generator.uniform(-9, 9) * (1 + 10 ** generator.uniform(-9, 0) * np.arange(1, 9)))
        said = np.array([float(label) for label in distinct(list(values))])
        assert (np.abs(said[:, None] - values).argmin(1) == np.arange(8)).all()


def test_a_hole_leaves_the_other_contours_on_the_floor():
    values = np.hypot(*np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21)))

    def floor(surface):
        lines = ln.plot.surface(surface, log=False, backend="matplotlib").axes[0].collections[1]
        return sum(len(path.vertices) for path in lines.get_paths())

    whole = floor(made(values))
    values[3, 4] = np.nan
    assert 0.8 * whole < floor(made(values)) < whole


# ---------------------------------------------------------------------- holes


@pytest.mark.parametrize("kind", ["contour", "heatmap", "surface"])
def test_what_is_not_finite_is_a_hole_and_said(hole, kind):
    figure = getattr(ln.plot, kind)(hole, log=True)
    z = np.asarray(figure.data[0].z)
    assert np.isnan(z[2, 1])
    assert np.isnan(z[3, 4])
    assert np.isnan(z[0, 0])
    assert np.isnan(z).sum() == 3
    note = figure.layout.annotations[0].text
    assert note == "left out of 20 points: 2 not finite, 1 not positive (no logarithm)"
    if kind != "surface":
        marks = figure.data[1]
        assert sorted(zip(marks.x, marks.y, strict=True)) == sorted(
            (hole["alpha"].values[i], hole["beta"].values[j]) for i, j in ((0, 0), (1, 2), (4, 3))
        )


def test_linear_plots_keep_what_is_not_positive(hole):
    z = np.asarray(ln.plot.heatmap(hole, log=False).data[0].z)
    assert z[0, 0] == -1
    assert np.isnan(z).sum() == 2


@pytest.mark.parametrize("kind", ["contour", "heatmap", "surface"])
def test_matplotlib_draws_holes_too(hole, kind, tmp_path):
    figure = getattr(ln.plot, kind)(hole, log=True, backend="matplotlib")
    assert "2 not finite" in figure.get_supxlabel()
    figure.savefig(tmp_path / "hole.png")


def test_unevaluated_and_failed_points_have_their_own_words():
    values = np.array([[1.0, np.nan], [np.nan, 2.0]])
    picture = prepare(made(values, status=[[1, 0], [3, 1]]), "loss", False, 2)
    assert picture.note == "left out of 4 points: 1 failed, 1 not evaluated"


def test_a_surface_of_nothing_is_still_drawn(tmp_path):
    nothing, constant = made(np.full((3, 3), np.nan)), made(np.full((3, 3), 2.0))
    for kind in ("contour", "heatmap", "surface"):
        for name, dataset in (("nothing", nothing), ("constant", constant)):
            for suffix in ("png", "html"):
                ln.plot.write(kind, dataset, tmp_path / f"{kind}-{name}.{suffix}")
    ln.plot.write("line", made([np.nan, np.inf], dims=("alpha",)), tmp_path / "line.png", log=True)


# ---------------------------------------------------------------------- the centre


def test_the_centre_is_marked_where_it_is_in_view(slope):
    values = np.ones((4, 3))
    values[1, 1] = 7  # alpha is -1, 0, 1, 2
    dataset = made(values)
    assert prepare(dataset, "loss", False, 2).center is None  # beta has no 0, and nothing was measured there
    dataset.attrs["center"] = {"loss": 5.0}
    assert prepare(dataset, "loss", False, 2).center == 5
    assert prepare(dataset.isel(alpha=slice(2, 4)), "loss", False, 2).center is None
    assert prepare(dataset.isel(beta=1), "loss", False, 1).center is None  # a slice at beta = 0.5
    assert prepare(dataset.isel(beta=1, drop=True), "loss", False, 1).center == 7
    dataset.attrs["center"] = {"loss": 0.0}
    assert prepare(dataset, "loss", True, 2).center is None  # no logarithm
    ln.plot.surface(dataset, log=True, backend="matplotlib")


# ---------------------------------------------------------------------- levels


def test_a_range_of_rounding_errors_still_draws(tmp_path):
    nearly = made(1 + 1e-15 * np.arange(12).reshape(4, 3))
    for log in (True, False):
        ln.plot.write("contour", nearly, tmp_path / f"{log}.png", log=log)


@pytest.mark.parametrize("decades", [0.05, 0.5, 1.5, 4, 12, 40])
def test_log_levels_are_round_numbers_within_the_range(decades):
    picture = prepare(made(10 ** np.linspace(-1.03, -1.03 + decades, 12).reshape(4, 3)), "loss", True, 2)
    found = levels(picture)
    assert 3 <= len(found) <= 26
    assert (found > 10 ** picture.range[0]).all()
    assert (found < 10 ** picture.range[1]).all()
    assert (np.diff(found) > 0).all()


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("html", b"<!doctype html>")]
)
@pytest.mark.parametrize("kind", ["contour", "heatmap", "surface"])
def test_every_kind_of_file(slope, tmp_path, kind, suffix, start):
    path = ln.plot.write(kind, slope, tmp_path / f"picture.{suffix}")
    content = path.read_bytes()
    assert content.startswith(start)
    if suffix == "html":
        assert len(content) > 3_000_000  # plotly itself is inside
        assert b'src="http' not in content


def test_matplotlib_settings_and_backends_are_left_alone(slope, tmp_path):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before, open_figures = dict(mpl.rcParams), plt.get_fignums()
    ln.plot.write("contour", slope, tmp_path / "c.png")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_what_cannot_be_drawn_is_said(slope, tmp_path):
    (tmp_path / "there.png").write_bytes(b"")
    volume = made(np.ones((2, 2, 2)), dims=("alpha", "beta", "gamma"))
    for call, kind, words in (
        (lambda: ln.plot.line(slope), errors.OptionError, r"needs 1 coordinate.*\(alpha, beta\).*'contour'"),
        (lambda: ln.plot.contour(volume), errors.OptionError, r"surface.isel\(gamma=0\)"),
        (lambda: ln.plot.contour(slope, variable="f1"), errors.OptionError, "no variable 'f1'.*loss, accuracy"),
        (lambda: ln.plot.contour(slope, backend="gnuplot"), errors.OptionError, "'matplotlib'.*'gnuplot'"),
        (lambda: ln.plot.write("contour", slope, tmp_path / "a.gif"), errors.OptionError, ".png, .svg.*'.gif'"),
        (lambda: ln.plot.write("pie", slope, tmp_path / "a.png"), errors.OptionError, "no plot 'pie'.*line"),
        (lambda: ln.plot.write("contour", slope, tmp_path / "there.png"), errors.OutputExistsError, "exists"),
        (lambda: ln.plot.contour(xr.Dataset()), errors.NotASurfaceError, "not a lossnav surface"),
    ):
        with pytest.raises(kind, match=words):
            call()
    ln.plot.contour(volume.isel(gamma=0))
    assert ln.plot.contour(slope, variable="accuracy", log=False).data[0].z[0][0] == 0.5


# ---------------------------------------------------------------------- what is extreme


EXTREMES = {
    "high": np.exp(350 * np.add.outer(np.linspace(-1, 1, 7) ** 2, np.linspace(-1, 1, 6) ** 2)),
    "low": 1e-300 * (1 + np.add.outer(np.arange(7.0), np.arange(6.0))),
    "denormal": 5e-323 * (1 + np.add.outer(np.arange(7.0), np.arange(6.0))),
    "wide": np.exp(np.add.outer(np.linspace(-700, 700, 7), np.zeros(6))),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_losses_are_drawn(name, log, tmp_path):
    dataset = made(EXTREMES[name])
    for kind in ("contour", "heatmap", "surface"):
        ln.plot.write(kind, dataset, tmp_path / f"{kind}.png", log=log)
        ln.plot.write(kind, dataset, tmp_path / f"{kind}.html", log=log)
    ln.plot.write("line", dataset.isel(beta=2), tmp_path / "line.png", log=log)


def test_a_power_of_ten_is_in_the_label():
    values = 3e-300 * np.array([[1.0, 2.0], [3.0, 4.0]])
    dataset = made(values, se=6e-300)
    dataset.attrs["center"] = {"loss": 6e-300}
    picture = prepare(dataset, "loss", False, 2)
    assert picture.label == "loss (10⁻²⁹⁹ nat)"
    np.testing.assert_allclose(picture.values * 10, values * 1e300)
    np.testing.assert_allclose(picture.se, 0.6)
    assert picture.center == pytest.approx(0.6)
    assert prepare(dataset, "loss", True, 2).label == "loss (nat)"
    assert prepare(made(np.ones((2, 2))), "loss", False, 2).label == "loss (nat)"


@pytest.mark.parametrize("size", [(5, 3.9), (3, 3)])
def test_a_long_note_is_wrapped(slope, size):
    import matplotlib.pyplot as plt

    from lossnav.plots.style import finish

    slope.attrs["control_variate"] = {"points": 49, "residual_error": 0.01, "relative": True}
    slope.attrs["interpolation"] = {"points": 1234, "holes": 12, "left_out_error_p99": 0.01} | {
        "dims": ["alpha", "beta"], "measured": [], "values": {}
    }  # fmt: skip
    slope["loss"].values[0, 0], slope["status"].values[0, 0] = np.nan, 2
    picture = prepare(slope, "loss", False, 2)
    figure = plt.figure(figsize=size)
    figure.add_subplot()
    finish(figure, picture)
    box = figure._supxlabel.get_window_extent(figure.canvas.get_renderer())
    assert box.x0 >= 0
    assert " ".join(figure.get_supxlabel().split()) == picture.note
    assert "<br>" in ln.plot.heatmap(slope).layout.annotations[0].text


def test_only_what_was_measured_is_marked():
    line = made([4.0, np.nan, 2.0, 8.0], dims=("alpha",))
    (marks,) = (trace for trace in ln.plot.line(line, points=True).data if trace.name == "measured")
    np.testing.assert_array_equal(marks.y, [4, 2, 8])


@pytest.mark.parametrize("kind", ["contour", "heatmap"])
def test_any_variable_has_logarithmic_colours(slope, kind, tmp_path):
    """A ratio between 0 and 1 say, over several decades, with a zero that has no logarithm and a place without one."""
    ratio = np.geomspace(1e-4, 1, 12).reshape(4, 3)
    ratio[0, 0], ratio[3, 2] = 0, np.nan
    slope["lambda_ratio"] = (("alpha", "beta"), ratio, {"long_name": "|λmin/λmax|", "units": "1"})
    figure = getattr(ln.plot, kind)(slope, variable="lambda_ratio", log=True)
    with np.errstate(divide="ignore"):
        expected = np.where(ratio > 0, np.log10(ratio), np.nan)
    np.testing.assert_allclose(figure.data[0].z, expected.T)
    bar = figure.data[0].colorbar
    np.testing.assert_allclose(10 ** np.asarray(bar.tickvals), [float(word) for word in bar.ticktext], rtol=0.01)
    assert figure.layout.annotations[0].text == "left out of 12 points: 1 not finite, 1 not positive (no logarithm)"
    drawn = getattr(ln.plot, kind)(slope, variable="lambda_ratio", log=True, backend="matplotlib")
    assert drawn.axes[0].child_axes[0].get_ylabel() == "lambda_ratio"
    ln.plot.write(kind, slope, tmp_path / "ratio.png", variable="lambda_ratio", log=True)
