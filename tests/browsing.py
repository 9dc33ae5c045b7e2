"""What the tests of the explorer's page in a browser share: browsers, pages that must not complain, servers."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
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
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")


def pytest_generate_tests(metafunc):
    """A module's tests run in the browsers that it names in BROWSERS."""
    if "browser_name" in metafunc.fixturenames:
        metafunc.parametrize("browser_name", getattr(metafunc.module, "BROWSERS", ["chromium"]), scope="module")


@pytest.fixture(scope="module")
def driver():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def started_browser(browser_name, driver, tmp_path_factory):
    with {"chromium": chromium, "firefox": firefox}[browser_name](driver, tmp_path_factory) as started:
        yield started


@contextmanager
def chromium(driver, _):
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield started
    started.close()


@contextmanager
def firefox(driver, tmp_path_factory):
    """The Firefox of the machine. Without a display it has no WebGL, so it is given one."""
    if FIREFOX is None:
        pytest.skip("no Firefox: apt-get install firefox-esr")
    if shutil.which("Xvfb") is None:
        pytest.skip("no display for Firefox: apt-get install xvfb")
    relay = tmp_path_factory.mktemp("firefox") / "firefox"
    program = Path(__file__).with_name("firefox_relay.py")
    relay.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "{FIREFOX}" "$@"\n')
    relay.chmod(0o755)
    reads, writes = os.pipe()
    command = ["Xvfb", "-displayfd", str(writes), "-screen", "0", "2600x1600x24", "-nolisten", "tcp"]
    screen = subprocess.Popen(command, pass_fds=[writes], stderr=subprocess.DEVNULL)
    try:
        os.close(writes)
        with os.fdopen(reads) as said:
            number = said.readline().strip()  # once it takes windows
        started = driver.firefox.launch(
            channel="moz-firefox",
            executable_path=relay,
            headless=False,
            env={**os.environ, "DISPLAY": f":{number}", "LIBGL_ALWAYS_SOFTWARE": "1"},
            firefox_user_prefs={
                "webgl.force-enabled": True,
                "layout.css.prefers-color-scheme.content-override": 1,  # light
            },
        )
        yield started
        started.close()
    finally:
        screen.terminate()
        screen.wait()


@pytest.fixture
def visit(started_browser, browser_name):
    """Opens pages; at the end none of them has complained, and none has asked another host for anything."""
    contexts, complaints, asked, own = [], [], [], set()

    def open_page(url, *, size=(1366, 768), scheme="light", ready=True, touch=False, allow=None):
        """`allow`: a word of complaints that are expected."""
        emulated = {"has_touch": touch, "is_mobile": touch} if browser_name == "chromium" else {}  # Firefox has neither
        context = started_browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, accept_downloads=True, **emulated
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        own.add(urlsplit(url).netloc)

        def excused(text):
            # In Firefox a screenshot tries to add a style; one of the page's own would be blocked in Chromium too. What
            # a test allows has words of Firefox, which says some of it as an error of the page.
            allowed = allow is not None and ("establish a connection" in text or allow in text)
            return browser_name == "firefox" and ("blocked an inline style" in text or allowed)

        def complain(text):
            if not excused(text):
                complaints.append(text)

        def hear(said):
            if said.type == "error" and (allow is None or allow not in said.text):
                complain(said.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.goto(url)
        if ready:
            page.wait_for_function("() => window.lossnav && window.lossnav.ready")
        if browser_name == "firefox" and scheme == "dark":
            page.locator("#theme").click()  # it is not told what the system prefers
            frames(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, complaints
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} <= own
    assert asked or not contexts


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


# For a script of the page: what luminance and contrast are made of (WCAG 2.2, relative luminance).
CONTRAST = """
    const parts = c => (c.match(/[\\d.]+/g) ?? []).map(Number);
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = c => c.slice(0, 3).reduce((sum, v, k) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][k], 0);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const c = parts(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] > 0.99) return c;
        }
        return [255, 255, 255];
    };
"""
