"""With the true Ray: nothing of a private cluster outlives its run, and a start is waited for, or ends clearly."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lossnav as ln
from killing import lives
from lossnav.engines.keeper import descendants

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc"),
]

PROJECT = """
import os, time
from pathlib import Path
import torch
import lossnav as ln

def f(p):
    Path(os.environ["MARKS"], str(os.getpid())).touch()
    time.sleep(0.05)
    return (p["x"] ** 2).sum()

objective = ln.Objective.from_function(f, {"x": torch.ones(2)})
"""


def start(folder, points, **environment):
    """Run a line of some points on a private cluster, in a process group of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "marks").mkdir(exist_ok=True)
    (folder / "project.py").write_text(PROJECT)
    command = [sys.executable, "-m", "lossnav", "evaluate", "project.py:objective", "--chart", "line", "--exclude", ""]
    return subprocess.Popen(
        [*command, "--engine", "ray", "--workers", "1", "--grid", str(points)],
        cwd=folder,
        env=os.environ | {"MARKS": str(folder / "marks")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition):
    for _ in range(1800):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited for three minutes")


def works(driver, folder):
    """Whether a worker is at points: the driver itself evaluates the centre."""
    assert driver.poll() is None, driver.communicate()
    return len({int(path.name) for path in (folder / "marks").iterdir()} - {driver.pid}) > 0


def names(pids):
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return found


def test_a_killed_driver_leaves_nothing_and_another_run_goes_on(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    killed, other = start(one, 4001), start(two, 201)
    wait_for(lambda: works(killed, one) and works(other, two))
    below, others = descendants(killed.pid), descendants(other.pid)
    assert any("DashboardAgent" in name for name in names(below)) and any(
        "ray::Worker" in name for name in names(below)
    )
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    wait_for(lambda: not any(map(lives, below)))
    _, errors = other.communicate(timeout=300)
    assert other.returncode == 0, errors
    assert not any(map(lives, others))
    assert ln.open(two / "run.zarr").lossnav.counts["ok"] == 201
    assert ln.open(one / "run.zarr").lossnav.counts["failed"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_it(tmp_path, number):
    driver, below = start(tmp_path, 4001), set[int]()

    def starts():
        below.update(descendants(driver.pid))
        return any("gcs_server" in name for name in names(below))

    wait_for(starts)
    os.kill(driver.pid, number)
    while driver.poll() is None:
        below |= descendants(driver.pid)
        time.sleep(0.05)
    assert driver.returncode == 128 + number, driver.stderr.read()
    assert "Traceback" not in driver.stderr.read()
    wait_for(lambda: not any(map(lives, below)))
    assert ln.open(tmp_path / "run.zarr").lossnav.counts["ok"] == 0


def test_a_cluster_that_dies_during_a_run_is_an_error_and_what_is_done_is_kept(tmp_path):
    driver = start(tmp_path, 4001)
    wait_for(lambda: works(driver, tmp_path) and len(list((tmp_path / "run.zarr").rglob("*"))) > 20)
    below = descendants(driver.pid)
    (keeper,) = [pid for pid in below if any("keeper.py" in name for name in names([pid]))]
    os.kill(keeper, signal.SIGKILL)
    _, errors = driver.communicate(timeout=300)
    assert driver.returncode == 1 and "Traceback" not in errors
    assert "private Ray cluster of this run has died" in errors
    wait_for(lambda: not any(map(lives, below)))
    counts = ln.open(tmp_path / "run.zarr").lossnav.counts
    assert counts["failed"] == 0


CRASH = """
import os, sys
if any(text.endswith("default_worker.py") for text in sys.orig_argv):
    os.write(2, b"ImportError: libfoo.so.1: cannot open shared object file\\n")
    os._exit(1)
"""


def test_a_worker_that_dies_before_ray_knows_it_is_an_error(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CRASH)
    path = f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"
    driver = start(tmp_path, 9, PYTHONPATH=path)
    _, errors = driver.communicate(timeout=300)
    assert driver.returncode == 1 and "Traceback" not in errors
    assert "died while they started" in errors and "libfoo.so.1" in errors


def test_environment_and_handlers_are_as_they_were(monkeypatch):
    ray.shutdown()
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    before = dict(os.environ), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    objective = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    line = ln.Line(objective.params, {"x": torch.tensor([1.0, 0.0])})
    for _ in range(2):  # a second cluster after the first
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), engine=ln.Ray(workers=1), progress=False)
        assert bool((surface["status"] == 1).all())
        assert before == (dict(os.environ), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])
    assert not ray.is_initialized()
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:  # the user's own, after ours
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 5)), engine=ln.Ray(workers=1), progress=False)
        assert bool((surface["status"] == 1).all()) and ray.is_initialized()
    finally:
        ray.shutdown()
