"""All at one point: the dataset holds what a dense matrix says, is kept, and survives a stop."""

import itertools
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import lossnav as ln
from lossnav import cli, errors
from lossnav import params as algebra
from lossnav.curvature import Estimate
from lossnav.curvature.loss_operator import LossOperator
from lossnav.evaluation.spectrum import spectrum
from lossnav.surface import groups
from networks import BATCH, conv_loss, conv_net, dense, images, network_like, quadratic, symmetric


@pytest.fixture(scope="module")
def network():
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH)
    return objective, dense(conv_loss(model, x, y, "frozen"), objective.params)


@pytest.fixture(scope="module")
def whole(network):
    return spectrum(network[0], top=3, density=ln.curvature.DensityOptions(steps=20), trace=True, tolerance=1e-4)


def test_it_holds_what_the_dense_matrix_says(network, whole):
    loss, gradient, matrix = network[1]
    truth, said = np.linalg.eigvalsh(matrix.numpy()), whole.attrs
    assert np.allclose(whole["eigenvalue"], truth[[0, 1, 2, -1, -2, -3]], rtol=1e-4, atol=1e-6 * truth[-1])
    assert whole["end"].values.tolist() == ["smallest"] * 3 + ["largest"] * 3
    assert (whole["eigenvalue_error"] <= 1e-4 * np.maximum(np.abs(whole["eigenvalue"]), 1e-3 * truth[-1])).all()
    assert said["loss"] == pytest.approx(loss, rel=1e-5)
    assert said["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
    trace = Estimate(said["trace"]["value"], said["trace"]["error"], 20, probes=said["trace"]["probes"])
    low, high = trace.interval(0.99)
    assert low <= truth.sum() <= high
    assert said["trace"]["method"] == "Hutch++"
    assert np.allclose(whole["weight"].sum("step"), 1)
    assert said["density"]["known"] == 6
    assert np.allclose(np.sort(whole["node"][:, :6]), np.sort(whole["eigenvalue"]))
    assert np.trapezoid(whole["density"], whole["value"]) == pytest.approx(1, abs=1e-6)


def test_work_is_shared_and_counted(network, whole):
    said = whole.attrs
    alone = ln.curvature.top_eigenpairs(ln.curvature.Hessian(network[0]), k=3, which="both", tolerance=1e-4)
    assert np.array_equal(alone.values, whole["eigenvalue"])
    # 5 probes of 20 steps in 20 passes; 15 more probes of the trace in two
    assert said["products"] == alone.products + 5 * 20 + 15
    assert said["passes"] == alone.passes + 20 + 2 + 1  # and one of the loss
    assert said["trace"]["probes"] == 20


def test_it_says_how_it_was_made(network, whole):
    objective, said = network[0], whole.attrs
    assert said["schema"] == "lossnav.spectrum"
    assert said["schema_version"] == 1
    assert said["objective"]["fingerprint"] == objective.fingerprint
    assert said["point"] == algebra.fingerprint(objective.params)
    assert (said["operator"], said["parameters"], said["excluded"]) == ("hessian", 317, [])
    assert {name: said[name] for name in ("seed", "tolerance", "limit", "precision")} == {
        "seed": 0, "tolerance": 1e-4, "limit": 500, "precision": "native",
    }  # fmt: skip
    json.dumps(said, allow_nan=False)
    again = spectrum(objective, top=3, density=ln.curvature.DensityOptions(steps=20), trace=True, tolerance=1e-4)
    xr.testing.assert_equal(again, whole)
    other = spectrum(ln.curvature.GaussNewton(objective, exclude="bias"), top=1, seed=1)
    assert other["end"].values.tolist() == ["largest"]
    assert other.attrs["excluded"] == [name for name in objective.params if name in objective.excluded(["bias"])]
    assert said["objective"]["samples"] == 23


def test_recomputed_statistics_take_three_passes_a_product_and_the_model_stays_as_it_was():
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH, bn="recompute")
    before, state = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    for operator in ("hessian", "gauss-newton"):
        found = spectrum(ln.curvature.OPERATORS[operator](objective), top=1, tolerance=0.1)
        assert found.attrs["passes"] == 3 * found.attrs["products"] + 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_kept_alone_or_beside_a_surface(network, whole, tmp_path):
    objective = network[0]
    made = spectrum(objective, top=1, density=ln.curvature.DensityOptions(steps=5), store=tmp_path / "alone.zarr")
    opened = ln.open_spectrum(tmp_path / "alone.zarr")
    xr.testing.assert_identical(opened, made)
    with pytest.raises(errors.OutputExistsError, match="contains a spectrum.*overwrite=True"):
        spectrum(objective, top=1, store=tmp_path / "alone.zarr")
    other = spectrum(objective, top=2, store=tmp_path / "alone.zarr", overwrite=True)
    xr.testing.assert_identical(ln.open_spectrum(tmp_path / "alone.zarr"), other)

    line = ln.Line(objective.params, ln.directions.random(objective, n=1)[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), store=tmp_path / "run.zarr")
    with pytest.raises(errors.NotASpectrumError, match=r"run.zarr contains no spectrum.*lossnav curvature"):
        ln.open_spectrum(tmp_path / "run.zarr")
    made = spectrum(objective, top=1, store=tmp_path / "run.zarr")
    xr.testing.assert_identical(ln.open_spectrum(tmp_path / "run.zarr"), made)
    xr.testing.assert_identical(ln.open_spectrum(tmp_path / "run.zarr" / "spectrum"), made)
    xr.testing.assert_equal(ln.open(tmp_path / "run.zarr"), surface)
    with pytest.raises(errors.PlanMismatchError, match="around another point.*chart.center"):
        spectrum(ln.curvature.Hessian(objective, line([0.5])), store=tmp_path / "run.zarr", overwrite=True)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("mine")
    for mine in ("notes.txt", "folder"):
        with pytest.raises(errors.OutputExistsError, match="neither a surface nor a spectrum"):
            spectrum(objective, top=1, store=tmp_path / mine, overwrite=True)


def test_what_is_no_spectrum_is_said(whole, surface, tmp_path):
    with pytest.raises(errors.NotASpectrumError, match=r"There is no .*nowhere.zarr"):
        ln.open_spectrum(tmp_path / "nowhere.zarr")
    with pytest.raises(errors.NotASpectrumError, match="This dataset is not a spectrum"):
        groups.require_spectrum(surface)
    for broken, error, words in (
        (whole.assign_attrs(schema_version=2), errors.SchemaTooNewError, "version 2.*reads up to 1"),
        (whole.assign_attrs(schema_version="x"), errors.NotASpectrumError, "lacks its schema version"),
        (whole.drop_vars("eigenvalue_error"), errors.NotASpectrumError, 'lacks the variable "eigenvalue_error"'),
        (whole.drop_vars("weight"), errors.NotASpectrumError, 'lacks the variable "weight" over probe and step'),
    ):
        with pytest.raises(error, match=words):
            groups.require_spectrum(broken)


def test_a_stored_spectrum_needs_no_torch(network, tmp_path):
    spectrum(network[0], top=1, density=ln.curvature.DensityOptions(steps=5), store=tmp_path / "s.zarr")
    code = (
        "import sys, lossnav as ln; s = ln.open_spectrum('s.zarr'); ln.plot.spectrum(s); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@contextmanager
def interrupting(at):
    """Ctrl-C comes in pass number `at` over the data."""
    derive, passes = LossOperator.derive, itertools.count(1)

    def stopped(self, vectors=()):
        if next(passes) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return derive(self, vectors)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LossOperator, "derive", stopped)
        yield


def test_ctrl_c_keeps_eigenpairs_and_what_came_after(tmp_path):
    values = network_like(100)
    matrix = symmetric(values)
    options = {"top": 2, "density": ln.curvature.DensityOptions(steps=10), "trace": True, "store": tmp_path / "s.zarr"}
    first = ln.curvature.top_eigenpairs(ln.curvature.Hessian(quadratic(matrix)), k=2, which="both").products
    for at, names, steps in ((4, {"eigenvalue"}, None), (first + 4, {"eigenvalue", "density"}, 4)):
        with interrupting(at), pytest.raises(ln.Interrupted, match="is stored in .*s.zarr") as stopped:
            spectrum(quadratic(matrix), **options)
        kept = ln.open_spectrum(tmp_path / "s.zarr")
        xr.testing.assert_equal(kept, stopped.value.partial)
        assert kept.attrs["interrupted"]
        assert "trace" not in kept.attrs
        assert names <= set(kept.data_vars)
        assert ("density" in kept) == (steps is not None)
        assert kept.attrs["density"]["steps"] == steps if steps else True
    made = spectrum(quadratic(matrix), **options)  # what was interrupted is replaced
    assert np.allclose(made["eigenvalue"], values[[0, 1, -1, -2]], rtol=1e-4)
    assert not ln.open_spectrum(tmp_path / "s.zarr").attrs["interrupted"]


def test_what_is_not_finite_or_not_sure_is_said():
    pole = ln.Objective.from_function(lambda p: 1 / p["x"].abs().sum(), {"x": torch.zeros(30)})
    for options in ({}, {"top": 0, "density": True}, {"top": 0, "trace": True}):
        with pytest.warns(errors.LossnavWarning, match="the spectrum is NaN"):
            found = spectrum(pole, **options)
        json.dumps(found.attrs, allow_nan=False)
    with pytest.warns(errors.LossnavWarning, match=r"After 6 products.*limit="):
        found = spectrum(
            quadratic(symmetric(network_like(100))), top=1, limit=6, density=ln.curvature.DensityOptions(steps=10)
        )
    assert found.attrs["converged"] is False
    assert np.allclose(found["weight"].sum("step"), 1)


def test_what_cannot_be_asked(network):
    for options, words in (
        ({"top": 0}, "requests nothing"),
        ({"top": -1}, "k=-1"),
        ({"tolerance": 2}, "tolerance=2"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            spectrum(network[0], **options)
    with pytest.raises(errors.OptionError, match="probes=0"):
        spectrum(network[0], density=ln.curvature.DensityOptions(probes=0))
    with pytest.raises(errors.OptionError, match="The objective is 5"):
        spectrum(5)


PROJECT = """
import torch, lossnav as ln
torch.manual_seed(0)
x, y = torch.randn(40, 3), torch.randint(0, 2, (40,))
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).eval()
objective = ln.Objective(model, "cross_entropy", (x, y))
"""


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(PROJECT)
    run = lambda *words: CliRunner().invoke(cli.app, ["curvature", "net.py:objective", *words])  # noqa: E731
    done = run("--top", "2", "--density", "--trace", "--steps", "8", "-o", "s.zarr")
    assert done.exit_code == 0, done.output
    table = done.stdout.splitlines()
    stored = ln.open_spectrum("s.zarr")
    assert table[-1] == "s.zarr"
    words = dict(line.split("  ", 1) for line in table[:-1])
    assert float(words["largest 1"].split()[0]) == pytest.approx(float(stored["eigenvalue"][2]), rel=1e-5)
    assert "within" in words["smallest 2"]
    assert "±" in words["trace"]
    assert "±" in words["mean eigenvalue"]
    assert f"{stored.attrs['passes']} passes over the data" in words["cost"]

    assert run("-o", "s.zarr").exit_code == 1
    chosen = ("--top", "1", "--operator", "gauss-newton", "--params", "2.*", "--exclude", "bias", "--subset", "20")
    done = run(*chosen, "--overwrite", "--json", "-o", "s.zarr")
    said = json.loads(done.stdout)
    assert said["operator"] == "gauss-newton"
    assert said["parameters"] == 8
    assert said["objective"]["samples"] == 20
    assert [row["end"] for row in said["eigenvalues"]] == ["largest"]
    for target in ("s.png", "s.html"):
        drawn = CliRunner().invoke(cli.app, ["plot", "spectrum", "s.zarr", "-o", target])
        assert drawn.stdout == f"{target}\n", drawn.output
    assert run("--subset", "few", "-o", "t.zarr").exit_code == 2
    assert run("--top", "0", "-o", "t.zarr").exit_code == 2
