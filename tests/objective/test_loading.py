"""Workers of a DataLoader are started once, and every pass has the bits of one by new workers."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import pickle
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
    get_worker_info,
)

import lossnav as ln
from lossnav.objective.batches import Batches
from lossnav.objective.loading import LoaderWorkers, without_restarts

CPU = torch.device("cpu")


class Rows(Dataset):
    """Draws from every generator there is, and from its own, and counts: what new workers would do alike each time."""

    def __init__(self, folder: Path | None = None, n: int = 23) -> None:
        self.folder, self.n = folder, n
        self.own, self.calls, self.seen = np.random.default_rng(3), 0, []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.calls += 1
        self.seen.append(i)
        drawn = [random.random(), np.random.rand(), float(torch.rand(())), self.own.random(), self.calls / 100]
        return torch.tensor([float(i), *drawn, float(len(self.seen))]), torch.tensor(i % 3)


class Together(Rows):
    """Fetches a batch at once."""

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [self[i] for i in indices]


class Stream(IterableDataset):
    """Divides itself among its workers as torch's own pages say: by what `get_worker_info().dataset` is."""

    def __init__(self, start: int = 0, end: int = 23) -> None:
        self.start, self.end = start, end

    def __iter__(self):
        return iter(
            [
                (torch.tensor([float(i), float(torch.rand(()))]), torch.tensor(i % 3))
                for i in range(self.start, self.end)
            ]
        )


def divide(worker: int) -> None:
    info = get_worker_info()
    data = info.dataset
    each = -(-(data.end - data.start) // info.num_workers)
    data.start, data.end = data.start + worker * each, min(data.start + (worker + 1) * each, data.end)


class Started:
    """A `worker_init_fn` that leaves a file for every worker that is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, worker: int) -> None:
        np.random.seed(torch.initial_seed() % 2**32)
        (self.folder / f"{os.getpid()}-{worker}").touch()

    @property
    def count(self) -> int:
        return len(list(self.folder.iterdir()))


class Shuffled(Sampler):
    """Draws its order as soon as it is asked, from Python's generator."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self):
        order = list(range(self.n))
        random.shuffle(order)
        return iter(order)


LOADERS = {
    "in order": lambda data, **o: DataLoader(data, batch_size=4, **o),
    "shuffled": lambda data, **o: DataLoader(data, batch_size=4, shuffle=True, **o),
    "own generator": lambda data, **o: DataLoader(
        data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(8), **o
    ),
    "sampler with a generator": lambda data, **o: DataLoader(
        data, batch_size=4, sampler=RandomSampler(data, generator=torch.Generator().manual_seed(8)), **o
    ),
    "weighted": lambda data, **o: DataLoader(
        data, batch_size=4, sampler=WeightedRandomSampler(torch.arange(23.0), 17), **o
    ),
    "eager sampler": lambda data, **o: DataLoader(data, batch_size=4, sampler=Shuffled(23), **o),
    "batch sampler": lambda data, **o: DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 5, False), **o),
    "samples alone": lambda data, **o: DataLoader(data, batch_size=None, **o),
}


def listed(batches) -> list[list[Tensor]]:
    return [list(batch) for batch in batches]


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def passes(source, n: int = 3) -> list[list[list[Tensor]]]:
    made = []
    for _ in range(n):
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        made.append([*listed(source), [torch.rand(2), torch.tensor(random.random())]])  # and what is drawn after it
    return made


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("data", [Rows, Together])
def test_every_pass_has_the_bits_of_new_workers(kind, data):
    if kind == "samples alone" and data is Together:
        pytest.skip("torch fetches no batches here")
    wanted = passes(LOADERS[kind](data(), num_workers=2), 1)[0]  # plain torch
    found = passes(without_restarts(LOADERS[kind](data(), num_workers=2)))
    if "generator" in kind:  # which the loader moves on, and `Batches` puts back
        assert same(found[0][:-1], wanted[:-1]) and not same(found[1][:-1], wanted[:-1])
        batches = Batches(LOADERS[kind](data(), num_workers=2), device=CPU, budget=1)
        assert same(listed(batches), listed(batches))
        return
    assert all(same(each, wanted) for each in found)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_is_divided_once(workers):
    options = {"batch_size": 4, "num_workers": workers, "worker_init_fn": divide}
    wanted = passes(DataLoader(Stream(), **options), 1)[0]
    found = passes(without_restarts(DataLoader(Stream(), **options)))
    assert all(same(each, wanted) for each in found)
    assert sorted(int(x) for batch in found[2][:-1] for x in batch[0][:, 0]) == list(range(23))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_are_started_once_a_run(tmp_path, persistent):
    started = Started(tmp_path)
    loader = DataLoader(Rows(), batch_size=8, num_workers=2, worker_init_fn=started, persistent_workers=persistent)
    torch.manual_seed(0)
    objective = ln.Objective(nn.Linear(7, 3), F.cross_entropy, loader, data_budget=10)
    assert objective.batches is not None and not objective.batches.resident
    assert started.count == 2
    line = ln.Line(objective.params, ln.directions.random(objective)[0])
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 7)), progress=False)
    ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), k=1, limit=4, progress=False)
    ln.curvature.gradient(objective)
    ln.sharpness(objective, "sam", progress=False)
    assert started.count == 2
    assert loader._iterator is None
    assert surface.attrs["objective"]["samples"] == 23


def test_the_loss_is_that_of_what_new_workers_read():
    """A truth by plain torch: the batches of a loader of the same seed, joined."""
    torch.manual_seed(0)
    model = nn.Linear(7, 3)
    objective = ln.Objective(model, F.cross_entropy, DataLoader(Rows(), batch_size=8, num_workers=2), data_budget=10)
    with torch.random.fork_rng():
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        x, y = map(torch.cat, zip(*DataLoader(Rows(), batch_size=8, num_workers=2), strict=True))
    wanted = float(F.cross_entropy(model(x), y).detach())
    assert [objective.evaluate(objective.params)["loss"] for _ in range(3)] == pytest.approx([wanted] * 3, rel=1e-6)


def test_data_that_is_kept_leaves_no_worker_running(tmp_path):
    batches = Batches(DataLoader(Rows(), batch_size=8, num_workers=2, worker_init_fn=Started(tmp_path)), device=CPU)
    assert batches.resident and not batches._source._idle
    listed(batches)
    assert Started(tmp_path).count == 2


def test_passes_that_overlap_have_workers_of_their_own(tmp_path):
    reader = without_restarts(DataLoader(Rows(), batch_size=4, num_workers=1, worker_init_fn=Started(tmp_path)))
    pairs = [(torch.equal(a[0][:, 0], b[0][:, 0])) for a, b in zip(reader, reader, strict=True)]
    assert len(pairs) == 6 and all(pairs)
    assert Started(tmp_path).count == 2
    found: list[list[list[Tensor]]] = []
    threads = [threading.Thread(target=lambda: found.append(listed(reader))) for _ in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert [[int(x) for batch in each for x in batch[0][:, 0]] for each in found] == [list(range(23))] * 2
    assert Started(tmp_path).count == 2


@pytest.mark.slow
def test_a_pass_that_is_left_early_is_begun_anew(tmp_path):
    reader = without_restarts(DataLoader(Rows(), batch_size=4, num_workers=2, worker_init_fn=Started(tmp_path)))
    for _ in range(3):
        assert [int(x[0, 0]) for x, _ in itertools.islice(reader, 2)] == [0, 4]
        gc.collect()
    assert len(listed(reader)) == 6
    assert Started(tmp_path).count == 2


class Failing(Rows):
    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i == 9:
            raise ValueError("a bad file")
        return super().__getitem__(i)


def test_a_pass_that_fails_says_so_each_time():
    reader = without_restarts(DataLoader(Failing(), batch_size=4, num_workers=1))
    for _ in range(2):
        with pytest.raises(ValueError, match="a bad file"):
            listed(reader)


@pytest.mark.slow
def test_the_users_loader_is_as_it_was():
    loader = LOADERS["sampler with a generator"](Rows(), num_workers=1, persistent_workers=True)
    before, state = dict(vars(loader)), loader.sampler.generator.get_state()
    own = copy.deepcopy(vars(loader.dataset)["own"].bit_generator.state)
    batches = Batches(loader, device=CPU, budget=1)
    listed(batches)
    assert vars(loader) == before
    assert torch.equal(loader.sampler.generator.get_state(), state)
    assert loader.dataset.own.bit_generator.state == own and loader.dataset.calls == 0


@pytest.mark.slow
def test_a_reader_can_be_sent_to_another_process():
    reader = without_restarts(DataLoader(Rows(), batch_size=4, num_workers=1))
    listed(reader)
    sent = pickle.loads(pickle.dumps(reader))
    assert isinstance(sent, LoaderWorkers) and len(listed(sent)) == 6


class InAWayOfItsOwn(DataLoader):
    def __iter__(self):
        return itertools.islice(super().__iter__(), 2)


@pytest.mark.parametrize(
    "loader", [DataLoader(Rows(), batch_size=4), InAWayOfItsOwn(Rows(), batch_size=4, num_workers=1)]
)
def test_others_are_read_as_they_are(loader):
    assert without_restarts(loader) is loader
