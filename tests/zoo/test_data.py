import gzip
import shutil

import numpy as np
import pytest
import torch

from conftest import shared_data
from lossnav import errors
from lossnav.zoo import data as zoo_data


def check(data, train, test, shape):
    for (x, y), n in ((data.train, train), (data.test, test)):
        assert x.shape == (n, *shape)
        assert x.dtype == torch.float32
        assert y.shape == (n,)
        assert y.dtype == torch.int64
        assert 0 <= x.min() < x.max() <= 1
        assert set(y.tolist()) == set(range(10))


def test_digits_are_split_once_and_for_all():
    a, b = zoo_data.digits(), zoo_data.digits()
    check(a, 1397, 400, (1, 28, 28))
    assert torch.equal(a.test[0], b.test[0])
    assert a.test[1][:8].tolist() == b.test[1][:8].tolist()
    train, test = ({x.numpy().tobytes() for x in part[0]} for part in (a.train, a.test))
    assert not train & test


def test_mnist_from_gzipped_files():
    data = zoo_data.mnist(shared_data("mnist"))
    check(data, 60_000, 10_000, (1, 28, 28))
    assert data.train[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A torchvision folder of five images, one file gzipped."""
    place = tmp_path / "MNIST" / "raw"
    place.mkdir(parents=True)
    for split in ("train", "t10k"):
        images = np.arange(5 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28)
        (place / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (place / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(5, dtype=np.uint8))))
    return tmp_path


def test_mnist_from_a_torchvision_folder(folder):
    data = zoo_data.mnist(folder)
    assert data.train[0].shape == (5, 1, 28, 28)
    assert data.train[0][0, 0, 0, 3] == pytest.approx(3 / 255)
    assert data.test[1].tolist() == [0, 1, 2, 3, 4]


def test_damaged_mnist_is_refused(folder):
    place = folder / "MNIST" / "raw"
    images, labels = place / "train-images-idx3-ubyte", place / "train-labels-idx1-ubyte.gz"
    for path, content, words in (
        (images, images.read_bytes()[:-1], "does not fit"),
        (images, b"\0\0\x08\x01" + images.read_bytes()[4:], "not an IDX file with 3 axes"),
        (images, b"", "not an IDX file"),
        (labels, b"not gzip", "cannot be read"),
        (labels, labels.read_bytes()[:-9], "cannot be read"),
        (labels, gzip.compress(idx(np.arange(4, dtype=np.uint8))), "5 train images, but 4 labels"),
    ):
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(errors.DataError, match=words):
            zoo_data.mnist(folder)
        path.write_bytes(before)
    shutil.rmtree(place)
    with pytest.raises(errors.DataError, match="lacks train-images-idx3-ubyte"):
        zoo_data.mnist(folder)
    with pytest.raises(errors.DataError, match="There is no folder"):
        zoo_data.mnist(folder / "nowhere")


def test_mnist_from_openml_is_cut_at_sixty_thousand(monkeypatch):
    """The download itself is not tested; what is made of it is."""
    import sklearn.datasets

    def fetch(name, **options):
        assert (name, options["version"]) == ("mnist_784", 1)
        labels = np.array([str(i % 10) for i in range(60_003)])
        return np.zeros((60_003, 784), np.float32), labels

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    data = zoo_data.mnist()
    assert data.train[0].shape == (60_000, 1, 28, 28)
    assert data.test[1].tolist() == [0, 1, 2]

    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", offline)
    with pytest.raises(errors.DataError, match=r"no network.*--data-root"):
        zoo_data.mnist()


# ---------------------------------------------------------------------- CIFAR-10


@pytest.mark.slow
def test_cifar10_from_parquet():
    pytest.importorskip("pyarrow")
    data = zoo_data.cifar10(shared_data("cifar10"), progress=False)
    check(data, 50_000, 10_000, (3, 32, 32))


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("names", [("img", "label"), ("image", "labels")])
def test_cifar10_layouts(tmp_path, form, names):
    import io

    pa, pq, image = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet", "PIL.Image"))
    rows = []
    for i in range(10):
        buffer = io.BytesIO()
        image.fromarray(np.full((32, 32, 3), (20 * i, 100, 255), np.uint8)).save(buffer, form)
        rows.append({"bytes": buffer.getvalue(), "path": None})
    for split in ("train", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        table = pa.table({names[0]: rows, names[1]: list(range(10))})
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    data = zoo_data.cifar10(tmp_path)
    assert data.train[1].tolist() == list(range(10))
    assert data.train[0][3, :, 5, 5].numpy() == pytest.approx([60 / 255, 100 / 255, 1], abs=0.02)
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"no")
    with pytest.raises(errors.DataError, match="not a parquet file"):
        zoo_data.cifar10(tmp_path)


def test_cifar10_that_is_not_there(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(errors.DataError, match=r"lacks train\*.parquet"):
        zoo_data.cifar10(tmp_path)
    with pytest.raises(errors.DataError, match="There is no folder"):
        zoo_data.cifar10(tmp_path / "nowhere")


def test_a_missing_extra_names_its_install_command(tmp_path, monkeypatch):
    import importlib

    def without(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "lossnav\[datasets\]"'):
        zoo_data.cifar10(tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(errors.OptionError, match="'imagenet'.*digits, mnist, cifar10"):
        zoo_data.load_data("imagenet")
