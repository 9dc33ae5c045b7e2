"""Three image data sets: digits (part of scikit-learn), MNIST and CIFAR-10 (from files, or from their usual hubs)."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lossnav._utils.progress import track
from lossnav.errors import DataError, MissingExtraError, OptionError

Pair = tuple[Tensor, Tensor]

_DIGITS_TRAIN = 1397  # of 1,797; the other 400 are held out
_DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class Data:
    """Images and labels, split into training and held-out samples.

    Attributes
    ----------
    name : str
    train, test : (x, y)
        x: float32 of shape (n, channels, height, width) in [0, 1], unless `normalized`; y: int64 of shape (n,).
    classes : int
    black : tuple of float
        The value of a black pixel in each channel, used for padding.
    lossy : bool
        Whether an image was stored as JPEG, which changes its values.
    """

    name: str
    train: Pair
    test: Pair
    classes: int = 10
    black: tuple[float, ...] = (0.0,)
    lossy: bool = False

    def first(self, n: int | None) -> Data:
        """Return the same data with only the first n training samples (None: all).

        Raises
        ------
        OptionError
            If there are fewer.
        """
        x, y = self.train
        if n is not None and not 1 <= n <= len(x):
            raise OptionError(f"The number of training samples must be from 1 to {len(x):,}, got {n:,}.")
        return replace(self, train=(x[:n], y[:n]))

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> Data:
        """Return the same data with (x - mean) / std in each channel."""
        m, s = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))
        (train_x, train_y), (test_x, test_y) = self.train, self.test
        black = tuple((-m / s).flatten().tolist())
        train, test = ((train_x - m).div_(s), train_y), ((test_x - m).div_(s), test_y)
        return replace(self, train=train, test=test, black=black)


def load_data(name: str, root: str | os.PathLike[str] | None = None) -> Data:
    """Load a data set by name: "digits", "mnist" or "cifar10".

    Raises
    ------
    OptionError
        If the name is unknown.
    """
    loaders = {"digits": lambda: digits(), "mnist": lambda: mnist(root), "cifar10": lambda: cifar10(root)}
    if name not in loaders:
        raise OptionError(f"There is no data set {name!r}. Use {', '.join(loaders)}.")
    return loaders[name]()


# ---------------------------------------------------------------------- digits


def digits() -> Data:
    """Load scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 28x28 (bilinear), without a download.

    The split into 1,397 training and 400 held-out images is fixed, drawn once with seed 0 (the stored order is by
    writer).

    References
    ----------
    E. Alpaydin, C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
    images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(raw.target).long()
    order = torch.from_numpy(np.random.default_rng(_DIGITS_SPLIT_SEED).permutation(len(labels)))
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    return Data("digits", (images[train], labels[train]), (images[test], labels[test]))


# ---------------------------------------------------------------------- MNIST


def mnist(root: str | os.PathLike[str] | None = None) -> Data:
    """Load MNIST's 60,000 training and 10,000 held-out images in their stored order.

    Parameters
    ----------
    root : path, optional
        A folder with the four IDX files, gzipped or not, or a torchvision folder (``MNIST/raw`` inside). Without
        one, scikit-learn's `fetch_openml` downloads them once into its cache.

    Raises
    ------
    DataError
        If a file is missing or damaged, or the download fails.
    """
    if root is None:
        return _mnist_from_openml()
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Pass one with the four MNIST files, or omit the root.")
    parts = []
    for split in ("train", "t10k"):
        images = _read_idx(_find_idx(folder, f"{split}-images", "idx3-ubyte"), 3)
        labels = _read_idx(_find_idx(folder, f"{split}-labels", "idx1-ubyte"), 1)
        if len(images) != len(labels):
            raise DataError(
                f"{folder} has {len(images)} {split} images, but {len(labels)} labels. Download the files again."
            )
        parts.append((_unit(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))))
    return Data("mnist", parts[0], parts[1])


def _find_idx(folder: Path, start: str, kind: str) -> Path:
    for place in (folder, folder / "raw", folder / "MNIST" / "raw", folder / "mnist"):
        for dash in ("-", "."):  # both spellings are about
            for end in ("", ".gz"):
                if (path := place / f"{start}{dash}{kind}{end}").is_file():
                    return path
    raise DataError(f"{folder} lacks {start}-{kind} (or .gz). Put the four IDX files of MNIST there, or omit the root.")


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes: two zeros, 8, the number of axes, their lengths, the values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Download the file again.") from error
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes((0, 0, 8, ndim)):
        raise DataError(f"{path} is not an IDX file with {ndim} axes. Download the file again.")
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim)]
    if len(content) != header + int(np.prod(shape)):
        raise DataError(f"{path} is {len(content):,} bytes long, which does not fit {shape}. Download the file again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _mnist_from_openml() -> Data:
    from platformdirs import user_cache_dir
    from sklearn.datasets import fetch_openml

    try:
        images, labels = fetch_openml(
            "mnist_784",
            version=1,
            return_X_y=True,
            as_frame=False,
            parser="liac-arff",
            data_home=user_cache_dir("lossnav"),
        )
    except Exception as error:
        raise DataError(
            f"MNIST could not be downloaded from OpenML ({type(error).__name__}: {error}). "
            "Pass a folder with its four IDX files: --data-root DIR, or mnist(root)."
        ) from error
    x = _unit(images.reshape(-1, 1, 28, 28).astype(np.uint8))
    y = torch.from_numpy(labels.astype(np.int64))
    return Data("mnist", (x[:60_000], y[:60_000]), (x[60_000:], y[60_000:]))


# ---------------------------------------------------------------------- CIFAR-10


def cifar10(root: str | os.PathLike[str] | None = None, *, progress: bool | None = None) -> Data:
    """Load CIFAR-10's 50,000 training and 10,000 held-out images.

    Needs the extra ``lossnav[datasets]``.

    Parameters
    ----------
    root : path or str, optional
        A folder with Hugging Face parquet files (``train*.parquet`` and ``test*.parquet``, in it or in a folder
        below), or a dataset id on the Hugging Face hub. Default the id ``uoft-cs/cifar10``.
    progress : bool or None
        Whether to show a bar while images are decoded (None: on a terminal).

    Raises
    ------
    DataError
        If files are missing or damaged, or the download fails.
    MissingExtraError
        If pyarrow, Pillow or datasets is not installed.
    """
    if root is not None and Path(root).expanduser().is_dir():
        folder = Path(root).expanduser()
        tables = {split: _read_parquet(folder, split) for split in ("train", "test")}
    elif root is not None and ((os.sep in str(root) and Path(root).is_absolute()) or str(root).startswith((".", "~"))):
        raise DataError(f"There is no folder {root}. Pass one with CIFAR-10's parquet files, or a dataset id.")
    else:
        tables = _from_hub(str(root or "uoft-cs/cifar10"))
    pairs = {}
    stored = (image for images, _ in tables.values() for image in images)
    lossy = any(isinstance(image, bytes) and image.startswith(_JPEG) for image in stored)
    for split, (images, labels) in tables.items():
        decoded = np.stack([_decode(image) for image in track(images, f"decode {split}", "images", progress)])
        pairs[split] = (_unit(decoded).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64))
    return Data("cifar10", pairs["train"], pairs["test"], lossy=lossy)


def _read_parquet(folder: Path, split: str) -> tuple[list[Any], list[int]]:
    pq = _import_extra("pyarrow.parquet")
    files = sorted(folder.glob(f"{split}*.parquet")) or sorted(folder.glob(f"*/{split}*.parquet"))
    if not files:
        raise DataError(f"{folder} lacks {split}*.parquet. Put the Hugging Face parquet files of CIFAR-10 there.")
    images: list[Any] = []
    labels: list[int] = []
    for file in files:
        try:
            table = pq.read_table(file)
            names = set(table.column_names)
            image_name, label_name = (next(n for n in options if n in names) for options in _COLUMNS)
        except StopIteration:
            raise DataError(f"{file} has no column of images or labels, only {', '.join(sorted(names))}.") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is not a parquet file: {error}. Download the file again.") from error
        images += [row["bytes"] if isinstance(row, dict) else row for row in table[image_name].to_pylist()]
        labels += table[label_name].to_pylist()
    if not images:
        raise DataError(f"{folder} has no {split} images. Download the files again.")
    return images, labels


_JPEG = b"\xff\xd8"  # what such a file begins with
_COLUMNS = (("img", "image"), ("label", "labels", "fine_label"))


def _from_hub(identifier: str) -> dict[str, tuple[list[Any], list[int]]]:
    datasets = _import_extra("datasets")
    try:
        hub = datasets.load_dataset(identifier)
        found = {}
        for split in ("train", "test"):
            names = hub[split].column_names
            image_name, label_name = (next(n for n in options if n in names) for options in _COLUMNS)
            found[split] = (list(hub[split][image_name]), list(hub[split][label_name]))
        return found
    except Exception as error:
        raise DataError(
            f"{identifier!r} could not be loaded from the Hugging Face hub ({type(error).__name__}: {error}). "
            "Pass a folder with its parquet files: --data-root DIR, or cifar10(root)."
        ) from error


def _decode(image: Any) -> NDArray[np.uint8]:
    """Decode PNG or JPEG bytes, or convert a decoded image, to (32, 32, 3) bytes."""
    module = _import_extra("PIL.Image")
    try:
        opened = module.open(io.BytesIO(image)) if isinstance(image, bytes) else image
        return np.asarray(opened.convert("RGB"), dtype=np.uint8)
    except Exception as error:
        raise DataError(
            f"An image cannot be decoded ({type(error).__name__}: {error}). Download the files again."
        ) from error


def _unit(pixels: NDArray[np.uint8]) -> Tensor:
    """Bytes to float32 in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _import_extra(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f'{name.split(".")[0]} is needed for CIFAR-10 and not installed. Type: pip install "lossnav[datasets]"'
        ) from error
