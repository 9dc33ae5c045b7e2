"""The command line: thin, honest in its exit codes, results to stdout and all else to stderr."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from typer.testing import CliRunner

import lossnav as ln
from commands import lossnav, lossnav_process
from lossnav import cli

SLOW_PROJECT = """
import os
import signal
import time
from pathlib import Path
import torch
import lossnav as ln

calls = []

def bowl(p):
    if "SAY_POINTS" in os.environ:
        os.write(1, b"point\\n")
    time.sleep(0.05)
    return (p["x"] ** 2).sum()

def sharp(p):
    if float(p["x"][0]) > 1.5:
        raise ValueError("too far")
    return (p["x"] ** 2).sum()

def vector(out, y):
    return (out - y)[:, 0]

def count(out, y):
    calls.append(len(y))
    if f"{len(y)}:{calls.count(len(y))}" == os.environ.get("STOP_AFTER"):
        os.kill(os.getpid(), signal.SIGINT)
    return ((out - y) ** 2).mean()

data = (torch.arange(40.0).reshape(40, 1) / 40, torch.ones(40, 1))
torch.manual_seed(0)
fitted = ln.Objective(torch.nn.Linear(1, 1).eval(), count, data)
calls.clear()
quick = ln.Objective.from_function(lambda p: 0.1 + (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
objective = ln.Objective.from_function(bowl, {"x": torch.ones(2)})
failing = ln.Objective.from_function(sharp, {"x": torch.ones(2)})

def bad_loss():
    return ln.Objective(torch.nn.Linear(2, 2), vector, (torch.ones(3, 2), torch.ones(3, 2)))
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "project.py").write_text(SLOW_PROJECT)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = lossnav("train", "zoo:notebook-digits", "-o", "model.safetensors", "--passes", 3, "--seed", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_version_and_help(tmp_path):
    assert lossnav_process("--version", cwd=tmp_path).stdout == f"lossnav {ln.__version__}\n"
    for command in (
        (),
        ("--help",),
        ("demo", "-h"),
        ("train", "-h"),
        ("reproduce", "-h"),
        ("evaluate", "-h"),
        ("curvature", "-h"),
        ("plot", "-h"),
        ("compare", "-h"),
        ("animate", "-h"),
        ("export", "-h"),
        ("info", "-h"),
        ("report", "-h"),
    ):
        done = lossnav(*command, cwd=tmp_path)
        assert done.returncode == (0 if command else 2)
        assert "Usage" in done.stdout + done.stderr


def test_train_evaluate_plot_info(trained, tmp_path):
    """The whole way, and the numbers agree between stages."""
    checkpoint = trained / "model.safetensors"
    done = lossnav(
        "evaluate", "zoo:notebook-digits", "--checkpoint", checkpoint, "--chart", "plane", "--normalize", "filter",
        "--grid", 5, "--range", -1, 1, "--seed", 3, "-o", "run.zarr", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "run.zarr"
    surface = ln.open(tmp_path / "run.zarr")
    assert surface.sizes == {"alpha": 5, "beta": 5}
    assert [recipe["seed"] for recipe in surface.attrs["chart"]["directions"]] == [3, 3]

    info = json.loads(lossnav("info", "run.zarr", "--json", cwd=tmp_path).stdout)
    assert info["sizes"] == {"alpha": 5, "beta": 5}
    assert info["summary"]["status"]["ok"] == 25
    assert info["objective"] == surface.attrs["objective"]
    words = lossnav("info", "run.zarr", cwd=tmp_path).stdout
    assert f"{surface.lossnav.center['loss']:.6g}" in words
    assert "normalize filter" in words

    for kind, out in (("contour", "c.png"), ("surface", "s.html"), ("heatmap", "h.svg")):
        done = lossnav("plot", kind, "run.zarr", "-o", out, "--log", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / out).stat().st_size > 1000
    again = lossnav("plot", "contour", "run.zarr", "-o", "c.png", cwd=tmp_path)
    assert again.returncode == 1
    assert "OutputExistsError" in again.stderr


@pytest.mark.parametrize(
    ("chart", "dims", "how"),
    [("line", ["alpha"], "filter"), ("rescaled-line", ["alpha"], None), ("rescaled-bilinear", ["alpha", "beta"], None)],
)
def test_every_chart_by_name(trained, tmp_path, chart, dims, how):
    done = lossnav(
        "evaluate", "zoo:notebook-digits", "--checkpoint", trained / "model.safetensors", "--chart", chart, "--grid", 3,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recipe = ln.open(tmp_path / "run.zarr").attrs["chart"]
    assert (
        recipe["kind"]
        == {"line": "Line", "rescaled-line": "RescaledLine", "rescaled-bilinear": "RescaledBilinear"}[chart]
    )
    assert recipe["dims"] == dims
    assert recipe["directions"][0]["normalize"] == how
    assert recipe["directions"][0]["distribution"] == ("normal" if how else "uniform")


def test_points_where_they_are_needed(trained, tmp_path):
    checkpoint = trained / "model.safetensors"
    run = ("evaluate", "zoo:notebook-digits", "--checkpoint", checkpoint, "--sampler", "adaptive", "--auto-range")
    done = lossnav(*run, "--tolerance", 0.1, "--max-points", 60, "--live", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    surface = ln.open(tmp_path / "run.zarr")
    assert surface.sizes["point"] <= 60
    sampler = surface.attrs["sampler"]
    assert (sampler["kind"], sampler["tolerance"]) == ("Adaptive", 0.1)
    assert set(sampler["auto"]) == {"alpha", "beta"}
    words = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines()[:-1])
    assert words["estimated error"].startswith(f"{sampler['outcome']['estimated_error']:.2g} relative")
    assert "points" in done.stderr
    drawn = lossnav("plot", "contour", "run.zarr", "-o", "c.png", "--points", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr


def test_a_part_of_the_data_for_several_seeds(trained, tmp_path):
    checkpoint = trained / "model.safetensors"
    run = ("evaluate", "zoo:notebook-digits", "--checkpoint", checkpoint, "--subset", 100)
    done = lossnav(*run, "--chart", "line", "--grid", 9, "--seeds", 3, "--seed", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    surface = ln.open(tmp_path / "run.zarr")
    assert surface.sizes == {"seed": 3, "alpha": 9}
    assert surface["seed"].values.tolist() == [5, 6, 7]
    assert surface.attrs["objective"]["samples"] == 100
    assert (surface["loss_se"] > 0).all()
    drawn = lossnav("plot", "line", "run.zarr", "-o", "band.png", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr

    done = lossnav(*run, "--grid", 9, "--control", 5, "-o", "corrected.zarr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = float(ln.open(tmp_path / "corrected.zarr").attrs["control_variate"]["residual_error"])
    assert "residual error" in done.stdout
    assert f"{said:.2g} relative" in done.stdout


def test_an_automatic_range_is_one_for_all_seeds(project):
    run = ("evaluate", "project.py:quick", "--chart", "line", "--normalize", "none", "--exclude", "")
    done = lossnav(*run, "--auto-range", "--seeds", 3, "--grid", 5, cwd=project)
    assert done.returncode == 0, done.stderr
    assert ln.open(project / "run.zarr").sizes == {"seed": 3, "alpha": 5}


def test_the_same_command_on_finished_seeds_returns_them(project):
    run = ("evaluate", "project.py:objective", "-o", "band.zarr", "--chart", "line", "--grid", 5)
    assert lossnav(*run, "--seeds", 2, cwd=project).returncode == 0
    there = ln.open(project / "band.zarr")
    assert lossnav(*run, "--seeds", 2, cwd=project).returncode == 0
    assert ln.open(project / "band.zarr").identical(there)
    refused = lossnav(*run, "--seeds", 3, cwd=project)
    assert refused.returncode == 1 and "OutputExistsError" in refused.stderr


def test_a_dry_run_counts_seeds_and_control(project, monkeypatch):
    monkeypatch.setattr("lossnav.evaluation.estimate._seconds_per_point", lambda *_: 0.01)  # not for a clock to decide
    run = ("evaluate", "project.py:quick", "--chart", "line", "--normalize", "none", "--exclude", "", "--dry-run")
    one, many = (lossnav(*run, "--grid", 2001, "--seeds", n, cwd=project) for n in (1, 50))
    assert many.returncode == 0, many.stderr
    assert "2,001 for each of 50 seeds" in many.stdout
    found = (re.search(r"all of it +([\d.]+) (s|min|h)", done.stdout) for done in (one, many))
    one, many = (float(words[1]) * {"s": 1, "min": 60, "h": 3600}[words[2]] for words in found)
    assert many > 10 * one
    data = ("evaluate", "project.py:fitted", "--chart", "line", "--exclude", "", "--grid", 11, "--dry-run")
    both = lossnav(*data, "--subset", 10, "--control", 6, cwd=project)
    assert both.returncode == 0, both.stderr
    assert "11, and 6 with all the data" in both.stdout
    assert "with all the data" in next(line for line in both.stdout.splitlines() if line.startswith("a point"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "words", "samples"), [("40:6", "with all the data", 40), ("10:8", "not corrected", 10)]
)
def test_a_stopped_correction_is_saved_as_it_is(project, after, words, samples):
    run = ("evaluate", "project.py:fitted", "--chart", "line", "--exclude", "", "--grid", 11, "--plan", "plain")
    done = lossnav_process(*run, "--subset", 10, "--control", 6, cwd=project, STOP_AFTER=after)
    assert done.returncode == 130, done.stderr
    assert words in done.stderr
    surface = ln.open(project / "run.zarr")
    assert surface.attrs["objective"]["samples"] == samples
    assert "control_variate" not in surface.attrs
    assert not surface.lossnav.complete
    done = lossnav(*run, "--subset", 10, "--control", 6, cwd=project)  # the same call goes on
    assert done.returncode == 0, done.stderr
    surface = ln.open(project / "run.zarr")
    assert "control_variate" in surface.attrs
    assert not (project / "run.parts").exists()
    done = lossnav(*run, "--subset", 10, "--control", 6, cwd=project)  # and returns the finished surface
    assert done.returncode == 0, done.stderr
    assert ln.open(project / "run.zarr").identical(surface)
    done = lossnav(*run, "--subset", 10, "--control", 11, cwd=project)
    assert done.returncode == 1 and "OutputExistsError" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("evaluate", "nonsense"), 2, "SpecError: 'nonsense' is not a SPEC"),
        (("evaluate", "project.py:objective", "--grid", "1"), 2, "SamplerError"),
        (("evaluate", "project.py:objective", "--range", "1", "-1"), 2, "runs from 1 down to -1"),
        (("evaluate", "project.py:objective", "--exclude", "*"), 2, "leaves no parameter"),
        (("evaluate", "project.py:objective", "--seed", "-1"), 2, "greater than or equal to 0"),
        (("evaluate", "project.py:objective", "-o", ".", "--overwrite"), 1, "is no surface of ours"),
        (("evaluate", "project.py:objective", "--chart", "sphere"), 2, "sphere"),
        (("evaluate", "project.py:objective", "--normalize", "filters"), 2, "filters"),
        (("evaluate", "project.py:bad_loss"), 1, "LossShapeError"),
        (("evaluate", "project.py:objective", "--subset", "some"), 2, "must be a number of samples or auto, got some"),
        (("evaluate", "project.py:objective", "--subset", "10"), 2, "OptionError"),
        (("evaluate", "project.py:objective", "--control", "5"), 2, "--control needs a --subset"),
        (("evaluate", "project.py:objective", "--subset", "9", "--control", "4"), 2, "Use --grid 52"),
        (("evaluate", "project.py:objective", "--subset", "9", "--control", "1"), 2, "control"),
        (("evaluate", "project.py:objective", "--subset", "9", "--control", "-5"), 2, "control"),
        (("evaluate", "project.py:objective", "--subset", "9", "--control", "2"), 2, "Use --control 3"),
        (
            ("evaluate", "project.py:objective", "--chart", "line", "--subset", "9", "--control", "3"),
            2,
            "gives 3 points with all the data, but a correction needs 6. Use --control 6",
        ),
        (
            ("evaluate", "project.py:objective", "--chart", "line", "--grid", "5", "--subset", "9", "--control", "3"),
            2,
            "Use --grid 11 --control 6",
        ),
        (
            ("evaluate", "project.py:objective", "--subset", "9", "--control", "6", "--seeds", "2", "--auto-range"),
            2,
            "leave out --auto-range and leave out --seeds",
        ),
        (("evaluate", "project.py:objective", "--sampler", "adaptive", "--tolerance", "0"), 2, "SamplerError"),
        (("evaluate", "project.py:objective", "--seeds", "0"), 2, "seeds"),
        (("evaluate", "project.py:objective", "--checkpoint", "none.pt"), 1, "There is no checkpoint"),
        (("evaluate", "project.py:objective", "-o", "project.py"), 1, "OutputExistsError"),
        (("evaluate", "project.py:objective", "-o", "project.py/run.zarr"), 1, "OutputNotWritableError"),
        (("evaluate", "project.py:objective", "--seeds", "2", "-o", "memory://a.zarr"), 1, "a single run takes a URL"),
        (("info", "none.zarr"), 1, "There is no none.zarr"),
        (("plot", "contour", "none.zarr", "-o", "x.png"), 1, "There is no none.zarr"),
        (("plot", "pie", "none.zarr", "-o", "x.png"), 2, "pie"),
        (("train", "zoo:alexnet"), 2, "zoo has no 'alexnet'"),
        (("train", "project.py:objective"), 2, "not in the zoo"),
        (("train", "zoo:resnet21"), 2, "6n + 2 layers"),
        (("train", "zoo:notebook-digits", "--device", "nowhere"), 1, "The device 'nowhere' does not exist"),
        (("train", "zoo:notebook-digits", "--samples", "2000"), 2, "from 1 to 1,397"),
        (("reproduce", "li2018", "--data-root", "/nowhere", "-o", "out"), 1, "There is no folder /nowhere"),
        (("reproduce", "li2018", "-o", "."), 1, "is not such a run"),
        (("reproduce", "li2018", "--depth", "21"), 2, "6n + 2 layers"),
        (("demo", "--data", "imagenet"), 2, "imagenet"),
        (("demo", "--data", "mnist", "--data-root", "nowhere"), 1, "There is no folder nowhere"),
        (("demo", "--out", "."), 1, "is not empty"),
        (("--nothing",), 2, "nothing"),
    ],
)
def test_what_is_wrong_is_said_on_stderr_with_its_code(project, monkeypatch, arguments, code, words):
    monkeypatch.chdir(project)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line replaces it
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert isinstance(done.exception, SystemExit)  # else a traceback
    assert not done.stdout


@pytest.mark.slow
def test_a_plan_by_name_is_used_and_said(trained, tmp_path):
    checkpoint = trained / "model.safetensors"
    run = ("evaluate", "zoo:notebook-digits", "--checkpoint", checkpoint, "--grid", 3)
    done = lossnav(*run, "--precision", "bfloat16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    engine = ln.open(tmp_path / "run.zarr").attrs["engine"]
    assert engine["plan_fields"]["precision"] == "bfloat16"
    assert 0 < engine["plan_error"] < 5e-2
    said = lossnav("info", "run.zarr", cwd=tmp_path).stdout
    assert "plan: bfloat16" in said
    assert "relative, the largest at" in said
    refused = lossnav(*run, "--plan", "plain", "--precision", "bfloat16", "-o", "b.zarr", cwd=tmp_path)
    assert refused.returncode == 2
    assert "plan='auto'" in refused.stderr


def test_info_is_valid_json_with_a_single_sample(project):
    (project / "one.py").write_text(
        "import torch, lossnav as ln\n"
        "data = (torch.ones(1, 2), torch.ones(1, 2))\n"
        "objective = ln.Objective(torch.nn.Linear(2, 2).eval(), 'mse', data)\n"
    )
    assert lossnav("evaluate", "one.py:objective", "--chart", "line", "--grid", 3, cwd=project).returncode == 0
    said = lossnav("info", "run.zarr", "--json", cwd=project).stdout
    info = json.loads(said, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert info["summary"]["center"]["loss_se"] == "nan"


def test_failed_points_exit_with_three(project):
    done = lossnav("evaluate", "project.py:failing", "--chart", "line", "--normalize", "none", "--grid", 5, cwd=project)
    assert done.returncode == 3, done.stderr
    assert "PointsFailedWarning" in done.stderr
    surface = ln.open(project / "run.zarr")
    assert surface.lossnav.counts["failed"] > 0
    assert surface.lossnav.counts["ok"] > 0


@pytest.mark.slow
def test_a_training_that_is_stopped_leaves_its_weights(tmp_path):
    command = [
        sys.executable,
        "-m",
        "lossnav",
        "train",
        "zoo:notebook-digits",
        "--epochs",
        "100000",
        "-o",
        "w.safetensors",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:  # until it has learnt for five seconds and says what came of it
            if line.startswith("held-out accuracy"):
                break
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    said = re.search(r"The current weights \(held-out accuracy (.*)\)", errors)
    assert said, errors
    model = ln.checkpoints.load_into(ln.zoo.notebook_cnn(), tmp_path / "w.safetensors")
    reached = ln.zoo.accuracy(model, ln.zoo.digits(), ln.zoo.recipe("notebook-digits").held_out)
    assert float(said[1]) == pytest.approx(reached, abs=1e-4)
    assert reached > 0.2  # of ten classes


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits_with_its_code(project, number, code):
    command = [sys.executable, "-m", "lossnav", "evaluate", "project.py:objective", "--grid", "11"]
    options = {"env": os.environ | {"SAY_POINTS": "1"}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=project, text=True, **options) as process:
        for _ in range(10):
            assert process.stdout.readline() == "point\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "lossnav resume run.zarr" in said
    surface = ln.open(project / "run.zarr")
    assert surface.attrs["interrupted"]
    assert 0 < surface.lossnav.counts["ok"] < 11 * 11
    assert "Traceback" not in said
    done = lossnav("resume", "run.zarr", "--trust", cwd=project)
    assert done.returncode == 0, done.stderr
    whole = ln.open(project / "run.zarr")
    assert whole.lossnav.complete
    assert whole.attrs["finished"]
    before = surface["status"].values == 1
    assert (whole["loss"].values[before] == surface["loss"].values[before]).all()


def test_the_same_call_goes_on_and_another_is_refused(project):
    first = lossnav("evaluate", "project.py:objective", "--grid", 5, cwd=project)
    assert first.returncode == 0, first.stderr
    made = ln.open(project / "run.zarr")
    assert lossnav("evaluate", "project.py:objective", "--grid", 5, cwd=project).returncode == 0
    assert ln.open(project / "run.zarr").identical(made)
    other = lossnav("evaluate", "project.py:objective", "--grid", 7, "--seed", 1, cwd=project)
    assert other.returncode == 1
    assert "PlanMismatchError: run.zarr contains another run" in other.stderr
    assert "sampler.axes.alpha: was [-1.0, 1.0, 5], is [-1.0, 1.0, 7]" in other.stderr
    assert "chart.directions[0].seed: was 0, is 1" in other.stderr
    assert "--overwrite" in other.stderr
    assert lossnav("evaluate", "project.py:objective", "--grid", 7, "--overwrite", cwd=project).returncode == 0
    assert ln.open(project / "run.zarr").sizes["alpha"] == 7


def test_a_url_is_a_place_too(project):
    url = (project / "url.zarr").as_uri()
    done = lossnav("evaluate", "project.py:objective", "--grid", 3, "-o", url, cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == url
    assert lossnav("resume", url, "--trust", cwd=project).returncode == 0
    assert lossnav("info", url, cwd=project).stdout.startswith("objective")
    assert sorted(path.name for path in project.glob("*url*")) == ["url.zarr"]


def test_resume_says_what_is_missing(project):
    objective = ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.ones(2)})
    line = ln.Line(objective.params, {"x": torch.ones(2)})
    ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 3)), store=project / "python.zarr")
    done = lossnav("resume", "python.zarr", "--trust", cwd=project)
    assert done.returncode == 2
    assert "does not record the origin of its objective" in done.stderr


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(project):
    done = lossnav("evaluate", "project.py:objective", "--grid", 7, "--dry-run", cwd=project)
    assert done.returncode == 0, done.stderr
    words = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    assert words["points"] == "49"
    assert words["plan"] == "plain"
    assert re.fullmatch(r"\d+\.\d s to check the centre and find the range", words["before"])
    assert re.fullmatch(r"\d+\.\d s(, and .*kept)?", words["planning"])
    assert re.fullmatch(r"\d+(\.\d+)? ms", words["a point"])
    assert re.fullmatch(r"\d+\.\d (s|min|h)", words["all of it"])
    assert "MB" in words["memory"]
    assert sorted(path.name for path in project.iterdir() if path.name != "__pycache__") == ["project.py"]


def test_plot_draws_the_training_run_that_is_stored_beside_a_surface(tmp_path):
    model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
    with ln.Trajectory(model, store=tmp_path / "run") as trajectory:
        for x in (1.0, 0.5, 0.0):
            model.weight.copy_(torch.tensor([[x, x * x]]))
            trajectory.step()
    objective = ln.Objective.from_function(lambda p: 1 + (p["weight"] ** 2).sum(), {"weight": torch.zeros(1, 2)})
    plane = ln.Plane(objective.params, *ln.directions.pca(trajectory[1:]))
    ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 2, 5), beta=(-1, 1, 5)), store=tmp_path / "run.zarr")
    arguments = ("plot", "contour", "run.zarr", "--trajectory", "-o", "c.html")
    lacking = lossnav(*arguments, cwd=tmp_path)
    assert lacking.returncode == 1
    assert "contains no trajectory" in lacking.stderr
    ln.evaluate_trajectory(objective, plane, trajectory[1:], store=tmp_path / "run.zarr")
    drawn = lossnav(*arguments, cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert "3 snapshots" in (tmp_path / "c.html").read_text()
