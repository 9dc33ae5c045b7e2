"""The explorer's page in a real browser on the real server: what it draws is what the store holds."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

import lossnav as ln
from browsing import CHROMIUM, click, drawn, frames, numbers, wait, zoom
from conftest import made

pytest_plugins = ["browsing"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def network():
    """The notebook's network, a little trained on the digits, as an objective."""
    data = ln.zoo.digits()
    model = ln.zoo.notebook_cnn(seed=0)
    ln.zoo.train(model, data, passes=2, batch_size=50, lr=3e-3, order="stored", progress=False)
    some = tuple(part[:100] for part in data.test)
    return ln.Objective(model.eval(), "cross_entropy", some, metrics=["accuracy"])


@pytest.fixture(scope="module")
def plane(network):
    return ln.Plane(network.params, *ln.directions.random(network, n=2, normalize="filter", seed=0))


@pytest.fixture(scope="module")
def stored(network, plane, tmp_path_factory):
    """A surface of the notebook's network in a store, and what it holds."""
    path = tmp_path_factory.mktemp("stored") / "plane.zarr"
    grid = ln.Grid(alpha=(-1, 1, 17), beta=(-1, 1, 17))
    return path, ln.evaluate(network, plane, grid, store=path, progress=False)


# ---------------------------------------------------------------------- a stored surface


def test_map_and_surface_show_the_numbers_of_the_store(stored, serve, visit):
    path, surface = stored
    page = visit(serve(path).url)
    loss = surface["loss"].values
    seen = drawn(page)
    (layer,) = seen["layers"]
    np.testing.assert_array_equal(numbers(layer["values"]).reshape(loss.shape), loss)
    np.testing.assert_array_equal(layer["axes"], [surface["alpha"], surface["beta"]])
    np.testing.assert_allclose(seen["domain"], [loss.min(), loss.max()])

    shown = page.evaluate("() => lossnav.surface().layers[0]")
    alpha, beta = np.meshgrid(surface["alpha"], surface["beta"], indexing="ij")
    for name, truth in ("heights", loss), ("x", alpha), ("y", beta):
        np.testing.assert_allclose(shown[name], truth.reshape(-1), rtol=1e-6, atol=1e-6 * np.ptp(truth))
    assert shown["triangles"] == 2 * 16 * 16

    page.get_by_text("log", exact=True).click()
    frames(page)
    (layer,) = drawn(page)["layers"]
    np.testing.assert_allclose(numbers(layer["drawn"]), np.log10(loss).reshape(-1), rtol=1e-12)
    page.locator("#metric").select_option("accuracy")
    frames(page)
    np.testing.assert_array_equal(numbers(drawn(page)["layers"][0]["values"]), surface["accuracy"].values.reshape(-1))


def test_a_click_shows_the_nearest_measured_point(stored, serve, visit):
    path, surface = stored
    page = visit(serve(path).url)
    click(page, [0.26, -0.49])
    here = surface.sel(alpha=0.25, beta=-0.5)
    wait(page, "() => lossnav.view.at.join() === '0.25,-0.5'")
    frames(page)
    assert float(page.locator("#point-loss").get_attribute("data-loss")) == float(here["loss"])
    words = page.locator("#point").inner_text()
    assert f"{100 * float(here['accuracy']):.1f}" in words
    error = float(here["loss_se"])
    assert f"±\u2009{error:.{1 - int(np.floor(np.log10(error)))}f}" in words

    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    wait(page, "() => lossnav.view.at.join() === '0.375,-0.5'")
    frames(page)
    there = float(surface["loss"].sel(alpha=0.375, beta=-0.5))
    assert float(page.locator("#point-loss").get_attribute("data-loss")) == there


def test_a_click_on_the_surface_selects_there(stored, serve, visit):
    page = visit(serve(stored[0]).url)
    box = page.locator("#surface").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.6)
    wait(page, "() => lossnav.view.at.join() !== '0,0'")
    assert np.abs(page.evaluate("() => lossnav.view.at")).max() <= 1


def test_holes_stay_holes(serve, visit, tmp_path):
    values = 1.0 + np.add.outer(np.linspace(-1, 1, 9) ** 2, np.linspace(-1, 1, 9) ** 2)
    values[2, 3], values[6, 6] = np.nan, np.inf
    status = np.where(np.isfinite(values), 1, 2)
    status[0, 0], values[0, 0] = 0, np.nan
    said = {"level": "warning", "check": "Share", "said": "A bowl here says little.", "do": "Look elsewhere."}
    ln.save(made(values, status=status, ends=(-1, 1)), tmp_path / "holes.zarr")
    explorer = serve(tmp_path / "holes.zarr")
    explorer.handler.session.report = [said]
    page = visit(explorer.url)
    shown = page.evaluate("() => lossnav.surface().layers[0].triangles")
    assert shown == 2 * (64 - 4 - 4 - 1)
    report = page.locator("#report").inner_text()
    assert "2 points non-finite" in report
    assert "A bowl here says little. Look elsewhere." in report

    def color(at):
        x, y = page.evaluate("at => lossnav.pixel(at)", at)
        return page.evaluate(
            """([x, y]) => { const canvas = document.getElementById("map"), box = canvas.getBoundingClientRect();
            const d = canvas.getContext("2d").getImageData(x - box.left - 9, y - box.top - 9, 18, 18).data;
            let most = 0; for (let k = 0; k < d.length; k += 4)
                most = Math.max(most, Math.max(d[k], d[k+1], d[k+2]) - Math.min(d[k], d[k+1], d[k+2]));
            return most }""",
            [x, y],
        )

    assert color([-0.5, -0.25]) < 16  # hatching is grey; every colour of the map is not
    assert color([0.5, -0.5]) > 60


@pytest.mark.slow
def test_a_view_is_a_link(stored, serve, visit):
    explorer = serve(stored[0])
    page = visit(explorer.url)
    zoom(page, [0.5, 0.5], 4)
    page.keyboard.press("l")
    page.keyboard.press("p")
    click(page, [0.6, 0.6])
    page.locator("#surface").focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#levels").fill("20")
    frames(page)
    page.locator("#share-open").click()
    link = page.locator("#link").input_value()
    other = visit(link)
    view = page.evaluate("() => lossnav.view")
    assert view["x"][1] - view["x"][0] < 1.2 and view["log"] and view["points"] and view["levels"] == 20
    restored = other.evaluate("() => lossnav.view")
    for name, value in view.items():
        assert restored[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, list) else value), name
    frames(other)
    np.testing.assert_allclose(drawn(other)["domain"], drawn(page)["domain"], rtol=1e-9)
    shown = [tab.locator("#point-loss").get_attribute("data-loss") for tab in (page, other)]
    assert shown[0] == shown[1]


def test_a_link_from_anywhere_is_read_with_care(stored, serve, visit):
    url = serve(stored[0]).url
    page = visit(f"{url}#x=5,1&y=a,b&metric=%3Cimg%20src=x%3E&colors=constructor&camera=1&at=1,2,3&levels=1e9&place=77")
    view = page.evaluate("() => lossnav.view")
    assert view["x"] is None and view["y"] is None and view["levels"] == 40 and view["place"] == 0
    assert drawn(page)["metric"] == "loss"


@pytest.mark.slow
def test_pictures_can_be_taken_along(stored, serve, visit, tmp_path):
    page = visit(serve(stored[0]).url)
    page.locator("#share-open").click()
    wait(page, "() => document.getElementById('code').textContent.includes('ln.open(')")
    for what in ("map", "surface"):
        for kind in ("svg", "png"):
            with page.expect_download() as waiting:
                page.locator(f'[data-save="{what}.{kind}"]').click()
            waiting.value.save_as(tmp_path / f"{what}.{kind}")
    drawing = ElementTree.parse(tmp_path / "map.svg").getroot()
    words = ["".join(text.itertext()) for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"α", "β", "loss", "nat", "0.5"} <= set(words)
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) > 10
    assert "α" in (tmp_path / "surface.svg").read_text("utf-8")
    from PIL import Image

    for what in ("map", "surface"):
        picture = np.asarray(Image.open(tmp_path / f"{what}.png").convert("RGB"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200


def test_a_line_is_shown_with_its_band(network, serve, visit, tmp_path):
    (direction,) = ln.directions.random(network, seed=1)
    line = ln.Line(network.params, direction)
    surface = ln.evaluate(network, line, ln.Grid(alpha=(-1, 1, 11)), store=tmp_path / "line.zarr", progress=False)
    page = visit(serve(tmp_path / "line.zarr").url)
    shown = page.evaluate("() => lossnav.curve()")
    assert shown["x"] == surface["alpha"].values.tolist()
    assert [row["loss"] for row in shown["rows"]] == surface["loss"].values.tolist()
    assert page.locator("#curve .band").count() == 1
    assert page.locator("#surface").is_hidden()
    box = page.locator("#curve").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    wait(page, "() => lossnav.view.at[0] > 0.3")
    at = page.evaluate("() => lossnav.view.at[0]")
    frames(page)
    here = float(surface["loss"].sel(alpha=at))
    assert float(page.locator("#point-loss").get_attribute("data-loss")) == here


def test_a_volume_has_a_slider(serve, visit, tmp_path):
    a, b, c = np.meshgrid(*[np.linspace(-1, 1, 7)] * 3, indexing="ij")
    values = 0.1 + a**2 + 2 * b**2 + 3 * (c - 0.2) ** 2
    ln.save(made(values, dims=("alpha", "beta", "gamma"), ends=(-1, 1)), tmp_path / "volume.zarr")
    page = visit(serve(tmp_path / "volume.zarr").url)
    (layer,) = drawn(page)["layers"]
    np.testing.assert_array_equal(numbers(layer["values"]).reshape(7, 7), values[:, :, 3])
    page.locator("#slice").fill("5")
    frames(page)
    (layer,) = drawn(page)["layers"]
    np.testing.assert_array_equal(numbers(layer["values"]).reshape(7, 7), values[:, :, 5])
    page.locator("#iso").fill("0.5, 2")
    page.locator("#iso").press("Enter")
    assert page.evaluate("() => lossnav.view.iso") == [0.5, 2]


def test_a_click_in_a_volume_meets_its_isosurface_or_its_slice(serve, visit, tmp_path):
    axis = np.linspace(-1, 1, 21)
    a, b, c = np.meshgrid(axis, axis, axis, indexing="ij")
    values = 0.1 + a**2 + 2 * b**2 + 3 * (c - 0.2) ** 2
    ln.save(made(values, dims=("alpha", "beta", "gamma"), ends=(-1, 1)), tmp_path / "volume.zarr")
    page = visit(serve(tmp_path / "volume.zarr").url)
    page.locator("#iso").fill("0.5")
    page.locator("#iso").press("Enter")
    frames(page)
    page.locator("#surface").click()
    wait(page, "() => lossnav.view.slice > 0")
    at = page.evaluate("() => lossnav.view.at")
    assert page.evaluate("() => lossnav.view.slice") == at[2] > 0.2  # from above, before the slice at 0 is met
    there = values[tuple(np.abs(axis - each).argmin() for each in at)]
    assert there == pytest.approx(0.5, abs=0.2)  # the measured point next to it
    page.locator("#iso").fill("100")  # nowhere
    page.locator("#iso").press("Enter")
    page.locator("#slice").fill("5")
    frames(page)
    page.locator("#surface").click()
    wait(page, "before => JSON.stringify(lossnav.view.at) !== JSON.stringify(before)", at)
    assert page.evaluate("() => lossnav.view.at")[2] == axis[5]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1366, 768), (390, 844)])
def test_it_fits_and_can_be_read(stored, serve, visit, scheme, size):
    page = visit(serve(stored[0]).url, size=size, scheme=scheme)
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    for view in ("#map", "#surface"):
        box = page.locator(view).bounding_box()
        assert box["width"] > 250 and box["height"] > 250
        assert box["x"] >= 0 and box["x"] + box["width"] <= size[0]
    luminance = """() => { const style = getComputedStyle(document.documentElement);
        const light = name => { const d = style.getPropertyValue("--" + name).trim().slice(1).match(/../g)
            .map(p => parseInt(p, 16) / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * d[0] + 0.7152 * d[1] + 0.0722 * d[2] };
        const names = ["ground", "raised", "ink", "soft", "warn", "bad", "accent"];
        return Object.fromEntries(names.map(n => [n, light(n)])) }"""
    light = page.evaluate(luminance)
    assert (light["ground"] < 0.1) == (scheme == "dark")
    for name in ("ink", "soft", "warn", "bad", "accent"):  # WCAG 2.2, 1.4.3
        pair = sorted([light[name], light["ground"]])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, name
    page.locator("#theme").click()
    assert (page.evaluate(luminance)["ground"] < 0.1) == (scheme == "light")


def test_everything_one_presses_has_a_name(stored, serve, visit):
    page = visit(serve(stored[0]).url)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[tabindex], a")].filter(e =>
            !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length)).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    page.locator("body").press("?")
    assert page.locator("#help-dialog").is_visible()
    assert "drop a ball" in page.locator("#help").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#help-dialog").is_hidden()


def test_the_exported_page_needs_no_server(stored, serve, visit, tmp_path):
    path, surface = stored
    page = visit(serve(path).url)
    page.keyboard.press("l")
    page.locator("#share-open").click()
    with page.expect_download() as waiting:
        page.locator("#export").click()
    waiting.value.save_as(tmp_path / "page.html")
    alone = visit((tmp_path / "page.html").as_uri())
    (layer,) = drawn(alone)["layers"]
    np.testing.assert_array_equal(numbers(layer["values"]), surface["loss"].values.reshape(-1))
    assert alone.evaluate("() => lossnav.view.log")
    click(alone, [0.26, -0.49])
    frames(alone)
    here = float(surface["loss"].sel(alpha=0.25, beta=-0.5))
    assert float(alone.locator("#point-loss").get_attribute("data-loss")) == here


# ---------------------------------------------------------------------- a live session


@pytest.fixture
def live(network, plane, serve, tmp_path):
    return serve(network, plane, store=tmp_path / "run.zarr")


def asked_window(page):
    """The number of the last window that was asked for, once the view rests."""
    wait(page, "() => !lossnav.moving")
    return page.evaluate("() => lossnav.requests.findLast(r => r.type === 'window').id")


def same_as_evaluate(network, plane, layer, several=4):
    """A few values of a layer against the objective itself; the fast path may differ in float32's last digits."""
    alpha, beta = layer["axes"]
    values = numbers(layer["values"]).reshape(len(alpha), len(beta))
    known = np.argwhere(np.isfinite(values))
    assert len(known) >= 9
    for i, j in np.random.default_rng(0).permutation(known)[:several]:
        there = network.evaluate(plane([alpha[i], beta[j]]))["loss"]
        assert values[i, j] == pytest.approx(there, rel=2e-4)


@pytest.mark.slow
def test_zooming_evaluates_what_is_seen(live, network, plane, visit):
    page = visit(live.url)
    zoom(page, [0.5, 0.5], 6)
    last = asked_window(page)
    wait(page, "last => lossnav.drawn().layers.some(l => l.window === last)", last)
    seen = drawn(page)
    layer = next(layer for layer in reversed(seen["layers"]) if layer["window"] == last)
    for ends, axis in zip((seen["x"], seen["y"]), layer["axes"], strict=True):
        step = axis[1] - axis[0]
        assert ends[0] - step <= axis[0] <= ends[0] + step and ends[1] - step <= axis[-1] <= ends[1] + step
    same_as_evaluate(network, plane, layer)


@pytest.mark.slow
def test_moving_on_cancels(live, visit):
    levels = "id => lossnav.timings.filter(t => t.window === id).length"
    page = visit(live.url)
    zoom(page, [0.5, 0.5], 5)
    before = asked_window(page)
    wait(page, "() => lossnav.busy")
    page.mouse.down()
    for k in range(8):
        page.mouse.move(420 - 12 * k, 300)
    assert before in page.evaluate("() => lossnav.requests.filter(r => r.type === 'stop').map(r => r.id)")
    page.mouse.up()
    after = asked_window(page)
    assert after > before
    wait(page, f"id => ({levels})(id) > 0", after)
    shown = page.evaluate(levels, before)
    page.wait_for_timeout(500)
    assert page.evaluate(levels, before) == shown


def test_a_click_asks_the_network(live, network, plane, visit):
    page = visit(live.url)
    click(page, [0.31, -0.22])
    wait(page, "() => lossnav.selection?.finished && lossnav.selection.gradient && lossnav.view.at[0] > 0.2")
    frames(page)
    at = page.evaluate("() => lossnav.view.at")
    values = network.evaluate(plane(at))
    shown = float(page.locator("#point-loss").get_attribute("data-loss"))
    assert shown == pytest.approx(values["loss"], rel=2e-4)
    selection = page.evaluate("() => lossnav.selection")
    assert selection["values"]["accuracy"] == pytest.approx(values["accuracy"])
    h = 1e-2
    for k, derivative in enumerate(selection["gradient"]["in_plane"]):
        ends = [np.array(at) + s * h * np.eye(2)[k] for s in (1, -1)]
        high, low = (network.evaluate(plane(end))["loss"] for end in ends)
        assert derivative == pytest.approx((high - low) / (2 * h), rel=0.05, abs=0.02)
    assert page.locator("#classes-card").is_visible()
    table = page.locator(".confusion tbody").inner_text()
    entries = [int(word) for row in table.splitlines() for word in row.split("\t")[1:] if word.strip().isdigit()]
    assert sum(entries) == network.samples


def test_a_ball_rolls_to_where_the_panel_says(live, network, visit):
    page = visit(live.url)
    click(page, [0.6, 0.6])
    page.keyboard.press("b")
    page.locator('#ball-form [name="lr"]').fill("0.05")
    page.locator('#ball-form [name="steps"]').fill("12")
    page.locator("#ball-form .main").click()
    wait(page, "() => lossnav.ball()?.finished")
    frames(page)
    ball = page.evaluate("() => lossnav.ball()")
    assert ball["steps"][-1] == 12 and len(ball["at"]) == len(ball["loss"]) == len(ball["off"])
    assert ball["loss"][-1] < ball["loss"][0]
    assert float(page.locator("#ball-words").get_attribute("data-loss")) == ball["loss"][-1]
    said = re.search(r"loss ([\d.]+)", page.locator("#ball-words").inner_text())
    assert said and float(said.group(1)) == pytest.approx(ball["loss"][-1], rel=1e-3)
    start = page.evaluate("() => lossnav.view.at")
    assert ball["at"][0] == pytest.approx(start, abs=1e-6)


def test_a_line_is_walked(live, network, plane, visit):
    page = visit(live.url)
    click(page, [-0.5, -0.5])
    page.keyboard.press("m")
    click(page, [0.5, 0.25])
    wait(page, "() => lossnav.line()?.finished")
    line = page.evaluate("() => lossnav.line()")
    assert line["t"][0] == 0 and line["t"][-1] == 1 and len(line["t"]) == 41
    middle = np.array(line["from"]) + line["t"][20] * (np.array(line["to"]) - line["from"])
    assert line["loss"][20] == pytest.approx(network.evaluate(plane(middle))["loss"], rel=2e-4)


def test_new_places_and_back(live, visit):
    page = visit(live.url)
    click(page, [0.4, 0.2])
    page.keyboard.press("c")
    wait(page, "() => lossnav.session.place === 1 && lossnav.view.place === 1")
    assert page.locator("#places li").count() == 2
    page.locator("#places button").first.click()
    wait(page, "() => lossnav.session.place === 0 && lossnav.view.place === 0 && lossnav.drawn()?.layers.length")


@pytest.mark.parametrize("kind", ["gradient", pytest.param("hessian", marks=pytest.mark.slow), "checkpoint"])
def test_the_axes_are_turned(live, network, visit, tmp_path, kind):
    page = visit(live.url)
    page.keyboard.press("a")
    page.locator(f'#axes-form [value="{kind}"]').check()
    if kind == "checkpoint":
        moved = {name: tensor + 0.1 for name, tensor in network.params.items()}
        ln.checkpoints.save(moved, tmp_path / "other.safetensors")
        page.locator('#axes-form [name="checkpoint"]').fill(str(tmp_path / "other.safetensors"))
    page.locator("#axes-form .main").click()
    wait(page, "() => lossnav.session.place === 1 && lossnav.view.place === 1 && lossnav.drawn()?.layers.length")
    words = page.locator("#places li").last.inner_text()
    if kind == "hessian":
        pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(network), which="both", progress=False)
        said = [float(word) for word in re.findall(r"-?[\d.]+(?:e-?\d+)?", words.split("=")[1])]
        np.testing.assert_allclose(said, pairs.values[::-1], rtol=0.02)
    else:
        assert {"gradient": "gradient", "checkpoint": "other.safetensors"}[kind] in words
    wait(page, "() => lossnav.selection?.finished && lossnav.view.at.every(v => v === 0)")
    frames(page)
    shown = float(page.locator("#point-loss").get_attribute("data-loss"))
    assert shown == pytest.approx(network.evaluate(network.params)["loss"], rel=2e-4)
    if kind == "gradient":  # all of it lies in the plane, along the first axis
        slope = page.evaluate("() => lossnav.selection.gradient")
        assert slope["in_plane_norm"] == pytest.approx(slope["norm"], rel=1e-4)
    if kind == "checkpoint":
        click(page, [1.0, 0.0])
        wait(page, "() => lossnav.selection?.finished && lossnav.view.at[0] > 0.9")
        at = page.evaluate("() => lossnav.view.at")
        other = ln.directions.random(network, n=1, seed=1)  # the seed that the page proposes
        chart = ln.Plane(network.params, ln.directions.between(network.params, moved), *other)
        there = network.evaluate(chart(at))["loss"]
        assert page.evaluate("() => lossnav.selection.values.loss") == pytest.approx(there, rel=2e-4)


@pytest.mark.slow
def test_a_window_of_a_live_volume(serve, visit, tmp_path):
    bowl = ln.Objective.from_function(
        lambda p: 0.5 + (p["x"] ** 2 * torch.tensor([1.0, 2.0, 3.0])).sum(), {"x": torch.zeros(3)}
    )
    axes = [{"x": row} for row in torch.eye(3)]
    page = visit(serve(bowl, ln.Volume(bowl.params, *axes), store=tmp_path / "bowl.zarr").url)
    zoom(page, [0.5, 0.5], 6)
    last = asked_window(page)
    wait(page, "last => lossnav.drawn().layers.some(l => l.window === last) && !lossnav.busy", last)
    seen = drawn(page)
    (layer,) = seen["layers"]
    (alpha, beta), gamma = layer["axes"], page.evaluate("() => lossnav.drawn().slice")
    assert alpha[0] <= seen["x"][0] < seen["x"][1] <= alpha[-1] and alpha[-1] - alpha[0] < 1.5
    expected = 0.5 + np.square(alpha)[:, None] + 2 * np.square(beta) + 3 * gamma**2
    np.testing.assert_allclose(numbers(layer["values"]).reshape(expected.shape), expected, rtol=1e-5)


@pytest.mark.slow
def test_two_tabs_at_once(live, network, plane, visit):
    one, two = visit(live.url), visit(live.url)
    zoom(one, [-0.5, -0.5], 4)
    zoom(two, [0.5, 0.5], 4)
    for page in (one, two):
        last = asked_window(page)
        wait(page, "last => lossnav.drawn().layers.some(l => l.window === last)", last)
        layer = next(layer for layer in drawn(page)["layers"] if layer["window"] == last)
        same_as_evaluate(network, plane, layer, several=2)
    assert drawn(one)["x"] != drawn(two)["x"]


def test_bookmarks_are_told_to_all_and_brought_back(serve, visit, tmp_path):
    ln.save(made(np.ones((5, 5)) + np.arange(5)), tmp_path / "small.zarr")
    explorer = serve(tmp_path / "small.zarr")
    page = visit(explorer.url)
    page.keyboard.press("l")
    page.locator("#bookmarks-open").click()
    page.locator('#bookmark-form [name="name"]').fill("<b>here</b>")
    page.locator("#bookmark-form .main").click()
    page.locator("#bookmarks li button").first.wait_for()
    other = visit(explorer.url)
    assert not other.evaluate("() => lossnav.view.log")
    other.locator("#bookmarks-open").click()
    other.get_by_text("<b>here</b>").click()
    wait(other, "() => lossnav.view.log")


def test_a_link_or_a_bookmark_that_is_no_view_shows_the_surface_as_it_is(serve, visit, tmp_path):
    """Ends between which no step of a float lies made the page count ticks for ever."""
    store = tmp_path / "run.zarr"
    ln.save(made(np.ones((5, 5)) + np.arange(5)), store)
    folder = tmp_path / "run.explore"
    folder.mkdir()
    view = {
        "camera": "x",
        "at": "abc",
        "x": [1, 0],
        "levels": 1e9,
        "metric": "\ud800",
        "range": {},
        "iso": [None],
        "log": 1,
    }
    marks = {"schema": "lossnav.explorer", "bookmarks": [{"name": "odd", "view": view}]}
    (folder / "session.json").write_text(json.dumps(marks))
    explorer = serve(store)
    page = visit(
        f"{explorer.url}#x=1e17,100000000000000016&y=,1&levels=1e300&camera=1,2&range=5,4&at=&metric=%ED%A0%80"
    )
    assert [float(end) for end in page.evaluate("lossnav.view.x")] == [1e17, 1e17 + 16]
    assert page.evaluate("[lossnav.view.y, lossnav.view.range, lossnav.view.levels]") == [None, None, 40]
    page.locator("#bookmarks-open").click()
    page.locator("#bookmarks li button").first.click()
    wait(page, "() => lossnav.view.x === null && lossnav.drawn().layers.length === 1")
    assert page.evaluate("lossnav.view.camera.every(Number.isFinite)")
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # writes the address
    assert page.evaluate("location.hash").startswith("#")
