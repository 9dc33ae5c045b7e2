"""The proof refuses what is no symmetry, alone and jointly, and what shows nothing."""

import itertools

import pytest
import torch
from torch import nn

from lossnav.symmetry.groups import Action, Layout, PermutationGroup
from lossnav.symmetry.network import CalledNetwork
from lossnav.symmetry.prove import BROKEN, JOINTLY_BROKEN, SILENT, Proof, prove

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def network(*sizes):
    torch.manual_seed(0)
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def claim(name, size, *places):
    """A group that acts on some axes of some tensors of two axes at most."""
    return PermutationGroup(name, size), [(tensor, axis, Layout("unit", size, name)) for tensor, axis in places]


def actions_of(model, claims):
    state = dict(model.named_parameters())
    axes = {name: [Layout("unit", size) for size in tensor.shape] for name, tensor in state.items()}
    for _, places in claims:
        for name, axis, layout in places:
            axes[name][axis] = layout
    return [Action((name,), tuple(own)) for name, own in axes.items() if any(a.group for a in own)]


def proved(model, claims):
    actions = actions_of(model, claims)
    return prove(Proof(CalledNetwork(model, X), actions, 0), [group for group, _ in claims], actions)


RIGHT = (("0.weight", 0), ("0.bias", 0), ("2.weight", 1))


def test_a_true_claim_passes():
    kept, refused = proved(network(3, 6, 2), [claim("hidden", 6, *RIGHT)])
    assert [group.name for group in kept] == ["hidden"] and not refused
    assert kept[0].error <= 1e-12


@pytest.mark.parametrize("left_out", range(3))
def test_a_claim_that_lacks_a_tensor_is_refused_also_at_zero_biases(left_out):
    model = network(3, 6, 2)
    with torch.no_grad():
        model[0].bias.zero_()  # as at the start of many a run: permuting zeros shows nothing there
    kept, refused = proved(model, [claim("hidden", 6, *(place for i, place in enumerate(RIGHT) if i != left_out))])
    assert kept == [] and refused["hidden"].startswith(BROKEN)


def test_a_claim_too_many_is_refused_and_the_others_stay():
    model = network(3, 6, 5, 2)
    claims = [
        claim("first", 6, *RIGHT),
        claim("second", 5, ("2.weight", 0), ("2.bias", 0), ("4.weight", 1)),
        claim("inputs", 3, ("0.weight", 1)),
    ]
    kept, refused = proved(model, claims)
    assert [group.name for group in kept] == ["first", "second"]
    assert set(refused) == {"inputs"}


def test_what_the_outputs_do_not_depend_on_is_no_proof():
    class Unread(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.c(self.a(x)) + 0 * self.b(x).sum()

    kept, refused = proved(Unread(), [claim("unread", 4, ("b.weight", 0))])
    assert kept == [] and refused == {"unread": SILENT}


class Jointly(Proof):
    """A proof in which two groups are right alone and wrong together."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def error(self, actions, permutations):
        return 1.0 if {"b", "e"} <= set(permutations) else 0.0

    def shows(self, actions, permutations):
        return True


def test_a_joint_proof_that_fails_is_bisected():
    names = "abcdefg"
    kept, refused = prove(Jointly(), [PermutationGroup(name, 3) for name in names], [])
    assert [group.name for group in kept] == list("abcdfg")
    assert refused == {"e": JOINTLY_BROKEN}
