"""How soon the explorer shows something: seconds, medians of ten.

    python -m benchmarks.explorer [--quick] [--json]

A live session of the notebook's CNN on the digits, from a socket on the same machine: the first coarse picture of a
store that holds nothing (from the opening of the page; with ``from nothing`` also what the server takes to begin),
the first refinement after a zoom to where nothing is known, and what a click is told. A stored surface of 201×201 from
the asking until its numbers are there. Where there is Chromium, also from the asking until they are drawn, on a page
that is open and on one that is just being opened, whose socket asks first: on the screen two frames later.

Then a surface of 1001×1001 is turned and its map dragged by 40 steps, one a frame: frames a second, the processor's
time for each (of all processes of the browser), and how long after the last one all of it is there. Beside them what a
page does of which one dot changes its colour: no page of this browser can be quicker. And a volume of 64×64×64.
"""

from __future__ import annotations

import json
import os
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

DRAG = """(which) => new Promise((end) => {
    const target = document.getElementById(which);
    const { x, y, width, height } = target.getBoundingClientRect();
    target.setPointerCapture = () => {}; // there is no pointer
    const fire = (type, dx, dy) => target.dispatchEvent(new PointerEvent(type, {
        clientX: x + width / 2 + dx, clientY: y + height / 2 + dy, pointerId: 1, bubbles: true, pointerType: "mouse",
    }));
    const triangles = () => lossnav.triangles?.() ?? NaN; // an older page does not say
    const whole = triangles();
    const began = performance.now();
    let steps = 0;
    fire("pointerdown", 0, 0);
    const step = () => {
        if (++steps <= 40) {
            fire("pointermove", 3 * Math.sin(steps / 4) * steps, steps / 2);
            requestAnimationFrame(step);
            return;
        }
        const rested = performance.now();
        const meanwhile = triangles();
        fire("pointerup", 0, 40);
        const look = () => {
            if (lossnav.moving || triangles() < whole) return requestAnimationFrame(look);
            const rest = (performance.now() - rested) / 1000;
            end({ seconds: (rested - began) / 1000, steps: 40, rest, triangles: meanwhile });
        };
        look();
    };
    requestAnimationFrame(step);
})"""
DOT = """() => new Promise((end) => {
    const dot = document.createElement("div");
    dot.style = "position: fixed; left: 0; top: 0; width: 4px; height: 4px";
    document.body.append(dot);
    const began = performance.now();
    let steps = 0;
    const step = () => {
        dot.style.background = steps % 2 ? "red" : "blue";
        if (++steps <= 40) return requestAnimationFrame(step);
        dot.remove();
        end({ seconds: (performance.now() - began) / 1000, steps: 40 });
    };
    requestAnimationFrame(step);
})"""


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
    result["target: frames a second, rest, 64x64x64"] = [15, 0.5, 1.5]
    with tempfile.TemporaryDirectory() as folder:
        result |= live(objective, plane, Path(folder), rounds, chosen.quick)
        result |= stored(Path(folder), rounds)
        if CHROMIUM is not None:
            result |= drawn(objective, plane, Path(folder), rounds)
            result |= moved(Path(folder), 3 if chosen.quick else 5)
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

        with ln.explore(folder / "big-201.zarr", block=False) as running:
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


def moved(folder: Path, rounds: int) -> dict[str, Any]:
    """Turning and dragging 1001 x 1001 points, and a volume of 64 x 64 x 64 drawn."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    result: dict[str, Any] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        shown = browser.new_page(viewport={"width": 1366, "height": 768})
        shown.add_init_script(WATCH)
        with ln.explore(big(folder, 1001), block=False) as running:
            shown.goto(running.url)
            shown.evaluate("() => opened")
            for name, which in ("1001x1001 turned", "surface"), ("1001x1001 dragged", "map"), ("one dot changes", None):
                runs = []
                for _ in range(rounds):
                    before = processor_time()
                    run = shown.evaluate(DRAG, which) if which else shown.evaluate(DOT)
                    runs.append(run | {"processor": processor_time() - before})
                result[f"{name}, frames a second"] = statistics.median(run["steps"] / run["seconds"] for run in runs)
                result[f"{name}, processor ms a frame"] = statistics.median(
                    1000 * run["processor"] / run["steps"] for run in runs
                )
                if which:
                    result[f"{name}, all of it after"] = statistics.median(run["rest"] for run in runs)
                    result[f"{name}, triangles meanwhile"] = runs[0]["triangles"]
        with ln.explore(big(folder, 64, 3), block=False) as running:
            shown.goto(running.url)
            shown.evaluate("() => opened")
            again = [shown.evaluate("() => again()") / 1000 for _ in range(rounds)]
            opened = []
            for _ in range(rounds):
                shown.reload()
                opened.append(shown.evaluate("() => opened") / 1000)
        browser.close()
    result["64x64x64 drawn"] = statistics.median(again)
    result["64x64x64 drawn, page being opened"] = statistics.median(opened)
    return result


def processor_time() -> float:
    """Seconds of all processes that this one has started, and that those have, of which the browser is one."""
    spent, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        number = int(path.parent.name)
        parents[number], spent[number] = int(words[1]), int(words[11]) + int(words[12])

    def is_ours(number: int) -> bool:
        while number := parents.get(number, 0):
            if number == os.getpid():
                return True
        return False

    return sum(ticks for number, ticks in spent.items() if is_ours(number)) / os.sysconf("SC_CLK_TCK")


def big(folder: Path, n: int = 201, k: int = 2) -> Path:
    """A bowl with ripples on n points along each of k axes."""
    dims = ("alpha", "beta", "gamma")[:k]
    objective = ln.Objective.from_function(lambda p: 1 + (p["x"] ** 2).sum(), {"x": np_tensor([0.0] * k)})
    chart = {2: ln.Plane, 3: ln.Volume}[k](objective.params, *({"x": np_tensor(row)} for row in np.eye(k).tolist()))
    ends: dict[str, Any] = dict.fromkeys(dims, (-1, 1, 2))
    surface = ln.evaluate(objective, chart, ln.Grid(**ends), progress=False)
    axis = np.linspace(-1, 1, n)
    at = np.meshgrid(*[axis] * k, indexing="ij")
    made = surface.interp(dict.fromkeys(dims, axis)).assign(status=(dims, np.ones([n] * k, np.uint8)))
    ripples = 0.1 * np.sin(20 * at[0]) * np.cos(15 * at[1])
    made["loss"] = (dims, 1 + sum((part**2 for part in at), ripples))
    made.attrs = surface.attrs
    return made.lossnav.save(folder / f"big-{n}.zarr", overwrite=True)  # type: ignore[no-any-return]


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
