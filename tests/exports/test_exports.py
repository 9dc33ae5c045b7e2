"""What is exported is read back by others' readers, and is what was measured, holes included."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lossnav as ln
from commands import lossnav
from conftest import made
from lossnav import errors
from lossnav.exports.mesh import mesh_of


@pytest.fixture
def plane():
    """5 x 4 points, nothing symmetric about them, one not finite, one failed, one not evaluated."""
    values = 0.5 + np.add.outer(np.arange(5.0) ** 2, 3 * np.arange(4.0))
    values[1, 2], values[4, 3], values[0, 0] = np.inf, np.nan, np.nan
    status = np.ones(values.shape)
    status[1, 2], status[4, 3], status[0, 0] = 2, 3, 0
    return made(values, se=0.25, status=status)


@pytest.fixture
def volume():
    return made(np.arange(24.0).reshape(2, 3, 4), dims=("alpha", "beta", "gamma"))


def finite(surface):
    """Coordinates and loss of every finite point, by its coordinates."""
    x, y = np.meshgrid(surface["alpha"], surface["beta"], indexing="ij")
    there = np.isfinite(surface["loss"].values)
    points = zip(x[there], y[there], surface["loss"].values[there], strict=True)
    return {(round(a, 5), round(b, 5)): value for a, b, value in points}


def cells_drawn(faces, coordinates):
    """Area over the plane that faces cover, each of them counter-clockwise as seen from above."""
    a, b, c = (coordinates[faces[:, i], :2] for i in range(3))
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert (areas > 0).all()
    return areas.sum() / (0.75 * 1.0)


# of 4 x 3 cells those with a hole at a corner: four about (1, 2), one at each corner of the plane; half is left of each
CELLS = 12 - 6 / 2


# ---------------------------------------------------------------------- tables


def test_csv_is_a_row_a_point(plane, tmp_path):
    table = pd.read_csv(ln.export(plane, tmp_path / "run.csv"))
    assert list(table.columns) == ["alpha", "beta", "loss", "loss_se", "accuracy", "status"]
    assert len(table) == 20
    np.testing.assert_array_equal(table["loss"].to_numpy().reshape(5, 4), plane["loss"])
    np.testing.assert_array_equal(table["status"].to_numpy().reshape(5, 4), plane["status"])
    np.testing.assert_array_equal(table["alpha"].to_numpy().reshape(5, 4)[:, 0], plane["alpha"])
    text = (tmp_path / "run.csv").read_text()
    assert ",inf," in text
    assert ",nan," in text


def test_csv_of_points_slices_volumes_and_seeds(volume, bowl, tmp_path):
    table = pd.read_csv(ln.export(volume, tmp_path / "volume.csv"))
    np.testing.assert_array_equal(table["loss"], volume["loss"].values.reshape(-1))
    table = pd.read_csv(ln.export(volume.isel(gamma=1), tmp_path / "slice.csv"))
    assert (table["gamma"] == 0).all()
    assert len(table) == 6

    def place(seed):
        return ln.Plane(bowl.params, *ln.directions.random(bowl, n=2, seed=seed))

    points = ln.evaluate(bowl, place(0), ln.Points([[0.0, 0.5], [1.0, -1.0], [0.1, 0.3]]))
    table = pd.read_csv(ln.export(points, tmp_path / "points.csv"))
    assert list(table.columns[:2]) == ["alpha", "beta"]
    np.testing.assert_array_equal(table["loss"], points["loss"])
    seeds = ln.ensemble(bowl, place, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), range(2))
    table = pd.read_csv(ln.export(seeds, tmp_path / "seeds.csv"))
    assert list(table.columns[:3]) == ["seed", "alpha", "beta"]
    np.testing.assert_array_equal(table["loss"], seeds["loss"].values.reshape(-1))


def test_json_holds_everything_and_no_number_that_json_lacks(plane, tmp_path):
    plane.attrs["control_variate"] = {"residual_error": "nan"}

    def refuse(word):
        raise AssertionError(word)

    said = json.loads(ln.export(plane, tmp_path / "run.json").read_text(), parse_constant=refuse)
    assert said["attrs"] == plane.attrs
    assert said["data_vars"]["loss"]["data"][1][2] == "inf"
    assert said["data_vars"]["loss"]["data"][4][3] == "nan"
    assert said["data_vars"]["loss"]["attrs"]["units"] == "nat"
    again = xr.Dataset.from_dict(said)
    for name in plane.variables:
        np.testing.assert_array_equal(again[name].astype(float), plane[name])


# ---------------------------------------------------------------------- VTK


def read_vtk(path, kind):
    pytest.importorskip("vtkmodules")
    from vtkmodules.vtkIOXML import vtkXMLImageDataReader, vtkXMLPolyDataReader

    reader = {"vti": vtkXMLImageDataReader, "vtp": vtkXMLPolyDataReader}[kind]()
    failures = []
    reader.AddObserver("ErrorEvent", lambda *said: failures.append(said))
    reader.SetFileName(str(path))
    reader.Update()
    assert not failures
    return reader.GetOutput()


def arrays_of(data):
    from vtkmodules.util.numpy_support import vtk_to_numpy

    held = data.GetPointData()
    return {held.GetArrayName(i): vtk_to_numpy(held.GetArray(i)) for i in range(held.GetNumberOfArrays())}


def said_in(data):
    return json.loads(data.GetFieldData().GetAbstractArray("lossnav").GetValue(0))


def test_vti_of_a_plane(plane, tmp_path):
    image = read_vtk(ln.export(plane, tmp_path / "run.vti"), "vti")
    assert image.GetDimensions() == (5, 4, 1)
    for i, j in ((0, 0), (3, 1), (4, 3)):
        place = image.GetPoint(i + 5 * j)
        assert place == pytest.approx((float(plane["alpha"][i]), float(plane["beta"][j]), 0))
    arrays = arrays_of(image)
    assert set(arrays) == {"loss", "loss_se", "accuracy", "status"}
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, plane[name].values.T.reshape(-1))  # x runs fastest
        assert values.dtype == plane[name].dtype
    assert said_in(image)["chart"] == plane.attrs["chart"]
    assert image.GetPointData().GetScalars().GetName() == "loss"


def test_vti_of_volumes_and_lines(volume, tmp_path):
    image = read_vtk(ln.export(volume, tmp_path / "volume.vti"), "vti")
    assert image.GetDimensions() == (2, 3, 4)
    found = arrays_of(image)["loss"].reshape(4, 3, 2)  # [z, y, x]
    np.testing.assert_array_equal(found.transpose(2, 1, 0), volume["loss"])
    assert image.GetPoint(1 + 2 * (2 + 3 * 3)) == pytest.approx((2, 2, 2))
    assert image.GetPoint(2 * 3 * 2) == pytest.approx((-1, -1, float(volume["gamma"][2])))
    line = read_vtk(ln.export(volume.isel(alpha=0, beta=1), tmp_path / "line.vti"), "vti")
    assert line.GetDimensions() == (4, 1, 1)
    np.testing.assert_array_equal(arrays_of(line)["loss"], volume["loss"][0, 1])


@pytest.mark.parametrize("log", [False, True])
def test_vtp(plane, tmp_path, log):
    from vtkmodules.util.numpy_support import vtk_to_numpy

    mesh = read_vtk(ln.export(plane, tmp_path / "run.vtp", log=log), "vtp")
    points = vtk_to_numpy(mesh.GetPoints().GetData())
    arrays = arrays_of(mesh)
    expected = finite(plane)
    assert len(points) == len(expected) == 17
    for (x, y, z), loss in zip(points, arrays["loss"], strict=True):
        assert expected[round(x, 5), round(y, 5)] == loss
        assert z == pytest.approx(np.log10(loss) if log else loss, rel=1e-15)
    assert set(arrays) == {"loss", "loss_se", "accuracy", "status"}
    assert (arrays["status"] == 1).all()
    faces = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    assert cells_drawn(faces, points) == pytest.approx(CELLS)
    assert said_in(mesh)["height"] == ("log₁₀ loss (nat)" if log else "loss (nat)")
    assert "1 failed, 1 not evaluated" in said_in(mesh)["note"]


# ---------------------------------------------------------------------- meshes


def read_mesh(path):
    """Vertices, faces, colours, normals as trimesh finds them, and what the file says of its heights."""
    trimesh = pytest.importorskip("trimesh")
    if path.suffix == ".obj":
        mesh = trimesh.load(path, process=False, maintain_order=True)
        about = json.loads(path.read_text().splitlines()[2].removeprefix("# "))
        return mesh, mesh.vertices[:, [0, 2, 1]] * [1, -1, 1], about, None
    scene = trimesh.load(path, process=False)
    (mesh,) = scene.geometry.values()
    (node,) = scene.graph.nodes_geometry
    upright, _ = scene.graph[node]
    return mesh, mesh.vertices, scene.geometry["surface"].metadata, upright


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_meshes(plane, tmp_path, suffix, log):
    mesh, vertices, about, upright = read_mesh(ln.export(plane, tmp_path / f"run.{suffix}", log=log))
    expected = finite(plane)
    assert len(vertices) == 17
    losses = np.array([expected[round(float(x), 5), round(float(y), 5)] for x, y, _ in vertices])
    heights = np.log10(losses) if log else losses
    scaled = (heights - about["z_zero"]) * about["z_factor"]
    np.testing.assert_allclose(vertices[:, 2], scaled, rtol=1e-6, atol=1e-6)
    assert vertices[:, 2].min() == 0
    assert vertices[:, 2].max() == pytest.approx(0.75 * 3)  # the plane is 3 wide
    assert cells_drawn(mesh.faces, vertices) == pytest.approx(CELLS)
    assert about["height"] == ("log₁₀ loss (nat)" if log else "loss (nat)")

    colors = mesh_of(plane, "loss", log).colors
    order = np.lexsort((vertices[:, 1], vertices[:, 0]))
    seen = mesh.visual.vertex_attributes["color"] if suffix == "glb" else mesh.visual.vertex_colors[:, :3] / 255
    low, high = seen[losses.argmin()], seen[losses.argmax()]
    assert high[0] > 0.6 > 0.3 > low[0]  # yellow, violet
    seen = seen[order]
    if suffix == "glb":  # linear there
        seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        # that z is up becomes that y is up
        np.testing.assert_allclose(upright[:3, :3] @ [0, 0, 1], [0, 1, 0], atol=1e-7)
        np.testing.assert_array_equal(mesh.vertex_attributes["_LOSS"].reshape(-1), losses.astype(np.float32))
    np.testing.assert_allclose(seen, colors, atol=0.03)


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_normals_of_a_tilted_plane(suffix, tmp_path):
    tilted = made(np.add.outer(np.linspace(0, 3, 4), np.zeros(3)))  # height = 0.75 * alpha, once it is scaled
    mesh, _, _, _ = read_mesh(ln.export(tilted, tmp_path / f"run.{suffix}"))
    normals = mesh.vertex_normals if suffix == "glb" else mesh.vertex_normals[:, [0, 2, 1]] * [1, -1, 1]
    np.testing.assert_allclose(normals, np.tile([-0.6, 0, 0.8], (12, 1)), atol=1e-6)


def test_a_glb_is_what_the_specification_asks_for(plane, tmp_path):
    """Lengths, alignment and bounds, which readers forgive and validators do not."""
    data = ln.export(plane, tmp_path / "run.glb").read_bytes()
    assert data[:4] == b"glTF"
    version, length, json_length = np.frombuffer(data, "<u4", 3, 4)
    assert (version, length) == (2, len(data))
    assert json_length % 4 == 0
    document = json.loads(data[20 : 20 + json_length])
    (bin_length,) = np.frombuffer(data, "<u4", 1, 20 + json_length)
    assert bin_length == document["buffers"][0]["byteLength"]
    assert 28 + json_length + bin_length == length
    body = data[28 + json_length :]
    sizes = {"SCALAR": 1, "VEC3": 3}
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        assert view["byteLength"] == 4 * accessor["count"] * sizes[accessor["type"]]
        if accessor["componentType"] == 5126:
            block = np.frombuffer(body, "<f4", view["byteLength"] // 4, view["byteOffset"])
            assert np.isfinite(block).all()
            if "min" in accessor:
                np.testing.assert_array_equal(block.reshape(-1, 3).min(0), np.float32(accessor["min"]))
    primitive = document["meshes"][0]["primitives"][0]
    normals = document["bufferViews"][primitive["attributes"]["NORMAL"]]
    block = np.frombuffer(body, "<f4", normals["byteLength"] // 4, normals["byteOffset"]).reshape(-1, 3)
    np.testing.assert_allclose(np.linalg.norm(block, axis=1), 1, atol=1e-6)
    assert all(name.startswith("_") or name in ("POSITION", "NORMAL", "COLOR_0") for name in primitive["attributes"])


def test_extreme_losses_make_meshes(tmp_path):
    for name, values in {
        "high": np.exp(350 * np.add.outer(np.linspace(-1, 1, 7) ** 2, np.linspace(-1, 1, 6) ** 2)),
        "denormal": 5e-323 * (1 + np.add.outer(np.arange(7.0), np.arange(6.0))),
        "constant": np.full((3, 3), 2.0),
    }.items():
        for suffix in ("glb", "obj", "vtp"):
            for log in (False, True):
                path = ln.export(made(values), tmp_path / f"{name}.{suffix}", log=log, overwrite=True)
                if suffix != "vtp":
                    assert np.isfinite(read_mesh(path)[1]).all()


def test_points_on_no_grid_and_seeds_become_a_grid(bowl, tmp_path):
    def place(seed):
        return ln.Plane(bowl.params, *ln.directions.random(bowl, n=2, seed=seed))

    corners = [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.3, 0.1]]
    points = ln.evaluate(bowl, place(0), ln.Points(corners))
    grid = points.lossnav.to_grid()
    image = read_vtk(ln.export(points, tmp_path / "points.vti"), "vti")
    np.testing.assert_array_equal(arrays_of(image)["loss"], grid["loss"].values.T.reshape(-1))
    assert 0 < arrays_of(image)["interpolated"].sum() < grid["loss"].size
    mesh = read_vtk(ln.export(points, tmp_path / "points.vtp"), "vtp")
    assert "interpolated from 6 points" in said_in(mesh)["note"]
    seeds = ln.ensemble(bowl, place, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), range(2))
    image = read_vtk(ln.export(seeds, tmp_path / "seeds.vti"), "vti")
    np.testing.assert_allclose(arrays_of(image)["loss"], seeds["loss"].mean("seed").values.T.reshape(-1))
    assert "loss_sd" in arrays_of(image)


def test_another_variable_is_the_height(plane, tmp_path):
    plane["accuracy"].values[:] = np.add.outer(np.linspace(0, 1, 5), np.zeros(4))
    _, vertices, about, _ = read_mesh(ln.export(plane, tmp_path / "run.glb", variable="accuracy"))
    assert about["height"] == "accuracy"
    np.testing.assert_allclose(vertices[:, 2], 0.75 * (vertices[:, 0] + 1), atol=1e-6)
    assert len(vertices) == 20


# ---------------------------------------------------------------------- what cannot be exported


def test_what_cannot_be_exported_is_said(plane, volume, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    uneven = plane.assign_coords(alpha=[-1, 0, 0.5, 1, 2])
    line = made(np.ones(3), dims=("alpha",))
    nothing = made(np.full((3, 3), np.nan))
    for surface, name, options, kind, words in (
        (plane, "run.stl", {}, errors.OptionError, r"must end in .csv, .json, .vti, .vtp, .glb, .obj, got '.stl'"),
        (plane, "there.csv", {}, errors.OutputExistsError, "exists"),
        (plane, "run.csv", {"log": True}, errors.OptionError, "omit variable and log"),
        (plane, "run.glb", {"variable": "f1"}, errors.OptionError, "no variable 'f1'"),
        (uneven, "run.vti", {}, errors.OptionError, r"those of alpha are from 0.5 to 1.*to_grid\(101\)"),
        (volume, "run.glb", {}, errors.OptionError, r"Export .vti, or a slice, surface.isel\(gamma=0\)"),
        (line, "run.obj", {}, errors.OptionError, r"has \(alpha\). Export .csv"),
        (nothing, "run.vtp", {}, errors.OptionError, "three adjacent points with a finite loss"),
        (xr.Dataset(), "run.csv", {}, errors.NotASurfaceError, "not a lossnav surface"),
    ):
        with pytest.raises(kind, match=words):
            ln.export(surface, tmp_path / name, **options)
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["there.csv"]
    ln.export(uneven, tmp_path / "run.vtp")


def test_a_full_disk_is_said(plane, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(errors.StoreError, match="No space left"):
        ln.export(plane, tmp_path / "run.csv")


def test_export_on_the_command_line(plane, tmp_path):
    plane.lossnav.save(tmp_path / "run.zarr")
    done = lossnav("export", "run.zarr", "-o", "run.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "run.csv\n"), done.stderr
    assert len(pd.read_csv(tmp_path / "run.csv")) == 20
    done = lossnav("export", "run.zarr", "-o", "run.stl", cwd=tmp_path)
    assert done.returncode == 2
    assert ".vtp" in done.stderr
