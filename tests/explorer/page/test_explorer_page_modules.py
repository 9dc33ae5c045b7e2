"""The modules of the page: their laws run in node, and Python agrees with them.

`npm run check` in this folder checks their types and their style.
"""

import json
import shutil
import subprocess
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from lossnav.explorer.server import wire
from lossnav.explorer.server.page_files import PAGE, files

TESTS = Path(__file__).parent
NODE = shutil.which("node")
NEEDED = 20  # the first with Array.prototype.toSorted, which the page uses


def _version():
    if NODE is None:
        return 0
    words = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    return int(words.strip().removeprefix("v").split(".")[0])


needs_node = pytest.mark.skipif(_version() < NEEDED, reason=f"no Node of {NEEDED} or later: apt-get install nodejs")


def node(*arguments, **options):
    done = subprocess.run([NODE, *map(str, arguments)], cwd=TESTS, capture_output=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout.decode()[-6000:] + done.stderr.decode()[-3000:]
    return done.stdout.decode()


def evaluated(code, **options):
    """What a module prints as JSON; ``PAGE`` in it is the folder of the page."""
    code = code.replace("PAGE", PAGE.as_posix())
    return json.loads(node("--input-type=module", "-e", code, **options))


@pytest.mark.browser
@needs_node
def test_the_laws_of_the_modules_hold():
    names = sorted(TESTS.glob("*.test.mjs"))
    assert len(names) >= 12
    told = node("--test", "--test-reporter=tap", *names)
    counts = dict(line[2:].split(" ", 1) for line in told.splitlines() if line.startswith(("# pass ", "# fail ")))
    assert counts["fail"] == "0" and int(counts["pass"]) >= 70


@pytest.mark.browser
@needs_node
@pytest.mark.parametrize("name", ["viridis", "cividis"])
def test_colours_are_those_of_matplotlib(name):
    code = 'import { colorTable } from "PAGE/drawing/colormaps.js"; console.log(JSON.stringify([...colorTable(NAME)]));'
    table = np.array(evaluated(code.replace("NAME", json.dumps(name)))).reshape(256, 4)
    wanted = matplotlib.colormaps[name](np.arange(256), bytes=True)
    away = np.abs(table - wanted.astype(int))
    assert away.max() <= 4 and away.mean() < 1  # of 255: between every fourth colour lie straight lines


@pytest.mark.browser
@needs_node
@pytest.mark.parametrize("seed", range(3))
def test_the_page_reads_the_frames_that_python_writes(seed):
    draw = np.random.default_rng(seed)
    axes = [np.sort(draw.normal(size=n)) for n in (3, 4)]
    loss = draw.normal(size=(3, 4)) * 10.0 ** draw.integers(-300, 300, (3, 4))
    loss.flat[:4] = np.nan, np.inf, -np.inf, -0.0
    header = {"type": "grid", "axes": [axis.tolist() for axis in axes], "words": "α\u2028</script>" + "x" * seed}
    frame = wire.frame(header, {"loss": loss, "größe": np.arange(12.0).reshape(3, 4)})
    code = """
        import { decodeFrame } from "PAGE/state/messages.js";
        const bytes = [];
        for await (const chunk of process.stdin) bytes.push(chunk);
        const frame = decodeFrame(Uint8Array.from(Buffer.concat(bytes)).buffer);
        const hex = (name) => Buffer.from(frame.values[name].slice().buffer).toString("hex");
        const bits = Object.fromEntries(frame.arrays.map((name) => [name, hex(name)]));
        console.log(JSON.stringify({ axes: frame.axes, shape: frame.shape, words: frame.words, bits }));
    """
    read = evaluated(code, input=frame)
    assert read["axes"] == header["axes"] and read["shape"] == [3, 4] and read["words"] == header["words"]
    assert bytes.fromhex(read["bits"]["loss"]) == loss.tobytes()
    assert bytes.fromhex(read["bits"]["größe"]) == np.arange(12.0).tobytes()


def test_files_are_served_by_their_path_below_the_page():
    served = files()
    assert {"index.html", "style.css", "app.js", "state/scene.js", "drawing/contours.js"} <= set(served)
    assert set(served.values()) == {path for path in PAGE.rglob("*") if path.is_file()}
    for name, path in served.items():
        assert path == PAGE.joinpath(*name.split("/"))
        assert path.suffix in {".js", ".css", ".html"}


def test_the_lock_file_names_no_host_but_the_public_registry():
    text = (TESTS / "package-lock.json").read_text("utf-8")
    addresses = [word for word in text.split('"') if "://" in word]
    assert all(address.startswith("https://registry.npmjs.org/") for address in addresses)
    locked = {name: package for name, package in json.loads(text)["packages"].items() if name}
    assert all("integrity" in package for package in locked.values())
    asked = json.loads((TESTS / "package.json").read_text("utf-8"))["devDependencies"]
    assert all(locked[f"node_modules/{name}"]["version"] == version for name, version in asked.items())
