"""The explorer's page never misleads: one picture, true at every zoom and moment, and a word for each state."""

import io
import itertools
import threading

import numpy as np
import pytest
import torch

import lossnav as ln
from browsing import CONTRAST, click, drawn, frames, wait
from conftest import made

pytest_plugins = ["browsing"]
pytestmark = [pytest.mark.slow, pytest.mark.browser]
BROWSERS = ["chromium", "firefox"]


def hilly(a, b):
    return 2.3 + np.sin(3 * a) + a * b + b**2


def look(page, **view):
    """Open a view by its address."""
    page.evaluate("words => { location.hash = words }", "&".join(f"{key}={value}" for key, value in view.items()))
    frames(page, 3)


def window(center, half):
    ends = [f"{c - half!r},{c + half!r}" for c in center]
    return {"x": ends[0], "y": ends[1]}


def picture(page, which):
    """A canvas as it is on the screen, as bytes (height, width, 3), and where it lies."""
    image = pytest.importorskip("PIL.Image")
    box = page.locator(which).bounding_box()
    return np.asarray(image.open(io.BytesIO(page.screenshot(clip=box, caret="initial"))).convert("RGB")).astype(
        int
    ), box


def bilinear(axis, values, at):
    i, j = (min(int((v - axis[0]) / (axis[1] - axis[0])), len(axis) - 2) for v in at)
    part = [(at[0] - axis[i]) / (axis[i + 1] - axis[i]), (at[1] - axis[j]) / (axis[j + 1] - axis[j])]
    low, high = (values[k, j] * (1 - part[1]) + values[k, j + 1] * part[1] for k in (i, i + 1))
    return low * (1 - part[0]) + high * part[0]


def test_colours_and_values_are_true_at_every_zoom_and_on_a_window_that_moves(serve, visit, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    axis = np.linspace(-1, 1, 33)
    values = hilly(*np.meshgrid(axis, axis, indexing="ij"))
    status = np.ones_like(values)
    status[25:27] = 0  # rows are missing
    stored = np.where(status == 1, values, np.nan)
    ln.save(made(stored, status=status, ends=(-1, 1)), tmp_path / "run.zarr")
    page = visit(serve(tmp_path / "run.zarr").url)
    colors = (np.array(matplotlib.colormaps["viridis"].colors) * 255).round().astype(int)
    for half in (0.9, 0.1, 1e-2, 1e-3, 1e-5):
        for center in ((-0.31, 0.17), (-0.31 + 0.7 * half, 0.17 - 0.4 * half)):
            if half > 0.5 and center != (-0.31, 0.17):
                continue
            inner = half if half < 0.5 else 0.6
            look(page, lines=0, path=0, **window(center, inner))
            seen = drawn(page)
            image, box = picture(page, "#map")
            low, high = seen["domain"]
            corners = [
                bilinear(axis, values, [c + s * inner for c, s in zip(center, signs, strict=True)])
                for signs in itertools.product((-1, 1), repeat=2)
            ]
            if half < 0.05:  # nearly flat: the ends are at the corners
                np.testing.assert_allclose(
                    [low, high], [min(corners), max(corners)], atol=2e-2 * (max(corners) - min(corners))
                )
            for u, v in itertools.product((-0.83, -0.4, 0.11, 0.37, 0.9), repeat=2):
                at = [center[0] + u * inner, center[1] + v * inner]
                truth = bilinear(axis, values, at)
                read = page.evaluate("at => lossnav.at(at)", at)
                assert read["value"] == pytest.approx(truth, abs=1e-5 * (high - low))
                x, y = page.evaluate("at => lossnav.pixel(at)", at)
                row, column = int(y - box["y"]), int(x - box["x"])
                # The colour of the pixel's middle, to one step of 255.
                middle = [
                    at[0] + (column + 0.5 - (x - box["x"])) * pixel(page, 0),
                    at[1] - (row + 0.5 - (y - box["y"])) * pixel(page, 1),
                ]
                place = 255 * (bilinear(axis, values, middle) - low) / (high - low)
                near = colors[max(0, int(place) - 1) : int(place) + 3]
                assert (np.abs(near - image[row, column]).max(1) <= 2).any(), (half, at)
            heights = page.evaluate("() => lossnav.surface().layers.map(l => [l.x, l.y, l.heights])")
            for xs, ys, zs in heights:
                for k in range(0, len(xs), max(1, len(xs) // 40)):
                    if zs[k] is not None and -1 <= xs[k] < 0.499 and -1 <= ys[k] <= 1:
                        assert zs[k] == pytest.approx(bilinear(axis, values, [xs[k], ys[k]]), abs=1e-5 * (high - low))


def pixel(page, axis):
    """The length of a pixel, in coordinates."""
    a, b = page.evaluate("() => [lossnav.drawn().x, lossnav.drawn().y]")[axis]
    ends = page.evaluate(
        "([a, b]) => [lossnav.pixel(a), lossnav.pixel(b)]",
        [[a if axis == 0 else 0, a if axis else 0], [b if axis == 0 else 0, b if axis else 0]],
    )
    return (b - a) / abs(ends[1][axis] - ends[0][axis])


WATCH = """() => {
    window.shown = []; window.worse = [];
    const places = [];
    for (let i = 0; i < 40; i++)
        places.push([0.618034, 0.754878].map(part => -0.97 + 1.94 * ((i * part) % 1)));
    const before = places.map(() => Infinity);
    const look = () => {
        const { x, y } = window.lossnav?.view ?? {};
        const seen = ([a, b]) => !x || (a >= x[0] && a <= x[1] && b >= y[0] && b <= y[1]);
        if (window.lossnav?.at([0, 0])) places.forEach((at, k) => {
            if (!seen(at)) return;
            const now = lossnav.at(at).fineness;
            if (now > before[k] * (1 + 1e-12)) worse.push([at, before[k], now]);
            if (now < before[k]) shown.push(now);
            before[k] = now;
        });
        requestAnimationFrame(look);
    };
    look();
}"""


def test_a_picture_that_sharpens_never_shows_less_than_before(serve, visit, tmp_path):
    """Every frame of the screen is watched, while levels come in parts."""
    bowl = ln.Objective.from_function(
        lambda p: 1 + torch.sin(3 * p["x"][0]) + (p["x"] ** 2).sum(), {"x": torch.zeros(2)}
    )
    plane = ln.Plane(bowl.params, *[{"x": row} for row in torch.eye(2)])
    explorer = serve(bowl, plane, store=tmp_path / "run.zarr")
    page = visit(explorer.url, ready=False)
    page.evaluate(WATCH)
    finest = (2 / 64) ** 2
    wait(page, "finest => shown.filter(v => v <= finest * 1.001).length >= 40 && !lossnav.busy", finest)
    look(page, **window((0.2, 0.1), 0.05))
    wait(page, "() => lossnav.drawn().layers.some(l => l.window !== null && l.axes[0].length >= 40)")
    assert page.evaluate("() => worse") == []
    assert len(set(page.evaluate("() => shown"))) >= 2  # it did sharpen


def test_a_plateau_at_a_contour_level_has_one_colour(serve, visit, tmp_path):
    for n, values in enumerate(
        (np.full((33, 33), 2.0), np.where(np.add.outer(np.arange(33), np.zeros(33)) < 6, 1.0, 2.0))
    ):
        ln.save(made(values, ends=(-1, 1)), tmp_path / f"{n}.zarr")
        page = visit(serve(tmp_path / f"{n}.zarr").url)
        look(page, levels=12, at="9,9", camera="0.6,1.2,5.2")
        if n:
            assert 2.0 in np.round(drawn(page)["levels"], 9)
        image, _ = picture(page, "#surface")
        middle = image[
            image.shape[0] // 2 - 40 : image.shape[0] // 2 + 40, image.shape[1] // 2 - 40 : image.shape[1] // 2 + 40
        ]
        flat = middle.reshape(-1, 3)
        assert np.ptp(flat, axis=0).max() <= 14, n  # light alone changes it; a line would by a hundred


@pytest.fixture
def gated():
    """An objective that answers only while it may, and what lets it go on."""
    go, state = threading.Event(), {"hold": False, "fail": False}

    def loss(p):
        if state["hold"]:
            go.wait()
        if state["fail"] and p["x"][0] > 0.4:
            raise ValueError("no loss here")
        return 1 + (p["x"] ** 2).sum()

    bowl = ln.Objective.from_function(loss, {"x": torch.zeros(2)})
    plane = ln.Plane(bowl.params, *[{"x": row} for row in torch.eye(2)])
    yield bowl, plane, state, go
    go.set()


def outcome(page):
    frames(page)
    return page.locator("#point-loss").get_attribute("data-outcome")


def test_five_words_for_five_states(gated, serve, visit, tmp_path):
    values = np.full((9, 9), 1.0) + np.arange(9)
    status = np.ones((9, 9))
    for (i, j), what in {(2, 2): 2, (6, 2): 3, (0, 8): 0}.items():
        values[i, j], status[i, j] = np.nan, what
    ln.save(made(values, status=status, ends=(-1, 1)), tmp_path / "states.zarr")
    page = visit(serve(tmp_path / "states.zarr").url)
    words = {}
    for at in ([-0.5, -0.5], [0.5, -0.5]):
        click(page, at)
        wait(page, "at => lossnav.view.at.join() === at.join()", at)
        words[tuple(at)] = outcome(page)
    assert words == {(-0.5, -0.5): "non-finite", (0.5, -0.5): "failed"}
    assert "not a number" not in page.locator("#point").inner_text()
    hovered = {}
    for name, at in {"non-finite": [-0.5, -0.5], "failed": [0.5, -0.5], "not evaluated": [-0.97, 0.97]}.items():
        page.mouse.move(*page.evaluate("at => lossnav.pixel(at)", at))
        frames(page)
        hovered[name] = page.locator("#hover").inner_text()
        assert name in hovered[name]
    report = page.locator("#report").inner_text()
    assert "1 point non-finite" in report and "1 point failed" in report

    bowl, plane, state, go = gated
    explorer = serve(bowl, plane, store=tmp_path / "live.zarr")
    page = visit(explorer.url, allow="")
    wait(page, "() => !lossnav.busy && lossnav.selection?.finished")
    state["hold"] = True
    click(page, [0.313, -0.177])
    wait(page, "() => lossnav.view.at[0] > 0.3")
    assert outcome(page) == "pending"
    words = page.locator("#point").inner_text()
    assert "pending" in words and "not a number" not in words
    explorer.close(0.1)  # nobody answers any more
    wait(page, "() => !document.getElementById('connection').hidden")
    assert outcome(page) == "unknown"
    assert "not a number" not in page.locator("#point").inner_text()
    go.set()


def test_what_is_refused_says_so_where_it_was_awaited(gated, serve, visit, tmp_path):
    bowl, plane, state, go = gated
    page = visit(serve(bowl, plane, store=tmp_path / "run.zarr").url)
    click(page, [0.25, 0.25])
    page.keyboard.press("b")
    steps = page.locator('#ball-form [name="steps"]')
    assert steps.get_attribute("max") == "10000"
    page.locator('#ball-form [name="batch"]').fill("10")  # of an objective without data
    page.locator("#ball-form .main").click()
    wait(page, "() => lossnav.ball()?.finished")
    frames(page)
    assert "batches cannot be drawn" in page.locator("#ball-words").inner_text()
    page.locator("#ball-close").click()
    state["fail"] = True
    click(page, [0.613, -0.377])
    wait(page, "() => document.getElementById('point-loss')?.dataset.outcome === 'failed'")
    state["hold"] = True
    page.keyboard.press("m")
    click(page, [-0.5, 0.5])
    wait(page, "() => lossnav.line() && !lossnav.line().finished")
    go.set()


def test_a_server_that_was_restarted_is_not_tried_for_ever(serve, visit, tmp_path):
    ln.save(made(np.ones((5, 5)) + np.arange(5)), tmp_path / "run.zarr")
    first = serve(tmp_path / "run.zarr")
    page = visit(first.url, allow="")
    port = int(first.url.split(":")[2].split("/")[0])
    first.close()
    serve(tmp_path / "run.zarr", port=port)
    wait(page, "() => document.getElementById('connection').textContent.includes('restarted')")
    assert page.locator("#connection").is_visible()


LOOKED_AT = "lossnav.view.x?.every((v, k) => x && Math.abs(v - x[k]) < 1e-4)"  # an address rounds


def test_back_goes_back_to_where_one_was(serve, visit, tmp_path):
    axis = np.linspace(-1, 1, 9)
    ln.save(made(hilly(*np.meshgrid(axis, axis)), ends=(-1, 1)), tmp_path / "run.zarr")
    page = visit(serve(tmp_path / "run.zarr").url)
    seen = [None]
    for _ in range(2):
        page.mouse.move(*page.evaluate("() => lossnav.pixel([0.3, 0.3])"))
        page.mouse.wheel(0, -120)
        wait(page, f"x => lossnav.view.x && !({LOOKED_AT}) && !lossnav.moving", seen[-1])
        seen.append(page.evaluate("() => lossnav.view.x"))
    page.go_back()
    wait(page, f"x => {LOOKED_AT}", seen[1])
    page.go_back()
    wait(page, "() => lossnav.view.x === null")
    page.go_forward()
    wait(page, f"x => {LOOKED_AT}", seen[1])
    page.go_forward()
    wait(page, f"x => {LOOKED_AT}", seen[2])


def test_back_goes_back_also_before_the_address_is_kept(serve, visit, tmp_path):
    axis = np.linspace(-1, 1, 9)
    ln.save(made(hilly(*np.meshgrid(axis, axis)), ends=(-1, 1)), tmp_path / "run.zarr")
    page = visit(serve(tmp_path / "run.zarr").url)
    wait(page, "() => lossnav.drawn()")
    looked = page.evaluate("""() => new Promise(end => {
        const map = document.querySelector("#map"), box = map.getBoundingClientRect();
        const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, cancelable: true };
        map.dispatchEvent(new WheelEvent("wheel", { deltaY: -120, ...at }));
        const looked = lossnav.view.x;
        addEventListener("popstate", () => end(looked), { once: true });
        history.back();
    })""")
    assert looked is not None
    wait(page, "() => !lossnav.moving && lossnav.view.x === null")


def test_an_outlier_leaves_the_map_its_colours_and_ranges_are_read(serve, visit, tmp_path):
    axis = np.linspace(-1, 1, 21)
    values = hilly(*np.meshgrid(axis, axis, indexing="ij"))
    rest = np.ptp(values)
    values[3, 4] = 1e30
    surface = made(values + 500, ends=(-1, 1))
    ln.save(surface, tmp_path / "run.zarr")
    explorer = serve(tmp_path / "run.zarr")
    levels = ["info", "warning", "unknown", "error", "note"]
    explorer.handler.session.report = [{"level": level, "check": level, "said": "said"} for level in levels]
    page = visit(explorer.url)
    low, high = drawn(page)["domain"]
    assert high - low == pytest.approx(rest, rel=0.05)
    assert "1.000 × 10³⁰" in page.locator("#beyond").inner_text().replace("\u2009", " ")
    said = [item.split(":")[0] for item in page.locator("#report li").all_inner_texts()[1:]]
    assert said[:3] == ["Error", "Warning", "Unknown"] and len(said) == 5
    look(page, **window((0.2, 0.2), 1e-4))
    boxes = [page.locator(name).input_value() for name in ("#range-low", "#range-high")]
    low, high = drawn(page)["domain"]
    assert float(boxes[0]) < float(boxes[1])
    np.testing.assert_allclose([float(box) for box in boxes], [low, high], atol=2e-3 * (high - low))


def test_each_axis_through_the_point_has_its_own_abscissa(serve, visit, tmp_path):
    x, y, z = (np.linspace(low, high, n) for low, high, n in ((-1, 1, 5), (10, 30, 7), (-0.1, 0.3, 9)))
    values = x[:, None, None] ** 2 + y[:, None] / 10 + 5 * z
    surface = made(values, dims=("alpha", "beta", "gamma")).assign_coords(alpha=x, beta=y, gamma=z)
    surface.attrs["sampler"] = {
        "kind": "Grid",
        "axes": {"alpha": [-1, 1, 5], "beta": [10, 30, 7], "gamma": [-0.1, 0.3, 9]},
    }
    ln.save(surface, tmp_path / "run.zarr")
    page = visit(serve(tmp_path / "run.zarr").url)
    click(page, [0.5, 20])
    frames(page)
    plots = page.locator("#section-plots svg")
    assert plots.count() == 3
    for k, (letter, ends) in enumerate((("α", (-1, 1)), ("β", (10, 30)), ("γ", (-0.1, 0.3)))):
        words = plots.nth(k).locator("text").all_text_contents()
        assert letter in words
        ticks = [
            float(w.replace("−", "-"))
            for w in plots.nth(k).locator('text[text-anchor="middle"]').all_text_contents()
            if w not in ("α", "β", "γ") and "loss" not in w
        ]
        assert ticks and all(ends[0] <= tick <= ends[1] for tick in ticks)


FAINT = (
    f"() => {{{CONTRAST}"
    + """
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) {
        const e = walker.currentNode.parentElement, words = walker.currentNode.data.trim();
        if (!words || !e.offsetParent || e.closest("svg, option, .unseen, :disabled")) continue;
        const [a, b] = [parts(getComputedStyle(e).color), behind(e)].map(light).sort((p, q) => q - p);
        if ((a + 0.05) / (b + 0.05) < 4.5) found.push([words.slice(0, 30), e.className, (a + 0.05) / (b + 0.05)]);
    }
    return found;
}"""
)


@pytest.mark.parametrize("size", [(390, 844), (1024, 768), (1440, 900), (2560, 1440)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_its_targets_are_large_and_its_words_can_be_read(serve, visit, tmp_path, size, scheme):
    axis = np.linspace(-1, 1, 9)
    ln.save(made(hilly(*np.meshgrid(axis, axis)), ends=(-1, 1)), tmp_path / "run.zarr")
    touch = size[0] == 390
    page = visit(serve(tmp_path / "run.zarr").url, size=size, scheme=scheme, touch=touch)
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    small = page.evaluate(
        """least => [...document.querySelectorAll("button, input, select, a")].filter(e => e.offsetParent).map(e => {
            const boxes = [e, ...(e.labels ?? [])].map(b => b.getBoundingClientRect());
            return [e.id || e.outerHTML, Math.max(...boxes.map(b => Math.min(b.width, b.height)))] })
            .filter(([, side]) => side < least - 0.5)""",
        44 if touch else 24,
    )
    assert small == []
    cards = page.evaluate(
        """() => [...document.querySelectorAll(".card")].filter(c => c.offsetParent)
            .map(c => c.getBoundingClientRect().width)"""
    )
    assert min(cards) >= 240
    assert page.evaluate(FAINT) == []  # words against what lies behind them (WCAG 2.2, 1.4.3)


def test_very_many_points_are_turned_and_dragged_as_some_of_them_and_rest_as_all(serve, visit, tmp_path):
    axis = np.linspace(-1, 1, 601)
    ln.save(made(hilly(*np.meshgrid(axis, axis, indexing="ij")), ends=(-1, 1)), tmp_path / "run.zarr")
    page = visit(serve(tmp_path / "run.zarr").url)
    whole = 2 * 600 * 600
    assert page.evaluate("() => lossnav.triangles()") == whole
    page.evaluate("""() => {
        window.seen = new Set(); // of the pictures on the screen
        const look = () => { seen.add(lossnav.triangles()); requestAnimationFrame(look); };
        look();
    }""")
    for which in ("#surface", "#map"):
        page.evaluate("() => seen.clear()")
        box = page.locator(which).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        for step in range(1, 9):
            page.mouse.move(x + 6 * step, y + 2 * step)
            frames(page, 1)
        page.mouse.up()
        wait(page, "whole => seen.size > 1 && !lossnav.moving && lossnav.triangles() === whole", whole)
        meanwhile = page.evaluate("() => Math.min(...seen)")
        assert 2 * 100 * 100 <= meanwhile <= whole / 4, which  # some of the points, over all of the place
