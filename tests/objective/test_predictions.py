"""Metrics with a name look at the predictions that the loss looks at, at the same positions; else they are refused."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.objective import watching

G = torch.Generator().manual_seed(0)


def scores(*shape):
    return torch.randn(shape, generator=G)


def integers(k, *shape):
    return torch.randint(0, k, shape, generator=G)


def yes(*shape):
    return integers(2, *shape).float()


def ignoring(value, targets):
    targets = targets.clone()
    targets.view(-1)[::3] = value
    return targets


def share(hits, counted=None):
    hits = hits if counted is None else hits[counted]
    return hits.double().mean().item()


def measured(loss, outputs, targets, metrics=("accuracy",), batch_size=3, **options):
    objective = ln.Objective(
        nn.Linear(1, 1).eval(), loss, (outputs, targets), metrics=list(metrics), batch_size=batch_size,
        forward=lambda model, batch: (batch[0] + 0 * model.bias, batch[1]), **options,
    )  # fmt: skip
    first = objective.evaluate(objective.params)
    assert objective.evaluate(objective.params) == first  # what was read off the first pass holds in later ones
    return first


def by_hand(outputs, targets):
    """Cross-entropy without torch's function."""
    return -outputs.log_softmax(1).gather(1, targets.unsqueeze(1)).mean()


def smoothed(outputs, targets):
    return 0.9 * by_hand(outputs, targets) - 0.1 * outputs.log_softmax(1).mean()


def focal(outputs, targets):
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


def masked(outputs, targets):
    losses = F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")
    losses[targets == 0] = 0
    return losses.sum() / (targets != 0).sum()


def next_token(outputs, targets):
    return F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


def next_token_by_hand(outputs, targets):
    return by_hand(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


class Regularised(nn.Module):
    """With a knob that hides a mask and a term of its own."""

    reduction = "mean"

    def forward(self, outputs, targets):
        losses = F.cross_entropy(outputs, targets.clamp(min=0), reduction="none") * (targets != -7)
        return losses if self.reduction == "none" else losses.sum() / (targets != -7).sum() + 0.1


N, C, T = 9, 6, 6
x, y = scores(N, C), integers(C, N)
rows, tags = scores(N, T, C), integers(C, N, T)  # T = C: the shapes say nothing
maps, pixels = scores(N, C, 4, 5), integers(C, N, 4, 5)
one, truth = scores(N), yes(N)
cubes = one.sigmoid() ** 3  # probabilities that are mostly below a half
mask, is_mask = scores(N, 4, 5), yes(N, 4, 5)
soft = scores(N, C).softmax(1)
right, right_tags = x.argmax(1) == y, rows.argmax(2) == tags
right_pixels = maps.argmax(1) == pixels

CASES = {
    "a name": ("cross_entropy", x, y, share(right)),
    "a function": (F.cross_entropy, x, y, share(right)),
    "a module": (nn.CrossEntropyLoss(), x, y, share(right)),
    "a partial": (functools.partial(F.cross_entropy, label_smoothing=0.1), x, y, share(right)),
    "a lambda": (lambda o, t: F.cross_entropy(o, t), x, y, share(right)),
    "nll": (lambda o, t: F.nll_loss(o.log_softmax(1), t), x, y, share(right)),
    "nll module": (nn.NLLLoss(), x.log_softmax(1), y, share(right)),
    "ignore 255": (
        nn.CrossEntropyLoss(ignore_index=255), maps, ignoring(255, pixels),
        share(right_pixels, ignoring(255, pixels) != 255),
    ),
    "ignore the padding 0": (
        nn.CrossEntropyLoss(ignore_index=0), maps, pixels, share(right_pixels, pixels != 0),
    ),
    "ignore -100 by default": ("cross_entropy", x, ignoring(-100, y), share(right, ignoring(-100, y) >= 0)),
    "ignore -1 in a partial": (
        functools.partial(F.cross_entropy, ignore_index=-1), x, ignoring(-1, y), share(right, ignoring(-1, y) >= 0),
    ),
    "ignore 2 in a lambda": (lambda o, t: F.cross_entropy(o, t, ignore_index=2), x, y, share(right, y != 2)),
    "class weights do not weight": (nn.CrossEntropyLoss(torch.arange(1.0, C + 1)), x, y, share(right)),
    "but a weight of zero is not counted": (
        nn.CrossEntropyLoss(torch.tensor([0.0, 1, 1, 1, 1, 1])), x, y, share(right, y != 0),
    ),
    "pixels": ("cross_entropy", maps, pixels, share(right_pixels)),
    "(N, T, C) with T = C, transposed": (
        lambda o, t: F.cross_entropy(o.transpose(1, 2), t), rows, tags, share(right_tags),
    ),
    "(N, C, T) with T = C, not transposed": ("cross_entropy", rows, tags, share(rows.argmax(1) == tags)),
    "(N, T, C) flattened": (lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), rows, tags, share(right_tags)),
    "(N, T, C) with a mask by hand": (masked, rows, tags, share(right_tags, tags != 0)),
    "(N, T, C), selected": (
        lambda o, t: F.cross_entropy(o[t > 1], t[t > 1]), rows, tags, share(right_tags, tags > 1),
    ),
    "(N, T, C) with T = C, without torch's function": (
        lambda o, t: by_hand(o.transpose(1, 2), t), rows, tags, share(right_tags),
    ),
    "the next token": (next_token, rows, tags, share(rows[:, :-1].argmax(2) == tags[:, 1:])),
    "the next token, by hand": (next_token_by_hand, rows, tags, share(rows[:, :-1].argmax(2) == tags[:, 1:])),
    "soft labels": ("cross_entropy", x, soft, share(x.argmax(1) == soft.argmax(1))),
    "one-hot labels": (nn.CrossEntropyLoss(label_smoothing=0.1), x, F.one_hot(y, C).float(), share(right)),
    "soft labels of pixels": (
        "cross_entropy", maps, maps.roll(1, 0).softmax(1), share(maps.argmax(1) == maps.roll(1, 0).argmax(1)),
    ),
    "soft labels by hand": (
        lambda o, t: -(t * o.log_softmax(1)).sum(1).mean(), x, soft, share(x.argmax(1) == soft.argmax(1)),
    ),
    "smoothing by hand": (smoothed, x, y, share(right)),
    "focal": (focal, x, y, share(right)),
    "cross-entropy and something else": (
        lambda o, t: F.cross_entropy(o, t) + 0.1 * (o**2).mean(), x, y, share(right),
    ),
    "a margin": (nn.MultiMarginLoss(), x, y, share(right)),
    "a module with a mask of its own": (
        Regularised(), maps, ignoring(-7, pixels), share(right_pixels, ignoring(-7, pixels) != -7),
    ),
    "bce of logits": (nn.BCEWithLogitsLoss(), one, truth, share((one > 0) == (truth == 1))),
    "bce of logits (N, 1)": ("binary_cross_entropy_with_logits", one[:, None], truth[:, None],
                             share((one > 0) == (truth == 1))),
    "bce of probabilities": (nn.BCELoss(), cubes, truth, share((cubes > 0.5) == (truth == 1))),
    "bce by name, squeezed": (
        lambda o, t: F.binary_cross_entropy(o.squeeze(1), t.float()), cubes[:, None], truth.long(),
        share((cubes > 0.5) == (truth == 1)),
    ),
    "bce with a weight for yes": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0)), one, truth,
                                  share((one > 0) == (truth == 1))),
    "masks (N, H, W)": (nn.BCEWithLogitsLoss(), mask, is_mask, share((mask > 0) == (is_mask == 1))),
    "masks (N, 1, H, W) of probabilities": (
        nn.BCELoss(), mask[:, None].sigmoid() ** 2, is_mask[:, None],
        share((mask.sigmoid() ** 2 > 0.5) == (is_mask == 1)),
    ),
    "masks with what does not count": (
        lambda o, t: F.binary_cross_entropy_with_logits(o, t.clamp(max=1), weight=(t < 2).float()),
        mask, ignoring(2.0, is_mask), share((mask > 0) == (is_mask == 1), ignoring(2.0, is_mask) < 2),
    ),
    "bce without torch's function": (
        lambda o, t: F.softplus(o * (1 - 2 * t)).mean(), one, truth, share((one > 0) == (truth == 1)),
    ),
    "targets of -1 and 1": (nn.SoftMarginLoss(), one, 2 * truth - 1, share((one > 0) == (truth == 1))),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_accuracy_is_that_of_the_predictions_the_loss_looks_at(kind):
    loss, outputs, targets, expected = CASES[kind]
    for batch_size in (2, N):
        values = measured(loss, outputs, targets, ("accuracy", "error"), batch_size)
        assert values["accuracy"] == pytest.approx(expected, abs=1e-12)
        assert values["error"] == pytest.approx(1 - expected, abs=1e-12)


labels, on = scores(N, C), yes(N, C)
REFUSED = {
    "several labels": (nn.BCEWithLogitsLoss(), labels, on, "two readings.*element_accuracy.*exact_match"),
    "several labels, softly": (nn.MultiLabelSoftMarginLoss(), labels, on, "two readings"),
    "several masks": (nn.BCEWithLogitsLoss(), maps, (maps > 1).float(), "two readings"),
    "a margin of several labels": (nn.MultiLabelMarginLoss(), labels, integers(C, N, C), "does not define"),
    "a hinge": (lambda o, t: (1 - o * t).clamp(min=0).mean(), one, 2 * truth - 1, "has its own arithmetic"),
    "a hinge of torch's": (nn.HingeEmbeddingLoss(), one, 2 * truth - 1, "hinge_embedding_loss.*does not define"),
    "squares of one-hot labels": ("mse", labels, F.one_hot(y, C).float(), "mse_loss.*does not define"),
    "regression": (lambda o, t: ((o - t) ** 2).mean(), labels, scores(N, C), "has its own arithmetic"),
    "likelihood of a normal": (
        lambda o, t: F.gaussian_nll_loss(o, t, torch.ones_like(o)), one, truth, "gaussian_nll_loss.*does not define",
    ),
    "a divergence": (nn.KLDivLoss(reduction="batchmean"), labels.log_softmax(1), soft, "kl_div.*does not define"),
    "two heads": (
        lambda o, t: F.cross_entropy(o[:, :3], t % 3) + F.cross_entropy(o[:, 3:], t % 3), x, y, "consists of 2",
    ),
    "another axis altogether": (
        lambda o, t: (o.logsumexp(2) - o.gather(2, t.unsqueeze(2)).squeeze(2)).abs().sqrt().mean(), rows, tags,
        "gives another value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_defined_is_refused_at_construction(kind):
    loss, outputs, targets, words = REFUSED[kind]
    with pytest.raises(errors.OptionError, match=rf"metric 'accuracy'.*{words}"):
        ln.Objective(
            nn.Linear(1, 1).eval(), loss, (outputs, targets), metrics=["accuracy"], forward=lambda model, batch: batch
        )


def test_several_labels_under_their_own_names():
    loss, hit = nn.BCEWithLogitsLoss(), (labels > 0) == (on == 1)
    values = measured(loss, labels, on, ("element_accuracy", "exact_match"))
    assert values["element_accuracy"] == pytest.approx(share(hit), abs=1e-12)
    assert values["exact_match"] == pytest.approx(share(hit.all(1)), abs=1e-12)
    with pytest.raises(errors.OptionError, match="'top5_accuracy' needs outputs with one score per class"):
        measured(loss, labels, on, ("top5_accuracy",))


def test_all_tokens_of_a_sample():
    easy = rows.clone()
    easy.scatter_(2, tags[..., None], 9.0)
    easy[::2, 1] = -easy[::2, 1]
    for loss in (lambda o, t: F.cross_entropy(o.transpose(1, 2), t, ignore_index=0), masked):
        values = measured(loss, easy, tags, ("token_accuracy", "exact_match"))
        hit, counted = easy.argmax(2) == tags, tags != 0
        assert values["token_accuracy"] == pytest.approx(share(hit, counted), abs=1e-12)
        assert values["exact_match"] == pytest.approx(share((hit | ~counted).all(1)[counted.any(1)]), abs=1e-12)
    values = measured(next_token, easy, tags, ("exact_match",))
    assert values["exact_match"] == pytest.approx(share((easy[:, :-1].argmax(2) == tags[:, 1:]).all(1)), abs=1e-12)


def test_all_tokens_of_a_sample_are_not_guessed():
    """Flattened with the time first, or chosen one by one: which belong together is not known."""
    first = lambda o, t: F.cross_entropy(o.transpose(0, 1).flatten(0, 1), t.T.flatten())  # noqa: E731
    with pytest.raises(errors.OptionError, match="'exact_match' cannot tell which"):
        measured(first, rows, tags, ("exact_match",))
    with pytest.raises(errors.OptionError, match="'exact_match' cannot tell which"):
        measured(lambda o, t: F.cross_entropy(o[t > 1], t[t > 1]), rows, tags, ("exact_match",))


@pytest.mark.parametrize("classes", [3, 5, 40])
def test_the_best_five_along_the_axis_of_the_classes(classes):
    outputs, targets = scores(N, T, classes), integers(classes, N, T)
    loss = lambda o, t: F.cross_entropy(o.transpose(1, 2), t, ignore_index=1)  # noqa: E731
    order = outputs.sort(2, descending=True).indices[..., :5]
    expected = share((order == targets[..., None]).any(2), targets != 1)
    assert measured(loss, outputs, targets, ("top5_accuracy",))["top5_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert expected == 1 or classes > 5


def test_a_mask_that_shows_late_is_seen():
    """In the first batch every target counts."""
    targets = torch.cat([tags[:3].clamp(min=1), ignoring(0, tags[3:])])
    for loss in (masked, lambda o, t: F.cross_entropy(o.transpose(1, 2), t, ignore_index=0)):
        values = measured(loss, rows, targets)
        assert values["accuracy"] == pytest.approx(share(rows.argmax(2) == targets, targets != 0), abs=1e-12)


def test_what_fits_only_at_first_is_refused_when_that_shows():
    """Cross-entropy by hand; its mask, of targets that are no usual padding, shows in the second batch alone."""

    def loss(outputs, targets):
        losses = -outputs.log_softmax(2).gather(2, targets.unsqueeze(2)).squeeze(2)
        return (losses * (targets != 3)).sum() / (targets != 3).sum()

    targets = torch.cat([tags[:3] % 3, tags[3:]])
    with pytest.warns(errors.BatchDependenceWarning), pytest.raises(errors.OptionError, match="on one batch but not"):
        measured(loss, rows, targets)


def test_a_bare_function_has_no_predictions():
    with pytest.raises(errors.OptionError, match="'accuracy' needs outputs"):
        ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.ones(1)}, metrics=["accuracy"])


def test_functions_of_ones_own_are_called_as_ever():
    values = measured("mse", labels, soft, [lambda o, t: (o.argmax(1) == t.argmax(1)).float()])
    assert values["<lambda>"] == pytest.approx(share(labels.argmax(1) == soft.argmax(1)))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(ignore_index=2), F.cross_entropy, nn.BCEWithLogitsLoss()])
def test_torchs_own_loss_of_the_outputs_is_not_watched_once_it_is_known(loss, monkeypatch):
    outputs, targets = (scores(7), yes(7)) if isinstance(loss, nn.BCEWithLogitsLoss) else (scores(7, 4), integers(4, 7))
    objective = ln.Objective(
        nn.Linear(1, 1).eval(), loss, (outputs, targets), metrics=["accuracy"], batch_size=3,
        forward=lambda model, batch: (batch[0] * model.weight.sum(), batch[1]),
    )  # fmt: skip
    objective.evaluate(objective.params)
    monkeypatch.setattr(watching.LossWatch, "__enter__", lambda self: pytest.fail("it was watched"))
    for factor in (1.0, -2.0):
        weight = torch.full((1, 1), factor)
        found = objective.evaluate({"weight": weight, "bias": objective.params["bias"]})["accuracy"]
        yes_or_no = isinstance(loss, nn.BCEWithLogitsLoss)
        hits = ((factor * outputs > 0) == (targets > 0.5)) if yes_or_no else (factor * outputs).argmax(1) == targets
        counted = targets != 2 if isinstance(loss, nn.CrossEntropyLoss) else None
        assert found == pytest.approx(share(hits, counted))


def test_nothing_is_changed_by_looking():
    loss, targets = nn.CrossEntropyLoss(weight=torch.ones(C), ignore_index=255), ignoring(255, y)
    model, before = nn.Linear(1, 1).eval(), targets.clone()
    state = torch.get_rng_state()
    ln.Objective(model, loss, (x, targets), metrics=["accuracy"], forward=lambda m, b: b)
    assert torch.equal(targets, before) and loss.reduction == "mean" and torch.is_grad_enabled()
    assert torch.equal(state, torch.get_rng_state())
