"""Rules of operators: networks that no list names, the groups that one counts by hand, and plain torch afterwards."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav.errors import ObjectiveError
from lossnav.symmetry.rules import RULES


class Net(nn.Module):
    """A forward that is a function, and its parts."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args):
        return self.function(self, *args)


def heads(net, x, layer):
    return layer(x).view(2, 5, 3, 4).transpose(1, 2)  # three heads of four


def relative_attention(net, x):
    scores = heads(net, x, net.q) @ heads(net, x, net.k).mT + net.table[net.index].permute(2, 0, 1)
    return net.h((scores.softmax(-1) @ heads(net, x, net.v)).transpose(1, 2).flatten(2))


def halting(net, x):
    while x.norm() < 50:
        x = x + torch.relu(net.a(x)) + 1
    return net.b(x)


def gated(net, x):
    y = net.a(x)
    scale = torch.sigmoid(net.v(torch.relu(net.u(y.mean((2, 3))))))
    return net.h((y * scale[..., None, None]).mean((2, 3)))


INDEX = torch.arange(5)[:, None] - torch.arange(5)[None] + 4


def images():
    return torch.randn(2, 3, 8, 8)


def vectors():
    return torch.randn(7, 4)


NETS = {
    "pixel shuffle": (
        lambda: Net(
            lambda s, x: s.b(F.pixel_shuffle(torch.relu(s.a(x)), 2)), a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(3, 3, 1)
        ),
        images,
        [3],
    ),
    "pixel unshuffle": (
        lambda: Net(
            lambda s, x: s.b(F.pixel_unshuffle(torch.relu(s.a(x)), 2)), a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(24, 3, 1)
        ),
        images,
        [6],
    ),
    "channels shuffled, then grouped": (
        lambda: Net(
            lambda s, x: s.b(s.c(torch.relu(s.a(x)))),
            a=nn.Conv2d(3, 12, 3),
            b=nn.Conv2d(12, 6, 1, groups=3),
            c=nn.ChannelShuffle(3),
        ),
        images,
        None,
    ),
    "bags of embeddings": (
        lambda: Net(
            lambda s, i: s.b(torch.relu(s.a(s.e(i)))), e=nn.EmbeddingBag(9, 6), a=nn.Linear(6, 7), b=nn.Linear(7, 2)
        ),
        lambda: torch.randint(0, 9, (3, 4)),
        [6, 7],
    ),
    "distances to centres": (
        lambda: Net(lambda s, x: torch.cdist(s.a(x), s.c), a=nn.Linear(4, 6), c=nn.Parameter(torch.randn(5, 6))),
        vectors,
        [6],
    ),
    "neighbours among channels": (
        lambda: Net(
            lambda s, x: s.b(s.n(s.a(x))), a=nn.Conv2d(3, 6, 3), n=nn.LocalResponseNorm(3), b=nn.Conv2d(6, 2, 1)
        ),
        images,
        [],
    ),
    "unfold": (
        lambda: Net(lambda s, x: s.b(F.unfold(s.a(x), 2).transpose(1, 2)), a=nn.Conv2d(3, 6, 3), b=nn.Linear(24, 2)),
        images,
        [6],
    ),
    "Fourier transform over positions": (
        lambda: Net(lambda s, x: s.b(torch.fft.fft(s.a(x), dim=1).real), a=nn.Linear(4, 6), b=nn.Linear(6, 2)),
        lambda: torch.randn(2, 5, 4),
        [6],
    ),
    "Fourier transform over units": (
        lambda: Net(lambda s, x: s.b(torch.fft.fft(s.a(x), dim=2).real), a=nn.Linear(4, 6), b=nn.Linear(6, 2)),
        lambda: torch.randn(2, 5, 4),
        [],
    ),
    "low-rank update": (
        lambda: Net(
            lambda s, x: s.h(torch.relu(s.a(x) + x @ s.A @ s.B)),
            a=nn.Linear(4, 6),
            A=nn.Parameter(torch.randn(4, 3)),
            B=nn.Parameter(torch.randn(3, 6)),
            h=nn.Linear(6, 2),
        ),
        vectors,
        [3, 6],
    ),
    "weights made from data": (
        lambda: Net(
            lambda s, x: s.h(torch.relu(torch.einsum("bi,bio->bo", x, s.a(x).view(-1, 4, 6)))),
            a=nn.Linear(4, 24),
            h=nn.Linear(6, 2),
        ),
        vectors,
        [6],
    ),
    "squeeze and excite": (
        lambda: Net(gated, a=nn.Conv2d(3, 6, 3), u=nn.Linear(6, 4), v=nn.Linear(4, 6), h=nn.Linear(6, 2)),
        images,
        [4, 6],
    ),
    "mean and scale in one layer": (
        lambda: Net(
            lambda s, x: s.h((lambda m, v: m * v.exp())(*s.a(x).chunk(2, 1))), a=nn.Linear(4, 12), h=nn.Linear(6, 2)
        ),
        vectors,
        [6],
    ),
    "maxout": (
        lambda: Net(lambda s, x: s.h(s.a(x).view(-1, 6, 3).amax(2)), a=nn.Linear(4, 18), h=nn.Linear(6, 2)),
        vectors,
        [3, 6],
    ),
    "pooling over units": (
        lambda: Net(lambda s, x: s.h(F.max_pool1d(s.a(x), 3)), a=nn.Linear(4, 18), h=nn.Linear(6, 2)),
        vectors,
        [],
    ),
    "attention with a table of relative positions": (
        lambda: Net(
            relative_attention,
            q=nn.Linear(4, 12),
            k=nn.Linear(4, 12),
            v=nn.Linear(4, 12),
            h=nn.Linear(12, 2),
            table=nn.Parameter(torch.randn(9, 3)),
            index=INDEX,
        ),
        lambda: torch.randn(2, 5, 4),
        [3, 4, 4],
    ),
    "a loop that data ends": (lambda: Net(halting, a=nn.Linear(4, 4), b=nn.Linear(4, 2)), vectors, []),
    "outputs in a dict": (
        lambda: Net(lambda s, x: {"a": [s.b(torch.relu(s.a(x)))], "n": 3}, a=nn.Linear(4, 6), b=nn.Linear(6, 2)),
        vectors,
        [6],
    ),
    "hidden units returned beside the output": (
        lambda: Net(lambda s, x: (s.b(s.a(x)), {"hidden": s.a(x)}), a=nn.Linear(4, 6), b=nn.Linear(6, 2)),
        vectors,
        [],
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_groups_counted_by_hand_and_outputs_by_plain_torch(name):
    make, example, expected = NETS[name]
    torch.manual_seed(0)
    model, x = make(), example()
    found = ln.symmetries(model, x)
    assert not found.refused and found.error <= 1e-10
    if expected is not None:
        assert sorted(group.size for group in found.groups) == expected
    model, x = model.double(), x.double() if x.is_floating_point() else x
    with torch.no_grad():
        before = model(x)
        made = found.permute(dict(model.named_parameters()), found.draw(3))
        other = copy.deepcopy(model)
        other.load_state_dict({n: t.clone() for n, t in made.items()}, strict=False)
        after = other(x)
    before, after = (torch.utils._pytree.tree_leaves(outputs)[0] for outputs in (before, after))
    assert float((before - after).abs().max()) <= 1e-10 * float(before.abs().max())


def test_rules_are_of_operators_that_there_are():
    known = {name.rpartition("::")[2].partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert {name for name in RULES if name not in known} <= {"concat", "copy", "rms_norm", "layer_norm", "batch_norm"}


def test_an_example_that_does_not_fit_is_named():
    with pytest.raises(ObjectiveError, match="cannot be run in float64 on the example"):
        ln.symmetries(nn.Linear(3, 2), torch.ones(1, 4))
