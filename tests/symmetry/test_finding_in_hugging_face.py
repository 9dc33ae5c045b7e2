"""Symmetries of models of Hugging Face, built from configurations: no function changes, and nearly all weights move."""

import pytest
import torch
from benchmarks import symmetry_networks as networks
from torch import nn

import lossnav as ln

pytest.importorskip("transformers")
EXACT = 1e-10
SOME = ["BERT", "GPT-2", "Llama", "Pythia (GPT-NeoX)", "ViT", "Mixtral"]


def looked_at(name):
    torch.manual_seed(0)
    model, example = networks.ALL[name]()
    return model, example, ln.symmetries(model, example)


def share(found):
    return len(found.moved) / len(found.weights)


def check(name):
    model, example, found = looked_at(name)
    assert found.groups
    assert found.error <= EXACT and max(group.error for group in found.groups) <= EXACT
    assert not [reason for reason in found.refused.values() if "change" in reason]  # no rule claimed too much
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    made = found.permute(state, found.draw(1))
    moved = [n for n in found.moved if not torch.equal(made[n], state[n])]
    assert set(moved) >= {
        n for n in found.moved if len(state[n].unique()) > 9
    }  # others may be alike after a permutation
    # in float32 by plain torch too, to its rounding
    before = plain(model, example)
    model.load_state_dict({n: t.detach().clone() for n, t in made.items()}, strict=False)
    assert float((plain(model, example) - before).abs().max()) <= 2e-4 * float(before.abs().max())
    return found


def plain(model, example):
    with torch.no_grad():
        made = model.eval()(**example)
    return made.logits if "logits" in made else made.last_hidden_state


@pytest.mark.parametrize("name", SOME)
def test_no_function_changes(name):
    assert share(check(name)) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted((networks.HUGGING_FACE | networks.MORE).keys() - set(SOME)))
def test_no_function_changes_of_many_more(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet", "ConvNeXt", "VGG-9 (zoo)", "ResNet-20 (zoo)", "DenseNet"])
def test_nearly_all_weights_of_convolutional_networks_move(name):
    *_, found = looked_at(name)
    assert share(found) >= 0.9 and found.error <= EXACT


def test_heads_move_under_rotary_embeddings_and_their_pairs_do_not():
    model, _, found = looked_at("Llama")
    layer = "model.layers.0.self_attn"
    keys = [g for g in found.groups if f"{layer}.k_proj.weight" in g.tensors]
    # the residual stream, and two shared heads; what is within a head is turned by position
    assert sorted(group.size for group in keys) == [2, 16]
    queries = [g for g in found.groups if f"{layer}.q_proj.weight" in g.tensors and g not in keys]
    assert [(g.size, g.within) for g in queries] == [(2, f"{layer}.q_proj.weight[0].0")]
    assert found.held["model.embed_tokens.weight", 0] == "aten.embedding"
    assert isinstance(model, nn.Module)


def test_heads_with_a_bias_of_their_own_stay_and_say_why():
    *_, found = looked_at("BLOOM (ALiBi)")
    widths = [group for group in found.groups if group.size == 4]  # of four heads with a width of four
    assert len(widths) == 2 and all(group.within is None for group in widths)


def test_tied_heads_move_with_the_embedding():
    model, _, found = looked_at("GPT-2")
    (stream,) = [g for g in found.groups if "transformer.wte.weight" in g.tensors]
    assert model.lm_head.weight is model.transformer.wte.weight
    assert {"transformer.wpe.weight", "transformer.ln_f.weight", "transformer.h.1.mlp.c_proj.bias"} <= set(
        stream.tensors
    )


def test_experts_move_with_their_router():
    *_, found = looked_at("Mixtral")
    (experts,) = [g for g in found.groups if g.name == "model.layers.0.mlp.gate.weight[0]"]
    assert experts.size == 4
    assert set(experts.tensors) == {
        f"model.layers.0.mlp.{n}" for n in ("gate.weight", "experts.gate_up_proj", "experts.down_proj")
    }
    (inside,) = [g for g in found.groups if g.within == experts.name]
    assert inside.size == 24
