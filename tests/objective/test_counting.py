"""Samples are counted by what the model is given, and the loss is weighted by them."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import lossnav as ln
from lossnav import errors
from lossnav.objective.counting import count_samples


def zeros(*shape):
    return torch.zeros(shape)


BATCHES = {
    "rows": ((zeros(5, 3), zeros(5)), 5),
    "boxes, all in one tensor": ((zeros(2, 3, 8, 8), zeros(7, 4)), 2),
    "images of many sizes": (([zeros(3, 8, 8), zeros(3, 9, 9)], zeros(7, 4)), 2),
    "images of one size": (([zeros(3, 8, 8), zeros(3, 8, 8)], zeros(7, 4)), 2),
    "a list of images and one of dicts": (([zeros(3, 8, 8)] * 4, [{"boxes": zeros(2, 4)}] * 4), 4),
    "two inputs": (([zeros(6, 2), zeros(6, 5)], zeros(6)), 6),
    "two inputs as a tuple": (((zeros(6, 2), zeros(6, 5)), zeros(6)), 6),
    "ctc": ((zeros(4, 20, 8), zeros(11), zeros(4), zeros(4)), 4),
    "ctc, time first": ((zeros(20, 4, 8), zeros(11), zeros(4), zeros(4)), 4),
    "sequences, time first": ((zeros(20, 4, 8), zeros(4)), 4),
    "language": ({"labels": zeros(3, 7), "input_ids": zeros(3, 7)}, 3),
    "vision": ({"pixel_values": zeros(3, 3, 8, 8), "labels": zeros(9)}, 3),
    "graphs": (SimpleNamespace(num_graphs=3, x=zeros(17, 2)), 3),
    "graphs and targets": ((SimpleNamespace(num_graphs=3), zeros(17)), 3),
    "packed": ((pack_sequence([zeros(5, 2), zeros(3, 2)]), zeros(2)), 2),
    "packed alone": (pack_sequence([zeros(5, 2), zeros(3, 2)]), 2),
    "one tensor": (zeros(5, 3), 5),
    "a dict of unknown words": ({"classes": zeros(100), "left": zeros(5), "right": zeros(5)}, 5),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_what_the_model_is_given_is_counted(kind):
    batch, n = BATCHES[kind]
    assert count_samples(batch, batch[-1] if isinstance(batch, tuple) else None) == n


def boxes():
    """Images with different numbers of boxes, all of a batch in one tensor with the image of each beside it."""
    torch.manual_seed(0)
    for n, counts in ((3, [4, 1, 6]), (2, [1, 1]), (1, [9])):
        yield (
            torch.randn(n, 5),
            torch.repeat_interleave(torch.arange(n), torch.tensor(counts)),
            torch.randn(sum(counts)),
        )


def per_image(outputs, targets):
    owner, value = targets
    squares = (outputs[owner, 0] - value) ** 2
    sums = torch.zeros(len(outputs)).index_add(0, owner, squares)
    return (sums / torch.bincount(owner, minlength=len(outputs))).mean()


def detect(model, batch):
    return model(batch[0]), batch[1:]


def test_a_mean_over_images_is_weighted_by_images():
    torch.manual_seed(1)
    model = nn.Linear(5, 1).eval()
    objective = ln.Objective(model, per_image, list(boxes()), forward=detect)
    every = torch.cat([per_image_singles(model, batch) for batch in boxes()])
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(every.double().mean().item(), rel=1e-6)
    assert objective.samples == 6


def per_image_singles(model, batch):
    with torch.no_grad():
        outputs, (owner, value) = detect(model, batch)
        return torch.stack([((outputs[i, 0] - value[owner == i]) ** 2).mean() for i in range(len(outputs))])


def test_a_mean_over_boxes_is_one_over_all_boxes():
    torch.manual_seed(1)
    model = nn.Linear(5, 1).eval()
    forward = lambda m, b: (m(b[0])[b[1], 0], b[2])  # noqa: E731
    objective = ln.Objective(model, F.mse_loss, list(boxes()), forward=forward)
    with torch.no_grad():
        every = torch.cat([(forward(model, batch)[0] - batch[2]) ** 2 for batch in boxes()])
    assert objective.evaluate(objective.params)["loss"] == pytest.approx(every.double().mean().item(), rel=1e-6)
    assert objective.samples == 6


def test_the_user_counts():
    torch.manual_seed(1)
    model = nn.Linear(5, 1).eval()
    for count, sizes in ((lambda batch: len(batch[2]), [11, 2, 9]), (lambda batch: torch.tensor(2), [2, 2, 2])):
        objective = ln.Objective(model, per_image, list(boxes()), forward=detect, count=count)
        with torch.no_grad():
            means = [per_image(*detect(model, batch)).double().item() for batch in boxes()]
        expected = sum(m * n for m, n in zip(means, sizes, strict=True)) / sum(sizes)
        assert objective.evaluate(objective.params)["loss"] == pytest.approx(expected, rel=1e-6)
        assert objective.samples == sum(sizes)


def test_the_user_counts_for_a_bare_function():
    data = [(torch.ones(4, 2), torch.ones(3)), (torch.zeros(4, 2), torch.zeros(1))]
    bare = ln.Objective.from_function(
        lambda p, batch: p["x"] * batch[0].mean(), {"x": torch.tensor(1.0)}, data, count=lambda batch: len(batch[1])
    )
    assert bare.evaluate(bare.params) == {"loss": 0.75}
    assert bare.samples == 4


@pytest.mark.parametrize(("count", "words"), [("boxes", "count='boxes'.*callable"), (3, "count=3.*callable")])
def test_other_ways_of_counting_are_refused(count, words):
    with pytest.raises(errors.OptionError, match=words):
        ln.Objective(nn.Linear(1, 1), "mse", (zeros(2, 1), zeros(2, 1)), count=count)


@pytest.mark.parametrize("n", [-1, 2.5, "two", None, True])
def test_a_count_is_a_whole_number(n):
    with pytest.raises(errors.OptionError, match="number of samples in the batch, 0 or more"):
        ln.Objective(nn.Linear(1, 1), "mse", (zeros(2, 1), zeros(2, 1)), count=lambda batch: n)


def test_targets_that_cannot_be_counted():
    objective = ln.Objective(nn.Linear(1, 1), "mse", (zeros(4, 1), zeros(4, 1)), count="targets")
    assert objective.evaluate(objective.params)["loss"] >= 0
    assert objective.samples == 4
    with pytest.raises(errors.DataError, match="count='targets'"):
        ln.Objective(
            nn.Linear(1, 1), lambda o, t: o.mean(), [(zeros(4, 1), {})], forward=lambda m, b: (m(b[0]), b[1]),
            count="targets",
        )  # fmt: skip
