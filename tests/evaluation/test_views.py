"""Where the command line looks: through checkpoints, along eigenvectors, gradients and training runs; and on what."""

import json
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from commands import lossnav, lossnav_process
from lossnav.evaluation import views
from lossnav.surface.groups import open_group

PROJECT = """
import os, signal
import torch
from torch import nn
import torch.nn.functional as F
import lossnav as ln

def network(seed=5):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    for _ in range(3):
        model(torch.randn(32, 3) * (1 + seed) + seed)
    return model.eval()

def data():
    torch.manual_seed(9)
    return torch.randn(64, 3), torch.arange(64) % 2

calls = []

def stopping(out, y):
    calls.append(1)
    if len(calls) == int(os.environ.get("STOP_AFTER", 0)):
        os.kill(os.getpid(), signal.SIGINT)
    return F.cross_entropy(out, y)

objective = ln.Objective(network(), "cross_entropy", data(), metrics=["accuracy"])
slow = ln.Objective(network(), stopping, data(), batch_size=64)
bowl = ln.Objective.from_function(lambda p: 3 * p["x"][0] ** 2 - p["x"][1] ** 2 + 1, {"x": torch.ones(2)})
calls.clear()
"""


@pytest.fixture
def net():
    """The project as a module of its own."""
    module = types.ModuleType("net")
    exec(PROJECT, module.__dict__)
    return module


@pytest.fixture
def project(tmp_path, net):
    (tmp_path / "net.py").write_text(PROJECT)
    for seed, name in ((1, "a.pt"), (2, "b.pt"), (3, "c.pt"), (4, "d.pt")):
        state = net.network(seed).state_dict()
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, tmp_path / name)
    return tmp_path


def truth(net, seed):
    x, y = net.data()
    with torch.no_grad():
        return float(F.cross_entropy(net.network(seed)(x), y))


def run(*arguments, cwd):
    done = lossnav("evaluate", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_a_line_between_two_checkpoints(project, net):
    done = run("net.py:objective", "--checkpoint", "a.pt", "--to", "b.pt", cwd=project)
    surface = ln.open(project / "run.zarr")
    assert surface.sizes == {"alpha": 51}
    assert surface["loss"].sel(alpha=[0.0, 1.0]).values == pytest.approx([truth(net, 1), truth(net, 2)], rel=1e-6)
    assert float(surface["alpha"][0]) < 0
    assert float(surface["alpha"][-1]) > 1
    assert "at alpha = 1" in done.stdout
    assert "a.pt, in it state_dict.module" in done.stdout
    assert "b.pt" in done.stdout
    again = run("net.py:objective", "--checkpoint", "a.pt", "--to", "b.pt", cwd=project)  # the same call
    assert ln.open(project / "run.zarr").identical(surface), again.stderr


@pytest.mark.parametrize("n", [2, 3, 4, 5, 11, 20, 21, 51, 101, 200])
def test_checkpoints_lie_on_points_of_the_grid(n):
    low, high = views._around(0.0, 1.0, n)
    axis = ln.Grid(alpha=(low, high, n)).axes["alpha"]
    assert {0.0, 1.0} <= set(axis.tolist())
    assert (low < 0 and high > 1) or n < 5
    low, high = views._around(-0.3, 2.7, n)
    axis = ln.Grid(alpha=(low, high, n)).axes["alpha"]
    assert np.abs(axis + 0.3).min() < 1e-12
    assert np.abs(axis - 2.7).min() < 1e-12


def test_one_of_several_state_dicts_by_its_name(project, net):
    both = {name: net.network(seed).state_dict() for name, seed in (("student", 1), ("teacher", 2))}
    torch.save(both, project / "both.pt")
    refused = lossnav("evaluate", "net.py:objective", "--checkpoint", "both.pt", cwd=project)
    assert refused.returncode == 1
    assert "fit Sequential: student, teacher. Say which one, after two colons: both.pt::student" in refused.stderr
    run("net.py:objective", "--checkpoint", "both.pt::student", "--to", "both.pt::teacher", "--grid", 5, cwd=project)
    losses = ln.open(project / "run.zarr")["loss"].sel(alpha=[0.0, 1.0]).values
    assert losses == pytest.approx([truth(net, 1), truth(net, 2)], rel=1e-6)
    assert lossnav("resume", "run.zarr", "--trust", cwd=project).returncode == 0
    info = lossnav("info", "run.zarr", cwd=project).stdout
    assert "both.pt::student" in info


def test_a_plane_and_a_volume_through_checkpoints(project, net):
    done = run(
        "net.py:objective", "--checkpoint", "a.pt", "--to", "b.pt", "--to", "c.pt", "--grid", 11, "--json", cwd=project
    )
    found = json.loads(done.stdout)
    assert found["sizes"] == {"alpha": 11, "beta": 11}
    surface = ln.open(project / "run.zarr")
    corner = surface["loss"].sel(alpha=[0.0, 1.0], beta=0.0)
    assert corner.values == pytest.approx([truth(net, 1), truth(net, 2)], rel=1e-6)
    place = found["chart"]["directions"][0]["places"][2]
    alpha, beta = surface["alpha"].values, surface["beta"].values
    assert alpha[0] < place[0] < alpha[-1]
    assert np.abs(beta - place[1]).min() < 1e-9  # the farthest one lies on the grid along its own axis
    run(
        "net.py:objective", "--checkpoint", "a.pt", "--to", "b.pt", "--to", "c.pt", "--to", "d.pt", "--grid", 3,
        "-o", "volume.zarr", cwd=project,
    )  # fmt: skip
    assert ln.open(project / "volume.zarr").sizes == {"alpha": 3, "beta": 3, "gamma": 3}


@pytest.mark.slow
@pytest.mark.parametrize(("chart", "places"), [("chain", [0, 0.5, 1]), ("bezier", [0, 1]), ("simplex", None)])
def test_curves_and_a_triangle_of_checkpoints(project, net, chart, places):
    to = ("--checkpoint", "a.pt", "--to", "b.pt", "--to", "c.pt")
    done = run("net.py:objective", *to, "--chart", chart, "--grid", 5, cwd=project)
    surface = ln.open(project / "run.zarr")
    losses = [net.objective.at(torch.load(project / f"{name}.pt")) for name in "abc"]
    losses = [objective.evaluate(objective.params)["loss"] for objective in losses]
    if places is None:
        found = [float(surface["loss"].sel(w1=x, w2=y)) for x, y in ((0, 0), (1, 0), (0, 1))]
    else:
        found = [float(surface["loss"].sel(t=t)) for t in places]
        losses = losses if len(places) == 3 else [losses[0], losses[2]]
    np.testing.assert_allclose(found, losses, rtol=1e-6)
    assert "c.pt" in done.stdout + done.stderr
    assert ln.resume(project / "run.zarr", spec=f"{project}/net.py:objective")["loss"].identical(surface["loss"])


def test_a_curve_needs_checkpoints(project):
    done = lossnav("evaluate", "net.py:objective", "--chart", "bezier", cwd=project)
    assert done.returncode == 2
    assert "Name the others in order, each with --to." in " ".join(done.stderr.split())


def test_a_line_is_gone_on_with_from_its_store_alone(project, net):
    command = ("evaluate", "net.py:slow", "--checkpoint", "a.pt", "--to", "b.pt", "--grid", 21, "--plan", "plain")
    done = lossnav_process(*command, cwd=project, STOP_AFTER="12")
    assert done.returncode == 130, done.stderr
    stopped = ln.open(project / "run.zarr")
    assert not stopped.lossnav.complete
    done = lossnav("resume", "run.zarr", "--trust", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["status"]["ok"] == 21
    surface = ln.open(project / "run.zarr")
    assert surface["loss"].sel(alpha=[0.0, 1.0]).values == pytest.approx([truth(net, 1), truth(net, 2)], rel=1e-6)
    torch.save(net.network(7).state_dict(), project / "b.pt")  # another checkpoint under the same name
    done = lossnav("resume", "run.zarr", "--trust", cwd=project)
    assert done.returncode == 1
    assert "differs from the surface's in directions" in done.stderr


def test_a_line_leads_along_what_is_frozen_too(project, net):
    """Checkpoints that differ in frozen layers: at 1 lies the second one, not a part of it."""
    (project / "frozen.py").write_text(
        PROJECT + "model = network()\nmodel[0].requires_grad_(False)\n"
        "objective = ln.Objective(model, 'cross_entropy', data())\n"
    )
    run("frozen.py:objective", "--checkpoint", "a.pt", "--to", "b.pt", "--grid", 5, cwd=project)
    surface = ln.open(project / "run.zarr")
    assert surface["loss"].sel(alpha=[0.0, 1.0]).values == pytest.approx([truth(net, 1), truth(net, 2)], rel=1e-6)
    assert lossnav("resume", "run.zarr", "--trust", cwd=project).returncode == 0
    between = ("frozen.py:objective", "--checkpoint", "a.pt", "--to", "b.pt")
    run(*between, "--grid", 9, "--subset", 20, "-o", "s.zarr", cwd=project)
    assert lossnav("resume", "s.zarr", "--trust", cwd=project).returncode == 0
    again = run(*between, "--grid", 11, "--subset", 20, "--control", 6, "-o", "c.zarr", cwd=project)
    assert "residual error" in again.stdout


def test_a_checkpoint_without_statistics_is_an_end_where_that_is_asked_for(project, net):
    state = net.network(2).state_dict()
    torch.save({name: tensor for name, tensor in state.items() if "running" not in name}, project / "bare.pt")
    arguments = ("evaluate", "net.py:objective", "--checkpoint", "a.pt", "--to", "bare.pt", "--grid", 5)
    refused = lossnav(*arguments, cwd=project)
    assert refused.returncode == 1
    assert 'no "1.running_mean", "1.running_var" of Sequential' in refused.stderr
    done = lossnav(*arguments, "--missing-buffers", "keep", cwd=project)
    assert done.returncode == 0, done.stderr
    assert 'lacks the buffers "1.running_mean", "1.running_var"' in done.stderr


def test_eigenvectors_and_gradient(project, net):
    run("net.py:objective", "--directions", "hessian", "--grid", 5, "--range", -0.01, 0.01, cwd=project)
    surface = ln.open(project / "run.zarr")
    recipes = surface.attrs["chart"]["directions"]
    assert [recipe["kind"] for recipe in recipes] == ["hessian", "hessian"]
    losses = surface["loss"].sel(beta=0.0).values
    assert (losses[4] - 2 * losses[2] + losses[0]) / 0.01**2 == pytest.approx(recipes[0]["eigenvalue"], rel=0.05)

    run(
        "net.py:objective", "--directions", "gradient", "--grid", 3, "--range", -0.01, 0.01, "-o", "g.zarr", cwd=project
    )
    surface = ln.open(project / "g.zarr")
    assert surface.sizes == {"alpha": 3}
    model = net.network()
    x, y = net.data()
    F.cross_entropy(model(x), y).backward()
    square = sum(float((p.grad**2).sum()) for p in model.parameters())
    slope = (float(surface["loss"][2]) - float(surface["loss"][0])) / 0.02
    assert slope == pytest.approx(square, rel=1e-2)

    run(
        "net.py:objective", "--directions", "gradient", "--directions", "hessian", "--directions", "random",
        "--grid", 3, "-o", "mixed.zarr", cwd=project,
    )  # fmt: skip
    mixed = ln.open(project / "mixed.zarr").attrs["chart"]
    assert (mixed["kind"], [recipe["kind"] for recipe in mixed["directions"]]) == (
        "Volume",
        ["gradient", "hessian", "random"],
    )
    assert lossnav("resume", "mixed.zarr", "--trust", cwd=project).returncode == 0


def test_a_volume_of_random_directions(project):
    run("net.py:objective", "--chart", "volume", "--grid", 3, "--seed", 4, cwd=project)
    surface = ln.open(project / "run.zarr")
    assert surface.sizes == {"alpha": 3, "beta": 3, "gamma": 3}
    dry = run("net.py:objective", "--chart", "volume", "--dry-run", "--json", cwd=project)
    assert json.loads(dry.stdout)["points"] == 21**3


@pytest.mark.slow
def test_the_plane_of_a_training_run_and_the_run_on_it(project, net):
    model = net.network(1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = net.data()
    with ln.Trajectory(model, store=project / "training") as trajectory:
        for _ in range(8):
            trajectory.step()
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        trajectory.step()
    arguments = ("net.py:objective", "--directions", "pca", "--trajectory", "training", "--grid", 5)
    run(*arguments, cwd=project)
    surface = ln.open(project / "run.zarr")
    assert [recipe["kind"] for recipe in surface.attrs["chart"]["directions"]] == ["pca", "pca"]
    with torch.no_grad():
        end = float(F.cross_entropy(model.eval()(x), y))
    assert surface.attrs["center"]["loss"] == pytest.approx(end, rel=1e-6)  # with the statistics of the end
    path = _path(project / "run.zarr")
    assert path.sizes["snapshot"] == len(trajectory) > 8
    assert float(path["loss"][-1]) == pytest.approx(end, rel=1e-6)
    for dim in ("alpha", "beta"):
        assert surface[dim].min() <= path[dim].min()
        assert path[dim].max() <= surface[dim].max()
    drawn = lossnav("plot", "contour", "run.zarr", "--trajectory", "-o", "c.png", cwd=project)
    assert drawn.returncode == 0, drawn.stderr
    resumed = lossnav("resume", "run.zarr", "--trust", cwd=project)
    assert resumed.returncode == 0, resumed.stderr
    measured = lossnav("report", "run.zarr", "--measure", "--trust", "--limit", 20, "--json", cwd=project)
    assert measured.returncode == 0, measured.stderr
    kept = open_group(str(project / "run.zarr"), "report").attrs
    assert np.shape(kept["slice"]["hessian"]) == (2, 2) if "slice" in kept else kept
    (project / "training").rename(project / "elsewhere")
    for verb in (("resume", "run.zarr"), ("report", "run.zarr", "--measure")):
        gone = lossnav(*verb, "--trust", cwd=project)
        assert gone.returncode == 1
        assert "training" in gone.stderr and "Traceback" not in gone.stderr, gone.stderr
    (project / "elsewhere").rename(project / "training")
    line = run(
        "net.py:objective", "--checkpoint", "a.pt", "--to", "b.pt", "--trajectory", "training", "--grid", 5,
        "-o", "line.zarr", cwd=project,
    )  # fmt: skip
    assert "training run" in line.stderr
    assert _path(project / "line.zarr").sizes["snapshot"] == len(trajectory)


def _path(store):
    from lossnav.surface.groups import open_trajectory

    return open_trajectory(str(store))


def test_the_result_as_json(project):
    done = run("net.py:objective", "--grid", 3, "--json", cwd=project)
    said = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert said["path"] == "run.zarr"
    assert said["summary"]["status"]["ok"] == 9
    assert said == json.loads(lossnav("info", "run.zarr", "--json", cwd=project).stdout)


def test_the_device_is_that_of_the_command(project, monkeypatch):
    run("net.py:objective", "--grid", 3, "--device", "cpu:0", cwd=project)
    assert ln.open(project / "run.zarr").attrs["objective"]["device"] == "cpu:0"
    assert ln.open(project / "run.zarr").attrs["objective"]["origin"]["device"] == "cpu:0"
    assert lossnav("resume", "run.zarr", "--trust", cwd=project).returncode == 0
    gone = lossnav("evaluate", "net.py:objective", "--grid", 3, "--device", "nowhere", cwd=project)
    assert gone.returncode == 1
    assert "The device 'nowhere' does not exist" in gone.stderr
    (project / "fixed.py").write_text(
        "import torch, lossnav as ln\n"
        "objective = ln.Objective(torch.nn.Linear(1, 1), 'mse', (torch.ones(2, 1), torch.ones(2, 1)), device='cpu')\n"
    )
    other = lossnav("evaluate", "fixed.py:objective", "--device", "cpu:1", cwd=project)
    assert other.returncode == 1
    assert "makes its objective on cpu, not on cpu:1" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "b.pt", "--chart", "plane"), "1 checkpoint(s) beside the first span a line, not a plane"),
        (("--to", "b.pt", "--directions", "hessian"), "Leave out --directions"),
        (("--to", "b.pt", "--exclude", "bias"), "not for those between checkpoints"),
        (("--save-directions", "--seeds", "2"), "--save-directions is for one surface of one seed"),
        (("--to", "b.pt", "--to", "b.pt"), "b.pt is named twice"),
        (("--to", "a.pt", "--to", "b.pt", "--to", "c.pt", "--to", "d.pt"), "span more than a volume"),
        (("--to", "b.pt", "--seeds", "3"), "--seeds draws random directions anew"),
        (("--directions", "hessian", "--seeds", "3"), "--seeds draws random directions anew"),
        (("--directions", "pca"), "Add --trajectory FOLDER"),
        (("--directions", "moments"), "Directions 'moments' are unknown. Use gradient, hessian, pca or random"),
        (("--directions", "gradient", "--chart", "plane"), "There is one gradient, and a plane has 2 axes"),
        (
            ("--directions", "hessian", "--directions", "random", "--chart", "volume"),
            "A volume has 3 axes, and 2 kinds",
        ),
        (("--directions", "hessian", "--normalize", "filter"), "are for random directions, but these are hessian"),
        (("--trajectory", "t", "--seeds", "2"), "--trajectory is for one surface of one seed"),
        (("--trajectory", "t", "--chart", "rescaled-line"), "A training run is drawn on a line, plane or volume"),
        (("--grid", "0"), "SamplerError"),
    ],
)
def test_what_does_not_go_together(project, arguments, words):
    done = lossnav("evaluate", "net.py:objective", *arguments, cwd=project)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not (project / "run.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "none.pt"), "There is no checkpoint none.pt"),
        (("--to", "b.pt::ema"), "holds nothing called 'ema', but state_dict"),
        (("--checkpoint", "a.pt", "--to", "a.pt"), "DirectionError"),
        (("--directions", "pca", "--trajectory", "b.pt"), "is no recorded trajectory"),
    ],
)
def test_what_is_not_there(project, arguments, words):
    done = lossnav("evaluate", "net.py:objective", *arguments, cwd=project)
    assert done.returncode == 1, done.stderr
    assert words in done.stderr


def test_the_explorer_looks_where_evaluate_does(project, net, monkeypatch):
    seen = []

    class Explorer:
        url = "http://here"
        handler = types.SimpleNamespace(session=types.SimpleNamespace(store="kept.zarr"))

        def wait(self):
            return None

    monkeypatch.setattr("lossnav.explorer.explore", lambda *what, **options: seen.append((what, options)) or Explorer())
    done = lossnav("explore", "net.py:objective", "--checkpoint", "a.pt", "--to", "b.pt", "--no-browser", cwd=project)
    assert done.returncode == 0, done.stderr
    (objective, chart), options = seen[0]
    assert objective.evaluate(chart([1.0]))["loss"] == pytest.approx(truth(net, 2), rel=1e-6)
    assert options["ends"][0][0] < 0 < 1 < options["ends"][0][1]
    lossnav("explore", "net.py:objective", "--no-browser", cwd=project)
    assert seen[1][1]["ends"] == (-1.0, 1.0)


def test_a_module_is_not_disturbed_by_the_device_of_a_command():
    from lossnav.objective.modes import by_default_on

    data = (torch.ones(4, 1), torch.ones(4, 1))
    with by_default_on("cpu:0"):
        inside = ln.Objective(nn.Linear(1, 1), "mse", data)
        named = ln.Objective(nn.Linear(1, 1), "mse", data, device="cpu")
    assert [str(o.device) for o in (inside, named, ln.Objective(nn.Linear(1, 1), "mse", data))] == [
        "cpu:0",
        "cpu",
        "cpu",
    ]
