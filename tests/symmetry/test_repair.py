"""REPAIR against statistics that forward hooks measure, and against a plain loop over layers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossnav as ln
from lossnav.errors import DataError, OptionError, StructureMismatchError
from lossnav.symmetry import Repair


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.one, self.two = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.norm, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(x + self.norm2(self.two(F.relu(self.norm(self.one(F.relu(x)))))))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """A transformer block whose attention takes a fused projection."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        h = self.norm(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x[:, -1])


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(2, 4, 3, padding=1, groups=2)
        self.wide = nn.ConvTranspose1d(4, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.wide(torch.tanh(self.first(x)))).mean(2))


class WithoutModules(nn.Module):
    """Products written by hand: columns are units, a bias is added afterwards, and there is none."""

    def __init__(self):
        super().__init__()
        self.columns, self.added = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5))
        self.rows = nn.Parameter(torch.randn(4, 5))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(x @ self.columns + self.added)
        return self.head(torch.relu(F.linear(x, self.rows)))


def mlp():
    return nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


def with_batch_norm():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


NETWORKS = {  # how it is built, shape of a sample, modules whose outputs are repaired
    "mlp": (mlp, (3,), ["0", "2"]),
    "convnet": (convnet, (2, 6, 6), ["0", "2", "5"]),
    "batch norm": (with_batch_norm, (2, 6, 6), ["7"]),
    "residual": (Residual, (2, 5, 5), ["stem"]),
    "transformer": (Block, (4, 2), ["first", "up", "down"]),
    "transposed": (Transposed, (2, 9), ["first", "wide"]),
}


def trained(build, seed):
    """A network with weights, biases and running statistics of its own."""
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * (0.3 if tensor.dim() > 1 else 0.2))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def case(name, samples=200):
    build, shape, modules = NETWORKS[name]
    a, b = trained(build, 1), trained(build, 2)
    torch.manual_seed(3)
    x, y = torch.randn(samples, *shape), torch.randint(3, (samples,))
    objective = ln.Objective(a, "cross_entropy", (x[:20], y[:20]))
    return a, b, x, y, objective, modules


def loaded(model, point):
    made = copy.deepcopy(model)
    made.load_state_dict(dict(model.state_dict()) | dict(point) | point.buffers)
    return made.eval()


def between(objective, b, t):
    return ln.Line(objective, ln.directions.between(objective, b))([t])


def statistics(model, module, x):
    """Mean and std of a module's units, by a hook."""
    seen = []
    handle = model.get_submodule(module).register_forward_hook(lambda m, i, out: seen.append((m, out.double())))
    with torch.no_grad():
        model(x)
    handle.remove()
    ((of, out),) = seen
    out = out.movedim(-1 if isinstance(of, nn.Linear) else 1, 0).flatten(1)
    return out.mean(1), out.std(1, correction=0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("t", [0.5, 0.2])
def test_units_have_the_interpolated_mean_and_standard_deviation(name, t):
    a, b, x, y, objective, modules = case(name)
    made = ln.repair(objective, between(objective, b, t), [a, b], (x, y))
    assert [layer for layer in made.repair.layers if "in_proj" not in layer and "out_proj" not in layer] == [
        f"{module}.weight" for module in modules
    ]
    here = loaded(a, made)
    for module in modules:
        (mean, std), (mean_a, std_a), (mean_b, std_b) = (statistics(m, module, x) for m in (here, a, b))
        wanted, spread = (1 - t) * mean_a + t * mean_b, (1 - t) * std_a + t * std_b
        torch.testing.assert_close(std, spread, rtol=2e-5, atol=0)
        assert ((mean - wanted).abs() / spread).max() < 2e-5
    np.testing.assert_allclose(made.weights, [1 - t, t], atol=1e-6)


def test_projections_of_attention_are_units_too():
    a, b, x, y, objective, _ = case("transformer")
    made = ln.repair(objective, between(objective, b, 0.5), [a, b], (x, y))
    assert made.repair.layers[1:3] == ["attention.in_proj_weight", "attention.out_proj.weight"]

    def projected(model):
        own = model.attention
        with torch.no_grad():
            h = model.norm(model.first(x))
            inner = F.linear(h, own.in_proj_weight, own.in_proj_bias).double().flatten(0, 1)
            outer = own(h, h, h)[0].double().flatten(0, 1)
        return torch.cat([inner, outer], 1)

    here, one, other = (projected(model) for model in (loaded(a, made), a, b))
    torch.testing.assert_close(here.std(0), (one.std(0) + other.std(0)) / 2, rtol=2e-5, atol=0)
    assert ((here.mean(0) - (one.mean(0) + other.mean(0)) / 2).abs() / here.std(0)).max() < 2e-5


@pytest.mark.parametrize("name", ["batch norm", "residual"])
def test_batch_norm_is_recomputed_in_the_same_order(name):
    a, b, x, y, objective, _ = case(name)
    made = ln.repair(objective, between(objective, b, 0.4), [a, b], (x, y))
    here, again = loaded(a, made), loaded(a, made)
    norms = [m for m in again.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(made.repair.batch_norm) == len(norms) == 2
    for module in norms:  # one pass over all data in train mode, as `torch.optim.swa_utils.update_bn` makes
        module.reset_running_stats()
        module.momentum = None
        module.train()
    with torch.no_grad():
        again(x)
    for name, tensor in again.named_buffers():
        if "num_batches" not in name:
            torch.testing.assert_close(here.get_buffer(name), tensor, rtol=1e-3, atol=1e-3)  # it divides by n
    assert made.repair.step > 0.5  # the running statistics of these ends are invented


def plain_repair(a, b, middle, modules, x, t):
    """REPAIR by hand: one layer after the other, a pass for each."""
    for module in modules:
        (mean_a, std_a), (mean_b, std_b) = statistics(a, module, x), statistics(b, module, x)
        mean, std = statistics(middle, module, x)
        factor = ((1 - t) * std_a + t * std_b) / std
        layer = middle.get_submodule(module)
        with torch.no_grad():
            layer.weight.mul_(factor.float().reshape(-1, *[1] * (layer.weight.dim() - 1)))
            layer.bias.copy_((layer.bias - mean) * factor + (1 - t) * mean_a + t * mean_b)
    return middle


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_plain_loop_over_the_layers_gives_the_same_weights(name):
    a, b, x, y, objective, modules = case(name)
    point = between(objective, b, 0.3)
    middle = copy.deepcopy(a)
    middle.load_state_dict(point)
    plain = plain_repair(a, b, middle, modules, x, 0.3)
    made = ln.repair(objective, point, [a, b], (x, y))
    for key, tensor in plain.state_dict().items():
        torch.testing.assert_close(made[key], tensor, rtol=1e-4, atol=1e-5)


def test_an_end_stays_itself_bit_for_bit():
    a, b, x, y, objective, _ = case("batch norm")
    made = ln.repair(objective, between(objective, b, 1.0), [a, b], (x, y))
    for name, tensor in b.state_dict().items():
        assert torch.equal((dict(made) | made.buffers)[name], tensor), name


def test_a_layer_with_the_wanted_statistics_keeps_its_bits():
    a, b, x, y, objective, _ = case("mlp")
    point = {name: tensor.clone() for name, tensor in objective.params.items()}
    point["2.weight"] *= 0.25
    made = ln.repair(objective, point, [a, b], (x, y), weights=[1, 0])
    assert torch.equal(made["0.weight"], point["0.weight"])
    assert torch.equal(made["0.bias"], point["0.bias"])
    torch.testing.assert_close(made["2.weight"], a[2].weight.detach())


def test_without_a_bias_only_the_standard_deviation_is_set():
    a, b = trained(WithoutModules, 1), trained(WithoutModules, 2)
    x, y = torch.randn(300, 3), torch.zeros(300, dtype=torch.long)
    objective = ln.Objective(a, "cross_entropy", (x, y))
    made = ln.repair(objective, between(objective, b, 0.5), [a, b], (x, y))
    assert made.repair.layers == ["columns", "rows"]
    assert made.repair.without_bias == ["rows"]

    def units(model):
        with torch.no_grad():
            first = x @ model.columns + model.added
            return first, torch.relu(first) @ model.rows.T

    (here, later), (one, one_later), (other, other_later) = (units(m) for m in (loaded(a, made), a, b))
    torch.testing.assert_close(here.mean(0), (one.mean(0) + other.mean(0)) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(here.std(0), (one.std(0) + other.std(0)) / 2, rtol=1e-4, atol=0)
    torch.testing.assert_close(later.std(0), (one_later.std(0) + other_later.std(0)) / 2, rtol=1e-4, atol=0)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body, self.twice = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = torch.relu(self.body(self.embed(tokens)))
        x = self.normed(torch.relu(self.twice(torch.relu(self.twice(x)))))
        return self.head(x)[:, -1]


def test_shared_and_computed_weights_are_left_and_named():
    a, b = trained(Tied, 1), trained(Tied, 2)
    x, y = torch.randint(9, (50, 4)), torch.randint(9, (50,))
    objective = ln.Objective(a, "cross_entropy", (x, y))
    point = between(objective, b, 0.5)
    made = ln.repair(objective, point, [a, b], (x, y))
    assert made.repair.layers == ["body.weight"]
    left = made.repair.left
    assert "embedding" in left["embed.weight"]
    assert "2 times" in left["twice.weight"]
    assert any("normed" in name for name in left)
    for name in point:
        assert torch.equal(made[name], point[name]) == (not name.startswith("body")), name


def test_held_weights_and_the_last_layer_are_left():
    a, b, x, y, _, _ = case("mlp")
    a[0].requires_grad_(False)
    b[0].load_state_dict(a[0].state_dict())
    objective = ln.Objective(a, "cross_entropy", (x, y))
    made = ln.repair(objective, between(objective, b, 0.5), [objective, objective.at(b)], (x, y))
    assert made.repair.layers == ["2.weight"]
    assert made.repair.left == {
        "0.weight": "held fixed by the objective",
        "4.weight": "a last layer: its units are the outputs",
    }


def test_batches_that_cannot_be_joined_give_the_statistics_of_all():
    a, b, *_ = case("transformer")
    torch.manual_seed(5)
    batches = [(torch.randn(n, length, 2), torch.zeros(n, dtype=torch.long)) for n, length in ((9, 4), (5, 7), (8, 3))]
    objective = ln.Objective(a, "cross_entropy", batches)
    made = ln.repair(objective, between(objective, b, 0.5), [a, b], batches)
    here = loaded(a, made)

    def units(model, module):
        seen = []
        handle = model.get_submodule(module).register_forward_hook(lambda m, i, out: seen.append(out.flatten(0, 1)))
        with torch.no_grad():
            for x, _ in batches:
                model(x)
        handle.remove()
        return torch.cat(seen).double()

    for module in ("first", "up", "down"):
        got, one, other = (units(model, module) for model in (here, a, b))
        torch.testing.assert_close(got.std(0), (one.std(0) + other.std(0)) / 2, rtol=2e-5, atol=0)
        torch.testing.assert_close(got.mean(0), (one.mean(0) + other.mean(0)) / 2, rtol=1e-4, atol=2e-5)


def test_data_in_batches_is_joined_and_a_part_of_it_is_drawn_by_seed():
    a, b, x, y, objective, _ = case("mlp")
    point = between(objective, b, 0.5)
    whole = ln.repair(objective, point, [a, b], ln.RepairData((x, y), samples=None))
    split = ln.repair(objective, point, [a, b], [(x[:70], y[:70]), (x[70:], y[70:])])
    assert all(torch.equal(whole[name], split[name]) for name in whole)
    parts = [ln.repair(objective, point, [a, b], ln.RepairData((x, y), 50, seed)) for seed in (0, 0, 1)]
    assert torch.equal(parts[0]["0.weight"], parts[1]["0.weight"])
    assert not torch.equal(parts[0]["0.weight"], parts[2]["0.weight"])
    assert (parts[0].repair.samples, parts[0].repair.population) == (50, 200)
    assert parts[0].repair.describe()["data"] != parts[2].repair.describe()["data"]


def test_units_that_do_not_vary_are_counted_and_the_rest_repaired():
    a, b, x, y, objective, _ = case("mlp")
    point = between(objective, b, 0.5)
    point["0.weight"] = point["0.weight"].clone()
    point["0.weight"][2] = 0
    made = ln.repair(objective, point, [a, b], (x, y), weights=[0.5, 0.5])
    assert made.constant == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in made.values())


def test_nothing_of_the_users_changes():
    a, b, x, y, objective, _ = case("residual")
    a.train()
    point = between(objective, b, 0.5)
    before = copy.deepcopy((a.state_dict(), b.state_dict(), dict(point), dict(objective.params), x, y))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    ln.repair(objective, point, [objective, b], (x, y))
    assert torch.equal(state, torch.get_rng_state())
    after = (a.state_dict(), b.state_dict(), dict(point), dict(objective.params), x, y)
    for one, other in zip(before[:4], after[:4], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(before[4], x)
    assert a.training
    assert all(parameter.grad is None for parameter in a.parameters())


def test_an_objective_that_computes_batch_norm_itself_is_repaired_with_that():
    a, b, x, y, _, _ = case("batch norm")
    objective = ln.Objective(a, "cross_entropy", (x, y), bn="recompute", batch_size=200)
    made = ln.repair(objective, between(objective, b, 0.5), [a, b], (x, y))
    ends = [copy.deepcopy(m) for m in (a, b)]
    for model in (*ends, here := loaded(a, made)):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()  # statistics of the only batch, up to their bias
    stds = [statistics(model, "7", x)[1] for model in (here, *ends)]
    torch.testing.assert_close(stds[0], (stds[1] + stds[2]) / 2, rtol=5e-3, atol=0)
    assert made.repair.step == 0


def test_what_cannot_be_repaired_is_refused_in_a_sentence():
    a, b, x, y, objective, _ = case("mlp")
    point = between(objective, b, 0.5)
    for ends, message in ((a, "list of two"), ([a], "fewer than two"), ([a, a], "dependent")):
        with pytest.raises(OptionError, match=message):
            ln.repair(objective, point, ends, (x, y))
    with pytest.raises(OptionError, match="of sum 1"):
        ln.repair(objective, point, [a, b], (x, y), weights=[0.5, 0.6])
    with pytest.raises(DataError, match="cannot be run on the repair data"):
        ln.repair(objective, point, [a, b], (x[:, :2], y))
    with pytest.raises(OptionError, match="no repair data"):
        ln.repair(objective, point, [a, b], None)
    with pytest.raises(StructureMismatchError):
        ln.repair(objective, {"0.weight": point["0.weight"]}, [a, b], (x, y))
    with pytest.raises(OptionError, match="samples is"):
        ln.RepairData((x, y), samples=1)
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(2)})
    with pytest.raises(OptionError, match="bare function"):
        ln.repair(bowl, bowl.params, [bowl, {"x": torch.zeros(2)}], (x, y))
    linear = nn.Linear(3, 3)
    one = ln.Objective(linear, "cross_entropy", (x, y))
    with pytest.raises(OptionError, match="no layer that REPAIR can change"):
        ln.repair(one, one.params, [linear, nn.Linear(3, 3)], (x, y))


def test_statistics_are_measured_once():
    a, b, x, y, objective, _ = case("mlp")
    both = Repair(objective, [ln.params.Checkpoint(dict(m.named_parameters()), {}) for m in (a, b)], (x, y))
    one = both.at(between(objective, b, 0.25), [0.75, 0.25])
    other = ln.repair(objective, between(objective, b, 0.25), [a, b], (x, y))
    assert all(torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-6) for name in one)
