"""The notebook's job, end to end, against an independent implementation of its formulas with the same draws."""

import numpy as np
import pytest

import lossnav as ln
import notebook_numpy as plain
from conftest import shared_data
from lossnav.reproductions.demo import demo

RAW = {"normalize": None, "distribution": "uniform"}


def arrays(params):
    return {name: tensor.double().numpy() for name, tensor in params.items()}


def hold_against_numpy(folder, data, held_out, seed, every):
    """Compare the demo's stored line and plane with NumPy at every so-manieth coordinate and the ends."""
    model = ln.zoo.notebook_cnn()
    ln.checkpoints.load_into(model, folder / "model.safetensors")
    objective = ln.Objective(model.eval(), "cross_entropy", tuple(part[:held_out] for part in data.test))
    theta = arrays(objective.params)
    x, y = data.test[0][:held_out].double().numpy(), data.test[1][:held_out].numpy()
    line, plane = ln.open(folder / "line.zarr"), ln.open(folder / "bilinear.zarr")

    t = np.arange(-20, 21) / 10
    np.testing.assert_allclose(line["alpha"], t, atol=1e-15)
    (d,) = map(arrays, ln.directions.random(objective, seed=seed + 1, **RAW))
    for i in {*range(0, 41, every), 20, 40}:
        expected = plain.crossentropy(plain.perturbweights(theta, d, t[i]), x, y)
        assert line["loss"].values[i] == pytest.approx(expected, rel=1e-5), t[i]

    t = np.arange(-10, 11) / 10
    np.testing.assert_allclose(plane["alpha"], t, atol=1e-15)
    theta0, _, theta2 = map(arrays, ln.directions.random(objective, 3, orthogonal=False, seed=seed, **RAW))
    chosen = sorted({*range(0, 21, every), 10, 20})
    for i in chosen:
        for j in chosen:
            expected = plain.crossentropy(plain.pw_2d_bilinear(theta0, theta2, theta, t[i], t[j]), x, y)
            assert plane["loss"].values[i, j] == pytest.approx(expected, rel=1e-5), (t[i], t[j])
    return line, plane


@pytest.fixture(scope="module")
def digits_demo(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "out", seed=0, progress=False)


@pytest.mark.slow
def test_digits_demo_equals_numpy(digits_demo):
    line, plane = hold_against_numpy(digits_demo.folder, ln.zoo.digits(), None, seed=0, every=4)
    assert line.sizes == {"alpha": 41}
    assert plane.sizes == {"alpha": 21, "beta": 21}
    assert digits_demo.accuracy > 0.93


@pytest.mark.slow
def test_demo_leaves_everything_in_one_folder(digits_demo):
    names = {path.name for path in digits_demo.folder.iterdir()}
    assert names >= {"index.html", "model.safetensors", "line.zarr", "bilinear.zarr", "plane.zarr", "line.png"}
    from lossnav.reproductions import demo as module

    assert names == module._FILES
    assert names >= {"plane-contour.png", "plane-heatmap.png", "plane-surface.html", "bilinear-surface.html"}
    page = digits_demo.index.read_text()
    table = digits_demo.table()
    assert table["held-out accuracy"] in page
    assert table["lowest loss"] in page
    assert 'src="http' not in page
    assert "What this can and cannot say" in page and page.count("<h3><b>") == 3
    assert ln.report(digits_demo.folder / "plane.zarr")["saddle"].values["lambda_max"] > 0
    plane = ln.open(digits_demo.folder / "plane.zarr")
    assert plane.sizes == {"alpha": 51, "beta": 51}
    assert float(plane["loss"].sel(alpha=0, beta=0)) == pytest.approx(plane.lossnav.center["loss"], rel=1e-5)
    assert plane.attrs["chart"]["directions"][0]["normalize"] == "filter"
    assert abs(plane.attrs["chart"]["cosines"]["0,1"]) < 1e-6


def test_a_folder_of_something_else_is_left_alone_and_an_unfinished_demo_is_done_anew(tmp_path):
    from lossnav import errors
    from lossnav.reproductions import demo as module

    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(errors.OutputExistsError, match="not a demo of lossnav"):
        demo(tmp_path, overwrite=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"")
    with pytest.raises(errors.OutputExistsError, match="--overwrite"):
        demo(tmp_path / "out")
    assert module._make_folder(tmp_path / "out", overwrite=True) == tmp_path / "out"


@pytest.mark.slow
def test_mnist_demo_is_the_notebook(tmp_path):
    root = shared_data("mnist")
    result = demo(tmp_path / "out", data="mnist", data_root=root, progress=False)
    assert result.accuracy >= 0.85  # the notebook's own: 0.852 after ten passes
    assert result.surfaces["plane"].attrs["objective"]["samples"] == 1000
    hold_against_numpy(result.folder, ln.zoo.mnist(root), 1000, seed=0, every=10)


def test_the_network_itself_equals_numpy(digits_objective):
    x, y = ln.zoo.digits().test
    expected = plain.crossentropy(arrays(digits_objective.params), x.double().numpy(), y.numpy())
    assert digits_objective.evaluate(digits_objective.params)["loss"] == pytest.approx(expected, rel=1e-5)
