"""What a checkpoint keeps by the names of parameters and is no weights is never taken for weights by itself."""

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import checkpoints, errors


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def data():
    torch.manual_seed(0)
    return torch.randn(9, 3), torch.arange(9) % 2


def truth(model):
    with torch.no_grad():
        return float(F.cross_entropy(model(data()[0]), data()[1]))


def loss_at(source):
    there = ln.Objective(network(2), F.cross_entropy, data()).at(source)
    return there.evaluate(there.params)["loss"]


WORDS = ["exp_avg", "exp_avg_sq", "momentum", "grads", "velocity", "fisher", "importance", "masks", "optimizerG"]


@pytest.mark.parametrize("word", WORDS)
def test_a_state_by_the_names_of_the_weights_is_refused_unless_named(word, tmp_path):
    path, state = tmp_path / "a.pt", network(3).state_dict()
    for content, place in (({word: state, "step": 3}, word), ({"run": {word: {"module": state}}}, f"run.{word}")):
        torch.save(content, path)
        with pytest.raises(errors.CheckpointMismatchError, match="no weights by the words of its names") as caught:
            loss_at(path)
        typed = str(caught.value).rpartition(": ")[2]
        assert typed.startswith(f"{path}::{place}")
        assert loss_at(typed) == pytest.approx(truth(network(3)), rel=1e-6)
        with pytest.raises(errors.CheckpointError, match="no weights"):
            checkpoints.load(path)
        with pytest.raises(errors.CheckpointMismatchError, match="no weights"):
            loss_at(content)


@pytest.mark.parametrize("word", WORDS)
def test_the_weights_beside_it_are_taken(word, tmp_path):
    path, weights, state = tmp_path / "a.pt", network(1).state_dict(), network(3).state_dict()
    for content in ({"mine": weights, word: state}, {**weights, word: state}, {"ema": weights, "o": {word: state}}):
        torch.save(content, path)
        assert loss_at(path) == pytest.approx(truth(network(1)), rel=1e-6)
    flat = {name: tensor.clone() for name, tensor in state.items()}
    safetensors.torch.save_file({**weights, **{f"{word}.{k}": v for k, v in flat.items()}}, tmp_path / "a.safetensors")
    assert loss_at(tmp_path / "a.safetensors") == pytest.approx(truth(network(1)), rel=1e-6)


@pytest.mark.parametrize("word", ["ema", "momentum_encoder", "optimal", "slow_weights", "step_100", "mask_rcnn"])
def test_other_words_are_of_weights(word, tmp_path):
    torch.save({word: network(1).state_dict()}, tmp_path / "a.pt")
    assert loss_at(tmp_path / "a.pt") == pytest.approx(truth(network(1)), rel=1e-6)


def test_a_layer_of_the_model_may_be_called_so(tmp_path):
    class Flow(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.velocity, self.mask = network(seed), nn.Parameter(torch.full((2,), float(seed)))

        def forward(self, x):
            return self.velocity(x) * self.mask

    state = Flow(1).state_dict()
    objective = ln.Objective(Flow(2), F.cross_entropy, data())
    for content in (state, {"model": state}, {f"module.{k}": v for k, v in state.items()}):
        torch.save(content, tmp_path / "a.pt")
        there = objective.at(tmp_path / "a.pt")
        assert there.evaluate(there.params)["loss"] == pytest.approx(truth(Flow(1)), rel=1e-6)
    with pytest.raises(errors.CheckpointMismatchError):
        objective.at({"velocity": state})


def test_a_state_within_a_named_part_is_named_further(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"optimizer": {"exp_avg": network(3).state_dict()}}, path)
    with pytest.raises(errors.CheckpointMismatchError, match="no weights") as caught:
        loss_at(f"{path}::optimizer")
    assert loss_at(str(caught.value).rpartition(": ")[2]) == pytest.approx(truth(network(3)), rel=1e-6)


@pytest.mark.parametrize(("dtype", "words"), [(torch.complex64, "imaginary"), (torch.bool, "mask")])
def test_why_another_kind_of_number_is_refused(dtype, words):
    state = {name: tensor.to(dtype) for name, tensor in network(1).state_dict().items()}
    with pytest.raises(errors.CheckpointMismatchError, match=words) as caught:
        loss_at(state)
    assert "quantised" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"a": {"w": torch.ones(2)}}, r'"a" is a dict.*"a\.w"'),
        ({"a": {}}, "empty dict"),
        ({"a": "x"}, "cannot convert to a tensor"),
        ({"a": None}, "cannot convert to a tensor"),
        ({"a": [torch.ones(2), torch.ones(3)]}, r"one by one"),
        ({1: torch.ones(2)}, "Use strings as names"),
    ],
)
def test_parameters_of_a_bare_function_that_are_no_tensors(params, words):
    with pytest.raises(errors.OptionError, match=words):
        ln.Objective.from_function(lambda p: sum(v.sum() for v in p.values()), params)
