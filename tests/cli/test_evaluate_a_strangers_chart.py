"""A chart that somebody else wrote, on the command line: info, plot, report and resume of its store."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lossnav as ln
import quadratic_path
from commands import lossnav, lossnav_process
from lossnav.explorer.stored.handlers import Handler
from lossnav.explorer.stored.session import open_session
from lossnav.specs.objective_of import load_objective
from lossnav.surface.groups import open_group


@pytest.fixture
def project(tmp_path):
    """A project whose SPEC imports the chart, and a store of a run on it that has points left."""
    (tmp_path / "project.py").write_text("from quadratic_path import objective\n")
    (tmp_path / "pyproject.toml").write_text("")
    objective = load_objective(f"{tmp_path / 'project.py'}:objective")
    chart = quadratic_path.path(objective)
    surface = ln.evaluate(objective, chart, ln.Grid(t=(0, 1, 9)), store=tmp_path / "run.zarr", save_directions=True)
    return tmp_path, surface


def test_info_plot_and_export_need_no_class(project, monkeypatch):
    folder, _ = project
    monkeypatch.setattr("lossnav.charts.registry._KINDS", {})
    done = lossnav("info", "run.zarr", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "QuadraticPath (t: 9)" in done.stdout
    done = lossnav("plot", "line", "run.zarr", "-o", "line.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "from a to c, drawn towards b" in (folder / "line.html").read_text()
    done = lossnav("report", "run.zarr", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    axes = Handler(open_session(folder / "run.zarr")).session.message()["axes"]
    assert axes == [{"letter": "t", "meaning": "from a to c, drawn towards b", "range": [0.0, 1.0]}]


def test_report_measures_on_it(project):
    folder, surface = project
    done = lossnav("report", "run.zarr", "--measure", "--spec", "project.py:objective", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    measured = open_group(folder / "run.zarr", "report").attrs
    assert measured["center"]["loss"] == pytest.approx(float(surface["loss"][0]), rel=1e-5)
    assert len(measured["cosines_with_weights"]) == 1


def test_resume_makes_it_again(project):
    folder, surface = project
    for word in (["--spec", "project.py:objective"], ["--trust"]):
        done = lossnav("resume", "run.zarr", *word, cwd=folder)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(ln.open(folder / "run.zarr")["loss"], surface["loss"])
    done = lossnav("resume", "run.zarr", cwd=folder)
    assert done.returncode == 2  # nothing that the store names is run without a word
    assert "--trust" in done.stderr


@pytest.mark.slow
def test_resume_in_a_process_that_knows_the_class_by_the_spec_alone(tmp_path):
    shutil.copy(Path(quadratic_path.__file__), tmp_path / "elsewhere.py")
    write = "import elsewhere as e, lossnav as ln; o = e.objective(); ln.evaluate(o, e.path(o), ln.Grid(t=(0, 1, 9)), "
    (tmp_path / "write.py").write_text(write + 'store="run.zarr", save_directions=True)\n')
    subprocess.run([sys.executable, "write.py"], cwd=tmp_path, check=True)
    done = lossnav_process("resume", "run.zarr", "--spec", "elsewhere.py:objective", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = ln.open(tmp_path / "run.zarr")["loss"].values
    assert np.isfinite(before).all()
