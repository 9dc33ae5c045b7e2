"""The networks of He et al. and Li et al. for CIFAR: counts of the papers, naive shortcuts, public names."""

import pytest
import torch
import torch.nn.functional as F

import lossnav as ln
from conftest import shared_data
from lossnav import errors
from lossnav.specs.objective_of import load_objective
from lossnav.zoo.resnet import Block


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_as_many_as_he_et_al_say(depth, millions):
    """Their table 6; without shortcuts as many, since option A has none."""
    plain = ln.zoo.resnet(depth, skip=False)
    assert count(ln.zoo.resnet(depth)) == count(plain)
    digits = 1 if millions > 1 else 2
    assert round(count(plain) / 1e6, digits) == millions
    layers = [m for m in plain.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == depth


def test_width_multiplies_the_filters():
    wide = ln.zoo.resnet(8, width=4)
    for (name, a), (_, b) in zip(ln.zoo.resnet(8).named_parameters(), wide.named_parameters(), strict=True):
        assert b.shape[0] == (10 if name.startswith("linear") else 4 * a.shape[0])
    assert wide(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("skip", [True, False])
def test_every_parameter_has_a_gradient(skip):
    model = ln.zoo.resnet(14, skip=skip)
    torch.manual_seed(0)
    logits = model(torch.randn(8, 3, 32, 32))
    assert logits.shape == (8, 10)
    F.cross_entropy(logits, torch.arange(8)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def naive_shortcut(x, outputs, stride):
    """Option A written out: pixel by pixel, channel by channel."""
    n, inputs, height, width = x.shape
    made = torch.zeros(n, outputs, (height + stride - 1) // stride, (width + stride - 1) // stride)
    before = (outputs - inputs) // 2
    for channel in range(inputs):
        for i in range(made.shape[2]):
            for j in range(made.shape[3]):
                made[:, before + channel, i, j] = x[:, channel, stride * i, stride * j]
    return made


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2), (6, 12, 2), (3, 6, 1)])
@pytest.mark.parametrize("skip", [True, False])
def test_a_block_is_what_its_formula_says(inputs, outputs, stride, skip):
    torch.manual_seed(1)
    block, x = Block(inputs, outputs, stride, skip), torch.randn(2, inputs, 8, 8)
    block(torch.randn(16, inputs, 8, 8))  # running statistics that are not the initial ones
    block.eval()
    inside = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    around = naive_shortcut(x, outputs, stride) if skip else 0
    assert torch.equal(block(x), F.relu(inside + around))
    if skip:
        assert torch.equal(block.shortcut(x), around)


def test_seeds_make_the_network_with_or_without_shortcuts_and_leave_the_world_alone():
    before = torch.get_rng_state()
    with_, without, other = ln.zoo.resnet(8, seed=3), ln.zoo.resnet(8, skip=False, seed=3), ln.zoo.resnet(8, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    same = zip(with_.state_dict().items(), without.state_dict().items(), strict=True)
    assert all(name == other_name and torch.equal(a, b) for (name, a), (other_name, b) in same)
    assert not torch.equal(with_.conv1.weight, other.conv1.weight)
    weight = ln.zoo.resnet(56).layer3[4].conv1.weight  # normal, variance 2 / fan-in
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_shortcuts_are_part_of_what_an_objective_is():
    """The same weights with and without shortcuts are two objectives, with one direction by one seed."""
    pair = torch.randn(4, 3, 32, 32), torch.arange(4)
    with_, without = (ln.zoo.recipe(name) for name in ("resnet8", "resnet8-noshort"))
    a, b = (each.measure(each.model(), pair) for each in (with_, without))
    assert (a.name, b.name) == ("ResNet-8", "ResNet-8-noshort")
    b.name = a.name
    assert a.fingerprint != b.fingerprint
    ((d,), (e,)) = (ln.directions.random(objective, seed=5) for objective in (a, b))
    assert all(torch.equal(d[name], e[name]) for name in d)


@pytest.mark.parametrize("options", [{"depth": 21}, {"depth": 2}, {"depth": -4}, {"depth": 20, "width": 0}])
def test_networks_that_are_none(options):
    with pytest.raises(errors.OptionError):
        ln.zoo.resnet(**options)


@pytest.mark.slow
def test_the_public_checkpoint_scores_what_was_measured_of_it(tmp_path):
    """83.75 % and 0.913 on 2,000 held-out images, of which nobody wrote down which; here the first 2,000."""
    pq = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("PIL")
    checkpoint, folder = shared_data("resnet56-cifar10.th"), shared_data("cifar10")
    table = pq.read_table(folder / "test.parquet")
    pq.write_table(table.slice(0, 2000), tmp_path / "test.parquet")
    pq.write_table(table.slice(0, 2), tmp_path / "train.parquet")  # none of them is needed
    model = ln.zoo.resnet(56)
    state = ln.checkpoints.load(checkpoint)
    names = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    assert {name.removeprefix("module.") for name in state} == names
    objective = load_objective("zoo:resnet56", checkpoint=checkpoint, data_root=tmp_path)
    found = objective.evaluate(objective.params)
    assert objective.samples == 2000
    assert found["accuracy"] == pytest.approx(0.8375, abs=2 * (0.8375 * 0.1625 / 2000) ** 0.5)
    assert found["loss"] == pytest.approx(0.913, abs=2 * found["loss_se"])
    assert found["loss_se"] < 0.06
    assert found["accuracy"] == pytest.approx(0.837, abs=0.001)  # by a plain loop in float64
    assert found["loss"] == pytest.approx(0.87405, abs=0.002)
    with pytest.raises(errors.CheckpointMismatchError):
        ln.checkpoints.load_into(ln.zoo.resnet(20), checkpoint)


def test_vgg9_is_the_papers():
    model = ln.zoo.vgg9(seed=1)
    convolutions = [layer for layer in model.features if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 256]
    names = [type(layer).__name__ for layer in model.features]
    assert names.count("BatchNorm2d") == 7
    assert [i for i, name in enumerate(names) if name == "MaxPool2d"] == [6, 13, 23]
    assert count(model) == 2_789_706
    torch.manual_seed(0)
    logits = model(torch.randn(8, 3, 32, 32))
    assert logits.shape == (8, 10)
    F.cross_entropy(logits, torch.arange(8)).backward()
    assert all(parameter.grad.abs().max() > 0 for name, parameter in model.named_parameters() if "bias" not in name)
    before = torch.get_rng_state()
    assert torch.equal(ln.zoo.vgg9(seed=1).features[0].weight, model.features[0].weight)
    assert torch.equal(before, torch.get_rng_state())
