"""A stored surface is shown as it is: every number, whatever its shape; and exported with the same numbers."""

import base64
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import lossnav as ln
from conftest import made
from lossnav.explorer.stored.copy_as_code import code_of
from lossnav.explorer.stored.export_html import export_html, write_html
from lossnav.explorer.stored.session import open_session
from talking import Browser, kind, unframe

pytest_plugins = ["talking"]


def test_the_numbers_are_those_of_the_store(browser, stored):
    surface = ln.open(stored)
    said = browser.ask("hello", id=4)
    assert said["id"] == 4 and said["dims"] == ["alpha", "beta"] and said["shape"] == "plane" and not said["live"]
    assert [variable["name"] for variable in said["variables"]] == ["loss", "loss_se", "accuracy"]
    header, values = browser.receive()
    assert header["axes"] == [surface["alpha"].values.tolist(), surface["beta"].values.tolist()]
    for name in ("loss", "loss_se", "accuracy", "status"):
        np.testing.assert_array_equal(values[name], surface[name].values)


def test_a_point_is_the_nearest_that_was_measured(browser, stored):
    surface = ln.open(stored)
    said = browser.ask("point", id=1, at=[0.4, 1.9])
    assert said["at"] == [surface["alpha"].values[2], surface["beta"].values[3]] and said["measured"]
    assert said["values"]["loss"] == surface["loss"].values[2, 3] and said["gradient"] is None
    assert browser.ask("point", id=2, at=[-9, -9])["values"]["loss"] == "inf"


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_stored_point_differs_from_the_centre_by_its_samples(tmp_path, dims):
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    objective = ln.Objective(torch.nn.Linear(3, 2), "cross_entropy", (x, (x[:, 0] > 0).long()))
    chart = {1: ln.Line, 2: ln.Plane, 3: ln.Volume}[dims](objective.params, *ln.directions.random(objective, n=dims))
    grid = ln.Grid(**dict.fromkeys(chart.dims, (-1, 1, 3)))
    for keep in (True, False):
        store = tmp_path / f"{keep}.zarr"
        surface = ln.evaluate(objective, chart, grid, store=store, keep_samples=keep)
        with ln.explore(store, block=False) as explorer, Browser(explorer) as page:
            said = page.ask("point", id=1, at=[0.9] * dims)["difference"]
            centre = page.ask("point", id=2, at=[0.0] * dims)["difference"]
        if keep:
            found = ln.difference(surface, [1.0] * dims, [0.0] * dims)
            assert said == {"value": pytest.approx(found.value), "error": pytest.approx(found.error)}
            assert centre == {"value": 0.0, "error": 0.0}
        else:
            assert said is None and centre is None


def test_what_the_picture_cannot_say_stands_beside_it(browser, stored):
    lines = ln.report(stored).lines
    assert any(line.level == "unknown" for line in lines)
    assert browser.ask("hello", id=1)["report"] == [
        {"level": line.level, "check": line.check, "said": line.said, "do": line.do} for line in lines
    ]


def test_what_needs_an_objective_says_so(browser):
    for message in ({"type_": "line", "from": [0, 0], "to": [1, 1]}, {"type_": "ball", "at": [0, 0]}):
        browser.send(**message, id=9)
        said = browser.receive()
        assert said["type"] == "error" and said["id"] == 9 and "lossnav explore SPEC" in said["said"]


@pytest.mark.parametrize(("shape", "word"), [((7,), "line"), ((4, 5), "plane"), ((3, 4, 5), "volume")])
def test_any_number_of_coordinates_up_to_three(tmp_path, shape, word):
    values = np.random.default_rng(0).uniform(1, 2, shape)
    path = made(values, dims=("alpha", "beta", "gamma")[: len(shape)]).lossnav.save(tmp_path / "run.zarr")
    with ln.explore(path, block=False) as running, Browser(running) as page:
        assert page.ask("hello")["shape"] == word
        np.testing.assert_array_equal(page.receive()[1]["loss"], values)


def test_points_on_no_grid_come_interpolated_and_as_they_are(bowl, plane_of_bowl, tmp_path):
    sampler = ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.3, max_points=60)
    surface = ln.evaluate(bowl, plane_of_bowl, sampler, store=tmp_path / "run.zarr")
    with ln.explore(tmp_path / "run.zarr", block=False) as running, Browser(running) as page:
        page.ask("hello")
        (header, values), (points, measured) = page.receive(), page.receive()
    assert header["interpolated"] and values["loss"].shape == (201, 201)
    assert points["type"] == "points" and points["count"] == surface.sizes["point"]
    np.testing.assert_array_equal(measured["loss"], surface["loss"].values)
    np.testing.assert_array_equal(measured["beta"], surface["beta"].values)


@pytest.fixture
def plane_of_bowl(bowl):
    a, b = torch.eye(3)[0].reshape(1, 3), torch.eye(3)[1].reshape(1, 3)
    return ln.Plane(bowl.params, {"x": a}, {"x": b})


def test_several_seeds_are_shown_as_their_mean(bowl, tmp_path):
    def chart(seed):
        return ln.Line(bowl.params, *ln.directions.random(bowl, n=1, seed=seed, normalize=None))

    band = ln.ensemble(bowl, chart, ln.Grid(alpha=(-1, 1, 5)), [0, 1, 2], store=tmp_path / "band.zarr")
    with ln.explore(tmp_path / "band.zarr", block=False) as running, Browser(running) as page:
        page.ask("hello")
        _, values = page.receive()
    np.testing.assert_allclose(values["loss"], band["loss"].mean("seed"))
    np.testing.assert_allclose(values["loss_sd"], band["loss"].std("seed", ddof=1))


def test_bookmarks_are_kept_and_told_to_everybody(explorer, stored):
    with Browser(explorer) as one, Browser(explorer) as other:
        other.ask("hello")
        one.send("bookmark", name="ravine", view={"ranges": [[0, 1], [0, 1]]})
        told = other.until(lambda m: kind(m) == "bookmarks")[-1]
        assert told["bookmarks"] == [{"name": "ravine", "view": {"ranges": [[0, 1], [0, 1]]}}]
    assert open_session(stored).bookmarks == told["bookmarks"]
    with Browser(explorer) as one:
        one.send("bookmark", name="ravine", view=None)
        assert one.until(lambda m: kind(m) == "bookmarks")[-1]["bookmarks"] == []


@pytest.mark.parametrize(
    "view",
    [{}, {"ranges": [[-1, 0.5], [0, 1]], "metric": "accuracy", "log": True, "kind": "surface"}, {"ranges": "no"}],
)
def test_the_code_of_a_view_runs(stored, view):
    code = code_of(open_session(stored), 0, view)
    space = {}
    exec(code.replace(".show()", ""), space)
    assert type(space["surface"]).__name__ == "Dataset"
    if view.get("kind"):
        assert "plot.surface(surface, variable='accuracy', log=True).show()" in code
        assert float(space["surface"]["alpha"].max()) <= 0.5


def test_a_page_of_its_own_holds_the_very_frames(stored, tmp_path):
    path = write_html(stored, tmp_path / "page.html", view="k=1&log=1")
    text = path.read_text("utf-8")
    (found,) = re.findall(r'<script type="application/json" id="lossnav-data">(.*?)</script>', text, re.S)
    said = json.loads(found)
    assert said["view"] == "k=1&log=1"
    (place,) = said["places"]
    _, values = unframe(base64.b64decode(place["frames"][0]))
    np.testing.assert_array_equal(values["loss"], ln.open(stored)["loss"].values)
    assert place["session"]["dims"] == ["alpha", "beta"] and "ln.open" in place["code"]
    assert "./static/" not in _shell(text) and "://" not in _shell(text)
    with pytest.raises(ln.errors.OutputExistsError):
        write_html(stored, path)


def _shell(text):
    """The page without what is embedded in it."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)


def test_a_title_cannot_end_the_script_it_stands_in(tmp_path):
    path = made(np.ones((3, 3)) + np.eye(3)).lossnav.save(tmp_path / "a<img src=x>.zarr")
    session = open_session(path)
    session.title = "</script><script>alert(1)</script><!--"
    text = export_html(session)
    assert "<script>alert(1)" not in text and "<!--<" not in text
    (found,) = re.findall(r'id="lossnav-data">(.*?)</script>', text, re.S)
    assert json.loads(found)["places"][0]["session"]["title"] == session.title


def test_modules_of_the_export_find_each_other(stored):
    text = export_html(open_session(stored))
    (found,) = re.findall(r'<script type="importmap">(.*?)</script>', text, re.S)
    modules = {
        name: base64.b64decode(url.partition(",")[2]).decode() for name, url in json.loads(found)["imports"].items()
    }
    wanted = {
        name for code in modules.values() for name in re.findall(r'^(?:import|export) .*\bfrom "([^"]+)";$', code, re.M)
    }
    assert wanted and wanted <= set(modules)


def test_no_torch_is_needed_to_look(stored):
    code = f"""
import sys, lossnav as ln
with ln.explore({str(stored)!r}, block=False) as running:
    import urllib.request
    assert urllib.request.urlopen(running.url).status == 200
    from lossnav.explorer.stored.export_html import export_html
    export_html(running.handler.session)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_notebook_shows_the_page(explorer):
    assert f'src="{explorer.url}"' in explorer._repr_html_()


def test_what_cannot_be_explored_is_said(tmp_path, bowl):
    with pytest.raises(ln.errors.NotASurfaceError):
        ln.explore(tmp_path / "nothing.zarr", block=False)
    with pytest.raises(ln.errors.OptionError, match="needs a chart to be explored on"):
        ln.explore(bowl, block=False)
