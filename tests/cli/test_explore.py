"""`lossnav explore` begins, prints its address, ends with Ctrl-C; killed, it has lost nothing."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import lossnav as ln
from lossnav.explorer.live.start import begin
from lossnav.specs.objective_of import load_objective
from talking import Browser, kind

pytest_plugins = ["talking"]

MODEL = """
import time
import torch
import lossnav as ln

def bowl(p):
    time.sleep(0.002)
    return 1 + (p["x"] ** 2).sum()

objective = ln.Objective.from_function(bowl, {"x": torch.ones(2, 4)})
"""


class Running:
    """The command in a process of its own; `url` is what it printed."""

    def __init__(self, *arguments, folder, command=None):
        command = command or [sys.executable, "-m", "lossnav", "explore", *map(str, arguments), "--no-browser"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
        )
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), self.process.stderr.read()

    def end(self, number):
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


@pytest.mark.slow
def test_ctrl_c_ends_it_and_keeps_all(model):
    running = Running("model.py:objective", "--seed", 3, folder=model)
    with Browser(running) as page:
        assert page.ask("hello")["live"]
        page.send("window", id=1, ranges=[[-1, 1], [-1, 1]])
        seen = page.until(lambda m: kind(m) == "grid" and m[0]["level"] == 1)
    code, said = running.end(signal.SIGINT)
    assert code == 130 and "the same call resumes it" in said and "Traceback" not in said
    (store,) = (model / "lossnav-explore").glob("*.zarr")
    surface = ln.open(store)
    assert not (store / "journal").exists()
    assert surface.sizes["point"] >= 81 and surface.attrs["objective"]["origin"]["spec"].endswith("model.py:objective")
    _same(surface, seen[-1])


LONG = MODEL.replace(
    "    time.sleep(0.002)",
    """
    if p["x"][0, 0] > 1.01 or p["x"][0, 0] < 0.99:
        open("reached", "w").close()
        time.sleep(600)""",
)
COMPILING = (
    MODEL
    + """
from lossnav.explorer.live import place as ground
from lossnav.acceleration.kernel import Kernel

def prepare(function, probes, total):
    return function

class Slow:
    @property
    def function(self):
        open("reached", "w").close()
        time.sleep(600)

def later():
    from contextlib import nullcontext
    return nullcontext([Slow()])

ground.compiling_later = later
"""
)
BATCHES = """
import os
import time
import torch
import lossnav as ln

class Slow(torch.nn.Linear):
    def forward(self, x):
        if os.path.exists("armed"):
            open("reached", "w").close()
            time.sleep(600)
        return super().forward(x)

torch.manual_seed(0)
x = torch.randn(40, 3)
objective = ln.Objective(Slow(3, 2), "mse", (x, x[:, :2]), batch_size=10)
"""
SCRIPT = """
import sys
import lossnav as ln
from lossnav.specs.objective_of import load_objective

objective = load_objective("model.py:objective")
plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
explorer = ln.explore(objective, plane, store="run.zarr", browser=False, block=False)
print(explorer.url, flush=True)
explorer.wait()
sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("runs", ["a point", "a compiler", "a spectrum", "a ball"])
@pytest.mark.parametrize("how", ["command", "script"])
def test_ctrl_c_ends_it_whatever_runs(tmp_path, runs, number, how):
    """What runs takes ten minutes; that the process ends at all is the law."""
    if (how == "script" or number == signal.SIGTERM) and runs in ("a spectrum", "a ball"):
        pytest.skip("the others say it")
    model = {"a point": LONG, "a compiler": COMPILING}.get(runs, BATCHES)
    (tmp_path / "model.py").write_text(model)
    if how == "script":
        (tmp_path / "script.py").write_text(SCRIPT)
        running = Running(folder=tmp_path, command=[sys.executable, "script.py"])
    else:
        running = Running("model.py:objective", "-o", "run.zarr", folder=tmp_path)
    with Browser(running) as page:
        page.ask("hello")
        words = {"a spectrum": ("place", {"axes": {"kind": "hessian"}}), "a ball": ("ball", {"at": [0.5, 0.5]})}
        asked, given = words.get(runs, ("window", {"ranges": [[-1, 1], [-1, 1]]}))
        page.send(asked, id=1, **given)
        if runs in words:
            page.until(lambda m: kind(m) in ("progress", "ball") and m["id"] == 1)
        (tmp_path / "armed").touch()
        while not (tmp_path / "reached").exists():
            assert running.process.poll() is None, running.process.stderr.read()
            time.sleep(0.01)
        code, said = running.end(number)
    assert code == (128 + number if how == "command" else 130)
    assert "Traceback" not in said and "Error" not in said
    assert len(said.splitlines()) == (2 if how == "command" else 0), said
    assert ln.open(tmp_path / "run.zarr").attrs["sampler"]["kind"] == "Explorer"


@pytest.mark.slow
def test_killed_in_the_middle_it_has_lost_nothing_that_was_shown(model):
    running = Running("model.py:objective", "-o", "run.zarr", folder=model)
    shown = []
    with Browser(running) as page:
        page.ask("hello")
        page.send("place", id=1, center=[0.5, 0.5], axes={"kind": "random", "seed": 5})
        page.until(lambda m: kind(m) == "session")
        page.send("window", id=2, ranges=[[-1, 1], [-1, 1]])
        shown += page.until(lambda m: kind(m) == "grid" and m[0]["place"] == 1 and m[0]["level"] == 1)
        page.send("point", id=3, at=[0.123, 0.321])
        point = page.until(lambda m: kind(m) == "point")[-1]
        running.end(signal.SIGKILL)
    place = ln.open(model / "run.explore" / "place-0001.zarr")
    _same(place, shown[-1])
    near = np.hypot(place["alpha"] - 0.123, place["beta"] - 0.321).values
    assert near.min() == 0 and place["loss"].values[near.argmin()] == point["values"]["loss"]
    objective = load_objective(f"{model / 'model.py'}:objective")
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    again = begin(objective, plane, store=model / "run.zarr")
    assert [
        len(place.known) >= rows for place, rows in zip(again.session.places, (1, place.sizes["point"]), strict=True)
    ]
    again.close()


def test_a_stored_surface_is_looked_at(model, stored):
    running = Running(stored, folder=model)
    with Browser(running) as page:
        assert not page.ask("hello")["live"]
    assert running.end(signal.SIGTERM)[0] == 143


def _same(surface, frame):
    """Every number of a frame is in the store."""
    header, values = frame
    there = {
        (a, b): loss
        for a, b, loss in zip(surface["alpha"].values, surface["beta"].values, surface["loss"].values, strict=True)
    }
    assert (values["status"] == 1).any()
    for i, j in np.argwhere(values["status"] == 1):
        assert there[(header["axes"][0][i], header["axes"][1][j])] == values["loss"][i, j]
