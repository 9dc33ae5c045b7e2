"""Accuracy of models that return their own loss, against what torch gives by hand."""

import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def made(kind, config):
    torch.manual_seed(0)
    return kind(config).eval()


def gpt2():
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, **ENDS)
    return made(transformers.GPT2LMHeadModel, config)


def bert(**options):
    return transformers.BertConfig(**SMALL, intermediate_size=16, max_position_embeddings=16, **options)


def t5():
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return made(transformers.T5ForConditionalGeneration, config)


def tokens(n=7, t=9):
    return torch.randint(3, 40, (n, t), generator=torch.Generator().manual_seed(1))


def padded(ids):
    labels = ids.clone()
    for row, length in zip(labels, (9, 9, 9, 2, 5, 1, 7), strict=True):
        row[length:] = -100
    return labels


ids = tokens()
MODELS = {  # model, labels, how many positions an output looks ahead
    "causal": (gpt2, padded(ids), 1),
    "masked": (lambda: made(transformers.BertForMaskedLM, bert()), padded(ids), 0),
    "tokens": (lambda: made(transformers.BertForTokenClassification, bert(num_labels=5)),
               torch.where(padded(ids) < 0, -100, ids % 5), 0),
    "sequences": (lambda: made(transformers.BertForSequenceClassification, bert(num_labels=5)), ids[:, 0] % 5, 0),
    "encoder-decoder": (t5, padded(ids), 0),
}  # fmt: skip


def by_hand(model, labels, ahead):
    with torch.no_grad():
        outputs = model(input_ids=ids, labels=labels)
    logits = outputs.logits[:, : outputs.logits.shape[1] - ahead] if ahead else outputs.logits
    labels = labels[:, ahead:] if ahead else labels
    counted = labels != -100
    return outputs.loss.double().item(), (logits.argmax(-1) == labels)[counted].double().mean().item()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_loss_and_accuracy_of_the_whole_corpus(kind, batch_size):
    """Whatever the batches: the mean over the labels that count, at the positions that the model's loss looks at."""
    make, labels, ahead = MODELS[kind]
    model = make()
    data = {"input_ids": ids, "labels": labels}
    objective = ln.Objective(model, None, data, metrics=["accuracy", "top5_accuracy"], batch_size=batch_size)
    values = objective.evaluate(objective.params)
    loss, accuracy = by_hand(model, labels, ahead)
    assert values["loss"] == pytest.approx(loss, rel=1e-5)
    assert values["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert values["top5_accuracy"] >= accuracy
    assert objective.samples == 7
    assert objective.describe()["cut"] is None


def test_a_trained_model_knows_its_tokens():
    """The loss of shifted labels: an untrained network is judged by the next token, not by the one it was given."""
    model = gpt2()
    model.lm_head.weight.data.mul_(100)  # tied: each token now says itself
    objective = ln.Objective(model, None, {"input_ids": ids, "labels": ids}, metrics=["accuracy"])
    assert objective.evaluate(objective.params)["accuracy"] == pytest.approx(by_hand(model, ids, 1)[1], abs=1e-12)
    assert by_hand(model, ids, 0)[1] > 0.5 > by_hand(model, ids, 1)[1]


def test_several_labels_of_a_sequence():
    config = bert(num_labels=5, problem_type="multi_label_classification")
    model = made(transformers.BertForSequenceClassification, config)
    labels = (tokens(7, 5) % 2).float()
    data = {"input_ids": ids, "labels": labels}
    with pytest.raises(errors.OptionError, match="two readings"):
        ln.Objective(model, None, data, metrics=["accuracy"])
    objective = ln.Objective(model, None, data, metrics=["element_accuracy"], batch_size=3)
    with torch.no_grad():
        expected = ((model(input_ids=ids).logits > 0) == (labels == 1)).double().mean().item()
    assert objective.evaluate(objective.params)["element_accuracy"] == pytest.approx(expected, abs=1e-12)


def test_a_model_that_shows_nothing_but_a_number():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, y):
            return -self.layer(x).log_softmax(1).gather(1, y[:, None]).mean()

    with pytest.raises(errors.OptionError, match="'accuracy' is not defined here.*has its own arithmetic"):
        ln.Objective(Hidden().eval(), None, (torch.randn(6, 4), ids[:6, 0] % 3), metrics=["accuracy"])
