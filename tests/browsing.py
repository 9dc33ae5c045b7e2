"""What the tests of the explorer's page in a browser share: Chromium, pages that must not complain, servers."""

import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest

import lossnav as ln

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

ARGUMENTS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # ms: CI's machine is busy, and what has to come comes


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(chromium):
    """Opens pages; at the end none of them has complained, and none has asked another host for anything."""
    contexts, complaints, asked, own = [], [], [], set()

    def open_page(url, *, size=(1366, 768), scheme="light", ready=True, touch=False, allow=None):
        """`allow`: a word of complaints that are expected."""
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            accept_downloads=True,
            has_touch=touch,
            is_mobile=touch,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        own.add(urlsplit(url).netloc)

        def hear(said):
            if said.type == "error" and (allow is None or allow not in said.text):
                complaints.append(said.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.goto(url)
        if ready:
            page.wait_for_function("() => window.lossnav && window.lossnav.ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} <= own
    assert asked


@pytest.fixture
def serve():
    running = []

    def start(*arguments, **options):
        running.append(ln.explore(*arguments, block=False, browser=False, **options))
        return running[-1]

    yield start
    for explorer in running:
        explorer.close()


def drawn(page):
    return page.evaluate("() => JSON.parse(JSON.stringify(lossnav.drawn(), (k, v) => v !== v ? 'nan' : v))")


def numbers(values):
    return np.array([float(v) if v is not None else np.inf for v in values])


def wait(page, condition, argument=None):
    page.wait_for_function(condition, arg=argument, polling=100)


def frames(page, many=2):
    """Let the page draw."""
    page.evaluate(
        "n => new Promise(end => { const next = k => k ? requestAnimationFrame(() => next(k - 1)) : end(); next(n) })",
        many,
    )


def click(page, at):
    page.mouse.click(*page.evaluate("at => lossnav.pixel(at)", at))


def zoom(page, at, notches):
    page.mouse.move(*page.evaluate("at => lossnav.pixel(at)", at))
    for _ in range(abs(notches)):
        page.mouse.wheel(0, -120 if notches > 0 else 120)
        frames(page)
