"""Each warning is provoked by a planted case, and the clean picture has none: of what is stored, without torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import lossnav as ln
from lossnav import errors
from lossnav.cli import app
from lossnav.plots.page import write_page
from lossnav.reports import Finding, Report, thresholds
from lossnav.reports.findings import LEVELS, NOTHING, TITLE
from lossnav.specs.objective_of import load_objective
from planted import PLAIN
from stored_pictures import levels, picture


def test_a_clean_picture_has_no_warning():
    report = ln.report(picture())
    assert not report.warnings, report
    assert set(levels(report)) >= {
        "holes", "grid", "range", "angles", "lengths", "scale", "held still", "batch norm", "data", "noise", "ripples",
        "precision", "minimum", "saddle",
    }  # fmt: skip
    assert report["saddle"].level == "unknown"  # it was not measured
    counts = report.counts
    said = f"0 warnings, 1 note, {counts['unknown']} not known, {counts['ok']} ok"
    assert str(report).splitlines()[-1] == said


def test_every_line_says_why_and_what_to_do():
    bad = picture(se=5.0, objective={"population": 9999, "bn": "batch"}, interrupted=True)
    for report in (ln.report(picture()), ln.report(bad)):
        for line in report.lines:
            assert line.level in LEVELS
            assert line.said.endswith(".") and not line.said[0].islower() and "  " not in line.said, line
            assert line.do.endswith("."), line
            assert (line.do == NOTHING) == (line.level == "ok"), line
        assert max(map(len, str(report).splitlines())) <= 100


def test_a_report_goes_through_json():
    report = ln.report(picture(se=5.0, objective={"population": 9999, "bn": "batch"}))
    assert Report.from_dict(json.loads(report.to_json())).to_dict() == report.to_dict()
    assert report.to_dict()["counts"]["warning"] == len(report.warnings) > 0
    empty = Report("x", (Finding("y", "note", "Z.", "W.", {"inf": np.inf, "nan": np.float64("nan")}),))
    assert json.loads(empty.to_json())["lines"][0]["values"] == {"inf": "inf", "nan": "nan"}


def test_html_holds_every_line_and_escapes_it():
    report = Report("a < b", (Finding("x", "warning", "1 < 2.", "Do & go."), Finding("y", "ok", "Fine.")))
    page = report._repr_html_()
    assert (
        "1 &lt; 2." in page
        and "Do &amp; go." in page
        and "a &lt; b" in page
        and "1 warning, 0 notes, 0 not known, 1 ok" in page
    )
    assert page.index("1 &lt; 2.") < page.index("<details>") < page.index("Fine.")
    assert "<script" not in page and "http" not in page


def test_a_stored_run_is_reported_on_without_torch(tmp_path):
    ln.save(picture(), tmp_path / "run.zarr")
    code = (
        "import sys, lossnav as ln; report = ln.report('run.zarr'); report._repr_html_(); print(report.summary()); "
        "print(sorted({'torch', 'matplotlib', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [ln.report(picture()).summary(), "[]"]


def test_what_belongs_to_no_run_is_refused(tmp_path):
    with pytest.raises(errors.NotASurfaceError, match="neither a surface"):
        ln.report(picture().drop_attrs())
    with pytest.raises(errors.OptionError, match="two datasets of one kind"):
        ln.report(picture(), picture())
    with pytest.raises(errors.OptionError, match="measures nothing"):
        ln.report(picture(), chart=ln.Line({"x": torch.zeros(1)}, {"x": torch.ones(1)}))
    with pytest.raises(errors.NotASurfaceError, match=r"There is no .*nowhere\.zarr"):
        ln.report(tmp_path / "nowhere.zarr")
    other = picture()
    other.attrs["curvature"] = {}
    other.attrs["chart"] = other.attrs["chart"] | {"center": "another"}
    with pytest.raises(errors.OptionError, match="different charts"):
        ln.report(picture(), other)
    model = nn.Linear(2, 1)
    with ln.Trajectory(model, store=tmp_path / "trajectory"):
        pass
    with pytest.raises(errors.NotASurfaceError, match="ln.project"):
        ln.report(tmp_path / "trajectory")


def test_thresholds_have_reasons():
    text = Path(thresholds.__file__).read_text()
    table = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    for name in [name for name in vars(thresholds) if name.isupper()]:
        assert re.search(rf'^{name} = \S+\n"""[-A-Z|]', text, re.MULTILINE), name
    for check in levels(ln.report(picture())):
        assert f"| `{check}`" in table, check


def test_pages_and_interactive_pictures_have_the_panel(tmp_path):
    bad = picture(se=5.0, objective={"population": 9999})
    single = ln.plot.write("contour", bad, tmp_path / "one.html").read_text()
    several = ln.plot.write("contour", [bad, picture()], tmp_path / "two.html", labels=["bad", "good"]).read_text()
    sampler = {"kind": "Grid", "axes": {"alpha": [-1, 2, 21], "beta": [-1, 2, 21]}}
    said = {"sampler": sampler, "seconds": 1.0, "points_per_second": 441.0}
    objective = {"device": "cpu", "fingerprint": "0" * 16}
    surface = picture(se=5.0, objective=objective | {"population": 9999}, **said)
    options = {"title": "T", "lead": "L", "numbers": {}, "sections": []}
    page = write_page(tmp_path / "page.html", **options, surfaces={"plane": surface}).read_text()
    for text in (single, several, page):
        assert TITLE in text and "ther samples may give another shape there" in text
        assert text.index("lossnav-report") < text.rindex("</body>")
    assert "<b>bad</b>" in several and "<b>good</b>" in several and "<b>plane</b>" in page
    known = {"plane": Report("P", (Finding("x", "warning", "Known by measuring.", "Do."),))}
    page = write_page(tmp_path / "page.html", **options, surfaces={"plane": surface}, reports=known).read_text()
    assert "Known by measuring." in page and "other samples may give" not in page


PROJECT = """
import numpy as np
import torch
import lossnav as ln

bends = torch.tensor([*np.full(60, 1.0), -0.5, 4.0], dtype=torch.float64)

def loss(p):
    return 0.2 + (bends * p["x"][0] ** 2).sum() / 2

objective = ln.Objective.from_function(loss, {"x": torch.full((1, 62), 1e-9, dtype=torch.float64)})
"""


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some_saddle.py").write_text(PROJECT)

    def run(*arguments):
        done = CliRunner().invoke(app, ["report", *arguments])
        return done.exit_code, done.stdout, done.stderr

    objective = load_objective("some_saddle.py:objective")
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None))
    ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 21)), store="run.zarr", engine=PLAIN, progress=False)
    code, out, _ = run("run.zarr")
    assert code == 0 and re.fullmatch(r"0 warnings, \d notes?, \d+ not known, \d+ ok", out.splitlines()[-1])
    assert "saddle" in out
    code, out, _ = run("run.zarr", "--measure", "--json", "--trust")
    said = json.loads(out)
    assert code == 0 and said["counts"]["warning"] == 1
    (saddle,) = (line for line in said["lines"] if line["check"] == "saddle")
    assert saddle["values"]["lambda_min"] == pytest.approx(-0.5, rel=1e-3)
    code, out, _ = run("run.zarr")  # what was measured is known now
    assert out.splitlines()[-1].startswith("1 warning,") and "eigenvalue -0.5" in " ".join(out.split())
    assert run("run.zarr", "--spec", "some_saddle.py:objective")[0] == 2
    code, _, err = run("run.zarr", "--measure", "--spec", "nowhere.py:objective")
    assert code == 2 and "nowhere.py" in err
    assert run("nowhere.zarr")[0] == 1


def test_a_run_made_in_python_is_measured_by_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other_saddle.py").write_text(PROJECT)
    objective = load_objective("other_saddle.py:objective")
    chart = ln.Line(objective.params, *ln.directions.random(objective, normalize=None))
    surface = ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 21)), engine=PLAIN, progress=False)
    surface.attrs["objective"] = surface.attrs["objective"] | {"origin": None}
    ln.save(surface, "run.zarr")
    refused = CliRunner().invoke(app, ["report", "run.zarr", "--measure"])
    assert refused.exit_code == 2 and "made in Python" in refused.stderr
    done = CliRunner().invoke(app, ["report", "run.zarr", "--measure", "--spec", "other_saddle.py:objective"])
    assert done.exit_code == 0 and "is a saddle" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective": nn.Linear(2, 2)}, "The objective is .*ln.Objective"),
        ({"objective": "net"}, "The objective is .*ln.Objective"),
        ({"chart": "plane"}, "The chart is .*Make one"),
    ],
)
def test_what_is_no_objective_or_chart_is_named(surface, given, said):
    with pytest.raises(errors.OptionError, match=said):
        ln.report(surface, **given)
    with pytest.raises(errors.OptionError, match="Name it: ln.report"):
        ln.report(surface, nn.Linear(2, 2))
