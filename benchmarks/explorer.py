"""How soon the explorer shows something: seconds, medians of ten.

    python -m benchmarks.explorer [--quick] [--json]

A live session of the notebook's CNN on the digits, from a socket on the same machine: the first coarse picture of a
store that holds nothing (from the opening of the page; with ``from nothing`` also what the server takes to begin),
the first refinement after a zoom to where nothing is known, and what a click is told. A stored surface of 201×201 from
the asking until its numbers are there. Where there is Chromium, also from the asking until they are drawn, on a page
that is open and on one that is just being opened, whose socket asks first: on the screen two frames later.
"""

from __future__ import annotations

import json
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import lossnav as ln
from benchmarks.common import machine, options, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WATCH = """(() => {
    const send = WebSocket.prototype.send;
    WebSocket.prototype.send = function (data) {
        window.socket = this;
        window.asked ??= performance.now();
        return send.call(this, data);
    };
    const soon = requestAnimationFrame;
    const drawnAfter = (count) => new Promise((done) => {
        const shown = () => done(performance.now());
        const look = () => (window.lossnav?.timings.length > count ? soon(shown) : soon(look));
        soon(look);
    });
    window.first = async () => (await drawnAfter(0)) - window.asked;
    window.again = () => {
        const [drawn, asked] = [drawnAfter(lossnav.timings.length), performance.now()];
        window.socket.send('{"type": "hello", "id": 1000}');
        return drawn.then((shown) => shown - asked);
    };
    window.opened = window.first();
})()"""


def main() -> None:
    chosen = options(__doc__ or "")
    rounds = chosen.rounds or (2 if chosen.quick else 10)
    recipe = ln.zoo.recipe("notebook-digits")
    data, model = recipe.load_data(), recipe.model(seed=0)
    recipe.train(model, data, passes=2, progress=False)
    objective = recipe.objective(model, data)
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    result: dict[str, Any] = {"machine": machine(), "model": recipe.name, "rounds": rounds}
    result["target: first picture, zoom, 201x201"] = [1.5, 0.5, 0.3]
    with tempfile.TemporaryDirectory() as folder:
        result |= live(objective, plane, Path(folder), rounds, chosen.quick)
        result |= stored(Path(folder), rounds)
        if CHROMIUM is not None:
            result |= drawn(objective, plane, Path(folder), rounds)
    report(result, chosen.json)


def live(objective: ln.Objective, plane: ln.Plane, folder: Path, rounds: int, quick: bool) -> dict[str, float]:
    """From a socket."""
    first, nothing, zooms, clicks = [], [], [], []
    for i in range(rounds):
        began = time.perf_counter()
        with ln.explore(objective, plane, store=folder / f"{i}.zarr", block=False) as running:
            opened = time.perf_counter()
            with page(running.url) as (ask, until):
                ask("hello")
                ask("window", ranges=[[-1, 1], [-1, 1]])
                until(is_whole)
                first.append(time.perf_counter() - opened)
                nothing.append(time.perf_counter() - began)
                if i:
                    continue
                until(is_whole if quick else is_done)  # by then the kernel is compiled, where there is a compiler
                generator = np.random.default_rng(0)
                for _ in range(rounds):
                    middle, half = generator.uniform(-0.8, 0.8, 2), 0.05
                    asked = time.perf_counter()
                    ask("window", ranges=[[x - half, x + half] for x in middle.tolist()])
                    until(is_whole)
                    zooms.append(time.perf_counter() - asked)
                    asked = time.perf_counter()
                    ask("point", at=middle.tolist())
                    until(lambda message: isinstance(message, dict) and message["type"] == "point")
                    clicks.append(time.perf_counter() - asked)
    return {
        "first coarse picture": statistics.median(first),
        "first coarse picture, from nothing": statistics.median(nothing),
        "first refinement after a zoom": statistics.median(zooms),
        "values of a click": statistics.median(clicks),
    }


def stored(folder: Path, rounds: int) -> dict[str, float]:
    """A surface of 201 x 201: as far as the socket."""
    path, seconds = big(folder), []
    with ln.explore(path, block=False) as running:
        for _ in range(rounds):
            with page(running.url) as (ask, until):
                asked = time.perf_counter()
                ask("hello")
                until(lambda message: not isinstance(message, dict))
                seconds.append(time.perf_counter() - asked)
    return {"201x201 over the socket": statistics.median(seconds)}


def drawn(objective: ln.Objective, plane: ln.Plane, folder: Path, rounds: int) -> dict[str, float]:
    """As far as the screen of a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        def once(url: str, times: int) -> tuple[float, list[float]]:
            """Seconds until the picture of a page that is opened, and of those that it then asks for anew."""
            context = browser.new_context(viewport={"width": 1366, "height": 768})
            shown = context.new_page()
            shown.add_init_script(WATCH)
            shown.goto(url)
            first = shown.evaluate("() => opened") / 1000
            more = [shown.evaluate("() => again()") / 1000 for _ in range(times)]
            context.close()
            return first, more

        with ln.explore(folder / "big.zarr", block=False) as running:
            _, anew = once(running.url, rounds)
            opened = [once(running.url, 0)[0] for _ in range(rounds)]
        moving = []
        for i in range(rounds):
            with ln.explore(objective, plane, store=folder / f"drawn-{i}.zarr", block=False) as running:
                moving.append(once(running.url, 0)[0])
        browser.close()
    return {
        "201x201 drawn": statistics.median(anew),
        "201x201 drawn, page being opened": statistics.median(opened),
        "first coarse picture drawn": statistics.median(moving),
    }


def big(folder: Path) -> Path:
    """A bowl with ripples on 201 x 201 points."""
    objective = ln.Objective.from_function(lambda p: 1 + (p["x"] ** 2).sum(), {"x": np_tensor([0.0, 0.0])})
    plane = ln.Plane(objective.params, {"x": np_tensor([1.0, 0.0])}, {"x": np_tensor([0.0, 1.0])})
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 2), beta=(-1, 1, 2)), progress=False)
    axis = np.linspace(-1, 1, 201)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    made = surface.interp(alpha=axis, beta=axis).assign(status=(("alpha", "beta"), np.ones((201, 201), np.uint8)))
    made["loss"] = (("alpha", "beta"), 1 + a**2 + b**2 + 0.1 * np.sin(20 * a) * np.cos(15 * b))
    made.attrs = surface.attrs
    return made.lossnav.save(folder / "big.zarr", overwrite=True)  # type: ignore[no-any-return]


def np_tensor(values: list[float]) -> Any:
    import torch

    return torch.tensor(values)


@contextmanager
def page(url: str) -> Iterator[tuple[Callable[..., None], Callable[[Callable[[Any], bool]], None]]]:
    """What a page does with its socket: ask, and wait for what it wants."""
    from websockets.sync.client import connect

    with connect(f"{url.replace('http', 'ws', 1)}ws", max_size=None) as socket:

        def ask(kind: str, **words: Any) -> None:
            socket.send(json.dumps({"type": kind, "id": 1, **words}))

        def until(wanted: Callable[[Any], bool]) -> None:
            while True:
                data = socket.recv(timeout=300)
                if wanted(json.loads(data) if isinstance(data, str) else data):
                    return

        yield ask, until


def is_done(message: Any) -> bool:
    """Whether this says that a window is evaluated as finely as it will be."""
    return isinstance(message, dict) and message.get("what") == "window" and not message["busy"]


def is_whole(message: Any) -> bool:
    """Whether this is a frame of a window in which every point is evaluated."""
    if isinstance(message, dict):
        return False
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    if header["type"] != "grid" or header["window"] is None:
        return False
    values = np.frombuffer(message, "<f8", offset=4 + length).reshape(len(header["arrays"]), -1)
    return bool((values[header["arrays"].index("status")] != 0).all())


if __name__ == "__main__":
    main()
