"""A picture of a spectrum is asked for its numbers."""

import numpy as np
import pytest
import xarray as xr

import lossnav as ln
from lossnav import errors, plots
from lossnav.plots.picture import CENTER_COLOR
from lossnav.plots.spectra import prepare


def made(density=True, eigenvalues=(-2.0, -0.5, 10.0, 4.0), errors_=0.01, ends=2, **attrs):
    """A bulk around zero and two eigenvalues at each end, on a grid with gaps."""
    eigenvalues = np.array(eigenvalues)
    dataset = xr.Dataset(
        {
            "eigenvalue": ("eigenpair", eigenvalues),
            "eigenvalue_error": ("eigenpair", np.full(len(eigenvalues), errors_)),
        },
        coords={"end": ("eigenpair", np.array(["smallest"] * ends + ["largest"] * (len(eigenvalues) - ends)))},
    )
    dataset.attrs = {
        "schema": "lossnav.spectrum", "schema_version": 1, "operator": "hessian", "parameters": 1000, "passes": 70,
        "objective": {"model": "Net", "samples": 100}, "trace": {"value": 34.0, "error": 1.5},
    }  # fmt: skip
    if density:
        near = np.arange(-24, 25) * 0.025
        value = np.unique(np.concatenate([np.arange(-3, 3, 0.025), *(near + e for e in eigenvalues[ends:])]))
        heights = sum(
            w * np.exp(-0.5 * ((value - e) / 0.1) ** 2) / (0.1 * np.sqrt(2 * np.pi))
            for w, e in [(0.996, 0.0), *((0.001, e) for e in eigenvalues)]
        )
        dataset = dataset.assign_coords(value=("value", value))
        dataset["density"], dataset["density_error"] = ("value", heights), ("value", 0.2 * heights)
        dataset["node"] = (("probe", "step"), np.tile([-2.0, -0.5, 0.0, 4.0, 10.0], (3, 1)))
        dataset["weight"] = (("probe", "step"), np.tile([0.001, 0.001, 0.996, 0.001, 0.001], (3, 1)))
        dataset.attrs["density"] = {"probes": 3, "steps": 5, "known": 4, "width": 0.1}
    return dataset.assign_attrs(attrs)


def test_what_is_drawn_is_what_was_found():
    dataset = made()
    figure = ln.plot.spectrum(dataset, backend="matplotlib")
    axes = figure.axes[0]
    curves = [line.get_xydata() for line in axes.lines if len(line.get_xdata()) > 2]
    drawn = np.concatenate(curves)
    drawn = drawn[np.isfinite(drawn).all(1)]
    floor = axes.get_ylim()[0]
    assert np.allclose(drawn[:, 1], np.interp(drawn[:, 0], dataset["value"], dataset["density"]))
    assert len(drawn) >= dataset.sizes["value"]
    assert axes.get_yscale() == "log"
    assert floor == pytest.approx(1 / 1000 / (0.1 * np.sqrt(2 * np.pi)) / 20)
    words = " ".join(text.get_text() for text in axes.texts)
    assert "λmin = −2" in words
    assert "λmax = 10" in words
    assert axes.get_title(loc="left") == "Net · 1,000 parameters · 100 samples"
    note = figure.get_supxlabel().replace("\n", " ")
    assert "trace 34 ± 1.5" in note
    assert "0.20% of the eigenvalues below −0.1" in note
    assert "70 passes" in note
    assert ln.plot.spectrum(dataset, log=False, backend="matplotlib").axes[0].get_yscale() == "linear"


def test_nothing_is_drawn_across_a_gap():
    picture = prepare(made())
    inside = picture.values[np.isnan(picture.density)]
    assert ((inside > 3) & (inside < 10)).all()
    assert len(inside) == 2


def test_what_is_negative_is_red():
    import matplotlib.colors as colors

    red = colors.to_rgb(CENTER_COLOR)
    axes = ln.plot.spectrum(made(), backend="matplotlib").axes[0]
    for line in axes.lines:
        x, y = line.get_xydata().T
        if len(x) > 2:
            assert (colors.to_rgb(line.get_color()) == red) == (np.nanmax(x[np.isfinite(y)]) <= 0.025)
    positive = made(eigenvalues=(4.0, 10.0), ends=0)  # what is below zero is the width of what is drawn at zero
    positive["node"] = positive["node"].clip(min=0)
    lines = ln.plot.spectrum(positive, backend="matplotlib").axes[0].lines
    assert not any(colors.to_rgb(line.get_color()) == red for line in lines)
    assert any((line.get_xdata() < -0.1).any() for line in lines)
    figure = ln.plot.spectrum(made())
    below = [trace for trace in figure.data if trace.name == "eigenvalues, negative"]
    assert sorted(below[0].x) == [-2, -0.5]
    assert below[0].marker.color == CENTER_COLOR
    assert list(below[0].customdata[:, 1]) == [1, 2]  # from the end


def test_plotly_holds_the_same_numbers():
    dataset = made()
    figure = ln.plot.spectrum(dataset)
    curves = [trace for trace in figure.data if trace.name in ("density", "below zero")]
    assert len(curves) == 2
    for curve in curves:
        seen = np.isfinite(np.asarray(curve.y, float))
        at = np.asarray(curve.x)[seen]
        assert np.allclose(np.asarray(curve.y)[seen], np.interp(at, dataset["value"], dataset["density"]))
    assert figure.layout.yaxis.type == "log"
    ticks = next(trace for trace in figure.data if trace.name == "eigenvalues")
    assert sorted(ticks.x) == [4, 10]


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_without_a_density_eigenvalues_are_drawn_by_their_place(backend):
    figure = ln.plot.spectrum(made(density=False), backend=backend)
    if backend == "plotly":
        points = {(x, y) for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    else:
        points = {tuple(xy) for line in figure.axes[0].lines for xy in line.get_xydata() if len(line.get_xdata()) == 1}
    assert {(-2, 1), (-0.5, 2), (4, 2), (10, 1)} <= points


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html"])
def test_files_of_every_kind(tmp_path, suffix):
    target = plots.write("spectrum", made(), tmp_path / f"s.{suffix}")
    assert target.stat().st_size > 5000


def test_what_cannot_be_drawn_is_said(surface):
    with pytest.raises(errors.NotASpectrumError, match="This dataset is not a spectrum"):
        ln.plot.spectrum(surface)
    with pytest.raises(errors.OptionError, match="no finite value"):
        ln.plot.spectrum(made(density=False, eigenvalues=[np.nan] * 4))
    with pytest.raises(errors.OptionError, match="There is no plot 'spectra'.*spectrum"):
        plots.write("spectra", surface, "x.png")
    only = ln.plot.spectrum(made(eigenvalues=(), ends=0), backend="matplotlib")
    assert only.axes[0].texts == [] or not len(only.axes[0].texts)
