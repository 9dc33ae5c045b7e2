"""The explorer's page for everybody: axe-core finds nothing serious, words contrast, all by keyboard."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

import lossnav as ln
from browsing import CONTRAST, frames, wait
from conftest import made

pytest_plugins = ["browsing"]
pytestmark = [pytest.mark.slow, pytest.mark.browser]

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
SIZES = [(390, 844), (1024, 768), (1440, 900), (2560, 1440)]

SERIOUS = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
        .flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => [id, String(target), failureSummary]));
}"""

SMALL = """least => [...document.querySelectorAll("button, input, select, a, summary, [tabindex='0']")]
    .filter(e => e.checkVisibility() && !e.closest("canvas, svg")).map(e => {
        const boxes = [e, ...(e.labels ?? [])].map(b => b.getBoundingClientRect());
        return [e.id || e.outerHTML.slice(0, 80), Math.max(...boxes.map(b => Math.min(b.width, b.height)))];
    }).filter(([, side]) => side < least - 0.5)"""

# Of words in SVG, which axe-core leaves to the eye: against what lies behind the plot.
FAINT = (
    f"() => {{{CONTRAST}"
    + """
    return [...document.querySelectorAll("svg text")].filter(e => e.checkVisibility()).map(e => {
        const [a, b] = [parts(getComputedStyle(e).fill), behind(e.ownerSVGElement.parentElement)].map(light)
            .sort((p, q) => q - p);
        return [e.textContent, (a + 0.05) / (b + 0.05)];
    }).filter(([, ratio]) => ratio < 4.5);
}"""
)


@pytest.fixture
def check():
    if not AXE.exists():
        pytest.skip("no axe-core: npm ci in tests/explorer/page")
    script = AXE.read_text("utf-8")

    def look(page, state, least):
        frames(page, 3)
        if not page.evaluate("() => 'axe' in window"):
            page.evaluate(script)
        assert page.evaluate(SERIOUS) == [], state
        assert page.evaluate(SMALL, least) == [], state
        assert page.evaluate(FAINT) == [], state

    return look


def store(path, k):
    axis = np.linspace(-1, 1, 9)
    at = np.meshgrid(*[axis] * k, indexing="ij")
    values = 1 + sum(part**2 for part in at)
    values.reshape(-1)[3] = np.nan
    surface = made(values, dims=("alpha", "beta", "gamma")[:k], ends=(-1, 1))
    ln.save(surface, path)
    return path


@pytest.mark.parametrize(("size", "scheme"), zip(SIZES, ["light", "dark", "light", "dark"], strict=True), ids=str)
def test_nothing_serious_in_any_state(serve, visit, check, tmp_path, size, scheme):
    touch = size[0] == 390
    least = 44 if touch else 24
    for k, state in ((1, "line"), (2, "map and surface"), (3, "volume")):
        url = serve(store(tmp_path / f"{k}.zarr", k)).url
        check(visit(url, size=size, scheme=scheme, touch=touch), state, least)
    torch.manual_seed(0)
    data = (torch.randn(60, 4), torch.randint(0, 3, (60,)))
    network = ln.Objective(torch.nn.Linear(4, 3).eval(), "cross_entropy", data, metrics=["accuracy"])
    plane = ln.Plane(network.params, *ln.directions.random(network, n=2, seed=0))
    grid = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5))
    for call in (ln.evaluate, ln.evaluate_curvature):
        call(network, plane, grid, store=tmp_path / "beside.zarr", progress=False)
    ln.spectrum(network, top=1, density=True, store=tmp_path / "beside.zarr", progress=False)
    page = visit(serve(tmp_path / "beside.zarr").url, size=size, scheme=scheme, touch=touch)
    wait(page, "() => lossnav.selection?.finished")
    frames(page, 3)
    assert page.locator("#spectrum-card").is_visible() and "lambda max" in page.locator("#point").inner_text()
    check(page, "curvature and spectrum", least)
    explorer = serve(network, plane, store=tmp_path / "live.zarr")
    words = [{"level": level, "check": level, "said": "It is said.", "do": "Look."} for level in ("error", "info")]
    explorer.handler.session.report = words
    page = visit(explorer.url, size=size, scheme=scheme, touch=touch)
    wait(page, "() => lossnav.selection?.finished")
    frames(page, 3)
    assert page.locator("#classes-card").is_visible()
    check(page, "live, with classes and a report", least)
    dialogs = ["help", "share", "bookmarks", "axes", "ball"]
    for name in dialogs:
        page.locator(f"#{name}-open").click()
        assert page.locator(f"#{name}-dialog").is_visible()
        check(page, f"dialog: {name}", least)
        page.keyboard.press("Escape")
    page.locator("#ball-open").click()
    page.locator('#ball-form [name="steps"]').fill("3")
    page.locator("#ball-form .main").click()
    wait(page, "() => lossnav.ball()?.finished")
    page.locator("#line-from").click()
    check(page, "a line is picked, a ball lies there", least)
    page.keyboard.press("Escape")


def test_all_of_it_by_keyboard(serve, visit, tmp_path):
    """Tab comes to all that can be pressed, in the order of the page; a dialog keeps and gives back the focus."""
    bowl = ln.Objective.from_function(lambda p: 1 + (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    plane = ln.Plane(bowl.params, *[{"x": row} for row in torch.eye(2)])
    page = visit(serve(bowl, plane, store=tmp_path / "live.zarr").url)
    wait(page, "() => !lossnav.busy && lossnav.selection?.finished")
    name = "e => e.id || e.textContent.trim() || e.name"
    wanted = page.evaluate(
        f"""() => [...document.querySelectorAll("button, input, select, a, [tabindex='0']")]
            .filter(e => e.checkVisibility() && !e.disabled && !(e.type === "radio" && !e.checked)).map({name})"""
    )
    assert {"map", "surface", "metric", "ball-open"} <= set(wanted)
    page.evaluate("() => document.activeElement.blur()")
    reached = []
    for _ in range(len(wanted)):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(f"() => ({name})(document.activeElement)"))
        ring = page.evaluate(
            """() => { const e = document.activeElement, shown = e.closest(".switch") ? e.nextElementSibling : e;
            return getComputedStyle(shown).outlineStyle }"""
        )
        assert ring != "none", reached[-1]  # one sees where one is
    assert reached == wanted
    for opener in ("help-open", "share-open", "bookmarks-open", "axes-open", "ball-open"):
        page.locator(f"#{opener}").focus()
        page.keyboard.press("Enter")
        dialog = page.locator("dialog[open]")
        assert dialog.count() == 1
        assert page.evaluate("() => document.activeElement.closest('dialog[open]') !== null")
        page.keyboard.press("Escape")
        assert dialog.count() == 0
        assert page.evaluate("() => document.activeElement.id") == opener


def colours(page, which):
    image = pytest.importorskip("PIL.Image")
    box = page.locator(which).bounding_box()
    return np.asarray(image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")).astype(int)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_toolbar_that_scrolls_shows_where_it_goes_on(serve, visit, tmp_path, scheme):
    page = visit(serve(store(tmp_path / "run.zarr", 2)).url, size=(390, 844), scheme=scheme)
    most = page.evaluate(
        "() => { const c = document.getElementById('controls'); return c.scrollWidth - c.clientWidth }"
    )
    assert most > 40
    for at, (left, right) in ((0, (False, True)), (most // 2, (True, True)), (most, (True, False))):
        page.evaluate("at => { document.getElementById('controls').scrollLeft = at }", at)
        frames(page, 3)
        row = colours(page, "#controls")[2]  # above what it holds
        ground = row[len(row) // 2]
        assert (np.abs(row[1] - ground).max() > 12) == left, at
        assert (np.abs(row[-2] - ground).max() > 12) == right, at


@pytest.mark.parametrize("deep", [0.5, 1.2])  # on the picture, and below it
def test_a_ball_under_the_surface_is_seen(serve, visit, tmp_path, deep):
    """It leaves the plane, and its true loss lies below the surface, which one looks at from above."""
    pit = ln.Objective.from_function(
        lambda p: 3 + 0.3 * (p["x"][:2] ** 2).sum() + (p["x"][2] - deep) ** 2, {"x": torch.zeros(3)}
    )
    plane = ln.Plane(pit.params, *[{"x": row} for row in torch.eye(3)[:2]])
    page = visit(serve(pit, plane, store=tmp_path / "live.zarr").url + "#camera=0.6,1.1,5.2&at=0.3,0.2&lines=0")
    wait(page, "() => !lossnav.busy && lossnav.selection?.finished")
    frames(page, 3)
    before = colours(page, "#surface")
    page.locator("#ball-open").click()
    page.locator('#ball-form [name="steps"]').fill("30")
    page.locator("#ball-form .main").click()
    wait(page, "() => lossnav.ball()?.finished && !lossnav.busy")
    frames(page, 3)
    ball = page.evaluate("() => lossnav.ball()")
    assert ball["loss"][-1] < 3 + deep**2 / 4 < 3 + deep**2 < ball["projected"][-1]
    after = colours(page, "#surface")
    changed = np.abs(after - before).max(2) > 40
    orange = changed & (after[..., 0] > after[..., 2] + 60)
    assert orange.sum() > 30  # a disc or a ring of 13 pixels
