"""Data of any shape becomes batches; what is kept is a copy."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lossnav.errors import DataError
from lossnav.objective.batch_tensors import map_tensors, tensors
from lossnav.objective.batches import Batches, default_batch_size

CPU = torch.device("cpu")
X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)


def test_tensors_are_cut_and_copied():
    batches = Batches((X, Y), device=CPU, batch_size=4)
    assert [len(y) for _, y in batches] == [4, 2]
    assert len(batches) == 2
    assert batches.resident
    assert batches.n_bytes == X.numel() * 4 + Y.numel() * 8
    next(iter(batches))[0].fill_(0)
    assert X[1, 1] == 3


def test_the_budget_decides_between_keeping_and_reading_anew():
    loader = DataLoader(TensorDataset(X, Y), batch_size=2)
    kept, read = (Batches(loader, device=CPU, budget=budget) for budget in (10**6, 10))
    assert (kept.resident, read.resident) == (True, False)
    for a, b in zip(kept, read, strict=True):
        assert torch.equal(a[0], b[0])


def test_persistent_workers_are_not_started_anew_half_way():
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, num_workers=1, persistent_workers=True)
    assert len(Batches(loader, device=CPU, budget=10)) == 3


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_that_are_none(size):
    with pytest.raises(DataError, match=f"batch_size is {size}"):
        Batches((X, Y), device=CPU, batch_size=size)


def test_a_dict_of_lists_is_refused():
    with pytest.raises(DataError, match="dict with values of type list.*dict of tensors"):
        Batches({"x": [1, 2], "y": [3, 4]}, device=CPU)


def test_structures_are_kept():
    batch = {"a": (X, [Y, "word"]), "b": np.ones(3), "c": 7}
    doubled = map_tensors(batch, lambda tensor: tensor * 2)
    assert torch.equal(doubled["a"][0], X * 2)
    assert torch.equal(doubled["a"][1][0], Y * 2)
    assert doubled["a"][1][1] == "word"
    assert doubled["b"].tolist() == [2, 2, 2]
    assert doubled["c"] == 7
    assert len(list(tensors(batch))) == 3


def test_default_sizes_go_by_the_device():
    assert default_batch_size(CPU) < default_batch_size(torch.device("cuda"))
