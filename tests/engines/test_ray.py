"""The Ray engine gives what `Local` gives, whatever dies; what cannot work is said at once."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lossnav as ln
from lossnav import cli
from lossnav.acceleration import ChartFunction, Plan
from lossnav.engines import placing
from lossnav.engines import ray as ray_engine
from lossnav.engines.sending import pickled
from lossnav.engines.worker import Worker
from lossnav.specs.objective_of import load_objective

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [pytest.mark.cluster, pytest.mark.slow]

LINE = {"x": torch.tensor([1.0, 0.0])}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
NINE = ln.Grid(alpha=(-1, 1, 9))


@pytest.fixture
def no_cluster():
    ray.shutdown()


@pytest.fixture(scope="module")
def started():
    yield
    ray.shutdown()


@pytest.fixture
def cluster(started):
    """One cluster for all tests, with two CPUs; they use it since this process is connected to it."""
    if not ray.is_initialized():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)


@pytest.fixture(autouse=True)
def one_thread():
    """As many as a worker has: sums over more threads are cut elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bowl(f=None):
    return ln.Objective.from_function(f or (lambda p: (p["x"] ** 2).sum()), {"x": torch.zeros(2)})


def assert_same(surface, reference):
    """Bit for bit; where points have no grid, in whatever order they came."""
    assert set(surface.data_vars) == set(reference.data_vars)
    if "point" in surface.dims:
        dims = [str(name) for name in surface.coords]
        surface, reference = (s.sortby(dims) for s in (surface, reference))
    for name in (*reference.coords, *reference.data_vars):
        np.testing.assert_array_equal(surface[name].values, reference[name].values, err_msg=str(name))


# ---------------------------------------------------------------------- what cannot work is said at once


@pytest.mark.slow
def test_more_gpus_than_there_are_fails_at_once(no_cluster):
    with pytest.raises(ln.errors.ClusterError, match="64 GPUs.*do not fit"):
        ln.evaluate(bowl(), ln.Line({"x": torch.zeros(2)}, LINE), NINE, engine=ln.Ray(gpus_per_worker=64))
    assert not ray.is_initialized()


def test_more_cpus_than_there_are_fails_at_once(no_cluster):
    with pytest.raises(ln.errors.ClusterError, match="need 10000 CPUs and this machine has"):
        ln.Ray(workers=5000, cpus_per_worker=2).prepare(len, np.zeros((1, 1)), 1)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379"])
def test_an_address_where_nobody_answers(no_cluster, address):
    with pytest.raises(ln.errors.ClusterError, match="There is no answer from"):
        ln.Ray(address=address).prepare(len, np.zeros((1, 1)), 1)


def test_no_cluster_to_be_found(no_cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ln.errors.ClusterError, match="There is no answer from 127"):
        ln.Ray(address="auto").prepare(len, np.zeros((1, 1)), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"tile": 0},
        {"cpus_per_worker": 0.5},
        {"gpus_per_worker": 1.5},
        {"in_flight": 0},
        {"build": "guess"},
        {"plan": "fast"},
    ],
)
def test_options(options):
    with pytest.raises(ln.errors.OptionError):
        ln.Ray(**options)


def test_a_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ln.errors.MissingExtraError, match=r'pip install "lossnav\[ray\]"'):
        ln.Ray()


# ---------------------------------------------------------------------- sending


class Doubling(nn.Module):
    """A class that no other process can import."""

    def forward(self, x):
        return 2 * x


def kinds():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=generator), torch.randint(0, 2, (20,), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), Doubling(), nn.Linear(4, 2)).eval()
    factor = 3.0
    loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True, generator=torch.Generator())
    yield "module", ln.Objective(model, "cross_entropy", (x, y), metrics=["accuracy"])
    yield "metric", ln.Objective(model, nn.CrossEntropyLoss(), (x, y), metrics={"m": lambda o, t: factor * o.mean()})
    yield "loader", ln.Objective(model, "cross_entropy", loader, bn="recompute")
    yield "generator", ln.Objective(model, "cross_entropy", ((x, y) for _ in range(2)), bn="batch")
    yield "not kept", ln.Objective(model, "cross_entropy", [(x, y)] * 2, data_budget=10)
    yield "part", ln.Objective(model, "cross_entropy", (x, y)).subset(9, seed=1)
    yield "function", bowl(lambda p: factor * (p["x"] ** 2).sum())
    function = ln.Objective.from_function(lambda p, batch: (batch[0] * p["w"]).mean(), {"w": torch.ones(3)}, (x, y))
    yield "function of data", function


@pytest.mark.parametrize(("kind", "objective"), list(kinds()), ids=[kind for kind, _ in kinds()])
def test_every_objective_can_be_sent(kind, objective):
    direction = {name: torch.ones_like(tensor) for name, tensor in objective.params.items()}
    function = ChartFunction(objective, ln.Line(objective.params, direction))
    there = ray.cloudpickle.loads(pickled(function))
    assert there.objective.fingerprint == objective.fingerprint
    for point in ([0.0], [0.5]):
        assert there(np.array(point)) == function(np.array(point))


def test_a_part_of_the_data_is_sent_without_the_rest():
    x = torch.randn(10_000, 10)
    whole = ln.Objective(nn.Linear(10, 1), "mse", (x, x[:, :1]))
    assert len(pickled(whole.subset(100))) < len(pickled(whole)) / 20


def test_what_cannot_be_sent_is_said():
    lock = __import__("threading").Lock()
    with pytest.raises(ln.errors.ClusterError, match="cannot be sent: TypeError.*lock"):
        pickled(lambda point: lock)


# ---------------------------------------------------------------------- the same values


@pytest.mark.parametrize("sampler", ["grid", "adaptive"])
def test_equal_to_local_bit_for_bit(cluster, digits_objective, sampler):
    objective = digits_objective
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    samplers = {
        "grid": ln.Grid(alpha=(-1, 1, 21), beta=(-1, 1, 21)),
        "adaptive": ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), max_points=150),
    }
    before = {name: tensor.clone() for name, tensor in objective.params.items()}
    random_state = torch.get_rng_state()
    engine = ln.Ray(workers=2)
    surface = ln.evaluate(objective, plane, samplers[sampler], engine=engine)
    assert_same(surface, ln.evaluate(objective, plane, samplers[sampler]))
    said = surface.attrs["engine"]
    assert said["kind"] == "Ray" and said["plan"] != "plain" and said["events"] == []
    assert 1 <= said["workers"] <= 2 and said["nodes"] == 1 and said["deaths"] == 0
    assert all(torch.equal(objective.params[name], tensor) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert ray.is_initialized()  # it was there before


@pytest.mark.slow
def test_size_of_tiles_and_plain_path_change_nothing(cluster, objective, plane):
    grid = ln.Grid(alpha=(-1, 1, 5), beta=(-0.5, 1, 4))
    surface = ln.evaluate(objective, plane, grid, engine=ln.Ray("plain", workers=1, tile=7))
    assert_same(surface, ln.evaluate(objective, plane, grid, engine=ln.Local("plain")))
    assert surface.attrs["engine"]["tile"] == 7 and surface.attrs["engine"]["plan"] == "plain"


@pytest.mark.slow
def test_snapshots_of_a_trajectory_are_points_too(cluster, everything, objective, plane, tmp_path):
    everything.requires_grad_(False)
    with ln.Trajectory(everything, store=tmp_path / "run") as trajectory:
        for _ in range(4):
            everything.first.weight.add_(0.1)
            everything.bn.running_mean.add_(0.1)
            trajectory.step()
    here = ln.evaluate_trajectory(objective, plane, trajectory)
    there = ln.evaluate_trajectory(objective, plane, trajectory, engine=ln.Ray("plain", workers=1))
    for name in here.variables:
        np.testing.assert_array_equal(here[name], there[name])


SPEC = """
import torch
import lossnav as ln

class Model(torch.nn.Linear):
    pass

def objective():
    torch.manual_seed(0)
    model = Model(3, 2)
    x = torch.randn(40, 3)
    return ln.Objective(model, "mse", (x, x[:, :2]))
"""


@pytest.mark.parametrize("build", ["spec", pytest.param("send", marks=pytest.mark.slow)])
def test_an_objective_of_a_file(cluster, tmp_path, build):
    (tmp_path / "some_project.py").write_text(SPEC)
    objective = load_objective(f"{tmp_path / 'some_project.py'}:objective").subset(30)
    line = ln.Line(objective.params, *ln.directions.random(objective, seed=0))
    surface = ln.evaluate(objective, line, NINE, engine=ln.Ray(workers=1, build=build))
    assert_same(surface, ln.evaluate(objective, line, NINE))


@pytest.mark.slow
def test_a_spec_that_means_something_else_there(cluster, tmp_path):
    path = tmp_path / "another_project.py"
    path.write_text(SPEC)
    objective = load_objective(f"{path}:objective")
    path.write_text(SPEC.replace("manual_seed(0)", "manual_seed(17)"))
    line = ln.Line(objective.params, *ln.directions.random(objective, seed=0))
    with pytest.raises(
        ln.errors.ClusterError, match="could not build the objective.*another objective on this machine"
    ):
        ln.evaluate(objective, line, NINE, engine=ln.Ray(workers=1, build="spec"))
    with pytest.raises(ln.errors.OptionError, match="needs an unchanged objective that was loaded from a SPEC"):
        ln.evaluate(objective.at(objective.params), line, NINE, engine=ln.Ray(workers=1, build="spec"))


# ---------------------------------------------------------------------- errors and deaths


def test_a_point_that_raises_is_an_outcome_and_stop_ends_a_run(cluster):
    def f(point):
        if point[0] == 1:
            raise ValueError("one")
        time.sleep(0.02)
        return {"loss": float(point[0])}

    engine, points = ln.Ray(workers=1, tile=2), np.arange(200.0).reshape(-1, 1)
    try:
        run = engine.run(f, points[:3])
        assert sorted(run) == [(0, {"loss": 0.0}, None), (1, {}, "ValueError: one"), (2, {"loss": 2.0}, None)]
        got = []
        for outcome in engine.run(f, points):
            got.append(outcome)
            if len(got) == 5:
                engine.stop()
        assert 5 <= len(got) <= 9  # the tile it came with, and the one under way
        again = list(engine.run(f, points[:9]))  # the same workers
        assert sorted(outcome.number for outcome in again) == list(range(9))
        assert engine.describe()["deaths"] == 0
    finally:
        engine.close()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(cluster, tmp_path):
    def f(p):
        if 0.2 < p["x"][0] < 0.3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return (p["x"] ** 2).sum()

    line = ln.Line({"x": torch.zeros(2)}, LINE)
    surface = ln.evaluate(bowl(f), line, ln.Grid(alpha=(-1, 1, 41)), engine=ln.Ray(workers=2, tile=4))
    assert_same(surface, ln.evaluate(bowl(), line, ln.Grid(alpha=(-1, 1, 41))))
    said = surface.attrs["engine"]
    assert said["deaths"] == 1 and said["lost_points"] == 0 and "a worker died at 4 points" in said["events"][0]


@pytest.mark.slow
def test_a_point_that_kills_every_worker_is_given_up(no_cluster, capfd):
    def f(p):
        if 0.2 < p["x"][0] < 0.3:
            os.kill(os.getpid(), signal.SIGKILL)
        return (p["x"] ** 2).sum()

    line, handlers = ln.Line({"x": torch.zeros(2)}, LINE), [signal.getsignal(s) for s in SIGNALS]
    with pytest.warns(ln.errors.PointsFailedWarning, match="0.25.*its worker died 3 times"):
        surface = ln.evaluate(bowl(f), line, NINE, engine=ln.Ray(workers=1, tile=3))
    assert surface["status"].values.tolist() == [1, 1, 1, 1, 1, 3, 1, 1, 1]
    assert capfd.readouterr() == ("", "")
    assert [signal.getsignal(s) for s in SIGNALS] == handlers
    assert not ray.is_initialized()
    assert surface.attrs["engine"]["deaths"] >= 3 and surface.attrs["engine"]["lost_points"] == 1


@pytest.mark.slow
def test_workers_that_cannot_build_end_the_run(cluster):
    class Elsewhere:
        def __reduce__(self):
            return __import__, ("no_such_module",)

    with pytest.raises(ln.errors.ClusterError, match="could not build the objective: ModuleNotFoundError"):
        ln.Ray(workers=1).prepare(Elsewhere(), np.zeros((1, 1)), 1)


class ExitsHere:
    """Kills the process that unpickles it."""

    def __reduce__(self):
        return eval, ("__import__('os').kill(__import__('os').getpid(), 9)",)


@pytest.mark.slow
def test_workers_that_die_while_they_start_end_the_run(cluster, monkeypatch):
    monkeypatch.setattr(ray_engine, "_LOOK_SECONDS", 0.1)
    with pytest.raises(ln.errors.ClusterError, match="3 workers died while they started"):
        ln.Ray(workers=1).prepare(ExitsHere(), np.zeros((1, 1)), 1)


def test_a_cluster_that_others_hold(cluster, monkeypatch):
    class Holds:
        def ready(self):
            return True

    monkeypatch.setattr(placing, "_HELD_SECONDS", 2.0)
    other = ray.remote(Holds).options(num_cpus=2).remote()
    try:
        assert ray.get(other.ready.remote())
        with pytest.raises(
            ln.errors.ClusterError, match="A worker needs 1 CPUs.*no node.*0 of 2 CPUs are free, others use"
        ):
            ln.Ray().prepare(len, np.zeros((1, 1)), 1)
    finally:
        ray.kill(other)


def test_who_comes_after_one_without_memory_works_in_smaller_batches(digits_objective):
    objective, worker, threads = digits_objective, Worker(), 1
    function = ChartFunction(objective, ln.Line(objective.params, *ln.directions.random(objective, seed=0)))
    points = np.array([[0.0], [0.5]])
    report = worker.build(pickled(function), False, points, 100, Plan(batch_size=200), "native", threads, 2)
    assert report["engine"]["plan_fields"] == {"batch_size": 50}
    made, _, changed = worker.evaluate(points)
    assert changed is None
    assert [values["loss"] for values, _ in made] == pytest.approx([function(p)["loss"] for p in points], rel=1e-5)


# ---------------------------------------------------------------------- the command line


PROJECT = """
import time
import torch
import lossnav as ln

def f(p):
    time.sleep(0.05)
    return (p["x"] ** 2).sum()

objective = ln.Objective.from_function(f, {"x": torch.ones(2)})
"""


def command(path, *more):
    line = ("evaluate", f"{path}:objective", "--chart", "line", "--exclude", "", "--engine", "ray", "--workers", 1)
    return [sys.executable, "-m", "lossnav", *map(str, (*line, *more))]


@pytest.mark.slow
def test_the_command_line(tmp_path):
    (tmp_path / "project.py").write_text(PROJECT)
    done = subprocess.run(command("project.py", "--grid", 9), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    surface = ln.open(tmp_path / "run.zarr")
    assert surface.attrs["engine"]["kind"] == "Ray" and surface.attrs["engine"]["address"] == "local"
    objective = load_objective(f"{tmp_path / 'project.py'}:objective")
    line = ln.Line(objective.params, *ln.directions.random(objective, exclude=(), seed=0))
    assert_same(surface, ln.evaluate(objective, line, NINE))
    with pytest.raises(ln.errors.OptionError, match="--workers is an option of a cluster. Add --engine ray"):
        cli.engine_of("local", "auto", "native", workers=2)


@pytest.mark.slow
def test_ctrl_c_finishes_what_is_under_way_and_keeps_it(tmp_path):
    counting = PROJECT.replace("time.sleep(0.05)", "open('called', 'a').write('x'); time.sleep(0.05)")
    (tmp_path / "project.py").write_text(counting.replace("'called'", repr(str(tmp_path / "called"))))
    running = subprocess.Popen(
        command(tmp_path / "project.py", "--grid", 2001),
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while running.poll() is None and (not (tmp_path / "called").exists() or (tmp_path / "called").stat().st_size < 30):
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    surface = ln.open(tmp_path / "run.zarr")
    counts = surface.lossnav.counts
    assert counts["ok"] > 10 and counts["failed"] == 0
    assert surface.attrs["engine"]["deaths"] == 0


# ---------------------------------------------------------------------- several nodes


@pytest.mark.slow
def test_a_node_that_comes_and_one_that_dies(no_cluster, tmp_path):
    from ray.cluster_utils import Cluster

    def f(p):
        time.sleep(0.05)
        return (p["x"] ** 2).sum()

    line, grid = (
        ln.Line({"x": torch.zeros(2)}, LINE),
        ln.Grid(alpha=(-1, 1, 1201)),
    )  # on a busy machine a death is noticed late
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    engine, joined, killed = ln.Ray(address=nodes.address), [], []

    def disturb(surface):
        if not joined:
            joined.append(nodes.add_node(num_cpus=1))
        elif engine.describe()["workers"] == 2 and not killed:
            killed.append(joined[0])
            nodes.remove_node(joined[0], allow_graceful=False)  # SIGKILL

    try:
        surface = ln.evaluate(bowl(f), line, grid, engine=engine, on_update=disturb)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert killed
    assert_same(surface, ln.evaluate(bowl(), line, grid))
    said = surface.attrs["engine"]
    assert said["nodes"] == 2 and said["deaths"] == 1 and said["lost_points"] == 0
