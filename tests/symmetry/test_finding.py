"""Symmetries of small networks: which groups, and that plain torch gives the same outputs after them."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmarks import symmetry_networks as networks
from torch import nn

import lossnav as ln
from lossnav.errors import DataError, NotDeterministicError, ObjectiveError, OptionError
from lossnav.params import Checkpoint
from lossnav.symmetry.rules import RULES

EXACT = 1e-10  # of the largest output


def call(model, example):
    with torch.no_grad():
        made = (
            model(**example)
            if isinstance(example, dict)
            else model(*(example if isinstance(example, tuple) else (example,)))
        )
    return getattr(made, "logits", made)


def in_double(example):
    double = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
    if isinstance(example, dict):
        return {name: double(value) for name, value in example.items()}
    return tuple(double(value) for value in example) if isinstance(example, tuple) else double(example)


def stirred(model, seed=0):
    """The model with no entry that is zero, one, or like another: biases, scales and statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def difference(model, example, state):
    """By plain torch, a copy of the model in float64 with another state dict; as a fraction of the largest output."""
    model = copy.deepcopy(model).double().eval()
    before = call(model, in_double(example))
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, strict=False)
    return float((call(model, in_double(example)) - before).abs().max() / before.abs().max())


def permuted_state(model, found, permutations):
    buffers = dict(model.double().named_buffers())
    made = found.permute(Checkpoint({n: p.detach() for n, p in model.named_parameters()}, buffers), permutations)
    return dict(made) | made.buffers


def network(name):
    torch.manual_seed(0)
    model, example = networks.ALL[name]()
    return stirred(model), example


SMALL = [*networks.TINY, *(name for name in networks.BY_HAND if "zoo" not in name)]


@pytest.mark.parametrize("name", SMALL)
def test_no_function_changes_by_plain_torch(name):
    model, example = network(name)
    found = ln.symmetries(model, example)
    assert found.groups and found.error < EXACT
    everything = found.draw(1)
    assert difference(model, example, permuted_state(model.eval(), found, everything)) < EXACT
    for group in found.groups:
        alone = {group.name: everything[group.name]}
        assert difference(model, example, permuted_state(model, found, alone)) < EXACT
        assert group.error < EXACT


def sizes(found):
    return sorted((group.size, group.within is not None) for group in found.groups)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MLP of modules", [(10, False), (12, False)]),
        ("conv, flatten, linear", [(6, False), (10, False)]),
        ("ResNet with BatchNorm", [(8, False), (8, False), (12, False), (12, False), (12, False)]),
        ("concatenation", [(7, False), (9, False)]),
        ("depthwise convolution", [(6, False), (8, False)]),
        ("TransformerEncoderLayer", [(2, False), (4, True), (8, False), (12, False)]),
        # residual stream; twice heads, widths of q and k and of v in each, and an MLP
        (
            "GPT, fused qkv, tied head",
            [(4, False), (4, False), (4, True), (4, True), (4, True), (4, True), (16, False), (64, False), (64, False)],
        ),
        ("LSTM", [(6, False), (8, False)]),
        ("GRU, two layers", [(6, False), (8, False), (8, False)]),
        # residual stream, experts, and the units in each of them
        ("mixture of experts", [(4, False), (8, False), (12, True)]),
        # residual stream, shared heads, queries of each, widths of q and k and of v in each
        ("einsum, grouped queries, RMSNorm", [(2, False), (2, True), (3, True), (3, True), (8, False)]),
        ("GroupNorm", [(3, False), (4, True), (5, False)]),
    ],
)  # fmt: skip
def test_groups_are_those_that_one_counts_by_hand(name, expected):
    model, example = network(name)
    found = ln.symmetries(model, example)
    assert sizes(found) == sorted(expected)
    assert not found.refused


def test_the_gates_of_an_lstm_move_together():
    model, example = network("LSTM")
    found = ln.symmetries(model, example)
    (hidden,) = [g for g in found.groups if g.size == 8]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    made = permuted_state(model.eval(), found, {hidden.name: order})
    gates = torch.cat([order + 8 * k for k in range(4)])
    assert torch.equal(made["layer.weight_hh_l0"], model.layer.weight_hh_l0[gates][:, order])
    assert torch.equal(made["layer.weight_ih_l0"], model.layer.weight_ih_l0[gates])
    assert torch.equal(made["layer.bias_ih_l0"], model.layer.bias_ih_l0[gates])
    assert torch.equal(made["head.weight"], model.head.weight[:, order])


def test_buffers_of_norm_layers_move_and_counters_do_not():
    model, example = network("ResNet with BatchNorm")
    found = ln.symmetries(model, example)
    (group,) = [g for g in found.groups if g.name == "blocks.0.conv1.weight[0]"]
    assert "blocks.0.bn1.running_mean" in group.tensors and "blocks.0.bn1.running_var" in group.tensors
    order = torch.arange(7, -1, -1)
    made = permuted_state(model.eval(), found, {group.name: order})
    assert torch.equal(made["blocks.0.bn1.running_var"], model.blocks[0].bn1.running_var[order])
    assert torch.equal(made["bn.running_var"], model.bn.running_var)


class Odd(nn.Module):
    """Siblings that no list names: strides of channels, several uses of one layer, constants, a rolled axis."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.randn(6))
        self.register_buffer("mask", torch.arange(6.0))
        self.register_buffer("ones", torch.ones(6))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if self.kind == "used twice":
            h = self.b(torch.relu(self.b(h)))
        elif self.kind == "a constant of ones":
            h = h * torch.ones(6) + torch.full((6,), 0.3)
        elif self.kind == "a constant that differs":
            h = h * torch.arange(6)
        elif self.kind == "a buffer":
            h = h * self.mask
        elif self.kind == "rolled":
            h = h + h.roll(1, 1)
        elif self.kind == "one unit taken out":
            h = h + h[:, 2:3]
        elif self.kind == "every second unit":
            h = torch.cat([h[:, ::2], h[:, 1::2]], 1)
        elif self.kind == "sorted":
            h = h.sort(1).values
        elif self.kind == "written in part":
            out = torch.zeros_like(h)
            out[:, :3] = h[:, :3]
            out[:, 3:] = 2 * h[:, 3:]
            h = out
        elif self.kind == "a cumulative sum":
            h = h.cumsum(1)
        elif self.kind == "softmax":
            h = h.softmax(1) * self.scale
        elif self.kind == "matrix power":
            h = h @ torch.linalg.matrix_power(self.b.weight, 2)
        elif self.kind == "outer product":
            h = (h[:, :, None] * h[:, None, :]).flatten(1) @ self.b.weight.repeat(6, 1)
        elif self.kind == "in place":
            h.mul_(self.scale).add_(1)
        elif self.kind == "unsqueezed in place":
            h = h.clone().unsqueeze_(1).mul_(self.scale).squeeze_(1)
        elif self.kind == "transposed in place":
            h = torch.relu(h.clone().t_()).t_()
        elif self.kind == "a quantile":
            h = h + h.quantile(0.3, dim=1, keepdim=True)
        elif self.kind == "a view of it transposed in place":
            view = h.view(5, 2, 3).transpose_(0, 2)
            view.mul_(2)
        elif self.kind == "numpy":
            h = h + torch.as_tensor(np.linspace(0, 1, 6))
        return self.c(h)


@pytest.mark.parametrize(
    ("kind", "moves"),
    [
        ("plain", True),
        ("used twice", True),
        ("a constant of ones", True),
        ("a constant that differs", False),
        ("a cumulative sum", False),
        ("a buffer", True),
        ("rolled", False),
        ("one unit taken out", True),
        ("every second unit", True),
        ("sorted", False),
        ("written in part", False),
        ("softmax", True),
        ("matrix power", True),
        ("outer product", True),
        ("in place", True),
        ("unsqueezed in place", True),
        ("transposed in place", True),
        ("a quantile", False),
        ("a view of it transposed in place", True),
        ("numpy", False),
    ],
)
def test_ways_to_use_units(kind, moves):
    torch.manual_seed(0)
    model, x = Odd(kind), torch.randn(5, 4)
    found = ln.symmetries(model, x)
    assert not found.refused, "a rule claimed what the proof had to refuse"
    assert (("a.weight", 0) not in found.held) == moves
    assert difference(model, x, permuted_state(model.eval(), found, found.draw(0))) < EXACT
    if kind == "one unit taken out":
        assert sizes(found) == [(2, False), (3, False)]


def test_what_stops_a_group_is_named():
    found = ln.symmetries(Odd("rolled"), torch.randn(5, 4))
    assert found.held["a.weight", 0] == "aten.roll"
    assert "held by aten.roll" in str(found)


def test_an_operator_without_a_rule_fixes_what_it_meets(monkeypatch):
    monkeypatch.delitem(RULES, "_softmax")
    found = ln.symmetries(Odd("softmax"), torch.randn(5, 4))
    assert found.without_rule == {"aten._softmax": 1}
    assert found.held["a.weight", 0] == "aten._softmax (no rule)"
    assert found.groups == ()


@pytest.mark.parametrize("width", [1, 2, 5])
def test_units_that_are_dead_by_chance_are_still_units(width):
    """All rows of this example are equal, so that all units of ReLU may be silent at once at random weights."""
    for seed in range(25):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 2 * width), nn.ReLU(), nn.Linear(2 * width, 1))
        assert [group.size for group in ln.symmetries(model, torch.ones(3, 2), seed=seed).groups] == [2 * width]


@pytest.mark.parametrize("kind", ["rolled", "sorted"])
def test_a_rule_that_is_wrong_is_caught_by_the_proof(monkeypatch, kind):
    wrong = (lambda call: call.labels("self")) if kind == "rolled" else lambda call: [call.labels("self")] * 2
    monkeypatch.setitem(RULES, {"rolled": "roll", "sorted": "sort"}[kind], wrong)
    found = ln.symmetries(Odd(kind), torch.randn(5, 4))
    assert found.groups == ()
    assert "the outputs change" in found.refused["a.weight[0]"]
    assert found.held["a.weight", 0].startswith("the outputs change")


def test_a_recurrent_network_of_one_step_claims_nothing_of_its_hidden_state():
    torch.manual_seed(0)
    model = networks.Recurrent(nn.LSTM)
    found = ln.symmetries(model, torch.tensor([[1], [2]]))
    long = torch.randint(0, 11, (3, 5))
    assert difference(model, long, permuted_state(model.eval(), found, found.draw(0))) < EXACT
    assert found.held["layer.weight_hh_l0", 1] == "only summed with constants on the example"


def test_weights_that_the_example_does_not_reach_stay():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.c(torch.relu((self.a if len(x) < 9 else self.b)(x)))

    model = Branches()
    found = ln.symmetries(model, torch.randn(3, 4))
    assert found.held["b.weight", 0] == "not used on the example"
    assert "b.weight" not in found.moved


def test_nothing_of_the_users_is_changed():
    torch.manual_seed(0)
    model, example = networks.TinyResNet().train(), torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    example_before, random_before = example.clone(), torch.get_rng_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    ln.symmetries(model, example)
    with pytest.raises(DataError):
        ln.symmetries(nn.ReLU(), torch.arange(3))
    assert model.training and model.bn.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(example, example_before) and torch.equal(torch.get_rng_state(), random_before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fast and torch.get_default_dtype() == torch.float32


def test_an_objective_is_called_as_it_calls_its_model():
    model, example = network("ResNet with BatchNorm")
    y = torch.tensor([0, 1])
    objective = ln.Objective(model.eval(), F.cross_entropy, (example, y))
    found = ln.symmetries(objective)
    assert sizes(found) == sizes(ln.symmetries(model, example))
    there = found.permute(Checkpoint(objective.params, dict(model.named_buffers())), found.draw(2))
    assert objective.evaluate(there)["loss"] == pytest.approx(objective.evaluate(objective.params)["loss"], rel=1e-5)


def test_what_an_objective_holds_is_not_permuted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    objective = ln.Objective(model, "mse", (torch.randn(6, 3), torch.randn(6, 2)), params=["0.*", "2.*"])
    found = ln.symmetries(objective)
    assert [group.name for group in found.groups] == ["0.weight[0]"]
    assert found.held["2.weight", 0] == "held"


def test_printed_it_is_a_table():
    model, example = network("GPT, fused qkv, tied head")
    text = str(ln.symmetries(model, example))
    assert "9 groups, 28 of 28 weights move" in text
    assert [line.split() for line in text.splitlines() if line.startswith("group")] == [
        ["group", "size", "within", "tensors", "error"]
    ]


@pytest.mark.parametrize(
    ("source", "example", "error", "says"),
    [
        (nn.Linear(2, 2), None, OptionError, "example"),
        ("model", torch.ones(1), OptionError, "objective or a module"),
        (nn.Identity(), torch.arange(3), DataError, "no floating-point tensor"),
        (nn.Dropout().register_forward_hook, torch.ones(2), OptionError, "module"),
    ],
)
def test_bad_input_is_one_sentence(source, example, error, says):
    with pytest.raises(error, match=says):
        ln.symmetries(source, example)


def test_weights_that_are_not_finite_are_refused():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(ObjectiveError, match="not finite"):
        ln.symmetries(model, torch.ones(1, 2))


def test_a_network_that_counts_its_calls_is_put_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.calls = nn.Linear(2, 3), 0

        def forward(self, x):
            self.calls += 1
            return self.a(x) * self.calls

    model = Counting()
    assert ln.symmetries(model, torch.ones(1, 2)).groups == ()
    assert model.calls == 0


class Outside(nn.Module):
    calls = itertools.count(1)

    def forward(self, x):
        return x * next(self.calls)


def test_a_network_that_is_another_at_every_call_is_refused():
    model = nn.Sequential(nn.Linear(2, 3), Outside())
    with pytest.raises(NotDeterministicError, match="Two runs"):
        ln.symmetries(model, torch.ones(1, 2))


def test_wrong_permutations_are_refused():
    model, example = network("MLP of modules")
    found = ln.symmetries(model, example)
    params = dict(model.named_parameters())
    with pytest.raises(OptionError, match="no group"):
        found.permute(params, {"nothing": torch.arange(3)})
    for wrong in (torch.zeros(12), torch.arange(11), torch.arange(12) + 1):
        with pytest.raises(OptionError, match="no permutation of its 12 units"):
            found.permute(params, {"0.weight[0]": wrong})
