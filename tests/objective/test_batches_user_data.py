"""Whatever a pass does to its batch, the user's data and the next point are as before."""

import collections
import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import lossnav as ln
from lossnav import errors
from lossnav.objective.batch_tensors import move, tensors
from lossnav.objective.batches import Batches

torch.manual_seed(0)
X, Y = torch.randn(24, 5), torch.randint(0, 3, (24,))
CPU = torch.device("cpu")


class Encoding(collections.UserDict):
    """As a tokenizer's BatchEncoding: a mapping whose `to` changes it in place and returns it."""

    def to(self, device):
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


class Graph:
    """As a graph library's Data: attributes in a store of its own; `to` copies nothing on the same device."""

    def __init__(self, x, y):
        self.store = {"x": x, "y": y, "edges": [x.new_zeros(2, 3)]}

    x = property(lambda self: self.store["x"])
    y = property(lambda self: self.store["y"])

    def to(self, device):
        for key, value in self.store.items():
            self.store[key] = value.to(device) if isinstance(value, torch.Tensor) else value
        return self


@dataclasses.dataclass(frozen=True)
class Sample:
    x: torch.Tensor
    y: torch.Tensor
    name: str = "no tensor"


class Slotted:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


Pair = collections.namedtuple("Pair", "x y")

KINDS = {
    "tuple": (lambda x, y: (x, y), lambda b: (b[0], b[1])),
    "namedtuple": (Pair, lambda b: (b.x, b.y)),
    "dict of lists": (lambda x, y: {"x": [x], "y": {"deep": [y]}}, lambda b: (b["x"][0], b["y"]["deep"][0])),
    "encoding": (lambda x, y: Encoding(x=x, y=y), lambda b: (b["x"], b["y"])),
    "encoding in a tuple": (lambda x, y: (Encoding(x=x), y), lambda b: (b[0]["x"], b[1])),
    "graph": (Graph, lambda b: (b.x, b.y)),
    "graph in a dict": (lambda x, y: {"graph": [Graph(x, y)]}, lambda b: (b["graph"][0].x, b["graph"][0].y)),
    "dataclass": (Sample, lambda b: (b.x, b.y)),
    "namespace in a list": (lambda x, y: [SimpleNamespace(x=x, y=y)], lambda b: (b[0].x, b[0].y)),
    "slots": (Slotted, lambda b: (b.x, b.y)),
    "ordered": (lambda x, y: collections.OrderedDict(x=x, y=y), lambda b: (b["x"], b["y"])),
}


class Same(Dataset):
    """Hands out the very tensors it keeps, as many do."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


def truth(weights):
    """The loss of a fresh model with these weights, of inputs less a half, by hand."""
    fresh = model()
    fresh.load_state_dict(weights)
    with torch.no_grad():
        return F.cross_entropy(fresh(X - 0.5), Y).item()


@pytest.mark.parametrize("budget", [2**30, 1], ids=["kept", "streamed"])
@pytest.mark.parametrize("writer", ["forward", "loss", "metric"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_into_a_batch_reaches_nobody(kind, writer, budget):
    make, read = KINDS[kind]
    mine = [(x.clone(), y.clone()) for x, y in zip(X.split(8), Y.split(8), strict=True)]
    data = [make(x, y) for x, y in mine]

    def forward(net, batch):
        x, y = read(batch)
        if writer == "forward":
            x -= 0.5
            return net(x), y
        return net(x - 0.5), SimpleNamespace(x=x, y=y)

    def loss(outputs, targets):
        if writer == "loss":
            targets.x.mul_(2)
        return F.cross_entropy(outputs, getattr(targets, "y", targets))

    def seen(outputs, targets):
        if writer == "metric":
            targets.x.data.mul_(2)  # which no version of a tensor counts
            targets.y.fill_(0)
        return outputs.mean()

    objective = ln.Objective(model(), loss, data, forward=forward, metrics={"seen": seen}, data_budget=budget)
    points = [objective.params, {name: t * 1.3 + 0.01 for name, t in objective.params.items()}]
    values = [objective.evaluate(points[i])["loss"] for i in (0, 1, 0, 1, 1, 0)]
    assert values[0] == pytest.approx(truth(points[0]), rel=1e-5)
    assert values[1] == pytest.approx(truth(points[1]), rel=1e-5)
    assert values[2:] == [values[0], values[1], values[1], values[0]]
    line = ln.Line(points[0], {name: points[1][name] - points[0][name] for name in points[0]})
    for engine in (ln.Local(), ln.Local(plan="plain")):
        surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 2)), engine=engine, progress=False)
        assert surface["loss"].values == pytest.approx(values[:2], rel=1e-5)
    for (x, y), whole_x, whole_y in zip(mine, X.split(8), Y.split(8), strict=True):
        assert torch.equal(x, whole_x)
        assert torch.equal(y, whole_y)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_handed_out_shares_memory_with_the_users(kind):
    data = [KINDS[kind][0](X.clone(), Y.clone())]
    theirs = {tensor.data_ptr() for tensor in tensors(data)}
    for budget in (2**30, 1):
        batches = Batches(data, device=CPU, budget=budget)
        assert not theirs & {tensor.data_ptr() for tensor in tensors(list(batches))}
    assert type(move(data[0], CPU)) is type(data[0])


def test_a_loader_of_objects_that_are_the_users_own():
    data = [Graph(x.clone(), y.clone()) for x, y in zip(X.split(8), Y.split(8), strict=True)]
    loader = DataLoader(Same(data), batch_size=None)

    def forward(net, batch):
        batch.x.sub_(0.5)
        return net(batch.x), batch.store.pop("y")  # and takes something out

    objective = ln.Objective(model(), F.cross_entropy, loader, forward=forward)
    for _ in range(3):
        assert objective.evaluate(objective.params)["loss"] == pytest.approx(truth(model().state_dict()), rel=1e-5)
    assert torch.equal(torch.cat([graph.store["x"] for graph in data]), X)
    assert all("y" in graph.store for graph in data)


def test_a_batch_that_is_written_to_later_is_read_again():
    """Only inputs with a large entry are changed, and the first batch has none."""
    x = X.clone()
    x[20] = 9.0

    class Clips(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model()

        def forward(self, x):
            if x.max() > 5:
                x.clamp_(max=1).neg_()
            return self.body(x)

    objective = ln.Objective(Clips().eval(), F.cross_entropy, (x, Y), batch_size=8)
    values = [objective.evaluate(objective.params)["loss"] for _ in range(3)]
    expected = torch.cat([x[:16], -x[16:].clamp(max=1)])
    assert values[0] == pytest.approx(F.cross_entropy(model()(expected), Y).item(), rel=1e-5)
    assert values == [values[0]] * 3
    loader = DataLoader(torch.utils.data.TensorDataset(x, Y), batch_size=8)
    once = ln.Objective(Clips().eval(), F.cross_entropy, loader)
    once.evaluate(once.params)
    with pytest.raises(errors.DataError, match=r"Batch 2 of the data was changed.*x = x.clone\(\)"):
        once.evaluate(once.params)


def test_bytes_of_objects_count_towards_the_budget():
    assert Batches([Graph(X, Y)], device=CPU).n_bytes == X.numel() * 4 + Y.numel() * 8 + 6 * 4


def test_an_object_that_cannot_be_copied():
    import threading

    class Locked:
        def __init__(self):
            self.lock, self.x, self.y = threading.Lock(), X.clone(), Y

    held = Locked()
    batches = Batches([held], device=CPU)
    next(iter(batches)).x.fill_(0)
    assert torch.equal(held.x, X)
