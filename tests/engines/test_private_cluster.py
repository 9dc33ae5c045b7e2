"""A private cluster ends with the process that asked for it, however that ends, and nothing else does.

Ray is played by a module of the same name, whose "cluster" is a few processes; the true one is in `test_keeper`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from killing import lives
from lossnav.engines import private_cluster
from lossnav.engines.private_cluster import PrivateCluster
from lossnav.errors import ClusterError

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

RAY = """
import os, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

folder = Path(os.environ["FAKE_RAY"])

CHILD = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'a')); time.sleep(1000)"

def start(**options):
    subprocess.Popen([sys.executable, "-S", "-c", CHILD, str(folder / "pids")], **options)

def init(address, num_cpus, **_):
    print("what Ray prints is no answer")
    (folder / "environment").write_text(repr(dict(os.environ)))
    if (folder / "slow").exists():
        (folder / "slow").unlink()
        raise Exception("The current node timed out during startup.")
    if (folder / "broken").exists():
        raise ImportError("libfoo.so.1: cannot open shared object file")
    if (folder / "crash").exists():
        sys.stderr.write("Segmentation fault, says libfoo")
        sys.stderr.flush()
        os._exit(139)
    start()
    start(start_new_session=True)
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {CHILD!r}, sys.argv[1]])"
    subprocess.run([sys.executable, "-S", "-c", orphan, str(folder / "pids")], start_new_session=True)
    while not (folder / "pids").exists() or len((folder / "pids").read_text().split()) < 3:
        time.sleep(0.01)
    while (folder / "hangs").exists():
        time.sleep(0.01)
    os.environ["RAY_AUTH_MODE"] = "token"

def shutdown():
    (folder / "shut down").touch()
    while (folder / "clings").exists():
        time.sleep(0.01)

def get_runtime_context():
    return SimpleNamespace(gcs_address=f"127.0.0.1:{os.getpid()}")

def nodes():
    return [{"RayletSocketName": str(folder / "sockets" / "raylet")}]
"""

DRIVER = """
import os, runpy, sys, time
cluster = runpy.run_path(sys.argv[1])["PrivateCluster"](1, lambda words: None)
if sys.argv[2] == "forks" and os.fork() == 0:
    time.sleep(1000)  # with a copy of all that is open
print(cluster.address, flush=True)
if sys.argv[2] == "raises":
    raise RuntimeError
if sys.argv[2] != "ends":
    time.sleep(1000)
"""


@pytest.fixture
def fake_ray(tmp_path, monkeypatch):
    """A folder in which a Ray that is none keeps what it does."""
    return pretend(tmp_path / "one", monkeypatch)


def pretend(folder, monkeypatch):
    (folder / "ray").mkdir(parents=True)
    (folder / "ray" / "__init__.py").write_text(RAY)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_RAY", str(folder))
    return folder


def pids(folder):
    return [int(text) for text in (folder / "pids").read_text().split()]


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("waited for a minute")


def start_driver(how):
    command = [sys.executable, "-c", DRIVER, private_cluster.__file__, how]
    environment = os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{Path(private_cluster.__file__).parents[2]}"}
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    address = driver.stdout.readline().decode().strip()
    return driver, int(address.rpartition(":")[2])


def test_it_starts_answers_and_ends(fake_ray):
    before = dict(os.environ)
    cluster = PrivateCluster(3, lambda words: None)
    keeper = int(cluster.address.rpartition(":")[2])
    assert cluster.environment == {"RAY_AUTH_MODE": "token"} and dict(os.environ) == before
    assert all(lives(pid) for pid in (keeper, *pids(fake_ray))) and len(pids(fake_ray)) == 3
    assert os.getsid(keeper) == keeper  # Ctrl-C at a terminal does not reach it
    cluster.require_alive()
    cluster.close()
    assert (fake_ray / "shut down").exists()  # Ray was asked first
    assert not any(lives(pid) for pid in (keeper, *pids(fake_ray)))
    cluster.close()
    with pytest.raises(ClusterError, match="has died"):
        cluster.require_alive()


def test_rays_limits_are_raised_for_it_alone_and_the_users_own_stand(fake_ray, monkeypatch):
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "77")
    PrivateCluster(1, lambda words: None).close()
    seen = eval((fake_ray / "environment").read_text())
    assert seen["RAY_worker_register_timeout_seconds"] == "3600" and seen["RAY_agent_register_timeout_ms"] == "77"
    assert "RAY_worker_register_timeout_seconds" not in os.environ


@pytest.mark.parametrize("how", ["sleeps", "forks", "ends", "raises"])
def test_nothing_stays_when_the_driver_is_gone(fake_ray, how):
    driver, keeper = start_driver(how)
    if how in ("sleeps", "forks"):
        os.kill(driver.pid, signal.SIGKILL)
    driver.wait(60)
    wait_for(lambda: not any(lives(pid) for pid in (keeper, *pids(fake_ray))))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(driver.pid, signal.SIGKILL)  # what it forked


def test_nothing_stays_when_driver_and_group_are_killed_while_it_starts(fake_ray):
    (fake_ray / "hangs").touch()
    environment = os.environ | {"PYTHONPATH": f"{fake_ray}:{Path(private_cluster.__file__).parents[2]}"}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, private_cluster.__file__, "sleeps"], env=environment, start_new_session=True
    )
    wait_for(lambda: (fake_ray / "pids").exists() and len(pids(fake_ray)) == 3)
    started = pids(fake_ray)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait(60)
    wait_for(lambda: not any(lives(pid) for pid in started))


def test_a_ray_that_does_not_end_by_itself_is_ended(fake_ray, monkeypatch):
    (fake_ray / "clings").touch()
    cluster = PrivateCluster(1, lambda words: None)
    cluster.close()
    assert (fake_ray / "shut down").exists() and not any(lives(pid) for pid in pids(fake_ray))


def test_of_two_clusters_one_ends_and_the_other_does_not(tmp_path, monkeypatch):
    folders = [pretend(tmp_path / name, monkeypatch) for name in ("one", "two")]
    drivers = []
    for folder in folders:
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("FAKE_RAY", str(folder))
        drivers.append(start_driver("sleeps"))
    bystander = subprocess.Popen(["sleep", "1000"])  # of the user
    (first, first_keeper), (second, second_keeper) = drivers
    first.kill()
    first.wait(60)
    wait_for(lambda: not any(lives(pid) for pid in (first_keeper, *pids(folders[0]))))
    assert all(lives(pid) for pid in (second_keeper, second.pid, bystander.pid, *pids(folders[1])))
    second.kill()
    second.wait(60)
    wait_for(lambda: not any(lives(pid) for pid in (second_keeper, *pids(folders[1]))))
    assert lives(bystander.pid)
    bystander.kill()
    bystander.wait(60)


def test_what_is_forked_does_not_end_it(fake_ray):
    cluster = PrivateCluster(1, lambda words: None)
    child = os.fork()
    if child == 0:
        cluster.close()
        os._exit(0)
    os.waitpid(child, 0)
    cluster.require_alive()
    assert all(lives(pid) for pid in pids(fake_ray))
    cluster.close()


def test_the_wait_says_how_long_and_what_it_raises_leaves_nothing(fake_ray):
    (fake_ray / "hangs").touch()
    said, now = [], iter(range(0, 100_000, 20))

    def wait(words):
        said.append(words)
        if (fake_ray / "pids").exists() and len(pids(fake_ray)) == 3 and len(said) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PrivateCluster(1, wait, clock=lambda: next(now))
    assert said[:3] == [f"a Ray cluster starts on this machine, {seconds} s" for seconds in (20, 40, 60)]
    assert not any(lives(pid) for pid in pids(fake_ray))


def test_a_start_that_a_loaded_machine_made_too_slow_is_tried_again(fake_ray):
    (fake_ray / "slow").touch()
    PrivateCluster(1, lambda words: None).close()
    assert not (fake_ray / "slow").exists()


@pytest.mark.parametrize(
    ("mark", "words"), [("broken", "ImportError: libfoo.so.1"), ("crash", "(?s)died while it started: .*says libfoo")]
)
def test_a_cluster_that_cannot_start_is_an_error_with_what_it_said(fake_ray, mark, words):
    (fake_ray / mark).touch()
    with pytest.raises(ClusterError, match=words):
        PrivateCluster(1, lambda words: None)


def test_a_cluster_that_dies_is_noticed(fake_ray):
    cluster = PrivateCluster(1, lambda words: None)
    os.kill(int(cluster.address.rpartition(":")[2]), signal.SIGKILL)
    wait_for(lambda: cluster._speaks(0))
    with pytest.raises(ClusterError, match="has died"):
        cluster.require_alive()
    cluster.close()
    for pid in pids(fake_ray):  # Ray's own die with their parent; these do not know of it
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def started(pid):
    return f"[2026-01-01 I 1 1] (raylet) worker_pool.cc:564: Started worker process with pid {pid} worker_id=ab\n"


def test_workers_that_die_before_ray_knows_them_are_seen_in_its_logs(fake_ray):
    logs = fake_ray / "logs"
    logs.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    alive = os.getpid()
    cluster = PrivateCluster(1, lambda words: None)
    try:
        assert cluster.dead_starts() is None  # no logs yet
        (logs / "raylet.err").write_text("[2026 E 1 1] (raylet) something\nImportError: libfoo.so.1\n")
        for text, words in [
            ("nothing started\n", None),
            (started(alive), None),
            (started(dead.pid), "ImportError: libfoo.so.1"),
            (started(alive) + started(dead.pid), None),  # the other one may come up
        ]:
            (logs / "raylet.out").write_text(text)
            assert cluster.dead_starts() == words
        (logs / f"python-core-worker-ab_{alive}.log").touch()  # the first is known to Ray
        assert cluster.dead_starts() == "ImportError: libfoo.so.1"
        (logs / "raylet.out").write_text(started(dead.pid) + started(alive))
        assert cluster.dead_starts() is None  # one that came after it is there
        (logs / "raylet.err").write_text("")
        (logs / "raylet.out").write_text(started(dead.pid))
        assert cluster.dead_starts() == "there was no output"
        (logs / f"python-core-worker-ab_{dead.pid}.log").touch()  # known, and dead since: Ray tells of it
        assert cluster.dead_starts() is None
    finally:
        cluster.close()
