"""The data that the user passes, as an iterable of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lossnav._utils.validation import described
from lossnav.errors import DataError
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.loading import LoaderWorkers


def as_iterable(source: Any, batch_size: int) -> Any:
    """Turn the user's data into an iterable of batches."""
    if source is None or isinstance(source, str | bytes):
        raise DataError(f"The data is {source!r}. Pass (x, y) tensors, a Dataset, a DataLoader or a list of batches.")
    if isinstance(source, type):
        raise DataError(f"The data is {described(source)}. Pass an instance of it: {source.__name__}(…).")
    if hasattr(source, "to_numpy"):
        raise DataError(
            f"The data is {described(source)}, which is not a tensor. Convert it: (torch.tensor(x.to_numpy(), "
            "dtype=torch.float32), torch.tensor(y.to_numpy()))."
        )
    for part in source if isinstance(source, tuple | list) else ():
        if isinstance(part, Dataset | DataLoader):
            raise DataError(
                f"The data is {described(source)}, and one of its elements is {described(part)}, which is a data set "
                "itself. Pass one data set, such as the test data: data=test_data."
            )
    for part in source if isinstance(source, tuple | list) else [source]:
        if isinstance(part, np.ndarray) and part.dtype.kind not in "biufc":
            raise DataError(
                f"The data contains an array of dtype {part.dtype}, which cannot be converted to a tensor. Convert it "
                "to numbers first."
            )
    if isinstance(source, Tensor | np.ndarray):
        return Slices((source,), itemgetter(0), batch_size)
    if isinstance(source, tuple) and source and all(isinstance(part, Tensor | np.ndarray) for part in source):
        return Slices(source, tuple, batch_size)
    if isinstance(source, Mapping) and source and all(isinstance(v, Tensor | np.ndarray) for v in source.values()):
        return Slices(tuple(source.values()), partial(_by_keys, tuple(source)), batch_size)
    if isinstance(source, Mapping):
        raise DataError(
            "The data is a dict with values of type "
            f"{', '.join(sorted({type(v).__name__ for v in source.values()}))}. Pass a dict of tensors, or a list of "
            "batches."
        )
    if isinstance(source, DataLoader | list | tuple):
        return source
    if isinstance(source, IterableDataset) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return DataLoader(source, batch_size=batch_size, shuffle=False)
    if hasattr(source, "__iter__"):
        return source
    raise DataError(
        f"The data is a {type(source).__name__}, which cannot be iterated. "
        "Pass (x, y) tensors, a Dataset, a DataLoader or any iterable of batches."
    )


def _by_keys(keys: Sequence[Any], parts: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(keys, parts, strict=True))


class Slices:
    """Tensors of equal length, split into batches of consecutive samples."""

    def __init__(self, parts: Sequence[Any], pack: Any, batch_size: int) -> None:
        lengths = [len(part) if part.ndim else None for part in parts]
        if None in lengths or len(set(lengths)) != 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise DataError(
                f"The tensors of the data differ in length: {shapes}. Pass tensors with one row per sample each, or a "
                "list of batches."
            )
        self.parts, self.pack, self.batch_size, self.length = parts, pack, batch_size, len(parts[0])

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.length, self.batch_size):
            yield self.pack([part[start : start + self.batch_size] for part in self.parts])


def generators_of(source: Any) -> list[torch.Generator]:
    """The random generators of a loader and its samplers."""
    loader = source.loader if isinstance(source, LoaderWorkers) else source
    inner = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), inner, getattr(inner, "sampler", None))
    found = [getattr(part, "generator", None) for part in parts]
    return list({id(made): made for made in found if isinstance(made, torch.Generator)}.values())
