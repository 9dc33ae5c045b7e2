"""The schema, the files, and that nothing is repaired."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import lossnav as ln
from lossnav import errors
from lossnav.surface import assemble, variables, zarr_io


def test_a_surface_survives_the_disk_bit_for_bit(surface, tmp_path):
    surface["loss"].values[0, 0], surface["loss"].values[1, 1], surface["loss"].values[2, 2] = np.nan, np.inf, -np.inf
    surface["loss"].values[3, 3] = 5e-324  # the smallest double
    path = surface.lossnav.save(tmp_path / "deep" / "run.zarr")
    again = ln.open(path)
    assert again.identical(surface)
    assert again["status"].dtype == np.uint8
    np.testing.assert_array_equal(again["loss"].values, surface["loss"].values)
    assert json.loads(json.dumps(again.attrs)) == again.attrs


def test_all_nan_and_unevaluated_survive(tmp_path):
    """A chunk that equals the fill value is not written; status tells them apart all the same."""
    points = np.array([[0.0], [1.0]])
    nothing = assemble.assemble(
        ["alpha"], {"alpha": np.arange(4.0)}, points, [{"loss": np.nan}] * 2, [2, 2], {"chart": {"dims": ["alpha"]}}
    )
    again = ln.open(zarr_io.save_surface(nothing, tmp_path / "nan.zarr"))
    assert again.identical(nothing)
    assert again["status"].values.tolist() == [2, 2, 0, 0]
    assert not again.lossnav.complete


def test_large_surfaces_are_cut_into_tiles(tmp_path):
    axes = {"alpha": np.arange(100.0), "beta": np.arange(70.0)}
    points = np.array([[3.0, 5.0]])
    big = assemble.assemble(
        ["alpha", "beta"], axes, points, [{"loss": 1.0}], [1], {"chart": {"dims": ["alpha", "beta"]}}
    )
    path = zarr_io.save_surface(big, tmp_path / "big.zarr")
    assert xr.open_zarr(path, consolidated=False)["loss"].encoding["chunks"] == (64, 64)
    assert ln.open(path)["loss"].sel(alpha=3, beta=5) == 1
    assert ln.open(path).lossnav.counts["not evaluated"] == 6999


def test_every_variable_says_its_unit_and_meaning(surface):
    for name in (*surface.data_vars, *surface.coords):
        assert surface[name].attrs["units"]
        assert surface[name].attrs["long_name"]
    assert surface["loss"].attrs["units"] == "nat"
    assert surface["alpha"].attrs["long_name"] == "α, random Gaussian, filter-normalised"
    assert surface["status"].attrs["flag_meanings"] == "not_evaluated ok non-finite failed"


def test_the_schema_document_names_everything(surface):
    text = (Path(__file__).parents[2] / "docs" / "schema.md").read_text()
    for name in (*surface.attrs, "loss", "loss_se", "status", *surface.attrs["objective"], *surface.attrs["chart"]):
        assert f"`{name}`" in text, name
    assert f"version {variables.SCHEMA_VERSION}" in text


def test_the_schema_document_names_what_is_made_of_surfaces(objective):
    text = (Path(__file__).parents[2] / "docs" / "schema.md").read_text()
    lines = lambda seed: ln.Line(objective.params, *ln.directions.random(objective, seed=seed))  # noqa: E731
    together = ln.ensemble(objective, lines, ln.Adaptive(alpha=(-1, 1), tolerance=0.1), range(2))
    mean = together.lossnav.over_seeds()
    one = together.lossnav.seed(1)
    for name in (*mean.data_vars, *together.attrs["ensemble"], *one.attrs["interpolation"]):
        assert name == "accuracy" or f"`{name}`" in text, name


def test_point_shape_is_a_surface_too(tmp_path):
    points = np.array([[0.0, 1.0], [0.5, 0.25]])
    made = assemble.assemble(
        ["alpha", "beta"], None, points, [{"loss": 1.0}, {"loss": 2.0}], [1, 1], {"chart": {"dims": ["alpha", "beta"]}}
    )
    again = ln.open(zarr_io.save_surface(made, tmp_path / "points.zarr"))
    assert again["loss"].dims == ("point",)
    assert again["beta"].values.tolist() == [1, 0.25]
    assert again.lossnav.summary()["highest"] == {"loss": 2.0, "at": {"alpha": 0.5, "beta": 0.25}}


def test_summary_finds_the_lowest_and_its_place(surface):
    found = surface.lossnav.summary()
    assert found["lowest"]["loss"] == float(surface["loss"].min())
    assert surface["loss"].sel(**found["lowest"]["at"]) == surface["loss"].min()
    assert found["status"] == {"not evaluated": 0, "ok": 20, "non-finite": 0, "failed": 0}


# ---------------------------------------------------------------------- bad files


def test_no_file_and_files_that_are_none(surface, tmp_path):
    with pytest.raises(errors.NotASurfaceError, match="There is no .*nothing.zarr"):
        ln.open(tmp_path / "nothing.zarr")
    (tmp_path / "text.zarr").write_text("hello")
    (tmp_path / "empty.zarr").mkdir()
    for name in ("text.zarr", "empty.zarr"):
        with pytest.raises(errors.NotASurfaceError, match=f"{name}.*not a lossnav surface"):
            ln.open(tmp_path / name)
    xr.Dataset({"x": 1}).to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(errors.NotASurfaceError, match="other.zarr.*lack the schema"):
        ln.open(tmp_path / "other.zarr")


def test_damaged_surfaces_are_refused(surface):
    for damage in (
        lambda s: s.drop_vars("status"),
        lambda s: s.drop_vars("loss"),
        lambda s: s.assign(loss=s["loss"].astype(int)),
        lambda s: s.assign(extra=("other", [1.0])),
    ):
        with pytest.raises(errors.NotASurfaceError, match="damaged"):
            variables.validate(damage(surface))
    with pytest.raises(errors.NotASurfaceError, match="ln.evaluate"):
        ln.plot.contour(xr.Dataset())


def test_a_newer_schema_is_refused(surface, tmp_path):
    path = surface.lossnav.save(tmp_path / "run.zarr")
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"]["schema_version"] = 99
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(errors.SchemaTooNewError, match=r"schema version 99.*reads up to 1.*pip install --upgrade"):
        ln.open(path)


def test_what_exists_is_kept_unless_told(surface, tmp_path):
    path = surface.lossnav.save(tmp_path / "run.zarr")
    with pytest.raises(errors.OutputExistsError, match=r"exists.*overwrite=True"):
        surface.lossnav.save(path)
    changed = surface.assign(loss=surface["loss"] + 1)
    changed.attrs = surface.attrs
    changed.lossnav.save(path, overwrite=True)
    assert ln.open(path).identical(changed)
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]  # no scratch is left


def test_overwrite_replaces_surfaces_and_nothing_else(surface, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.tex").write_text("precious")
    (tmp_path / "file.zarr").write_text("precious")
    for name in ("project", "file.zarr"):
        with pytest.raises(errors.OutputExistsError, match="no surface of ours and is not replaced"):
            surface.lossnav.save(tmp_path / name, overwrite=True)
    assert (tmp_path / "project" / "thesis.tex").read_text() == "precious"
    with pytest.raises(errors.OutputExistsError, match="no file of ours"):
        ln.plot.write("contour", surface, surface.lossnav.save(tmp_path / "a.png"), overwrite=True)


def test_a_failed_swap_puts_the_old_surface_back(surface, tmp_path, monkeypatch):
    path = surface.lossnav.save(tmp_path / "run.zarr")
    rename = Path.rename

    def flaky(self, target):
        if self.parent.name == "new":  # where `replacing` has it made
            raise OSError(errno.EIO, "I/O error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", flaky)
    monkeypatch.setattr("lossnav._utils.paths._exchange", lambda one, other: False)  # a system without that
    with pytest.raises(errors.StoreError, match="I/O error"):
        surface.lossnav.save(path, overwrite=True)
    assert ln.open(path).identical(surface)


def test_a_folder_that_cannot_be_written(surface, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.OutputNotWritableError, match="cannot be written"):
        surface.lossnav.save(tmp_path / "file" / "run.zarr")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_of_somebody_else(surface, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(errors.OutputNotWritableError, match="cannot be written.*folder of yours"):
        surface.lossnav.save(tmp_path / "locked" / "run.zarr")


def test_a_full_disk_loses_nothing(surface, tmp_path, monkeypatch):
    old = surface.lossnav.save(tmp_path / "run.zarr")

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(errors.StoreError, match=r"No space left.*Make room") as caught:
        surface.lossnav.save(old, overwrite=True)
    monkeypatch.undo()
    assert caught.value.surface is surface
    assert ln.open(old).identical(surface)
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_opens_and_draws_without_torch(surface, tmp_path):
    path = surface.lossnav.save(tmp_path / "run.zarr")
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it would now raise
        "import lossnav as ln\n"
        f"surface = ln.open({str(path)!r})\n"
        f"ln.plot.write('contour', surface, {str(tmp_path / 'c.png')!r})\n"
        f"ln.plot.write('surface', surface, {str(tmp_path / 's.html')!r})\n"
        "print(surface.lossnav.summary()['points'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "20"


def test_variables_come_in_the_order_in_which_they_were_measured(tmp_path):
    torch.manual_seed(0)
    data = (torch.randn(20, 4), torch.randint(0, 3, (20,)))
    hits = {name: lambda outputs, targets: (outputs.argmax(1) == targets).float() for name in ("zeta", "b", "a", "y")}
    objective = ln.Objective(torch.nn.Linear(4, 3), "cross_entropy", data, metrics=hits)
    line = ln.Line(objective.params, *ln.directions.random(objective))
    made = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), store=tmp_path / "a.zarr")
    opened = ln.open(tmp_path / "a.zarr")
    assert list(opened.data_vars) == list(made.data_vars)
    assert list(opened.data_vars)[-5:] == ["zeta", "b", "a", "y", "status"] and opened.attrs == made.attrs
